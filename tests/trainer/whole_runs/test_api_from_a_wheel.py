"""The Python API as a user has it: from the installed wheel, in an empty folder, in one script."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
SCRIPT = """
import json, os, shutil, sys
import trainer

assert trainer.__file__.startswith(sys.argv[1]), trainer.__file__
assert "tensorflow" not in sys.modules
options = json.loads(sys.argv[2])
config = trainer.Config.from_flat(options)
assert trainer.Config.from_flat(config.to_flat()) == config
assert config.changes_from(trainer.Config())["dataset"] == ("grouped", "phantom")
assert config.command_line().startswith("python -m trainer --dataset=phantom")
assert config.with_precision("float32").with_batch_size(100) == config
assert str(config.cache_root) == options["cache_dir"]
assert (config.data.batch_size, config.model.backbone) == (100, "small_cnn")
assert config.optimization.max_epochs == config.runtime.seed + 1 == 1
assert config.checkpoints.resume == config.features.feature_cache == "auto"
assert config.benchmark.benchmark_images == 1000
try:
    trainer.Config.from_flat({"max_epochs": 0})
except trainer.ConfigError as error:
    print(error)
try:
    trainer.open_run("runs/a")
except trainer.RunError as error:
    print(error)

run = trainer.train(config)
assert isinstance(run, trainer.Run)
assert run.path == config.model_dir == "runs/a"
assert run.config.for_finished_run({}).model == config.model
opened = trainer.open_run(run.path)
assert opened.metrics == run.metrics
assert opened.history["val_loss"] == run.history["val_loss"]
assert len(run.predictions) == run.metrics.examples == 500
assert run.model.output_shape == (None, 2)
assert len(run.data_fingerprint) > 8 and len(run.training_patients) > 100
assert run.validation_patients and not run.validation_patients & run.training_patients
assert len(run.training_images) > 1000
assert abs(sum(run.training_priors.values()) - 1) < 1e-9
assert run.directory.path.joinpath("best.keras").exists()
run.plot_history().savefig("curves.png")

evaluation = trainer.evaluate(run, batch_size=50)
assert isinstance(evaluation, trainer.Evaluation)
assert evaluation.metrics.accuracy == run.evaluation.metrics.accuracy
assert len(evaluation.predictions) == len(run.predictions)
assert evaluation.folder.parent == run.directory.path
assert evaluation.guard_fired == bool(evaluation.warnings)
assert evaluation.intervals.keys() == run.evaluation.assessment.intervals.keys()
low, high = evaluation.intervals["brier"]
assert low < evaluation.metrics.brier < high
assert evaluation.assessment.point.chosen == run.evaluation.assessment.point.chosen
assert evaluation.report.split == "test"
print(evaluation.headline())

shutil.copytree("runs/a", "runs/b")
found = trainer.compare([run, "runs/b"])
assert isinstance(found, trainer.Comparison)
assert found.figure_names[0] == "macro_recall" and found.holm_p_values == [1.0]
assert found.guard_fired == bool(found.warnings) == run.evaluation.guard_fired
assert found.tables[0].to_csv().startswith("Model,Runs,")
assert found.to_text(colour=False) == str(found)
assert json.loads(json.dumps(found.to_json()))["pairs"][0]["roc_auc"]["difference"] == 0
found.save(run.directory.path.parent)

image = run.directory.path / "samples.png"
os.makedirs("inbox/PNEUMONIA")
for name in ("a.png", "b.png"):
    shutil.copy(image, f"inbox/PNEUMONIA/{name}")
worklist = trainer.predict(run, ["inbox"], "out")
assert isinstance(worklist, trainer.Worklist)
assert (worklist.folder.name, worklist.num_read) == ("out", 2)
assert worklist.rows[0].file == "inbox/PNEUMONIA/a.png"
assert worklist.rows[0].predicted in worklist.predicted()
assert worklist.flagged()["duplicate"] == 1
assert worklist.headline() in str(worklist)
assert worklist.guard_fired is False and len(worklist.warnings) == len(run.evaluation.warnings)
explained = trainer.explain(run, "inbox", "out", heatmap="hirescam", save_maps=True)
assert explained.rows[0].score == worklist.rows[0].score
assert (explained.folder / explained.rows[0].heatmap).exists()
assert (explained.folder / "worklist.html").exists()
assert trainer.evaluate(run, images="inbox").metrics.examples == 2
exports = trainer.export(run, "savedmodel", "served")
assert isinstance(exports, trainer.Exports) and not exports.failed and not exports.guard_fired
assert exports.to_json()["formats"] and exports.to_text() == str(exports)
assert (exports.folder / "savedmodel" / "saved_model.pb").exists()
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder with the three packages, as pip installs them from the wheel."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"  # setuptools leaves its build folder where it builds.
    files = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout
    for name in filter(None, files.split("\0")):
        if name.startswith(("cxr_tfds", "trainer", "tuner", "pyproject", "README", "LICENSE")):
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    pip = [sys.executable, "-m", "pip", "--quiet"]
    subprocess.run(
        [*pip, "wheel", "--no-deps", "--no-build-isolation", f"--wheel-dir={folder}", str(source)],
        check=True,
    )
    (wheel,) = folder.glob("*.whl")
    target = folder / "site-packages"
    subprocess.run([*pip, "install", "--no-deps", f"--target={target}", str(wheel)], check=True)
    return target


@pytest.mark.slow
def test_a_script_in_an_empty_folder_trains_opens_and_evaluates(installed, phantom_dir, tmp_path):
    options = {
        "dataset": "phantom", "data_dir": str(phantom_dir), "cache_dir": str(tmp_path / "cache"),
        "model_dir": "runs/a", "backbone": "small_cnn", "weights": "none", "image_size": 32,
        "batch_size": 100, "max_epochs": 1, "strategy": "one_device", "precision": "float32",
    }  # fmt: skip
    folder = tmp_path / "empty"
    folder.mkdir()
    result = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(installed), json.dumps(options)],
        cwd=folder, env=os.environ | {"PYTHONPATH": str(installed)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert "max_epochs (0) must be at least 1." in result.stdout
    assert "there is no run at runs/a" in result.stdout
    assert "run directory: runs/a" in result.stdout
    assert "RANK 1 Accuracy" not in result.stdout  # The report of 80 lines comes when asked for.
    assert (folder / "curves.png").read_bytes().startswith(b"\x89PNG")
