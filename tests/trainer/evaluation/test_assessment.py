"""What is said of a model: computed again from its files by scikit-learn alone, and strict JSON."""

from __future__ import annotations

import csv
import dataclasses
import json
import math
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pytest
import sklearn.calibration
import sklearn.metrics

from tests.support import tables
from tests.support.tables import predictions_of
from trainer.evaluation import assessment
from trainer.evaluation.assessment import Assessment, Sharing
from trainer.options import EvaluationOptions, evaluation

if TYPE_CHECKING:
    import pathlib

    from trainer.evaluation.predictions import Predictions

OPTIONS = EvaluationOptions(
    operating_point="sensitivity=0.9", prevalence=0.05, prior_correction="em"
)
TEST, VALIDATION = tables.study(1, patients=80), tables.study(2, patients=60)


def assessed(
    test: Predictions, validation: Predictions | None = VALIDATION, **options: Any
) -> Assessment:
    return Assessment(test, validation, EvaluationOptions(**options))


# Recomputed from the files


def read(path: pathlib.Path) -> tuple[npt.NDArray[Any], npt.NDArray[Any], list[dict[str, str]]]:
    """Labels, probabilities and rows of a file of predictions, by the csv module alone."""
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    columns = [name for name in rows[0] if name.startswith("p_")]
    label = np.array([columns.index(f"p_{row['label']}") for row in rows])
    return label, np.array([[float(row[name]) for name in columns] for row in rows]), rows


def of_decisions(label: npt.NDArray[Any], decided: npt.NDArray[Any]) -> dict[str, float]:
    recall, precision = sklearn.metrics.recall_score, sklearn.metrics.precision_score
    return {
        "accuracy": sklearn.metrics.accuracy_score(label, decided),
        "macro_recall": sklearn.metrics.balanced_accuracy_score(label, decided),
        "sensitivity": recall(label, decided),
        "specificity": recall(label, decided, pos_label=0),
        "ppv": precision(label, decided),
        "npv": precision(label, decided, pos_label=0),
        "f1": sklearn.metrics.f1_score(label, decided),
        "mcc": sklearn.metrics.matthews_corrcoef(label, decided),
    }


def calibration_error(label: npt.NDArray[Any], positive: npt.NDArray[Any]) -> float:
    share, mean = sklearn.calibration.calibration_curve(label, positive, n_bins=15)
    inner = np.linspace(0, 1, 16)[1:-1]
    counts = np.bincount(np.searchsorted(inner, positive), minlength=15)
    return float(np.sum(counts[counts > 0] * np.abs(mean - share)) / len(label))


def of_probabilities(label: npt.NDArray[Any], given: npt.NDArray[Any]) -> dict[str, float]:
    return {
        "brier": sklearn.metrics.brier_score_loss(label, given[:, 1]),
        "log_loss": sklearn.metrics.log_loss(label, given),
        "ece": calibration_error(label, given[:, 1]),
    }


@pytest.fixture
def document() -> dict[str, Any]:
    return Assessment(TEST, VALIDATION, OPTIONS).to_json()


@pytest.fixture
def saved(
    tmp_path: pathlib.Path,
) -> tuple[npt.NDArray[Any], npt.NDArray[Any], list[dict[str, str]]]:
    TEST.save_csv(tmp_path / "predictions_test.csv")
    return read(tmp_path / "predictions_test.csv")


def assert_agree(found: dict[str, Any], expected: dict[str, Any]) -> None:
    assert {name: found[name] for name in expected} == pytest.approx(expected, abs=1e-9)


def test_the_metrics_are_those_that_scikit_learn_finds_in_the_file(document, saved) -> None:
    label, given, _ = saved
    areas = {
        "roc_auc": sklearn.metrics.roc_auc_score(label, given[:, 1]),
        "pr_auc": sklearn.metrics.average_precision_score(label, given[:, 1]),
    }
    expected = of_decisions(label, given.argmax(axis=1)) | of_probabilities(label, given) | areas
    assert_agree(document["metrics"], expected)


def test_the_operating_point_is_the_best_of_validation(document, tmp_path) -> None:
    VALIDATION.save_csv(tmp_path / "predictions_validation.csv")
    label, given, _ = read(tmp_path / "predictions_validation.csv")
    alarms, hits, _ = sklearn.metrics.roc_curve(label, given[:, 1], drop_intermediate=False)
    recalls = of_decisions(label, given[:, 1] >= document["operating_point"]["threshold"])
    assert document["operating_point"]["validation"] == pytest.approx(
        {
            "examples": len(label),
            "sensitivity": recalls["sensitivity"],
            "specificity": 1 - alarms[hits >= 0.9].min(),
        },
        abs=1e-9,
    )


def test_the_figures_at_the_operating_point_are_scikit_learns(document, saved) -> None:
    label, given, _ = saved
    decided = given[:, 1] >= document["operating_point"]["threshold"]
    assert_agree(document["operating_point"]["figures"], of_decisions(label, decided))
    expected = sklearn.metrics.confusion_matrix(label, decided)
    np.testing.assert_array_equal(document["operating_point"]["confusion_matrix"], expected)


def test_calibration_is_scikit_learns_before_and_after(document, saved) -> None:
    label, given, _ = saved
    odds = given ** (1 / document["calibration"]["temperature"])
    scaled = odds / odds.sum(axis=1, keepdims=True)
    assert_agree(document["calibration"]["before"], of_probabilities(label, given))
    assert_agree(document["calibration"]["after"], of_probabilities(label, scaled))


@pytest.mark.parametrize("etiology", ["bacteria", "normal", "virus"])
def test_groups_are_those_that_scikit_learn_finds_in_the_file(document, saved, etiology) -> None:
    label, given, rows = saved
    own = np.array([row["etiology"] == etiology for row in rows])
    (group,) = (row for row in document["groups"]["rows"] if row["name"] == etiology)
    assert group["patients"] == len({row["patient_id"] for row in np.array(rows)[own]})
    compared = own | (label != label[own][0])
    assert_agree(
        group,
        {
            "examples": own.sum(),
            "accuracy": sklearn.metrics.accuracy_score(label[own], given[own].argmax(axis=1)),
            "roc_auc": sklearn.metrics.roc_auc_score(label[compared], given[compared, 1]),
        },
    )


def test_three_classes_are_scikit_learns_too(tmp_path) -> None:
    table = tables.study(3, patients=80, num_classes=3)
    table.save_csv(tmp_path / "predictions_test.csv")
    label, given, _ = read(tmp_path / "predictions_test.csv")
    found = assessed(table, tables.study(4, patients=60, num_classes=3)).to_json()
    predicted = given.argmax(axis=1)
    assert_agree(
        found["metrics"],
        {
            "accuracy": sklearn.metrics.accuracy_score(label, predicted),
            "macro_recall": sklearn.metrics.balanced_accuracy_score(label, predicted),
            "ppv": sklearn.metrics.precision_score(label, predicted, average="macro"),
            "f1": sklearn.metrics.f1_score(label, predicted, average="macro"),
            "mcc": sklearn.metrics.matthews_corrcoef(label, predicted),
            "roc_auc": sklearn.metrics.roc_auc_score(label, given, multi_class="ovr"),
            "pr_auc": sklearn.metrics.average_precision_score(np.eye(3)[label], given),
            "log_loss": sklearn.metrics.log_loss(label, given),
            "brier": float(np.mean(((given - np.eye(3)[label]) ** 2).sum(axis=1))),
        },
    )
    assert found["operating_point"] is found["prevalence"] is None


# Strict JSON

DEGENERATE = {
    "one class": predictions_of([1, 1, 1], [0.9, 0.8, 0.3]),
    "one example": predictions_of([1], [0.9]),
    "one patient": dataclasses.replace(
        predictions_of([0, 1, 0], [0.2, 0.9, 0.4]), patient_id=np.array(["a"] * 3)
    ),
    "NaN": predictions_of([0, 1, 1], [0.1, math.nan, 0.8]),
    "infinite": predictions_of([0, 1, 1], [0.1, math.inf, 0.8]),
    "all NaN": predictions_of([0, 1], [math.nan, math.nan]),
    "all right": predictions_of([0, 1] * 4, [0.0, 1.0] * 4),
    "all wrong": predictions_of([0, 1] * 4, [1.0, 0.0] * 4),
    "constant": predictions_of([0, 1] * 4, [0.5] * 8),
    "three classes": tables.study(5, patients=20, num_classes=3),
    "one of three classes": tables.study(5, patients=1, num_classes=3),
}


def assert_is_strict_json(test: Predictions, validation: Predictions | None) -> None:
    priors = {name: 1 / len(test.class_names) for name in test.class_names}
    found = Assessment(
        test, validation, OPTIONS, sharing=Sharing(1, 1), training_priors=priors
    ).to_json()
    assert json.loads(json.dumps(found, allow_nan=False))["metrics"]["examples"] == len(test)


@pytest.mark.parametrize("name", DEGENERATE)
def test_whatever_is_undefined_of_a_test_split_is_null(name: str) -> None:
    assert_is_strict_json(DEGENERATE[name], DEGENERATE[name])


@pytest.mark.parametrize("name", DEGENERATE)
def test_whatever_validation_leaves_undefined_is_null(name: str) -> None:
    assert_is_strict_json(DEGENERATE["constant"], DEGENERATE[name])


def test_whatever_needs_validation_is_null_without_it() -> None:
    assert_is_strict_json(TEST, None)


def test_each_part_is_the_same_when_it_is_computed_again() -> None:
    twice = [Assessment(TEST, VALIDATION, OPTIONS).to_json() for _ in range(2)]
    assert twice[0] == twice[1]


# Prevalence


def test_at_the_prevalence_of_the_split_they_are_its_own() -> None:
    share = float(np.mean(TEST.label))
    found = assessed(TEST, prevalence=share).restated
    assert found is not None
    metrics, at_half = assessed(TEST).metrics, found["at_half"]
    assert at_half is not None
    assert (at_half.ppv, at_half.npv) == pytest.approx((metrics.ppv, metrics.npv), rel=1e-12)


def test_both_points_are_restated_with_intervals() -> None:
    for found in (Assessment(TEST, VALIDATION, OPTIONS).restated or {}).values():
        assert found is not None
        low, high = found.intervals["ppv"] or (1, 0)
        assert low < (found.ppv or 0) < high


@pytest.mark.parametrize("label", [[0, 0], [1, 1]])
def test_without_one_of_the_classes_nothing_is_restated(label: list[int]) -> None:
    found = assessed(predictions_of(label, [0.2, 0.9]), prevalence=0.1).to_json()["prevalence"]
    assert found["at_half"]["ppv"] is found["at_half"]["npv"] is None


def test_without_a_prevalence_nothing_is_restated() -> None:
    assert assessed(TEST).to_json()["prevalence"] is None


# Reasons and notices


def test_another_test_split_changes_neither_threshold_nor_temperature() -> None:
    first, second = assessed(TEST), assessed(tables.study(9, patients=50))
    assert first.point is not None
    assert second.point is not None
    assert first.point.chosen == second.point.chosen
    assert first.temperature == second.temperature


def test_a_sound_model_is_not_warned_of() -> None:
    priors = {"NORMAL": 0.4, "PNEUMONIA": 0.6}
    found = Assessment(TEST, VALIDATION, OPTIONS, sharing=Sharing(0, 0), training_priors=priors)
    assert (found.warnings, found.notices) == ((), ())


def test_what_is_shared_is_a_reason_with_its_counts() -> None:
    found = Assessment(TEST, VALIDATION, OPTIONS, sharing=Sharing(3, 2, ("train",))).warnings
    size = len(TEST)
    assert [reason.partition(":")[0] for reason in found] == [
        f"3 of {size} test images ({300 / size:.2f} %) share a patient with train",
        f"2 of {size} test images ({200 / size:.2f} %) are also images of train",
    ]


def test_what_is_not_known_to_be_shared_is_no_reason() -> None:
    assert Assessment(TEST, VALIDATION, OPTIONS, sharing=Sharing(None, None)).warnings == ()


def test_a_model_at_chance_is_warned_of() -> None:
    order = np.random.default_rng(0).permutation(len(TEST))
    guessed = dataclasses.replace(TEST, probabilities=TEST.probabilities[order])
    assert any("ROC-AUC" in reason for reason in assessed(guessed).warnings)


@pytest.mark.parametrize(
    ("validation", "reason"),
    [
        (None, "the run has no predictions of the validation split; run its command again"),
        (predictions_of([1, 1], [0.1, 0.9]), "the validation split lacks a class, or a prob"),
    ],
)
def test_that_there_is_no_operating_point_is_said(validation, reason) -> None:
    (notice,) = assessed(TEST, validation).notices
    assert notice.startswith(f"No operating point: {reason}")


def test_a_point_at_which_a_class_is_never_predicted_is_said() -> None:
    validation = predictions_of([0, 1], [0.98, 0.99])
    (notice,) = assessed(predictions_of([0, 1] * 3, [0.2, 0.7] * 3), validation).notices
    assert notice == "At the operating point 0.985, PNEUMONIA is never predicted."


# The choice that travels with the model


def test_the_choice_names_classes_point_and_temperature() -> None:
    found = assessment.choice(VALIDATION, evaluation.parse("sensitivity=0.9"))
    point = assessed(TEST, operating_point="sensitivity=0.9").point
    assert point is not None
    assert found == {
        **dataclasses.asdict(point.chosen),
        "class_names": ["NORMAL", "PNEUMONIA"],
        "temperature": assessed(TEST).temperature,
    }


@pytest.mark.parametrize("validation", DEGENERATE)
def test_the_choice_is_strict_json(validation: str) -> None:
    found = assessment.choice(DEGENERATE[validation], evaluation.parse("youden"))
    assert {"class_names", "rule", "threshold", "temperature"} <= found.keys()
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_validation_without_examples_chooses_nothing() -> None:
    found = assessment.choice(predictions_of([], [], []), evaluation.parse("youden"))
    assert found["threshold"] is found["temperature"] is None


def test_a_missing_interval_of_the_auc_is_said() -> None:
    """All examples are of one patient: nothing can be resampled."""
    table = dataclasses.replace(TEST, patient_id=np.full(len(TEST), "one"))
    found = assessed(table, VALIDATION)
    assert found.intervals["roc_auc"] is None
    assert any("No interval of ROC-AUC: a class has only 1 patient." in n for n in found.notices)
