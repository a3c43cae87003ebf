"""Which run a directory is taken for: a new one, the same again, or the same for longer."""

from __future__ import annotations

import json
import os

import pytest

from tests.support import runs
from trainer import preflight
from trainer.errors import ConfigError, RunError
from trainer.runs import resuming, trained


@pytest.fixture
def make_run(tmp_path):
    """Returns a maker of run directories that say how far their run has come."""

    def make(epoch: int, step: int = 0, **options) -> None:
        directory, config = resuming.take(_config(tmp_path, **options), is_chief=True)
        with directory:
            directory.save_config(config)
            (directory.checkpoints / f"{epoch:05d}-{step:06d}").mkdir(parents=True)

    return make


def _config(folder, **options):
    return runs.small_config(folder, folder, **{"max_epochs": 8, **options})


def _take(folder, **options):
    """Continues as a command does; returns the options that are then saved."""
    directory, config = resuming.take(_config(folder, **options), is_chief=True)
    with directory:
        directory.save_config(config)
        directory.save_lengths(config)
        return directory.load_config()


LONGER = {
    "more epochs": ({}, {"max_epochs": 16}),
    "fewer epochs, not trained yet": ({}, {"max_epochs": 4}),
    "more patience": ({}, {"patience": 9}),
    "a schedule that spans all": (
        {"schedule": "cosine", "schedule_epochs": 20}, {"schedule": "cosine",
        "schedule_epochs": 20, "max_epochs": 16},
    ),
    "the same cosine, cut off": (
        {"schedule": "cosine"}, {"schedule": "cosine", "max_epochs": 5, "schedule_epochs": 8},
    ),
    "warm-up, then constant": ({"warmup_epochs": 2}, {"warmup_epochs": 2, "max_epochs": 16}),
}  # fmt: skip


@pytest.mark.parametrize("case", LONGER)
def test_a_run_continues_with_another_length(make_run, tmp_path, case):
    before, now = LONGER[case]
    make_run(3, **before)
    saved = _take(tmp_path, **now)
    assert not saved.changes_from(_config(tmp_path, **now))


def test_a_run_keeps_its_batch_size_if_none_is_given(make_run, tmp_path):
    """One that is automatic was chosen for the replicas that the run began on."""
    make_run(3, batch_size=36)
    assert _take(tmp_path, batch_size=0).data.batch_size == 36
    assert not (tmp_path / "run" / "changes.jsonl").exists()


REFUSED = {
    "a cosine over more epochs": (
        {"schedule": "cosine"}, {"schedule": "cosine", "max_epochs": 16},
        r"other options \(max_epochs 8 -> 16\); the learning rate of its epochs decays over 8",
    ),
    "a schedule of another length": (
        {"schedule": "cosine", "schedule_epochs": 20},
        {"schedule": "cosine", "schedule_epochs": 30},
        r"schedule_epochs 20 -> 30\); the learning rate of its epochs decays over 20 epochs",
    ),
    "a cosine and more patience": (
        {"schedule": "cosine"}, {"schedule": "cosine", "max_epochs": 16, "patience": 9},
        r"other options \(max_epochs 8 -> 16\);",
    ),
    "another schedule": ({}, {"schedule": "cosine"}, "schedule 'constant' -> 'cosine'"),
    "less than was trained": (
        {}, {"max_epochs": 2}, (r"max_epochs \(2\) is less than .*epoch 3, step 4\); give "
        r"--max_epochs=4 or more"),
    ),
    "less than the epoch it is in": ({}, {"max_epochs": 3}, "give --max_epochs=4 or more"),
    "a length and another option": ({}, {"max_epochs": 16, "neurons": 9}, r"\(neurons 8 -> 9\); n"),
    "another batch size": ({}, {"batch_size": 8}, r"batch_size \d+ -> 8\)"),
    "never": ({}, {"max_epochs": 16, "resume": "never"}, "already holds a run"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_a_run_does_not_continue_as_another(make_run, tmp_path, case):
    before, now, message = REFUSED[case]
    make_run(3, 4, **before)
    config = (tmp_path / "run" / "config.json").read_bytes()
    with pytest.raises(ConfigError, match=message):
        _take(tmp_path, **now)
    assert (tmp_path / "run" / "config.json").read_bytes() == config
    assert not (tmp_path / "run" / "changes.jsonl").exists()


def test_each_change_of_length_is_recorded(make_run, tmp_path):
    make_run(8)
    _take(tmp_path, max_epochs=16)
    _take(tmp_path, max_epochs=16)
    _take(tmp_path, max_epochs=16, patience=9)
    lines = (tmp_path / "run" / "changes.jsonl").read_text().splitlines()
    entries = [json.loads(line) for line in lines]
    assert [entry["changes"] for entry in entries] == [
        {"max_epochs": [8, 16]},
        {"patience": [5, 9]},
    ]
    assert entries[0]["epochs"] == 8
    assert "--max_epochs=16" in entries[0]["command"]


def test_runs_without_a_name_that_begin_at_once_have_a_directory_each(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = _config(tmp_path, model_dir="")
    taken = [resuming.take(config, is_chief=True)[0] for _ in range(3)]
    assert len({directory.path for directory in taken}) == 3
    for directory in taken:
        directory.release()
    assert list((tmp_path / "runs").iterdir()) == []


def test_names_of_the_same_second_are_numbered(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = [resuming._claimed("runs/paper-vgg16-20261128-120000") for _ in range(3)]
    base = "runs/paper-vgg16-20261128-120000"
    assert names == [base, f"{base}-2", f"{base}-3"]


def test_two_processes_never_share_a_run(tmp_path):
    directory, _ = resuming.take(_config(tmp_path), is_chief=True)
    with pytest.raises(
        RunError, match=rf"in use by process {os.getpid()} on .*, for less than a m"
    ):
        resuming.take(_config(tmp_path), is_chief=True)
    with pytest.raises(RunError, match="there is no run at"):
        trained.open_run(directory.path)
    directory.save_config(_config(tmp_path))
    named = rf"still training \(process {os.getpid()} on .*, for less than a minute\), and has no"
    with pytest.raises(RunError, match=named):
        trained.open_run(directory.path)
    with pytest.raises(RunError, match=named):
        preflight._check_finished(_config(tmp_path))
    owner = json.loads((directory.path / ".owner.json").read_text())
    (directory.path / ".owner.json").write_text(json.dumps(owner | {"since": owner["since"] - 150}))
    with pytest.raises(RunError, match=r"for 2 min\)"):
        trained.open_run(directory.path)
    directory.release()
    with pytest.raises(RunError, match="has no model yet; run its command again to resume it"):
        trained.open_run(directory.path)
    resuming.take(_config(tmp_path), is_chief=True)[0].release()
