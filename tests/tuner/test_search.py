"""Whole searches on a small archive, in this process."""

from __future__ import annotations

import csv
import dataclasses
import html
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from trainer.commands import train
from trainer.config import Config
from trainer.errors import ConfigError, RunError
from trainer.runs import run_directory
from tuner import plan as plan_lib
from tuner import search
from tuner.trials import features, tasks


def _rows(folder) -> list[dict[str, str]]:
    with (folder / "leaderboard.csv").open() as file:
        return list(csv.DictReader(file))


def _scores(folder) -> dict[str, str]:
    return {row["trial"]: row["score"] for row in _rows(folder)}


@pytest.mark.parametrize(
    ("size", "trials_of_it"),
    [
        ({"algorithm": "random", "max_trials": 2}, 2),
        pytest.param({"algorithm": "hyperband"}, 6, marks=pytest.mark.slow),
    ],
)
def test_a_search_finds_the_best_and_the_trainer_repeats_it(
    base, settings, tmp_path, size, trials_of_it
):
    found = settings(**size)
    search.run(base, found, [])
    rows = _rows(found.folder)
    assert len(rows) == trials_of_it
    assert {row["status"] for row in rows} == {"COMPLETED"}
    best = max(rows, key=lambda row: float(row["score"]))
    assert rows[0]["score"] == best["score"]
    for name in ("report.html", "best_config.json", "search.json", "oracle.json"):
        assert (found.folder / name).stat().st_size
    options = json.loads((found.folder / "best_config.json").read_text())
    train.run(Config.from_flat({**options, "model_dir": str(tmp_path / "run")}))
    history = run_directory.RunDirectory(tmp_path / "run").load_history()
    assert max(history["val_auc"]) == float(best["score"])
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert history["val_auc"][report["best_epoch"] - 1] == float(best["score"])


def test_a_directory_below_home_is_one_folder(base, settings, monkeypatch, tmp_path):
    """KerasTuner would make a second one, named ~, in the working directory."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    found = settings(directory="~/all", algorithm="random", max_trials=1)
    space = found.space_for(base)
    oracle = search._load_oracle(found, space, found.plan(space, 3))
    assert Path(oracle._project_dir) == found.folder == tmp_path / "all" / "s"


@pytest.mark.long
def test_a_finished_search_is_not_repeated(base, settings, capsys):
    search.run(base, settings(), [])
    before = {p: p.stat().st_mtime_ns for p in settings().folder.glob("trial_*/result.json")}
    search.run(base, settings(), [])
    assert {p: p.stat().st_mtime_ns for p in before} == before
    assert "the search is finished" in capsys.readouterr().out


@pytest.mark.slow
def test_a_changed_space_is_refused_with_the_difference(base, settings):
    found = settings(max_trials=1, algorithm="random")
    search.run(base, found, [])
    other = settings(max_trials=1, algorithm="random", search="neurons=8|16|32")
    with pytest.raises(ConfigError, match=r"another search \(space 'neurons=8\|16,.*' -> 'neuron"):
        search.run(base, other, [])
    other_base = Config.from_flat({**base.to_flat(), "dropout": 0.25})
    with pytest.raises(ConfigError, match=r"dropout 0\.5 -> 0\.25"):
        search.run(other_base, found, [])


@pytest.mark.slow
def test_selection_never_sees_the_test_split(base, settings, data_dir, tmp_path):
    copy = tmp_path / "data"
    shutil.copytree(data_dir, copy)
    test_files = [path for path in copy.rglob("*test*") if path.is_file()]
    assert test_files
    for path in test_files:
        path.write_bytes(b"reading this fails")
    blind = Config.from_flat({**base.to_flat(), "data_dir": str(copy)})
    found, expected = (
        settings(project_name=name, algorithm="random", max_trials=2)
        for name in ("blind", "seeing")
    )
    search.run(blind, found, [])
    search.run(base, expected, [])
    assert _scores(found.folder) == _scores(expected.folder)


def test_the_test_split_cannot_be_read_by_a_trial(base):

    data = tasks.Workspace(base).data(base)
    assert data.num_examples("test")
    for read in (data.table, data.read, lambda s: data.evaluation_batches(s, 8).dataset):
        with pytest.raises(ValueError, match="withheld"):
            read("test")
    with pytest.raises(ValueError, match="withheld"):
        data.read("train+test[:3]")


@pytest.mark.slow
def test_failures_have_reasons_and_other_trials_complete(base, settings):
    """A learning rate of 1e30 makes the weights overflow."""
    wild = settings(search="learning_rate=1e-3|1e30|3e-3", algorithm="grid")
    search.run(Config.from_flat({**base.to_flat(), "optimizer": "sgd"}), wild, [])
    by_rate = {row["learning_rate"]: row for row in _rows(wild.folder)}
    assert by_rate["1e+30"]["status"] == "FAILED"
    assert by_rate["1e+30"]["reason"].startswith("diverged: ")
    assert "diverged" in (wild.folder / "report.html").read_text()
    assert {by_rate[rate]["status"] for rate in ("0.001", "0.003")} == {"COMPLETED"}


@pytest.mark.slow
def test_failures_after_a_score_end_the_search_early_with_an_error(base, settings):
    wild = settings(
        search="learning_rate=1e-3|1e30|2e30|3e30",
        max_consecutive_failed_trials=2,
        algorithm="grid",
    )
    with pytest.raises(RunError, match="2 trials in a row failed for the same reason"):
        search.run(Config.from_flat({**base.to_flat(), "optimizer": "sgd"}), wild, [])
    assert len(_rows(wild.folder)) == 3


@pytest.mark.slow
def test_a_search_goes_on_and_equals_the_larger_one(base, settings, capsys):
    small, large, whole = (
        settings(algorithm="random", max_trials=size, project_name=name)
        for size, name in ((1, "grown"), (2, "grown"), (2, "whole"))
    )
    search.run(base, small, [])
    finished = next(small.folder.glob("trial_*/result.json"))
    before = finished.stat().st_mtime_ns
    search.run(base, large, [])
    search.run(base, whole, [])
    assert _scores(large.folder) == _scores(whole.folder)
    assert finished.stat().st_mtime_ns == before
    assert f"{large.folder} goes on: max_trials 1 -> 2." in capsys.readouterr().out
    search.run(base, large, [])
    out = capsys.readouterr().out
    assert f"the search is finished: 2 trials; its page is {large.folder}/report.html." in out
    assert "searching" not in out
    with pytest.raises(ConfigError, match=r"max_trials \(1\) is less than the 2 of the search"):
        search.run(base, small, [])


@pytest.mark.slow
def test_a_model_that_learned_nothing_is_the_best_of_a_worthless_search(base, settings, capsys):
    """A learning rate of 1e-30 leaves the random weights, which predict one class."""
    lazy = settings(search="learning_rate=1e-30", algorithm="grid")
    reasons = search.run(base, lazy, [])
    assert any("of always predicting" in reason for reason in reasons)
    out = capsys.readouterr().out
    page = html.unescape((lazy.folder / "report.html").read_text())
    for reason in reasons:
        assert f"DO NOT USE THIS RESULT: {reason}" in out
        assert f"DO NOT USE THIS RESULT: {reason}" in page


def test_a_dry_run_prints_the_plan_and_writes_nothing(base, settings, capsys):
    search.run(base, settings(dry_run=True), [])
    out = capsys.readouterr().out
    assert "6 trials of 5 configurations, 11 epochs" in out
    assert "\nspace: neurons=8|16, learning_rate=0.001:0.1:log, layers_to_unfreeze=0|2.\n" in out
    assert "to compute features" in out
    assert not settings().folder.exists()


def test_a_dry_run_measures_a_cut_that_leaves_nothing_to_cache(base, settings, capsys):
    """The model then trains on images, and its `input` is a list."""
    searched = settings(dry_run=True, algorithm="grid", search="neurons=8|16,layers_to_unfreeze=8")
    search.run(base, searched, [])
    assert "2 trials of 2 configurations" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("sized", [{"dry_run": True}, {"budget_minutes": 30.0}])
@pytest.mark.parametrize(
    ("given", "space"),
    [
        ({"augmentation": "light"}, ""),
        ({"feature_cache": "off"}, ""),
        ({"layers_to_unfreeze": "all"}, "neurons=8|16"),
        ({}, ""),
    ],
)
def test_trials_that_train_on_images_are_measured(
    base, settings, monkeypatch, capsys, given, space, sized
):
    """The default space on small_cnn has a cut that leaves nothing to cache."""
    monkeypatch.setattr(plan_lib, "MAX_ITERATIONS", 1)
    tiny = Config.from_flat({**base.to_flat(), **given, "max_epochs": 1})
    search.run(tiny, settings(search=space, **sized), [])
    out = capsys.readouterr().out
    assert "1 trial of 1 configuration, 1 epoch" in out or "best trial: b0-r0-00" in out


@pytest.mark.long
def test_a_budget_sizes_the_search(base, settings, capsys):
    search.run(base, settings(dry_run=True, budget_minutes=1000.0), [])
    assert (
        "budget: Hyperband with max_epochs 3, hyperband_iterations 10, the largest that fits, "
        "with at most 10 iterations." in capsys.readouterr().out
    )
    with pytest.raises(ConfigError, match="is too little"):
        search.run(base, settings(budget_minutes=0.001), [])


def test_a_second_search_in_one_directory_is_refused(settings):
    with (
        search._locked(settings(), is_dry=False),
        pytest.raises(RunError, match=r"another process is running the search in .*/s; stop it"),
    ):
        search._locked(settings(), is_dry=False)


@pytest.mark.slow
def test_more_layers_than_the_backbone_has_are_refused_before_a_trial(base, settings):
    deep = settings(search="layers_to_unfreeze=2|99", algorithm="grid")
    with pytest.raises(ConfigError, match=r"layers_to_unfreeze \(99\)"):
        search.run(base, deep, [])
    assert not list(deep.folder.glob("trial_*"))


def test_cuts_whose_features_exceed_the_cache_are_refused(base, settings):
    """Otherwise, trials would evict one another's features."""
    # 75 rows of 4 and of 8 KiB; the larger cut alone, with a test split of 25, takes 800 KiB.
    features = dataclasses.replace(base.features, cache_budget_gb=850 / 2**20)
    tight = dataclasses.replace(base, features=features)
    with pytest.raises(ConfigError, match=r"features of 2 cuts take 0\.\d GiB, more than --cache_"):
        search.run(tight, settings(search="layers_to_unfreeze=2|4"), [])


def test_a_search_says_what_each_number_of_layers_adds(base, capsys):
    flat = base.to_flat()
    configs = [Config.from_flat({**flat, "layers_to_unfreeze": n}) for n in ("0", "2", "3")]
    features.prepare(tasks.Workspace(base), configs)
    out = capsys.readouterr().out
    assert "--layers_to_unfreeze=2 adds 73,856 weights of 1 layer (block4_conv)." in out
    assert "layers_to_unfreeze 2 and 3 let the same weights train: the layers between" in out


@pytest.mark.slow
def test_features_of_several_cuts_from_one_pass_equal_those_of_separate_passes(base, tmp_path):
    flat = base.to_flat()
    configs = [Config.from_flat({**flat, "layers_to_unfreeze": n}) for n in ("0", "2", "4")]
    own = [Config.from_flat({**c.to_flat(), "cache_dir": str(tmp_path / "own")}) for c in configs]
    workspace = tasks.Workspace(base)
    features.prepare(workspace, configs)
    for config in own:
        workspace.build(config).feed.prepare()
    files = {path.name: path for path in (tmp_path / "cache").rglob("*.npy")}
    others = {path.name: path for path in (tmp_path / "own").rglob("*.npy")}
    assert len({path.parent for path in files.values()}) == 6
    assert files.keys() == others.keys()  # File names contain rows and checksum.
    assert all(np.isfinite(np.load(path).astype(np.float32)).all() for path in files.values())


@pytest.mark.slow
def test_promotion_equals_uninterrupted_training(base, tmp_path):
    config = tasks.config_of(
        Config.from_flat({**base.to_flat(), "schedule": "cosine", "max_epochs": 9}),
        {"layers_to_unfreeze": "2", "neurons": 8},
        "val_auc",
    )
    workspace = tasks.Workspace(base)

    def train(task):
        with tasks.locked(task.folder):
            return tasks.train(task, workspace, workspace.build(task.config))

    def variables(folder) -> dict[str, np.ndarray]:
        reader = tf.train.load_checkpoint(str(folder / "checkpoints/00007-000000/variables"))
        return {
            n: reader.get_tensor(n) for n in reader.get_variable_to_shape_map() if "values" in n
        }

    for epochs in (2, 4, 7):
        climbed = train(tasks.Task(config, tmp_path / "rungs", epochs))
    at_once = train(tasks.Task(config, tmp_path / "once", 7))
    assert climbed.warnings == at_once.warnings
    clocks = {"epoch_s", "examples_per_s", "input_wait"}
    assert [{k: v for k, v in r.items() if k not in clocks} for r in climbed.curve] == [
        {k: v for k, v in r.items() if k not in clocks} for r in at_once.curve
    ]
    ours, theirs = variables(tmp_path / "rungs"), variables(tmp_path / "once")
    assert ours.keys() == theirs.keys()
    assert len(ours) > 20  # Weights, two moments of each, and more.
    for name in ours:
        np.testing.assert_array_equal(ours[name], theirs[name], err_msg=name)
