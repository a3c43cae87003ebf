"""`--mode=compare` of backbones, trained with several seeds."""

from __future__ import annotations

import functools
import json
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import trainer
from tests.support import processes, runs
from trainer.commands import compare, train
from trainer.config import Config
from trainer.errors import ConfigError, RunError
from trainer.models import classifier
from trainer.reports.comparisons import comparison_report


def _comparison(data_dir: Path, folder: Path, **options) -> Config:
    base = runs.small_config(data_dir, folder, model_dir=str(folder / "compared"), max_epochs=1)
    chosen = {"backbone": "vgg16", "backbones": "small_cnn", "seeds": 2}
    return Config.from_flat(base.to_flat() | chosen | options)


@pytest.fixture(scope="module")
def compared(data_dir, tmp_path_factory) -> Config:
    """A finished comparison of one backbone's seeds."""
    config = _comparison(data_dir, tmp_path_factory.mktemp("compared"))
    compare.run(config)
    return config


def test_each_seed_is_an_ordinary_run(compared, data_dir, tmp_path):
    """To the byte what `--mode=train` makes, in this process."""
    opened = trainer.open_run(f"{compared.model_dir}/small_cnn-seed1")
    own = {"backbone": "small_cnn", "seed": 1, "max_epochs": 1}
    alone = train.train(runs.small_config(data_dir, tmp_path, **own))
    assert opened.config.changes_from(alone.config) == {}
    assert opened.config.comparison == alone.config.comparison
    assert [
        (Path(run.path) / "predictions_test.csv").read_bytes() for run in (opened, alone)
    ].count((Path(alone.path) / "predictions_test.csv").read_bytes()) == 2


def test_a_comparison_leaves_its_files_and_its_runs(compared):
    names = {path.name for path in Path(compared.model_dir).iterdir() if path.name[0] != "."}
    wanted = {"small_cnn-seed0", "small_cnn-seed1", compare.FINISHED, *comparison_report.FILES}
    assert names == wanted
    document = json.loads((Path(compared.model_dir) / "comparison.json").read_text())
    assert document["rows"][0]["remark"] == "weights=none"
    assert len(document["rows"][0]["figures"]["accuracy"]["values"]) == 2
    assert document["paper"]


def test_a_finished_comparison_trains_nothing(compared, capsys):
    model = Path(compared.model_dir) / "small_cnn-seed0" / "best.keras"
    before = model.stat().st_mtime_ns
    found = compare.run(compared)
    said = capsys.readouterr().out
    assert "run 1 of 2: small_cnn, seed 0: finished before; " in said
    assert "2 runs" not in said
    assert model.stat().st_mtime_ns == before
    assert len(found.rows[0].runs) == 2


def test_a_run_has_ended_only_if_it_was_evaluated_as_it_would_be_now(compared):
    name, folder = "small_cnn-seed0", Path(compared.model_dir)
    own = Config.from_flat(compared.to_flat() | {"model_dir": f"{folder}/{name}"})
    assert compare._is_finished(name, own, folder)
    for changed in ({"operating_point": "cost=10:1"}, {"judge_by": "source"},
                    {"prevalence": 0.1}, {"prior_correction": "em"}):  # fmt: skip
        other = Config.from_flat(own.to_flat() | changed)
        assert not compare._is_finished(name, other, folder), changed


def test_what_an_earlier_version_noted_is_read_and_the_run_evaluated_again(compared, tmp_path):
    folder, name = Path(compared.model_dir), "small_cnn-seed0"
    earlier = {**compare._finished(folder)[name]}
    del earlier["evaluation"]
    (tmp_path / compare.FINISHED).write_text(json.dumps({name: earlier}))
    own = Config.from_flat(compared.to_flat() | {"model_dir": f"{folder}/{name}"})
    assert compare._finished(tmp_path) == {name: earlier}
    assert not compare._is_finished(name, own, tmp_path)


@pytest.mark.slow
def test_another_operating_point_evaluates_again_and_trains_nothing(compared, tmp_path, capfd):
    folder = shutil.copytree(compared.model_dir, tmp_path / "compared")
    rule = "sensitivity=0.99"
    changed = {"operating_point": rule, "seeds": 1, "model_dir": str(folder)}
    found = compare.run(Config.from_flat(compared.to_flat() | changed))
    assert f"by {rule}, in each run" in found.points
    assert "nothing is trained, and its model is evaluated again" in capfd.readouterr().out
    assert compare._finished(folder)["small_cnn-seed0"]["evaluation"]["operating_point"] == rule


def test_fewer_seeds_are_a_part_of_it(compared):
    fewer = Config.from_flat(compared.to_flat() | {"seeds": 1})
    assert len(compare.run(fewer).rows[0].runs) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"neurons": 9}, r"small_cnn-seed0\) holds a run with other options \(neurons 8 -> 9\)"),
        ({"max_epochs": 3, "schedule": "cosine"}, r"schedule 'constant' -> 'cosine'"),
    ],
)
def test_changed_options_are_refused_with_the_difference(compared, change, message):
    with pytest.raises(ConfigError, match=message):
        compare.run(Config.from_flat(compared.to_flat() | change))


def test_a_folder_with_other_files_is_refused(data_dir, tmp_path):
    (tmp_path / "compared").mkdir()
    (tmp_path / "compared" / "thesis.docx").touch()
    with pytest.raises(ConfigError, match=r"holds other files \(thesis.docx\)"):
        compare.run(_comparison(data_dir, tmp_path))


def test_a_folder_in_use_is_refused(compared):
    in_use = pytest.raises(RunError, match="is in use by another process")
    with compare._locked(Path(compared.model_dir), compared.model_dir), in_use:
        compare.run(compared)


@pytest.mark.slow
def test_a_later_seed_is_added_and_the_others_stay(compared, tmp_path, capfd):
    folder = shutil.copytree(compared.model_dir, tmp_path / "compared")
    more = Config.from_flat(compared.to_flat() | {"seeds": 3, "model_dir": str(folder)})
    assert len(compare.run(more).rows[0].runs) == 3
    assert capfd.readouterr().out.count("run directory: ") == 1


@pytest.mark.slow
def test_a_backbone_that_fails_is_recorded_and_the_others_go_on(data_dir, tmp_path, capsys):
    """Its weights are of another backbone, which is known when they are read."""
    config = runs.small_config(data_dir, tmp_path)
    weights = tmp_path / "w.weights.h5"
    classifier.build(config.model, (32, 32, 1), 2).trunk.save_weights(weights)
    options = {"backbones": "mobilenet_v2,small_cnn", "seeds": 1,
               "weights": f"mobilenet_v2={weights},small_cnn=none"}  # fmt: skip
    failing = _comparison(data_dir, tmp_path, **options)
    with pytest.raises(RunError, match="1 run of the comparison failed, with the reasons above"):
        compare.run(failing)
    document = json.loads((tmp_path / "compared" / "comparison.json").read_text())
    lost, kept = document["rows"]
    assert str(weights) in lost["failures"]["0"]
    assert "accuracy" in kept["figures"]
    assert "FAILED: mobilenet_v2: " in capsys.readouterr().out


def test_the_time_left_is_that_of_each_backbones_latest_run():
    clock = compare._Clock()
    assert clock.left(["vgg16"]) == ""
    clock.add("vgg16", 9_000)
    clock.add("vgg16", 240)
    assert clock.left(["vgg16", "vgg16", "xception"]) == "about 12 min"
    clock.add("xception", 3_600)
    assert clock.left(["xception", "vgg16"]) == "about 1 h 04 min"
    clock.add("vgg16", 5)
    assert clock.left(["vgg16"]) == "less than a minute"


def _started(config: Config, folder: Path):
    options = folder / "options.json"
    options.write_text(json.dumps(config.to_flat()))
    arguments = [sys.executable, "-m", "trainer", "--mode=compare", f"--config_file={options}",
                 f"--model_dir={config.model_dir}"]  # fmt: skip
    return processes.started(arguments, stderr=subprocess.STDOUT)


def _outcome(config: Config) -> dict[str, object]:
    folder = Path(config.model_dir)
    document = json.loads((folder / "comparison.json").read_text())
    for row in document["rows"]:
        row.pop("runs")
    files = sorted(folder.glob("*/predictions_test.csv"))
    return {
        "rows": document["rows"],
        "pairs": document["pairs"],
        "predictions": {path.parent.name: path.read_bytes() for path in files},
    }


@pytest.mark.long
def test_a_comparison_killed_twice_ends_like_a_whole_one(data_dir, tmp_path):
    """Once in the first run's training, once in the second's; no run outlives its command."""
    options = {"seeds": 2, "max_epochs": 6, "patience": 9, "checkpoint_every_steps": 2,
               "steps_per_execution": 1, "augmentation": "light"}  # fmt: skip
    whole = _comparison(data_dir, tmp_path, **options, model_dir=str(tmp_path / "whole"))
    killed = _comparison(data_dir, tmp_path, **options, model_dir=str(tmp_path / "killed"))
    compare.run(whole)
    for seed in range(2):
        run = tmp_path / "killed" / f"small_cnn-seed{seed}"
        with _started(killed, tmp_path) as process:
            processes.wait_until(functools.partial(_is_training, run), 300)
            (child,) = processes.children_of(process.pid)
            process.send_signal(signal.SIGKILL)
            process.wait()
            processes.wait_until(functools.partial(_is_gone, child), 10)
        assert not (run / "report.json").exists()
    with _started(killed, tmp_path) as process:
        output, _ = process.communicate(timeout=900)
    assert process.returncode in {0, 3}, output
    assert output.count("finished before") == 1
    assert re.search(r"resuming after epoch \d, step \d", output)
    assert _outcome(killed) == _outcome(whole)


def _is_training(run: Path) -> bool:
    """Whether a run has a checkpoint in the middle of an epoch."""
    return any(run.glob("checkpoints/0000[1-4]-00000[24]"))


def _is_gone(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return True
    return state == "Z"


@pytest.mark.long
def test_a_request_to_stop_saves_the_run_and_the_same_command_resumes(data_dir, tmp_path):
    options = {"seeds": 1, "max_epochs": 60, "patience": 60, "augmentation": "light"}
    config = _comparison(data_dir, tmp_path, **options)
    with _started(config, tmp_path) as process:
        lines = []
        for line in process.stdout:
            lines.append(line)
            if re.match("epoch +2/60", line):
                process.send_signal(signal.SIGTERM)
        process.wait()
    assert process.returncode == 75, lines
    stopped = "trainer: stopped by SIGTERM; the same command resumes from what is saved.\n"
    assert lines[-1] == stopped
    assert lines.count(stopped) == 1
    with _started(config, tmp_path) as process:
        output, _ = process.communicate(timeout=900)
    assert "resuming after epoch" in output


def test_backbones_are_not_compared_on_several_hosts(data_dir, tmp_path, command, monkeypatch):
    hosts = {"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": "worker", "index": 1}}
    monkeypatch.setenv("TF_CONFIG", json.dumps(hosts))
    result = command(
        "--mode=compare", "--backbones=small_cnn", "--weights=none", f"--model_dir={tmp_path}/x",
        "--dataset=phantom", f"--data_dir={data_dir}",
    )  # fmt: skip
    assert result.returncode == 2
    assert "TF_CONFIG names 2: train each run with --mode=train on all of them" in result.stderr
    assert result.stderr.count("\n") == 1
    assert not (tmp_path / "x").exists()
