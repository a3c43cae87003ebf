"""Finished runs that are begun again: they continue, or say that there is nothing to do."""

from __future__ import annotations

import json
import re
import shutil

import pytest

from tests.support import commands, runs
from trainer.commands import evaluate, train
from trainer.errors import ConfigError, RunError
from trainer.runs import trained

STOPS = {"learning_rate": 0.0, "patience": 1, "max_epochs": 9}
"""Nothing is learnt, so the second epoch is not better than the first, and training stops."""


@pytest.fixture(scope="module")
def short(data_dir, tmp_path_factory):
    """A finished run of 2 epochs."""
    folder = tmp_path_factory.mktemp("short")
    train.run(runs.small_config(data_dir, folder, max_epochs=2))
    return folder / "run"


@pytest.fixture
def copy(short, tmp_path):
    return shutil.copytree(short, tmp_path / "run")


def _history(run) -> list[dict[str, float]]:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if k not in commands.WALL_CLOCK} for row in rows]


def test_a_run_that_continues_ends_as_if_it_had_been_longer_from_the_start(
    copy, make_config, tmp_path, capsys
):
    train.run(make_config(max_epochs=4))
    assert re.search(
        r"holds a run that finished after 2 epochs, evaluated on 20.*: it continues to at most "
        r"4 epochs.\n",
        capsys.readouterr().out,
    )
    train.run(make_config(max_epochs=4, model_dir=str(tmp_path / "whole")))
    assert _history(copy) == _history(tmp_path / "whole")
    predictions = [
        (run / "predictions_test.csv").read_bytes() for run in (copy, tmp_path / "whole")
    ]
    assert predictions[0] == predictions[1]
    assert json.loads((copy / "config.json").read_text())["max_epochs"] == 4


@pytest.mark.parametrize("unfrozen", ["0", "all"])
def test_a_run_continues_without_the_file_that_it_started_from(
    short, make_config, tmp_path, capsys, unfrozen
):
    file = tmp_path / "start.keras"
    shutil.copy(short / "best.keras", file)
    options = {"weights": str(file), "layers_to_unfreeze": unfrozen}
    train.run(make_config(**options, max_epochs=1))
    shutil.copytree(tmp_path / "run", tmp_path / "other")
    train.run(make_config(**options, max_epochs=2))
    file.unlink()
    other = make_config(**options, max_epochs=2, model_dir=str(tmp_path / "other"))
    train.train(other)
    assert f"start.keras is gone; the run resumes from {tmp_path}/other/best" in (
        capsys.readouterr().out
    )
    assert _history(tmp_path / "other") == _history(tmp_path / "run")
    assert trained.open_run(tmp_path / "other").config.model.weights == str(file)


def test_a_run_that_trains_all_layers_resumes_from_its_checkpoint_alone(
    short, make_config, tmp_path, capsys
):
    file = tmp_path / "start.keras"
    shutil.copy(short / "best.keras", file)
    options = {"weights": str(file), "layers_to_unfreeze": "all"}
    train.run(make_config(**options, max_epochs=1))
    (tmp_path / "run" / "best.keras").unlink()
    file.unlink()
    train.train(make_config(**options, max_epochs=2))
    assert "is gone; the run resumes from the checkpoint alone." in capsys.readouterr().out


def test_frozen_layers_whose_file_is_gone_are_not_replaced(short, make_config, tmp_path):
    file = tmp_path / "start.keras"
    shutil.copy(short / "best.keras", file)
    train.run(make_config(weights=str(file), max_epochs=1))
    (tmp_path / "run" / "best.keras").unlink()
    file.unlink()
    with pytest.raises(
        ConfigError, match=r"start.keras does not exist; give .* a copy of it, until"
    ):
        train.train(make_config(weights=str(file), max_epochs=2))


def test_a_run_that_stopped_early_says_so_and_continues_with_more_patience(
    make_config, tmp_path, capsys
):
    train.run(make_config(**STOPS))
    train.run(make_config(**STOPS | {"max_epochs": 12}))
    assert (
        "training stopped early after epoch 2: 1 epoch without a better val_loss (patience 1; "
        "with a larger one it continues)."
    ) in capsys.readouterr().out
    train.run(make_config(**STOPS | {"patience": 3}))
    assert len(_history(tmp_path / "run")) == 4


def test_a_finished_run_that_is_repeated_says_so_before_anything_else(copy, make_config, capsys):
    before = (copy / "metrics.jsonl").read_bytes()
    capsys.readouterr()
    train.run(make_config(max_epochs=2))
    first = capsys.readouterr().out.splitlines()[0]
    assert first.startswith(f"{copy} holds a run that finished after 2 epochs, evaluated on 20")
    assert first.endswith(": nothing is trained, and its model is evaluated again.")
    assert (copy / "metrics.jsonl").read_bytes() == before


def test_a_run_that_continues_is_not_taken_for_a_finished_one(copy):
    row = json.loads((copy / "metrics.jsonl").read_text().splitlines()[-1])
    with (copy / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(row | {"epoch": 3}) + "\n")
    with pytest.raises(
        RunError, match="has continued to 3 epochs since its model was saved after 2"
    ):
        trained.open_run(copy)


@pytest.mark.parametrize("mode", [train, evaluate])
def test_the_last_ten_lines_are_verdict_headline_and_files(copy, make_config, capsys, mode):
    evaluation = mode.run(make_config(max_epochs=2))
    *_, text = capsys.readouterr().out.rpartition("\n\n")
    lines = text.splitlines()
    assert len(lines) <= 10
    assert lines[0].startswith("DO NOT USE THIS MODEL: ")  # The protocol shares patients.
    assert lines[1].startswith(f"accuracy {100 * evaluation.metrics.accuracy:.2f} % (")
    for name in ("report", "predictions"):
        (line,) = (line for line in lines if line.startswith(f"{name}:"))
        assert (copy / line.split()[1]).parent == evaluation.folder
        assert (copy / line.split()[1]).exists()
    others = lines[-1].removeprefix("also there:").split(",")
    assert all((evaluation.folder / name.strip()).exists() for name in others)
