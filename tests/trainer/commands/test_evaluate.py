"""`--mode=evaluate --images`: labelled images from elsewhere, evaluated like a data set."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import sklearn.metrics
from PIL import Image

import trainer
from cxr_tfds import phantoms
from trainer.commands import evaluate, predict
from trainer.errors import ConfigError, RunError
from trainer.runs import evaluated

COUNT = 12


def _phantoms(label: str) -> list[np.ndarray]:
    """The last ones, of which `archive` has none."""
    of_class = [record for record in phantoms.records() if record.label == label]
    return [phantoms.render(record) for record in of_class[-COUNT:]]


@pytest.fixture(scope="module")
def scans(tmp_path_factory):
    """A folder for each class, with images that the run has not seen; one can't be read."""
    folder = tmp_path_factory.mktemp("labelled") / "scans"
    for label in ("NORMAL", "PNEUMONIA"):
        (folder / label).mkdir(parents=True)
        for number, pixels in enumerate(_phantoms(label)):
            Image.fromarray(pixels).save(folder / label / f"{number:02}.png")
    (folder / "NORMAL" / "broken.jpeg").write_bytes(b"\xff\xd8")
    return folder


@pytest.fixture(scope="module")
def run(finished, tmp_path_factory):
    """A copy of the finished run, in which evaluations gather."""
    return trainer.open_run(shutil.copytree(finished, tmp_path_factory.mktemp("copy") / "run"))


@pytest.fixture(scope="module")
def printed():
    return io.StringIO()


@pytest.fixture(scope="module")
def evaluation(run, scans, printed):
    """Of the folders."""
    with contextlib.redirect_stdout(printed):
        return trainer.evaluate(run, images=str(scans))


def probabilities_of(evaluation) -> dict[str, float]:
    found = evaluation.predictions
    return dict(zip(found.file_name.tolist(), found.probabilities[:, 1].tolist(), strict=True))


def test_folders_are_evaluated_into_a_folder_of_the_run(run, evaluation, printed):
    out = printed.getvalue()
    assert evaluation.folder.name.startswith("on_images_")
    assert evaluation.folder.parent == run.directory.path
    assert evaluation.metrics.examples == 2 * COUNT
    assert "not evaluated, as they can't be read: 1 file (" in out
    assert f"labels: {COUNT + 1} NORMAL, {COUNT} PNEUMONIA." in out
    reread = evaluated.load(evaluation.folder)
    assert reread.metrics == evaluation.metrics
    assert (evaluation.folder / "report.html").exists()
    assert run.evaluation.metrics.examples == 25  # That of its own test split is as it was.


def test_figures_are_those_of_scikit_learn(evaluation):
    lines = (evaluation.folder / "predictions_test.csv").read_text().splitlines()
    rows = list(csv.DictReader(lines))
    label = np.array([row["label"] == "PNEUMONIA" for row in rows])
    positive = np.array([float(row["p_PNEUMONIA"]) for row in rows])
    expected = {
        "accuracy": sklearn.metrics.accuracy_score(label, positive > 0.5),
        "roc_auc": sklearn.metrics.roc_auc_score(label, positive),
        "pr_auc": sklearn.metrics.average_precision_score(label, positive),
        "brier": sklearn.metrics.brier_score_loss(label, positive),
    }
    for name, value in expected.items():
        assert getattr(evaluation.metrics, name) == pytest.approx(value, abs=1e-6), name


def test_predictions_and_evaluations_of_the_same_files_agree(run, evaluation, scans, tmp_path):
    worklist = predict.predict(run, scans, tmp_path / "out")
    scores = {row.file: row.score for row in worklist.rows if row.is_read}
    found = probabilities_of(evaluation)
    assert found.keys() == scores.keys()
    for name, value in found.items():
        assert value == pytest.approx(scores[name], abs=1e-6)
    threshold = run.evaluation.assessment.point.chosen.threshold
    decided = {row.file: row.predicted for row in worklist.rows if row.is_read}
    assert {name: value >= threshold for name, value in found.items()} == {
        name: value == "PNEUMONIA" for name, value in decided.items()
    }


@pytest.mark.slow
def test_a_zip_and_a_list_are_evaluated_as_the_folders_are(run, evaluation, scans, tmp_path):
    paths = sorted(path for path in scans.rglob("*.png"))
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for path in paths:
            archive.write(path, path.relative_to(scans))
    lines = (f"{path},{path.parent.name.lower()}" for path in paths)
    (tmp_path / "list.csv").write_text("\n".join(["file,label", *lines]))
    for of in (tmp_path / "a.zip", tmp_path / "list.csv"):
        found = evaluate.evaluate(run, images=str(of)).metrics
        assert found.accuracy == evaluation.metrics.accuracy
        assert found.roc_auc == pytest.approx(evaluation.metrics.roc_auc, abs=1e-9)


@pytest.fixture
def listed(scans, tmp_path):
    """A list with patients, numbers as labels, and a column of ages."""
    rows = [
        (path, int(path.parent.name == "PNEUMONIA"), f"p{number // 2}", "old" if number % 2 else "")
        for number, path in enumerate(sorted(scans.rglob("*.png")))
    ]
    lines = (",".join(map(str, row)) for row in rows)
    (tmp_path / "list.csv").write_text("\n".join(["file,label,patient_id,age group", *lines]))
    return tmp_path / "list.csv"


def test_patients_and_other_columns_of_a_list_are_used(run, listed):
    evaluation = evaluate.evaluate(run, images=str(listed), judge_by="age group")
    assert len(set(evaluation.predictions.patient_id.tolist())) == COUNT
    report = json.loads((evaluation.folder / "report.json").read_text())
    assert report["intervals"]["patients"] == COUNT
    assert report["groups"]["column"] == "age group"
    assert {row["name"] for row in report["groups"]["rows"]} == {"old", "(empty)"}
    with pytest.raises(ConfigError, match=r"judge_by \(ages\) is no column of images"):
        evaluate.evaluate(run, images=str(listed), judge_by="ages")


def test_images_that_the_run_was_trained_on_fire_the_guard(command, finished_copy, archive):
    """Under other names: patients are not known, so the images must be."""
    scans = finished_copy.parent / "scans"
    for number, path in enumerate(sorted(Path(archive).rglob("*.jpeg"))[20:60]):
        target = scans / path.parent.name / f"{number}.jpeg"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    done = command("--mode=evaluate", f"--model_dir={finished_copy}", f"--images={scans}")
    assert done.returncode == 3, done.stderr
    (folder,) = finished_copy.glob("on_images_*")
    report = json.loads((folder / "report.json").read_text())
    assert report["shared_images"] > 20
    assert any("are also images of" in reason for reason in report["metrics"]["warnings"])


@pytest.mark.parametrize("content", ["file,label\na.png,covid\n", "file,label\na.png,\n"])
def test_labels_that_are_none_are_told_in_a_line(command, finished, tmp_path, content):
    (tmp_path / "list.csv").write_text(content)
    done = command(
        "--mode=evaluate", f"--model_dir={finished}", f"--images={tmp_path / 'list.csv'}"
    )
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert "give a CSV list with columns `file` and `label` (NORMAL, PNEUMONIA)" in done.stderr


def test_mistakes_are_told_before_tensorflow_is_loaded(command, finished, scans):
    for arguments, said in (
        (["--images=/absent"], "images (/absent) is not there"),
        ([f"--images={scans}", "--output_dir=x"], "output_dir (x) needs --mode=predict, explain"),
        ([f"--images={scans}", "--heatmap=hirescam"], "heatmap (hirescam) needs --mode=explain"),
    ):
        done = command("--mode=evaluate", f"--model_dir={finished}", *arguments)
        assert done.returncode == 2
        assert said in done.stderr
        assert "loading TensorFlow" not in done.stdout


def test_the_same_images_again_replace_their_evaluation(run, evaluation, scans, command):
    arguments = ("--mode=evaluate", f"--model_dir={run.path}", f"--images={scans}")
    done = command(*arguments, "--dataset=grouped")
    assert done.returncode in (0, 3), done.stderr
    first, second, *others = done.stdout.splitlines()
    assert first == f"evaluate: {run.path} on {scans}; loading TensorFlow ..."
    assert second == "not used by --mode=evaluate --images: dataset (grouped)."
    assert f"replaces the evaluation in {run.path}/{evaluation.folder.name}." in others
    report = json.loads((evaluation.folder / "report.json").read_text())
    assert report["run"]["command"].startswith(
        f"python -m trainer --mode=evaluate --dataset=grouped --images={scans} --model_dir="
    )


def test_several_hosts_are_refused(command, finished, scans, monkeypatch):
    cluster = {"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": "worker", "index": 0}}
    monkeypatch.setenv("TF_CONFIG", json.dumps(cluster))
    done = command("--mode=evaluate", f"--model_dir={finished}", f"--images={scans}")
    assert done.returncode == 2
    assert "--mode=evaluate runs on one host" in done.stderr


def test_one_class_alone_is_evaluated_with_a_guard(run, scans):
    evaluation = evaluate.evaluate(run, images=str(scans / "PNEUMONIA"))
    assert evaluation.metrics.examples == COUNT
    assert evaluation.guard_fired
    assert evaluation.metrics.roc_auc is None


def test_options_of_paths_are_text(run, scans):
    for wrong in (3, [str(scans)]):
        with pytest.raises(ConfigError, match=r"images .* text"):
            evaluate.evaluate(run, images=wrong)
    with pytest.raises(RunError, match="names no radiograph"):
        evaluate.evaluate(run, images=Path(run.path) / "checkpoints")
