"""Every reported metric: worked by hand, and against scikit-learn."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import TYPE_CHECKING

import hypothesis
import numpy as np
import pytest
import sklearn.metrics
from hypothesis import strategies as st

from tests.support.tables import (
    CLASSES,
    LABEL,
    POSITIVE,
    predictions_of,
    predictions_with_matrix,
    tables,
)
from trainer.evaluation import metrics

if TYPE_CHECKING:
    from trainer.evaluation.predictions import Predictions


@pytest.fixture
def scores() -> metrics.Metrics:
    return metrics.compute(predictions_of(LABEL, POSITIVE))


GOLDEN = {
    "accuracy": 5 / 8,  # (TN + TP) / 8
    "majority_baseline": 5 / 8,
    "macro_recall": (2 / 3 + 3 / 5) / 2,
    "sensitivity": 3 / 5,  # TP / (TP + FN)
    "specificity": 2 / 3,  # TN / (TN + FP)
    "ppv": 3 / 4,  # TP / (TP + FP)
    "npv": 2 / 4,  # TN / (TN + FN)
    "f1": 6 / 9,  # 2 TP / (2 TP + FP + FN)
    "mcc": (3 * 2 - 1 * 2) / math.sqrt(4 * 5 * 3 * 4),  # (TP TN - FP FN) / sqrt(margins)
    # 15 pairs (positive, negative); wrongly ordered only .4 and .3 against .6.
    "roc_auc": 13 / 15,
    # Precision at each positive, by falling score .9 .8 .7 (.6) .4 .3: 1, 1, 1, 4/5, 5/6.
    "pr_auc": (1 + 1 + 1 + 4 / 5 + 5 / 6) / 5,
    # Squares of .1 .2 .6 .1 .2 .3 .6 .7.
    "brier": (0.01 + 0.04 + 0.36 + 0.01 + 0.04 + 0.09 + 0.36 + 0.49) / 8,
    # Probabilities of the true classes: .9 .8 .4 .9 .8 .7 .4 .3.
    "log_loss": -math.log(0.9 * 0.8 * 0.4 * 0.9 * 0.8 * 0.7 * 0.4 * 0.3) / 8,
    # Each is alone in its bin of a fifteenth; errors .1 .2 .6 .1 .2 .3 .6 .7.
    "ece": (0.1 + 0.2 + 0.6 + 0.1 + 0.2 + 0.3 + 0.6 + 0.7) / 8,
}


@pytest.mark.parametrize("name", GOLDEN)
def test_metric_equals_the_number_worked_by_hand(name: str, scores: metrics.Metrics) -> None:
    assert getattr(scores, name) == pytest.approx(GOLDEN[name], rel=1e-12)


def test_every_metric_is_worked_by_hand() -> None:
    numbers = {
        field.name
        for field in dataclasses.fields(metrics.Metrics)
        if field.type in ("float", "float | None")
    }
    assert numbers == GOLDEN.keys()


def test_counts_are_those_worked_by_hand(scores: metrics.Metrics) -> None:
    assert scores.examples == 8
    assert scores.majority_class == "PNEUMONIA"
    assert scores.confusion_matrix == ((2, 1), (2, 3))


def test_a_class_has_the_metrics_of_its_own_against_the_others(scores: metrics.Metrics) -> None:
    of_both = {"roc_auc": 13 / 15, "f1": 4 / 7}
    found = scores.by_class["NORMAL"]
    assert found.examples == 3
    assert (found.sensitivity, found.specificity) == (scores.specificity, scores.sensitivity)
    assert (found.ppv, found.npv) == (scores.npv, scores.ppv)
    assert {name: getattr(found, name) for name in of_both} == pytest.approx(of_both)


def test_of_two_classes_the_second_ones_metrics_are_the_splits(scores: metrics.Metrics) -> None:
    found = dataclasses.asdict(scores.by_class["PNEUMONIA"])
    assert found.pop("examples") == 5
    assert found == {name: getattr(scores, name) for name in found}


def test_output_distribution_is_that_worked_by_hand(scores: metrics.Metrics) -> None:
    distribution = scores.output_distribution
    assert distribution.true_counts == {"NORMAL": 3, "PNEUMONIA": 5}
    assert distribution.predicted_counts == {"NORMAL": 4, "PNEUMONIA": 4}
    assert distribution.mean_probability == pytest.approx({"NORMAL": 0.5, "PNEUMONIA": 0.5})


def test_histogram_has_ten_bins_with_the_ends_inside() -> None:
    # Bins, each closed below and the last one above: [0, .1) 2, [.2, .3) 1, [.5, .6) 1, [.9, 1] 2.
    scores = metrics.compute(predictions_of([0, 0, 0, 1, 1, 1], [0, 0.05, 0.25, 0.5, 0.95, 1]))
    assert scores.output_distribution.histogram == (2, 0, 1, 0, 0, 1, 0, 0, 0, 2)


def test_metrics_equal_those_of_scikit_learn_on_many_examples() -> None:
    rng = np.random.default_rng(0)
    label = rng.integers(0, 2, 500)
    positive = np.clip(rng.normal(0.3 + 0.4 * label, 0.25), 0.001, 0.999)
    predicted = (positive > 0.5).astype(int)
    scores = metrics.compute(predictions_of(label, positive, np.full(500, "normal")))
    expected = {
        "accuracy": sklearn.metrics.accuracy_score(label, predicted),
        "macro_recall": sklearn.metrics.balanced_accuracy_score(label, predicted),
        "sensitivity": sklearn.metrics.recall_score(label, predicted),
        "specificity": sklearn.metrics.recall_score(1 - label, 1 - predicted),
        "ppv": sklearn.metrics.precision_score(label, predicted),
        "npv": sklearn.metrics.precision_score(1 - label, 1 - predicted),
        "f1": sklearn.metrics.f1_score(label, predicted),
        "mcc": sklearn.metrics.matthews_corrcoef(label, predicted),
        "roc_auc": sklearn.metrics.roc_auc_score(label, positive),
        "pr_auc": sklearn.metrics.average_precision_score(label, positive),
        "brier": sklearn.metrics.brier_score_loss(label, positive),
        "log_loss": sklearn.metrics.log_loss(label, positive),
    }
    assert {name: getattr(scores, name) for name in expected} == pytest.approx(expected)
    matrix = sklearn.metrics.confusion_matrix(label, predicted)
    assert np.array_equal(scores.confusion_matrix, matrix)
    assert scores.classification_report_text == sklearn.metrics.classification_report(
        label, predicted, target_names=CLASSES, digits=4
    )
    assert scores.classification_report == sklearn.metrics.classification_report(
        label, predicted, target_names=CLASSES, output_dict=True
    )


@pytest.mark.parametrize(
    ("matrix", "accuracy", "macro_recall"),
    [
        (((340, 56), (26, 1043)), 0.9440, 0.92),  # VGG16
        (((2, 394), (18, 1051)), 0.7188, 0.49),  # InceptionResNetV2
        (((1, 395), (4, 1065)), 0.7276, 0.50),  # MobileNetV2
    ],
)
def test_published_matrices_give_the_published_metrics(
    matrix: tuple[tuple[int, int], tuple[int, int]], accuracy: float, macro_recall: float
) -> None:
    scores = metrics.compute(predictions_with_matrix(matrix))
    assert scores.confusion_matrix == matrix
    assert scores.accuracy == pytest.approx(accuracy, abs=5e-5)
    assert scores.macro_recall == pytest.approx(macro_recall, abs=5e-3)


def test_one_class_leaves_undefined_what_needs_two() -> None:
    scores = metrics.compute(predictions_of([1, 1, 1], [0.9, 0.8, 0.3]))
    assert (scores.roc_auc, scores.pr_auc, scores.mcc) == (None, None, None)
    assert scores.specificity is None
    assert scores.sensitivity == scores.macro_recall == scores.accuracy == 2 / 3
    assert scores.brier == pytest.approx((0.01 + 0.04 + 0.49) / 3)


def test_the_classification_report_says_what_is_undefined() -> None:
    scores = metrics.compute(predictions_of([1, 1, 1], [0.9, 0.8, 0.7]))
    assert scores.classification_report["NORMAL"] == {
        "precision": None, "recall": None, "f1-score": None, "support": 0,
    }  # fmt: skip
    (line,) = (x for x in scores.classification_report_text.splitlines() if "NORMAL" in x)
    assert line.split() == ["NORMAL", *["undefined"] * 3, "0"]


def test_a_class_that_is_never_predicted_leaves_no_mean_precision() -> None:
    """scikit-learn would take the mean over the other class alone."""
    report = metrics.compute(predictions_of([0, 1, 1], [0.6, 0.7, 0.8])).classification_report
    assert report["NORMAL"]["precision"] is report["macro avg"]["precision"] is None
    assert report["macro avg"]["recall"] == 0.5
    assert report["macro avg"]["f1-score"] == pytest.approx(0.4)


def test_negatives_alone_leave_undefined_what_needs_a_positive() -> None:
    scores = metrics.compute(predictions_of([0, 0], [0.1, 0.2]))
    assert (scores.sensitivity, scores.ppv, scores.f1) == (None, None, None)
    assert scores.specificity == scores.npv == 1.0


def test_metrics_are_json_even_where_undefined() -> None:
    scores = metrics.compute(predictions_of([0, 0], [0.1, math.nan]))
    document = json.loads(json.dumps(scores.to_json(), allow_nan=False))
    assert document["roc_auc"] is None
    assert document["by_class"]["NORMAL"]["sensitivity"] == 1


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_needs_finite_outputs_is_undefined_without_them(value: float) -> None:
    scores = metrics.compute(predictions_of([0, 1, 1, 0], [0.1, 0.9, 0.8, value]))
    assert scores.log_loss is scores.brier is scores.roc_auc is scores.pr_auc is scores.ece is None
    assert scores.output_distribution.mean_probability == {"NORMAL": None, "PNEUMONIA": None}
    assert sum(scores.output_distribution.histogram) == 3


def test_a_probability_that_exceeds_one_by_rounding_is_evaluated() -> None:
    predictions = predictions_of([0, 1], [0.0, 1 + 1e-7])
    assert metrics.compute(predictions).brier == 0


def test_a_confident_error_keeps_its_small_probability_in_the_log_loss() -> None:
    predictions = dataclasses.replace(
        predictions_of([0], [1.0]), probabilities=np.array([[1e-9, 1]], np.float32)
    )
    assert metrics.compute(predictions).log_loss == pytest.approx(-math.log(1e-9))


def test_nothing_cannot_be_evaluated() -> None:
    with pytest.raises(ValueError, match="There are no examples to evaluate"):
        metrics.compute(predictions_of([], []))


def of_three(label: list[int], predicted: list[int]) -> Predictions:
    """Predictions of three classes, with .8 for the predicted one."""
    return dataclasses.replace(
        predictions_of([0] * len(label), [0.5] * len(label)),
        class_names=("A", "B", "C"),
        label=np.array(label),
        probabilities=0.1 + 0.7 * np.eye(3)[predicted],
    )


def test_three_classes_are_means_over_each_against_the_rest() -> None:
    #   true A: A A B   B: B   C: C A;  hence recalls 2/3, 1, 1/2 and precisions 2/3, 1/2, 1.
    scores = metrics.compute(of_three([0, 0, 0, 1, 2, 2], [0, 0, 1, 1, 2, 0]))
    expected = {
        "accuracy": 4 / 6,
        "macro_recall": (2 / 3 + 1 + 1 / 2) / 3,
        "sensitivity": (2 / 3 + 1 + 1 / 2) / 3,
        "specificity": (2 / 3 + 4 / 5 + 1) / 3,
        "ppv": (2 / 3 + 1 / 2 + 1) / 3,
        "npv": (2 / 3 + 1 + 4 / 5) / 3,
        "f1": (2 / 3 + 2 / 3 + 2 / 3) / 3,
        # Four right with .8: .04 + .01 + .01; two wrong: .64 + .81 + .01.
        "brier": (4 * 0.06 + 2 * 1.46) / 6,
        "log_loss": -(4 * math.log(0.8) + 2 * math.log(0.1)) / 6,
        "ece": 0.8 - 4 / 6,
    }
    assert {name: getattr(scores, name) for name in expected} == pytest.approx(expected)


def test_a_class_that_never_occurs_lowers_no_mean() -> None:
    scores = metrics.compute(of_three([0, 0, 1, 1], [0, 0, 1, 0]))
    assert scores.by_class["C"].sensitivity is scores.by_class["C"].roc_auc is None
    assert scores.macro_recall == scores.sensitivity == 3 / 4
    assert scores.roc_auc == scores.by_class["A"].roc_auc == scores.by_class["B"].roc_auc


def test_a_class_that_occurs_and_is_never_predicted_leaves_no_mean_precision() -> None:
    scores = metrics.compute(of_three([0, 1, 2], [0, 1, 1]))
    assert scores.by_class["C"].ppv is scores.ppv is None
    assert scores.sensitivity == 2 / 3


@hypothesis.given(table=tables().filter(len), data=st.data())
@hypothesis.settings(deadline=None, max_examples=20)
def test_row_order_does_not_change_the_metrics(table: Predictions, data: st.DataObject) -> None:
    order = data.draw(st.permutations(range(len(table))))
    assert metrics.compute(table.take(order)) == metrics.compute(table)
