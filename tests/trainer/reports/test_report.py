"""The text of a report, and report.json."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from tests.support import tables
from trainer.evaluation import localization
from trainer.evaluation.assessment import Assessment, Sharing
from trainer.evaluation.predictions import Predictions
from trainer.options import EvaluationOptions
from trainer.reports import report

if TYPE_CHECKING:
    import pathlib

HISTORY = tables.HISTORY | {"learning_rate": [0.001, 0.001, 0.001]}


def table_with(tn: int, fp: int, fn: int, tp: int) -> Predictions:
    """Predictions with this confusion matrix; p(PNEUMONIA) is 0.25 or 0.75."""
    label = np.repeat([0, 0, 1, 1], (tn, fp, fn, tp))
    positive = np.repeat([0.25, 0.75, 0.25, 0.75], (tn, fp, fn, tp))
    return tables.predictions_of(label, positive, np.where(label, "virus", "normal"))


UNKNOWN = Sharing()
VGG16, MOBILENET = table_with(340, 56, 26, 1043), table_with(1, 395, 4, 1065)


def assessed(
    test: Predictions = VGG16,
    validation: Predictions | None = None,
    sharing: Sharing = UNKNOWN,
    **options: Any,
) -> Assessment:
    return Assessment(test, validation, EvaluationOptions(**options), sharing=sharing)


ASSESSED = assessed()
"""Its intervals are computed once."""


def report_with(**changes: Any) -> report.Report:
    fields: dict[str, Any] = {
        "split": "test",
        "history": HISTORY,
        "assessment": ASSESSED,
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

Metrics at 0.5, PNEUMONIA positive, with 95 % intervals (bootstrap over 1465 patients)
  patients by class: NORMAL 396, PNEUMONIA 1069
  Accuracy         0.9440  0.9309 to 0.9548
  Macro recall     0.9171  0.8976 to 0.9332
  Sensitivity      0.9757  0.9642 to 0.9835
  Specificity      0.8586  0.8207 to 0.8896
  PPV              0.9490  0.9344 to 0.9606
  NPV              0.9290  0.8967 to 0.9517
  F1               0.9622  0.9511 to 0.9708
  MCC              0.8559  0.8238 to 0.8853
  ROC-AUC          0.9171  0.8976 to 0.9332
  PR-AUC           0.9437  0.9291 to 0.9554
  Brier score      0.0905  0.0847 to 0.0966
  Log-loss (nats)  0.3492  0.3364 to 0.3627
  ECE              0.1940  0.1817 to 0.2056

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

Accuracy by etiology
  normal  85.86 %    340 of 396  0.8207 to 0.8896  AUC 0.9171
  virus   97.57 %  1043 of 1069  0.9642 to 0.9835  AUC 0.9171
  A group of one class is compared with all examples of the other class for its AUC.

No operating point: the run has no predictions of the validation split; run its command again, \
which writes them.
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
    text = report_with(assessment=assessed(table_with(0, 0, 1, 3))).to_text(colour=False)
    assert "ROC-AUC: undefined" in text
    assert "  Specificity      undefined                 –\n" in text


SHARED = {
    Sharing(761, 0): "train or validation: 761 of 1465 (51.9 %): the metrics above are optimistic.",
    Sharing(0, 0): "train or validation: none.",
    Sharing(0, 0, ("train",)): "train: none.",
}


@pytest.mark.parametrize("sharing", SHARED, ids=SHARED.values())
def test_images_that_share_a_patient_are_counted_with_the_splits_that_are_known(
    sharing: Sharing,
) -> None:
    text = report_with(assessment=assessed(sharing=sharing)).to_text(colour=False)
    assert f"\n\nTest images that share a patient with {SHARED[sharing]}\n" in text


def test_a_split_that_shares_patients_must_not_be_used() -> None:
    text = report_with(assessment=assessed(sharing=Sharing(761, 2))).to_text(colour=False)
    *_, patients, images = text.splitlines()
    assert patients.startswith("DO NOT USE THIS MODEL: 761 of 1465 test images (51.95 %) share a")
    assert images.startswith("DO NOT USE THIS MODEL: 2 of 1465 test images (0.14 %) are also im")


STUDY = tables.study(1, patients=40)
FULL = assessed(
    STUDY, tables.study(2, patients=40), operating_point="sensitivity=0.9", prevalence=0.05
)


@pytest.mark.parametrize(
    "line",
    [
        r"Operating point: PNEUMONIA from a probability of 0\.\d{4} on\n  chosen by sensi",
        r"  chosen by sensitivity=0\.9 on \d+ validation examples\n",
        r"At a prevalence of 5\.00 %\n  PPV, at 0\.5 +0\.\d{4}  0\.\d{4} to 0\.\d{4}\n",
        r"\n  NPV, at the operating point  0\.\d{4}  ",
        r"Calibration; temperature fitted on validation: \d\.\d{3}\n",
        r"\n  bacteria  \d\d\.\d\d %  \d+ of +\d+  0\.\d{4} to 0\.\d{4}  AUC 0\.\d{4}\n",
    ],
)
def test_what_validation_decides_is_reported(line: str) -> None:
    assert re.search(line, report_with(assessment=FULL).to_text(colour=False))


def test_a_prior_correction_is_reported_with_its_shares_and_its_assumption() -> None:
    subject = Assessment(
        STUDY,
        None,
        EvaluationOptions(prior_correction="em"),
        training_priors={"NORMAL": 0.5, "PNEUMONIA": 0.5},
    )
    text = report_with(assessment=subject).to_text(colour=False)
    assert re.search(r"class shares \(NORMAL \d\d\.\d\d %, PNEUMONIA \d\d\.\d\d %\), beside", text)
    assert "  It assumes that the images of a class look as in training, and only" in text


def test_groups_with_both_classes_have_no_note() -> None:
    mixed = dataclasses.replace(VGG16, etiology=np.where(np.arange(1465) % 2, "a", "b"))
    assert "compared with all" not in report_with(assessment=assessed(mixed)).to_text(colour=False)


def test_three_classes_are_reported_as_means() -> None:
    table = tables.study(3, patients=40, num_classes=3)
    text = report_with(assessment=assessed(table, table)).to_text(colour=False)
    assert "Metrics as means over the classes, each against the rest, with 95 % intervals" in text
    assert "Examples by probability of the predicted class" in text
    assert "perating point" not in text


def test_a_warning_of_a_shift_is_the_first_notice() -> None:
    subject = report_with(shift={"warning": "Validation can't stand for test."})
    assert subject.notices[0] == "Validation can't stand for test."
    assert "\n\nValidation can't stand for test.\nNo operating" in subject.to_text(colour=False)


def test_a_shift_is_reported_beside_chance_and_without_an_interval() -> None:
    pair = {
        "a": "validation", "b": "test", "domain_auc": 0.53, "domain_interval": [0.49, 0.57],
        "score_psi": 0.0169, "expected_score_psi": 0.0394,
    }  # fmt: skip
    text = report_with(shift={"pairs": [pair]}).to_text(colour=False)
    assert re.search(r"AUC 0\.5: no; a warning needs 0\.638 or more\)\n.*by chance\n", text)
    assert re.search(r"validation and test  0\.5300 +0\.0169 +0\.0394\n", text)


def test_the_data_that_a_model_was_trained_on_is_reported() -> None:
    trained_on = {"name": "grouped", "fingerprint": "2234b422eecd253e84a5b60a"}
    subject = report_with(trained_on=trained_on)
    text = subject.to_text(colour=False)
    assert "\n  trained on  grouped, fingerprint 2234b422eecd253e\n" in text
    assert subject.to_json()["trained_on"] == trained_on


def test_looks_are_reported() -> None:
    looks = [{"settings": {"operating_point": "youden"}}] * 2
    text = report_with(looks=looks).to_text(colour=False)
    assert "\n\nLooks at the test split by this run: 2 (2 with youden)." in text


WARNINGS = (
    (
        "DO NOT USE THIS MODEL: Accuracy 72.76 % (1066 of 1465) is not above the 72.97 % "
        "(1069 of 1465) of always predicting PNEUMONIA."
    ),
    (
        "DO NOT USE THIS MODEL: The 95 % interval of ROC-AUC (0.474 to 0.525) includes 0.5, that "
        "of chance."
    ),
)


def test_a_run_that_must_not_be_used_says_so_at_the_end() -> None:
    text = report_with(assessment=assessed(MOBILENET)).to_text(colour=False)
    assert text.endswith("\n\n{}\n{}\n".format(*WARNINGS))
    assert "\x1b" not in text


def test_the_warnings_are_red_on_a_terminal() -> None:
    text = report_with(assessment=assessed(MOBILENET)).to_text(colour=True)
    red = "\x1b[1;31m{}\x1b[0m\n\x1b[1;31m{}\x1b[0m\n"
    assert text.endswith("\n\n" + red.format(*WARNINGS))


def test_every_reason_gets_its_line() -> None:
    text = report_with(assessment=assessed(table_with(0, 2, 0, 2))).to_text(colour=False)
    assert text.count(f"\n{report.DO_NOT_USE} ") == 2


def test_the_saved_document_holds_the_run(tmp_path: pathlib.Path) -> None:
    looks = [{"settings": {"operating_point": "youden"}}]
    sharing = Sharing(761, 2, ("train",))
    subject = report_with(assessment=assessed(sharing=sharing), looks=looks, shift={"warning": ""})
    subject.save(tmp_path)
    document = json.loads((tmp_path / "report.json").read_text())
    assert set(document) == {
        "schema_version", "split", "metrics", "notices", "intervals", "operating_point",
        "prevalence", "calibration", "prior_correction", "groups", "shift", "looks", "settings",
        "training_priors", "shared_patient_images", "shared_images", "shared_with", "monitor",
        "best_epoch", "history", "data", "trained_on", "localization", "run",
    }  # fmt: skip
    assert document["schema_version"] == report.SCHEMA_VERSION
    assert document["split"] == "test"
    assert document["metrics"]["confusion_matrix"] == [[340, 56], [26, 1043]]
    assert document["metrics"]["accuracy"] == subject.scores.accuracy
    assert (document["shared_patient_images"], document["shared_images"]) == (761, 2)
    assert document["shared_with"] == ["train"]
    assert document["looks"] == {"count": 1, "rows": looks}
    assert document["shift"] == {"warning": ""}
    assert document["settings"] == dataclasses.asdict(EvaluationOptions())
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
    found = report_with(assessment=assessed(table), run={"backbone": "\x1b[31m"})
    shown = found.to_text(colour=False)
    assert not {"\x1b", "\u202e", "\x07"} & set(shown)
    assert r"NORMAL\x1b[2J" in shown


def test_heat_maps_are_told_where_masks_tell_of_findings() -> None:
    figures = dict.fromkeys(localization.NAMES, 0.5) | {"images": 200, "without_heat": 0}
    found = report_with(localization={"method": "gradcam", **figures})
    said = found.to_text(colour=False)
    assert "Heat maps (gradcam), share inside the drawn finding, means over 200 images" in said
    assert re.search(r"hottest tenth of the heat +50\.00 %", said)
    assert found.to_json()["localization"]["images"] == 200
    assert "Heat maps" not in report_with().to_text(colour=False)
    assert report_with().to_json()["localization"] is None
