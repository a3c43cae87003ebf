"""Whole runs on a small archive: the files they write, and which runs must agree."""

from __future__ import annotations

import csv
import json
import re
import shutil
import sys
import time

import keras
import numpy as np
import pytest
import sklearn.metrics
from PIL import Image

from tests.support import processes, runs
from trainer.commands import evaluate, train
from trainer.data import opening
from trainer.distribution import runtime
from trainer.errors import ConfigError, RunError
from trainer.evaluation.predictions import Predictions
from trainer.models import classifier, session
from trainer.options import DataOptions
from trainer.runs import resuming
from trainer.training import feeds

FILES = {
    "config.json", "metrics.jsonl", "tensorboard", "best.keras", "predictions_test.csv",
    "report.json", "trained_on.json", "checkpoints", "curves.png", "confusion_matrix.png",
    "samples.png", "predictions_validation.csv", "operating_point.json", "looks.jsonl",
    "report.html", "validation_sample.npz",
}  # fmt: skip
NAMES = ("loss", "accuracy", "auc", "val_loss", "val_accuracy", "val_auc")


def _history(run_dir) -> dict[str, list[float]]:
    rows = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return {name: [row[name] for row in rows] for name in NAMES}


def _train(make_config, run_dir, **options) -> dict[str, list[float]]:
    train.run(make_config(model_dir=str(run_dir), **options))
    return _history(run_dir)


@pytest.fixture(scope="module")
def run_dir(data_dir, tmp_path_factory):
    """One run for all tests that only look at what it left."""
    folder = tmp_path_factory.mktemp("finished")
    train.run(runs.small_config(data_dir, folder))
    return folder / "run"


def test_a_run_leaves_its_files_and_nothing_else(run_dir):
    names = {path.name for path in run_dir.iterdir() if not path.name.startswith(("on_", "."))}
    assert names == FILES


def test_every_metric_equals_scikit_learns_on_the_predictions_file(run_dir):
    with (run_dir / "predictions_test.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == [
        "file_name", "patient_id", "etiology", "label", "predicted", "p_NORMAL", "p_PNEUMONIA",
    ]  # fmt: skip
    label, predicted = ([row[name] for row in rows] for name in ("label", "predicted"))
    positive = np.array([float(row["p_PNEUMONIA"]) for row in rows])
    reported = json.loads((run_dir / "report.json").read_text())["metrics"]
    expected = {
        "examples": 25,
        "accuracy": sklearn.metrics.accuracy_score(label, predicted),
        "macro_recall": sklearn.metrics.recall_score(label, predicted, average="macro"),
        "roc_auc": sklearn.metrics.roc_auc_score(label, positive),
        "pr_auc": sklearn.metrics.average_precision_score(label, positive, pos_label="PNEUMONIA"),
        "mcc": sklearn.metrics.matthews_corrcoef(label, predicted),
        "brier": sklearn.metrics.brier_score_loss(label, positive, pos_label="PNEUMONIA"),
    }
    assert {name: reported[name] for name in expected} == pytest.approx(expected)
    matrix = sklearn.metrics.confusion_matrix(label, predicted)
    assert reported["confusion_matrix"] == matrix.tolist()


def test_the_saved_model_gives_the_predictions_without_this_package(run_dir, make_config):
    config = make_config()
    data = opening.load(config.data, config.model.backbone_image_size)
    loaded = keras.saving.load_model(run_dir / "best.keras", safe_mode=True)
    images = data.images("test", np.arange(25))
    saved = Predictions.load_csv(run_dir / "predictions_test.csv")
    np.testing.assert_allclose(loaded(images), saved.probabilities, atol=1e-5)


def test_evaluating_again_gives_the_same_predictions(run_dir, make_config):
    before = (run_dir / "report.json").read_bytes()
    evaluation = evaluate.run(make_config(model_dir=str(run_dir)))
    (folder,) = run_dir.glob("on_paper_*")
    first, again = (
        Predictions.load_csv(path / "predictions_test.csv").probabilities
        for path in (run_dir, folder)
    )
    np.testing.assert_allclose(again, first, atol=1e-5)
    assert evaluation.metrics.accuracy == json.loads(before)["metrics"]["accuracy"]
    reports = [json.loads((path / "report.json").read_text()) for path in (run_dir, folder)]
    assert reports[0]["history"] == reports[1]["history"]
    assert reports[0]["shared_patient_images"] == reports[1]["shared_patient_images"]
    assert (run_dir / "report.json").read_bytes() == before  # What training found stays.


def test_a_run_goes_on_from_another_ones_backbone_and_head(run_dir, make_config, capsys):
    """Without a step, it predicts as the other run did."""
    started = train.train(make_config(weights=str(run_dir), learning_rate=0, max_epochs=1, seed=5))
    said = f"weights: backbone and head of {run_dir / 'best.keras'}."
    assert said in capsys.readouterr().out.splitlines()
    before = Predictions.load_csv(run_dir / "predictions_test.csv").probabilities
    np.testing.assert_allclose(started.predictions.probabilities, before, atol=1e-5)
    assert started.config.model.weights == str(run_dir)


def test_patients_of_training_are_counted_on_another_data_set(run_dir, make_config, archive):
    """No patient is on two sides of `grouped`; but this model was trained on sides of `paper`."""
    config = make_config(model_dir=str(run_dir), dataset="grouped", manual_dir=str(archive))
    evaluate.run(config)
    (folder,) = run_dir.glob("on_grouped_*")
    report = json.loads((folder / "report.json").read_text())
    assert report["data"]["test_images_sharing_a_patient_with_train"] == 0
    trained_on = json.loads((run_dir / "trained_on.json").read_text())
    test = Predictions.load_csv(folder / "predictions_test.csv").patient_id
    seen = trained_on["patients"] + trained_on["validation_patients"]
    assert report["shared_patient_images"] == np.isin(test, seen).sum() > 0


def test_the_model_of_the_best_epoch_is_kept(make_config, tmp_path):
    """A learning rate that is far too high makes the last epoch worse than an earlier one."""
    config = make_config(learning_rate=30.0, optimizer="sgd", max_epochs=5, patience=5)
    train.run(config)
    history = _history(tmp_path / "run")
    best = int(np.argmin(history["val_loss"]))
    assert history["val_loss"][best] < history["val_loss"][-1]
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert report["best_epoch"] == best + 1
    assert _validation_loss(config, tmp_path / "run") == pytest.approx(
        history["val_loss"][best], rel=1e-4
    )


def _validation_loss(config, run_dir) -> float:
    data = opening.load(config.data, config.model.backbone_image_size)
    loaded = keras.saving.load_model(run_dir / "best.keras")
    images = data.images("validation", np.arange(data.num_examples("validation")))
    probabilities = np.asarray(loaded(images), float)
    clipped = np.clip(probabilities, 1e-7, 1 - 1e-7)
    return -float(np.mean(np.log(clipped[np.arange(len(clipped)), data.table("validation").label])))


def test_patience_ends_training(make_config, tmp_path):
    history = _train(make_config, tmp_path / "run", learning_rate=0.0, max_epochs=9, patience=2)
    assert len(history["loss"]) == 3


@pytest.mark.slow
@pytest.mark.parametrize("unfrozen", [pytest.param("0", marks=pytest.mark.slow), "2"])
def test_cached_and_uncached_runs_agree(make_config, tmp_path, unfrozen):
    """Same order, same dropout: nothing but the rounding of what is stored is left."""
    options = {
        "optimizer": "sgd", "learning_rate": 0.05, "max_epochs": 3, "layers_to_unfreeze": unfrozen,
    }  # fmt: skip
    cached = _train(make_config, tmp_path / "cached", **options)
    assert list((tmp_path / "cache").glob("*/*.npy"))
    uncached = _train(make_config, tmp_path / "uncached", feature_cache="off", **options)
    for name in NAMES:
        np.testing.assert_allclose(cached[name], uncached[name], rtol=1e-4, err_msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("feature_cache", ["auto", pytest.param("off", marks=pytest.mark.slow)])
def test_mirrored_equals_one_device(make_config, tmp_path, feature_cache):
    options = {
        "dropout": 0.0, "optimizer": "sgd", "learning_rate": 0.05, "max_epochs": 2,
        "feature_cache": feature_cache, "class_weights": "balanced", "global_clipnorm": 0.1,
    }  # fmt: skip
    one = _train(make_config, tmp_path / "one", **options)
    mirrored = {"strategy": "mirrored", "num_logical_devices": 2}
    many = _train(make_config, tmp_path / "many", **options, **mirrored)
    for name in NAMES:
        np.testing.assert_allclose(many[name], one[name], atol=1e-5, err_msg=name)
    probabilities = [
        Predictions.load_csv(tmp_path / run / "predictions_test.csv").probabilities
        for run in ("one", "many")
    ]
    np.testing.assert_allclose(*probabilities, atol=1e-5)


@pytest.mark.slow
def test_the_same_seed_gives_the_same_run_and_another_does_not(make_config, tmp_path):
    options = {"layers_to_unfreeze": "2", "augmentation": "light", "max_epochs": 1}
    first = _train(make_config, tmp_path / "a", **options)
    assert _train(make_config, tmp_path / "b", **options) == first
    assert _train(make_config, tmp_path / "c", seed=1, **options) != first


@pytest.mark.slow
def test_views_without_room_for_their_features_are_refused(make_config):
    views = {"augmentation": "light", "views": 2, "cache_budget_gb": 1e-6}
    with pytest.raises(ConfigError, match=r"views \(2\) needs cached features, .* on images: "):
        train.run(make_config(**views))


def test_a_run_from_features_does_not_continue_on_images(make_config, tmp_path):
    """The budget is no option of the result, and a smaller one leaves no room for features."""
    train.run(make_config(max_epochs=1))
    (tmp_path / "run" / "best.keras").unlink()
    with pytest.raises(ConfigError, match=r"other features of them; give .*--cache_budget_gb"):
        train.run(make_config(max_epochs=1, cache_budget_gb=1e-6))


def test_views_are_cached_and_shared_between_seeds(make_config, tmp_path):
    weights = str(tmp_path / "small_cnn.weights.h5")  # Random ones would differ by seed.
    classifier.build(make_config().model, (224, 224, 1), 2).trunk.save_weights(weights)
    options = {"augmentation": "light", "views": 2, "max_epochs": 1, "weights": weights}
    _train(make_config, tmp_path / "a", **options)
    entries = sorted(path.name for path in (tmp_path / "cache").glob("*/*.npy"))
    assert len(entries) == 4  # Two views of train, validation and test as they are.
    _train(make_config, tmp_path / "b", seed=1, **options)
    assert sorted(path.name for path in (tmp_path / "cache").glob("*/*.npy")) == entries


@pytest.fixture
def other_data_dir(archive, tmp_path):
    """Where cxr_tfds/paper of the archive is built, but for one image that looks otherwise."""
    manual = tmp_path / "manual"
    shutil.copytree(archive, manual)
    image = min(manual.rglob("*.jpeg"))
    pixels = np.asarray(Image.open(image))
    Image.fromarray(255 - pixels).save(image, quality=80)
    options = DataOptions(dataset="paper", manual_dir=str(manual), data_dir=str(tmp_path / "other"))
    opening.load(options, image_size=224)
    return tmp_path / "other"


STALE = {
    "weights": {"seed": 1},  # They are drawn from it.
    "size": {"image_size": 48},
    "cut": {"layers_to_unfreeze": "2"},
    "precision": {"precision": "mixed_bfloat16"},
}


@pytest.fixture
def cached_and_computed(data_dir, one_cache, capsys):
    """Returns a function that prepares a run: how much of train was cached, how much computed."""

    def prepare(**options) -> tuple[int, int]:
        _prepare(runs.small_config(data_dir, one_cache, **options))
        output = capsys.readouterr().out
        found = re.search(r"features of train: (\d+) cached, (\d+) computed", output)
        return int(found[1]), int(found[2])

    return prepare


@pytest.fixture(scope="module")
def one_cache(data_dir, tmp_path_factory):
    """The folder of a cache that has the features of the plain run."""
    folder = tmp_path_factory.mktemp("cached")
    _prepare(runs.small_config(data_dir, folder))
    return folder


def _prepare(config) -> None:
    context = runtime.build(config.runtime)
    data = opening.load(config.data, config.model.backbone_image_size)
    session.begin(config.runtime.precision, config.runtime.seed)
    network = classifier.build(config.model, data.image_shape, len(data.class_names))
    feeds.build(config, data, network, context).prepare()


def test_a_cache_is_used_again(cached_and_computed):
    assert cached_and_computed() == (67, 0)


@pytest.mark.parametrize("change", STALE)
def test_a_stale_cache_is_never_used(cached_and_computed, change):
    assert cached_and_computed(**STALE[change]) == (0, 67)


def test_other_images_under_the_same_names_never_use_a_cache(cached_and_computed, other_data_dir):
    assert cached_and_computed(data_dir=str(other_data_dir)) == (0, 67)


@pytest.mark.slow
def test_a_run_killed_in_its_pass_leaves_finished_shards_to_the_next(make_config, tmp_path):
    # So early a cut at this size fills a shard with 32 rows: three of them.
    options = {"image_size": 448, "layers_to_unfreeze": "6", "max_epochs": 1}
    config = tmp_path / "config.json"
    config.write_text(json.dumps(make_config(**options).to_flat()))

    def run(name: str):
        return processes.started(
            [sys.executable, "-m", "trainer", f"--config_file={config}",
             f"--model_dir={tmp_path / name}"], stderr=None,
        )  # fmt: skip

    with run("killed") as killed:
        while not (shards := list((tmp_path / "cache").glob("*/0*.npy"))):
            assert killed.poll() is None
            time.sleep(0.002)
    kept = {path: path.stat().st_mtime_ns for path in shards}
    with run("again") as again:
        output, _ = again.communicate(timeout=900)
    assert again.returncode in {0, 3}
    cached, computed = re.search(r"train: (\d+) cached, (\d+) computed", output).groups()
    assert int(cached) >= 32
    assert int(cached) + int(computed) == 67
    assert int(computed) > 0
    assert {path: path.stat().st_mtime_ns for path in kept} == kept


def test_a_finished_run_is_evaluated_again_from_its_checkpoint(
    run_dir, make_config, tmp_path, capsys
):
    run = tmp_path / "run"
    shutil.copytree(run_dir, run, ignore=shutil.ignore_patterns("on_*"))
    before = {n: (run / n).read_bytes() for n in ("predictions_test.csv", "metrics.jsonl")}
    for name in ("predictions_test.csv", "report.json", "curves.png", "best.keras"):
        (run / name).unlink()
    train.run(make_config())
    assert "resuming after epoch 2, step 0." in capsys.readouterr().out
    assert {name: (run / name).read_bytes() for name in before} == before
    assert {path.name for path in run.iterdir() if path.name[0] != "."} == FILES


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"resume": "never"},
            r"already holds a run; name another, or resume it with --resume=",
        ),
        ({"neurons": 9, "seed": 3}, r"other options \(neurons 8 -> 9, seed 0 -> 3\)"),
    ],
)
def test_a_run_resumes_only_with_its_own_options(run_dir, make_config, options, message):
    with pytest.raises(ConfigError, match=message):
        train.run(make_config(model_dir=str(run_dir), **options))


def test_where_things_are_may_change(run_dir, make_config, tmp_path):
    config = make_config(
        model_dir=str(run_dir), cache_dir=str(tmp_path / "new"), steps_per_execution=3
    )
    directory, _ = resuming.take(config, is_chief=True)
    directory.release()


def test_a_missing_run_is_an_error(make_config):
    with pytest.raises(ConfigError, match="holds no run for --resume=must to resume"):
        train.run(make_config(resume="must"))


def test_a_finished_run_without_checkpoints_is_left_alone(run_dir, make_config, tmp_path):
    shutil.copytree(run_dir, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    with pytest.raises(ConfigError, match="checkpoints is missing, so the run can't go on"):
        train.run(make_config())


def test_a_damaged_config_is_named(make_config, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text("{")
    with pytest.raises(RunError, match=r"config.json can't be read \(.*\); restore it from a copy"):
        train.run(make_config())


def test_a_precision_that_was_measured_is_kept(run_dir, make_config):
    config = make_config(model_dir=str(run_dir), precision="auto")
    directory, resumed = resuming.take(config, is_chief=True)
    directory.release()
    assert resumed.runtime.precision == "float32"


def test_a_divergence_goes_back_and_lowers_the_learning_rate(make_config, capsys):
    options = {"optimizer": "sgd", "learning_rate": 1e38, "max_recoveries": 1}
    with pytest.raises(
        RunError, match=r"the loss is (nan|inf) .*, after 1 recoveries; give a lower"
    ):
        train.run(make_config(**options))
    assert re.search(
        r"the loss is (nan|inf) in epoch 1 at step \d, at learning rate 1e\+38: returning to "
        r"epoch 0, step 0, with 0.5 times the learning rate.",
        capsys.readouterr().out,
    )


def test_the_paper_protocol_tells_how_many_patients_are_shared(run_dir, make_config, capsys):
    assert evaluate.run(make_config(model_dir=str(run_dir))).guard_fired
    report = json.loads((run_dir / "report.json").read_text())
    shared = report["shared_patient_images"]
    assert shared == report["data"]["test_images_sharing_a_patient_with_train_or_validation"] > 0
    said = f"share a patient with train or validation: {shared} of 25"
    assert said in capsys.readouterr().out
