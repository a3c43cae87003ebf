"""A finished run, opened: its files are read without TensorFlow, except the model."""

from __future__ import annotations

import dataclasses
import json
import math
import shlex
import shutil
import subprocess
import sys

import keras
import numpy as np
import pytest

from tests.support import runs
from trainer.commands import evaluate, train
from trainer.config import Config
from trainer.errors import ConfigError, RunError
from trainer.models import archive as archive_lib
from trainer.models import classifier, saved
from trainer.runs import evaluated, resuming, trained


@pytest.fixture(scope="module")
def run(data_dir, tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    return train.train(runs.small_config(data_dir, folder))


@pytest.fixture
def copy(run, tmp_path):
    """The run's directory, to be damaged."""
    shutil.copytree(run.path, tmp_path / "run")
    return tmp_path / "run"


def test_training_returns_the_run_that_opening_finds(run):
    opened = trained.open_run(run.path)
    assert opened.config == run.config
    assert opened.metrics == run.metrics
    assert opened.history == run.history
    assert len(opened.history["val_loss"]) == 2


def test_a_run_knows_its_training_data(run):
    record = json.loads((run.directory.path / "trained_on.json").read_text())
    assert run.data_fingerprint == record["fingerprint"]
    assert run.training_patients == set(record["patients"])
    assert run.validation_patients == set(record["validation_patients"])
    assert run.training_patients
    assert run.validation_patients


def test_a_run_knows_the_shares_of_its_classes_and_its_images(run):
    record = json.loads((run.directory.path / "trained_on.json").read_text())
    total = sum(record["class_counts"].values())
    assert run.training_priors == {k: of / total for k, of in record["class_counts"].items()}
    assert len(run.training_images) == len(record["image_digests"]) > total


def test_a_run_of_a_version_that_knew_neither_says_none(copy, capsys):
    record = json.loads((copy / "trained_on.json").read_text())
    kept = {name: record[name] for name in ("fingerprint", "patients")}
    kept["images"] = ["0123456789abcdef"]  # Hashes of encoded images.
    (copy / "trained_on.json").write_text(json.dumps(kept))
    opened = trained.open_run(copy)
    assert opened.training_priors is opened.training_images is None
    assert evaluate.evaluate(copy).assessment.sharing.images is None
    assert "not told: whether the run was trained on these images, " in capsys.readouterr().out


def test_patients_that_are_shared_fire_the_guard(run):
    shared = run.evaluation.assessment.sharing
    assert shared.patients > 0
    assert any(reason.startswith(f"{shared.patients} of 25") for reason in run.evaluation.warnings)
    assert run.evaluation.guard_fired


def test_the_model_holds_what_validation_chose(run):
    chosen = json.loads((run.directory.path / "operating_point.json").read_text())
    facts = archive_lib.facts(run.directory.best_model)
    for name in ("class_names", "positive_class", "rule", "threshold", "temperature"):
        assert facts[name] == chosen[name]
    assert facts["data"]["fingerprint"] == run.data_fingerprint
    assert chosen["class_names"] == ["NORMAL", "PNEUMONIA"]
    assert chosen["threshold"] == run.evaluation.assessment.point.chosen.threshold
    assert chosen["temperature"] == run.evaluation.assessment.temperature


def test_every_look_is_counted(copy):
    before = len(trained.open_run(copy).evaluation.report.looks)
    for count in (1, 2):
        assert len(evaluate.evaluate(copy).report.looks) == before + count


def test_a_run_without_predictions_of_validation_has_no_operating_point_and_says_so(copy):
    (copy / "predictions_validation.csv").unlink()
    shutil.copy(copy / "predictions_test.csv", copy.parent / "predictions_validation.csv")
    for found in (trained.open_run(copy).evaluation, evaluate.evaluate(copy)):
        assert found.assessment.point is None  # That of the folder above is not the run's.
        assert "No operating point: the run has no predictions of the valid" in str(found)


def test_damaged_predictions_of_validation_are_an_error(copy):
    (copy / "predictions_validation.csv").write_text("x")
    for call in (lambda: trained.open_run(copy).metrics, lambda: evaluate.evaluate(copy)):
        with pytest.raises(RunError, match=r"predictions_validation.csv can't be read .*; restore"):
            call()


def test_an_evaluation_elsewhere_has_the_operating_point_of_the_run(run, archive):
    evaluation = evaluate.evaluate(run, dataset="grouped", manual_dir=str(archive))
    reread = evaluated.load(evaluation.folder)
    assert reread.assessment.point.chosen == run.evaluation.assessment.point.chosen
    trained_on = {"name": "paper", "fingerprint": run.data_fingerprint}
    assert reread.report.trained_on == trained_on == run.evaluation.report.trained_on
    page = (evaluation.folder / "report.html").read_text("utf-8")
    assert page.count(f"paper, fingerprint {run.data_fingerprint[:16]}") == 2


def test_a_run_of_a_version_that_knew_no_validation_patients_counts_those_of_train(run, copy):
    """It opens, and its report says what it counts, also when it is evaluated anew."""
    shared = int(np.isin(run.predictions.patient_id, list(run.training_patients)).sum())
    for name, key, old in (
        ("trained_on.json", "validation_patients", {}),
        ("report.json", "shared_with", {"shared_patient_images": shared}),
        ("report.json", "trained_on", {}),
    ):
        document = json.loads((copy / name).read_text())
        del document[key]
        (copy / name).write_text(json.dumps(document | old))
    opened = trained.open_run(copy)
    assert opened.validation_patients is None
    for found in (opened.evaluation, evaluate.evaluate(copy)):
        assert f"Test images that share a patient with train: {shared} of 25" in str(found)


def test_metrics_are_those_of_the_report(run):
    document = json.loads((run.directory.path / "report.json").read_text())
    found = run.metrics.to_json() | {"warnings": run.evaluation.warnings}
    assert json.loads(json.dumps(found)) == document["metrics"]
    assert json.loads(json.dumps(run.evaluation.report.to_json())) == document


def test_the_model_gives_the_predictions(run):
    images = np.zeros((2, 40, 50, 1), np.uint8)
    assert run.model(images).shape == (2, 2)
    assert len(run.predictions) == run.metrics.examples == 25


def test_a_run_draws_itself(run):
    axes = run.plot_history().axes
    assert [a.get_title() for a in axes] == ["Log-loss", "Accuracy", "ROC-AUC"]
    assert run.plot_history()._repr_png_().startswith(b"\x89PNG")
    markup = run._repr_html_()
    assert markup.count("<img ") == 2
    assert "accuracy" in markup
    assert run.path in repr(run)


def test_opening_a_run_and_reading_its_metrics_loads_no_tensorflow(run):
    code = (
        "import sys, trainer\n"
        f"run = trainer.open_run({run.path!r})\n"
        "run.metrics, run.predictions, run.plot_history(), run._repr_html_()\n"
        "sys.exit('tensorflow' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_recorded_command_repeats_the_run_and_is_no_kernels(run, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["ipykernel_launcher.py", "-f", "kernel.json"])
    evaluation = evaluate.evaluate(run)
    command = evaluation.report.run["command"]
    assert command == f"python -m trainer --mode=evaluate --model_dir={run.path}"
    trained_by = run.evaluation.report.run["command"]
    assert trained_by.startswith("python -m trainer --dataset=paper ")
    assert "--precision=float32" in trained_by


def test_the_recorded_commands_are_a_shells(run, tmp_path):
    folder = tmp_path / "a b's"
    shutil.copytree(run.path, folder)
    evaluation = evaluate.evaluate(folder)
    words = shlex.split(evaluation.report.run["command"])
    assert words == ["python", "-m", "trainer", "--mode=evaluate", f"--model_dir={folder}"]
    found = subprocess.run([sys.executable, *words[1:]], check=False, capture_output=True)
    assert found.returncode in (0, 3), found.stderr


def test_another_data_set_is_evaluated_into_a_folder_of_its_own(run, archive, capsys):
    evaluation = evaluate.evaluate(run.path, dataset="grouped", manual_dir=str(archive))
    assert evaluation.folder.name.startswith("on_grouped_")
    assert evaluated.load(evaluation.folder).metrics == evaluation.metrics
    assert "RANK 1 Accuracy" in str(evaluation)
    assert "RANK 1 Accuracy" not in capsys.readouterr().out


def test_the_report_is_printed_when_it_is_asked_for(make_config, capsys):
    train.train(make_config(max_epochs=1), show_report=True)
    assert "RANK 1 Accuracy" in capsys.readouterr().out


def test_workers_are_started_by_the_command_line_alone(make_config):
    with pytest.raises(ConfigError, match=r"local_workers \(2\) starts other processes"):
        train.train(make_config(local_workers=2, strategy="multi_worker"))


def test_what_training_fixed_cannot_be_changed(run):
    with pytest.raises(
        ConfigError,
        match=r"neurons \(\d+\) cannot be changed after training; leave it out: .* own, \d+",
    ):
        evaluate.evaluate(run, neurons=9)


def test_a_folder_without_a_run_is_an_error(tmp_path):
    with pytest.raises(RunError, match=r"there is no run at .*; train one"):
        trained.open_run(tmp_path)


def test_a_run_that_has_not_finished_is_an_error(copy):
    (copy / "best.keras").unlink()
    with pytest.raises(RunError, match="has no model yet; run its command again to resume it"):
        trained.open_run(copy)


@pytest.mark.parametrize("name", ["predictions_test.csv", "report.json"])
def test_a_missing_evaluation_is_an_error(copy, name):
    (copy / name).unlink()
    run = trained.open_run(copy)
    with pytest.raises(RunError, match=f"has no evaluation .*{name}"):
        _ = run.metrics


@pytest.mark.parametrize(
    ("name", "content"),
    [("report.json", "{"), ("report.json", "[]"), ("predictions_test.csv", "x")],
)
def test_a_damaged_evaluation_is_an_error(copy, name, content):
    (copy / name).write_text(content)
    with pytest.raises(RunError, match=r"can't be read .*; restore it .* --config_file="):
        _ = trained.open_run(copy).metrics


@pytest.mark.parametrize("name", ["report.json", "predictions_test.csv", "trained_on.json"])
def test_the_command_that_an_error_names_writes_the_file_again(copy, command, name):
    sound = (copy / name).read_bytes()
    (copy / name).write_text("{")
    with pytest.raises(RunError, match="evaluate the run anew with python -m trainer ") as raised:
        _everything_of(trained.open_run(copy))
    words = shlex.split(str(raised.value).partition("python -m trainer ")[2].removesuffix("."))
    assert command(*words).returncode in (0, 3)
    assert _everything_of(trained.open_run(copy))
    assert name == "report.json" or (copy / name).read_bytes() == sound


def _everything_of(run):
    return run.training_patients, run.metrics


@pytest.mark.parametrize(
    "content",
    [
        '{"epoch": 1, "loss": 0',
        '["loss"]',
        '{"epoch": 1, "a": 1}\n{}',
        '{"epoch": 1, "a": 1}\nnoise\n{"epoch": 3, "a": 1}',
        '{"epoch": 1, "a": 1}\n{"epoch": 2, "a": "1"}',
        '{"epoch": 1, "a": 1}\n\n{"epoch": 2, "a": 1}',
        '{"epoch": 1, "a": 1}\n{"epoch": 3, "a": 1}',
    ],
)
def test_a_damaged_history_is_reported(copy, content):
    (copy / "metrics.jsonl").write_text(content)
    for call in (trained.open_run, evaluate.evaluate):
        with pytest.raises(RunError, match=r"metrics.jsonl can't be read .*; restore it from a co"):
            call(copy)


@pytest.mark.parametrize("lines", [0, 1])
def test_a_history_that_lacks_epochs_is_an_error(copy, lines):
    rows = (copy / "metrics.jsonl").read_text().splitlines(keepends=True)
    (copy / "metrics.jsonl").write_text("".join(rows[:lines]))
    with pytest.raises(RunError, match=f"has {lines} of the 2 epochs that report.json tells of; r"):
        trained.open_run(copy)


def test_a_run_that_goes_on_elsewhere_is_said_to(copy):
    rows = (copy / "metrics.jsonl").read_text().splitlines()
    more = json.dumps(json.loads(rows[1]) | {"epoch": 3})
    (copy / "metrics.jsonl").write_text("\n".join([*rows, more]) + "\n")
    with pytest.raises(RunError, match=r"has continued to 3 epochs .*; run its command again"):
        trained.open_run(copy)
    config = Config.from_flat(json.loads((copy / "config.json").read_text()))
    directory, _ = resuming.take(dataclasses.replace(config, model_dir=str(copy)), is_chief=True)
    with pytest.raises(RunError, match=r"still training \(process .*\), beyond the 2 epochs"):
        trained.open_run(copy)
    directory.release()


def test_a_change_that_took_no_place_is_not_recorded(copy):
    config = (copy / "config.json").read_bytes()
    for path in copy.glob("checkpoints/*/state.json"):
        path.write_text("{")
    longer = Config.from_flat(json.loads(config) | {"model_dir": str(copy), "max_epochs": 3})
    with pytest.raises(RunError, match=r"; evaluate its best.keras .* --mode=evaluate, or start"):
        train.run(longer)
    assert (copy / "config.json").read_bytes() == config
    assert not (copy / "changes.jsonl").exists()
    assert (copy / "best.keras").exists()


def test_a_run_without_an_epoch_has_an_empty_history(copy):
    (copy / "metrics.jsonl").write_text("")
    (copy / "report.json").unlink()
    assert trained.open_run(copy).history == {}


def test_an_unreadable_model_is_an_error(copy):
    (copy / "best.keras").write_bytes(b"")
    with pytest.raises(RunError, match="is not a readable model"):
        _ = trained.open_run(copy).model


MISTAKEN = {
    "backbone": ("mobilenet_v2", "its backbone is mobilenet_v2, not small_cnn"),
    "image_size": (48, "its image_size is 48, not 32"),
    "pooling": ("avgmax", "its pooling is avgmax, not avg"),
    "dense_layers": (2, "its dense_layers is 2, not 1"),
    "neurons": (9, "its neurons is 9, not 8"),
}


@pytest.mark.parametrize("option", MISTAKEN)
def test_a_model_of_another_run_is_refused_by_what_tells_them_apart(run, copy, option):
    value, reason = MISTAKEN[option]
    options = dataclasses.replace(run.config.model, **{option: value})
    network = classifier.build(options, (32, 32, 1), 2)
    saved.save(network, copy / "best.keras")
    with pytest.raises(RunError, match=f"another run than config.json .*: {reason}; restore"):
        _ = trained.open_run(copy).model
    with pytest.raises(RunError, match=f"another run than config.json .*: {reason}; restore"):
        evaluate.evaluate(copy)


def test_a_model_of_other_classes_is_refused(run, copy):
    saved.save(classifier.build(run.config.model, (32, 32, 1), 3), copy / "best.keras")
    with pytest.raises(RunError, match=r"has 2 classes \(NORMAL, PNEUMONIA\), .* 3 outputs; rest"):
        evaluate.evaluate(copy)


def test_a_model_that_is_not_the_trainers_is_refused(copy):
    layers = [keras.Input((32, 32, 1)), keras.layers.Flatten(), keras.layers.Dense(2)]
    keras.Sequential(layers).save(copy / "best.keras")
    with pytest.raises(RunError, match="is not a model of the trainer: it has no backbone"):
        _ = trained.open_run(copy).model


def test_a_loss_of_nan_is_read_as_nan(copy):
    document = json.loads((copy / "report.json").read_text())
    document["history"]["loss"][0] = None
    (copy / "report.json").write_text(json.dumps(document))
    assert math.isnan(evaluated.load(copy).report.history["loss"][0])


def test_an_evaluation_is_never_written_outside_of_the_run(run, copy, data_dir, tmp_path):
    """The fingerprint becomes the name of a folder, and comes from a file of the data set."""
    forged = tmp_path / "data"
    shutil.copytree(data_dir / "cxr_tfds" / "paper", forged / "cxr_tfds" / "paper")
    (path,) = forged.rglob("metadata.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"fingerprint": "/../../x"}))
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(
        RunError, match=r"metadata\.json can't be read .*, which is not a plain name"
    ):
        evaluate.evaluate(copy, data_dir=str(forged))
    assert sorted(tmp_path.rglob("*")) == before
    folder = copy / f"on_paper_{run.data_fingerprint[:8]}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(RunError, match="is a link, and nothing is written through it"):
        evaluate.evaluate(copy, data_dir=str(data_dir))


@pytest.mark.parametrize("name", ["checkpoints", "tensorboard"])
def test_a_run_is_not_resumed_through_a_link(copy, tmp_path, name):
    shutil.rmtree(copy / name)
    (copy / name).symlink_to(tmp_path, target_is_directory=True)
    config = trained.open_run(copy).config
    with pytest.raises(RunError, match=f"{name} is a link"):
        resuming.take(dataclasses.replace(config, model_dir=str(copy)), is_chief=True)
