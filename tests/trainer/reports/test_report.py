"""The text of a report, and report.json."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from tests.support import tables
from trainer.evaluation import metrics
from trainer.evaluation.predictions import Predictions
from trainer.reports import report

if TYPE_CHECKING:
    import pathlib

HISTORY = tables.HISTORY | {"learning_rate": [0.001, 0.001, 0.001]}


def scores_with(tn: int, fp: int, fn: int, tp: int) -> metrics.Metrics:
    """Metrics with this confusion matrix; p(PNEUMONIA) is 0.25 or 0.75."""
    label = np.repeat([0, 0, 1, 1], (tn, fp, fn, tp))
    positive = np.repeat([0.25, 0.75, 0.25, 0.75], (tn, fp, fn, tp))
    predictions = Predictions(
        class_names=("NORMAL", "PNEUMONIA"),
        file_name=np.arange(label.size).astype(str),
        patient_id=np.arange(label.size).astype(str),
        etiology=np.where(label, "virus", "normal"),
        label=label,
        probabilities=np.stack([1 - positive, positive], axis=1),
    )
    return metrics.compute(predictions)


def report_with(**changes: Any) -> report.Report:
    fields: dict[str, Any] = {
        "split": "test",
        "history": HISTORY,
        "scores": scores_with(340, 56, 26, 1043),
        "data": {"name": "paper"},
        "run": {"backbone": "vgg16", "precision": "float32", "seed": 0, "flags": ["--seed=0"]},
    }
    return report.Report(**fields | changes)


TEXT = """\
Split test: 1465 examples
  backbone   vgg16
  precision  float32
  seed       0

Best epoch (lowest validation loss): 2 of 3

log-loss
  training   (min: 0.125, max: 0.500, cur: 0.125)
  validation (min: 0.250, max: 0.500, cur: 0.375)

accuracy
  training   (min: 0.750, max: 0.938, cur: 0.938)
  validation (min: 0.750, max: 0.900, cur: 0.850)

RANK 1 Accuracy: 94.40 %
Macro recall: 91.71 %
ROC-AUC: 0.9171
Always predicting PNEUMONIA: 72.97 %

Confusion matrix (rows: true, columns: predicted)
             NORMAL  PNEUMONIA
  NORMAL        340         56
  PNEUMONIA      26       1043

Classification report
              precision    recall  f1-score   support

      NORMAL     0.9290    0.8586    0.8924       396
   PNEUMONIA     0.9490    0.9757    0.9622      1069

    accuracy                         0.9440      1465
   macro avg     0.9390    0.9171    0.9273      1465
weighted avg     0.9436    0.9440    0.9433      1465

Metrics with PNEUMONIA as the positive class
  Sensitivity      0.9757
  Specificity      0.8586
  PPV              0.9490
  NPV              0.9290
  F1               0.9622
  MCC              0.8559
  PR-AUC           0.9437
  Brier score      0.0905
  Log-loss (nats)  0.3492

Output distribution
             true  predicted  mean probability
  NORMAL      396        366            0.3749  ##########
  PNEUMONIA  1069       1099            0.6251  ###############################

Examples by probability of PNEUMONIA
  0.0 to 0.1     0
  0.1 to 0.2     0
  0.2 to 0.3   366  ##########
  0.3 to 0.4     0
  0.4 to 0.5     0
  0.5 to 0.6     0
  0.6 to 0.7     0
  0.7 to 0.8  1099  ###############################
  0.8 to 0.9     0
  0.9 to 1.0     0

Recall by etiology
  normal  85.86 %    340 of 396
  virus   97.57 %  1043 of 1069
"""


def test_the_text_is_the_report_of_the_paper() -> None:
    assert report_with().to_text(colour=False) == TEXT


def test_a_sound_run_looks_the_same_in_colour() -> None:
    assert report_with().to_text(colour=True) == TEXT


def test_without_a_history_no_curve_is_reported() -> None:
    text = report_with(history={}).to_text(colour=False)
    assert "log-loss" not in text
    assert "Best epoch" not in text


def test_auc_is_reported_where_it_was_recorded() -> None:
    text = report_with(history={"auc": [0.5, 0.75]}).to_text(colour=False)
    assert "ROC-AUC\n  training   (min: 0.500, max: 0.750, cur: 0.750)\n\n" in text


def test_undefined_metrics_are_called_undefined() -> None:
    text = report_with(scores=scores_with(0, 0, 1, 3)).to_text(colour=False)
    assert "ROC-AUC: undefined" in text
    assert "  Specificity      undefined\n" in text


def test_patients_shared_with_train_or_validation_are_counted() -> None:
    assert (
        report_with(shared_patient_images=761)
        .to_text(colour=False)
        .endswith(
            "\n\nTest images that share a patient with train or validation: 761 of 1465 (51.9 %): "
            "the metrics above are optimistic.\n"
        )
    )


def test_no_shared_patient_is_reported() -> None:
    text = report_with(shared_patient_images=0).to_text(colour=False)
    assert text.endswith("\n\nTest images that share a patient with train or validation: none.\n")


def test_a_report_that_counts_train_alone_says_so() -> None:
    text = report_with(shared_patient_images=0, shared_with=["train"]).to_text(colour=False)
    assert text.endswith("\n\nTest images that share a patient with train: none.\n")


WARNING = (
    "DO NOT USE THIS MODEL: Accuracy 72.76 % (1066 of 1465) is not above the 72.97 % "
    "(1069 of 1465) of always predicting PNEUMONIA."
)


def test_a_run_that_must_not_be_used_says_so_at_the_end() -> None:
    text = report_with(scores=scores_with(1, 395, 4, 1065)).to_text(colour=False)
    assert text.endswith(f"\n\n{WARNING}\n")
    assert "\x1b" not in text


def test_the_warning_is_red_on_a_terminal() -> None:
    text = report_with(scores=scores_with(1, 395, 4, 1065)).to_text(colour=True)
    assert text.endswith(f"\n\n\x1b[1;31m{WARNING}\x1b[0m\n")


def test_every_reason_gets_its_line() -> None:
    text = report_with(scores=scores_with(0, 2, 0, 2)).to_text(colour=False)
    assert text.count(f"\n{report.DO_NOT_USE} ") == 2


def test_the_saved_document_holds_the_run(tmp_path: pathlib.Path) -> None:
    subject = report_with(shared_patient_images=761)
    subject.save(tmp_path)
    document = json.loads((tmp_path / "report.json").read_text())
    assert list(document) == [
        "schema_version",
        "split",
        "metrics",
        "shared_patient_images",
        "shared_with",
        "monitor",
        "best_epoch",
        "history",
        "data",
        "run",
    ]
    assert document["schema_version"] == report.SCHEMA_VERSION
    assert document["split"] == "test"
    assert document["metrics"]["confusion_matrix"] == [[340, 56], [26, 1043]]
    assert document["metrics"]["accuracy"] == subject.scores.accuracy
    assert document["shared_patient_images"] == 761
    assert document["shared_with"] == ["train", "validation"]
    assert document["best_epoch"] == 2
    assert document["history"] == HISTORY
    assert document["data"] == {"name": "paper"}
    assert document["run"] == subject.run


def test_a_diverged_run_is_saved(tmp_path: pathlib.Path) -> None:
    history = {"loss": [np.float32(0.5), math.nan], "val_loss": [math.inf, math.nan]}
    report_with(history=history).save(tmp_path)
    document = json.loads((tmp_path / "report.json").read_text())
    assert document["history"] == {"loss": [0.5, None], "val_loss": [None, None]}
    assert document["best_epoch"] is None


@pytest.mark.parametrize("split", ["test", "validation"])
def test_the_text_names_the_evaluated_split(split: str) -> None:
    text = report_with(split=split).to_text(colour=False)
    assert text.startswith(f"Split {split}: 1465 examples\n")


def test_names_from_files_are_no_control_sequences_in_the_report() -> None:
    label = np.array([0, 1, 1])
    table = Predictions(
        class_names=("NORMAL\x1b[2J", "\u202eB"),
        file_name=label.astype(str),
        patient_id=label.astype(str),
        etiology=np.array(["normal", "virus\x07", "virus\x07"]),
        label=label,
        probabilities=np.array([[0.9, 0.1], [0.1, 0.9], [0.2, 0.8]]),
    )
    found = report_with(scores=metrics.compute(table), run={"backbone": "\x1b[31m"})
    shown = found.to_text(colour=False)
    assert not {"\x1b", "\u202e", "\x07"} & set(shown)
    assert r"NORMAL\x1b[2J" in shown
