"""The table of predictions, its judgement, and the choice of samples."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import TYPE_CHECKING

import hypothesis
import numpy as np
import numpy.typing as npt
import pytest
import sklearn.metrics
from hypothesis import strategies as st

from trainer import metrics

if TYPE_CHECKING:
    import pathlib

CLASSES = ("NORMAL", "PNEUMONIA")

# Eight examples worked by hand: label, p(PNEUMONIA), hence prediction and cell.
#   0  .1 -> N  TN      1  .9 -> P  TP
#   0  .2 -> N  TN      1  .8 -> P  TP
#   0  .6 -> P  FP      1  .7 -> P  TP
#                       1  .4 -> N  FN
#                       1  .3 -> N  FN
# TN 2, FP 1, FN 2, TP 3; three NORMAL, five PNEUMONIA.
LABEL = (0, 0, 0, 1, 1, 1, 1, 1)
POSITIVE = (0.1, 0.2, 0.6, 0.9, 0.8, 0.7, 0.4, 0.3)
ETIOLOGY = ("normal", "normal", "normal", "bacteria", "bacteria", "virus", "virus", "virus")


def predictions_of(
    label: npt.ArrayLike,
    positive: npt.ArrayLike,
    etiology: npt.ArrayLike | None = None,
    names: npt.ArrayLike | None = None,
) -> metrics.Predictions:
    label, positive = np.asarray(label, int), np.asarray(positive, float)
    numbers = [f"{i:04}" for i in range(len(label))]
    return metrics.Predictions(
        class_names=CLASSES,
        file_name=np.array(numbers if names is None else names, str),
        patient_id=np.array(numbers, str),
        etiology=np.array(ETIOLOGY[: len(label)] if etiology is None else etiology, str),
        label=label,
        probabilities=np.stack([1 - positive, positive], axis=1),
    )


def predictions_with_matrix(matrix: tuple[tuple[int, int], tuple[int, int]]) -> metrics.Predictions:
    """Predictions that have this confusion matrix."""
    label = np.repeat([0, 0, 1, 1], np.ravel(matrix))
    predicted = np.repeat([0, 1, 0, 1], np.ravel(matrix))
    return predictions_of(label, 0.1 + 0.8 * predicted, np.where(label, "virus", "normal"))


@pytest.fixture
def predictions() -> metrics.Predictions:
    return predictions_of(LABEL, POSITIVE, ETIOLOGY)


@pytest.fixture
def judgement(predictions: metrics.Predictions) -> metrics.Judgement:
    return metrics.judge(predictions)


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
}


@pytest.mark.parametrize("name", GOLDEN)
def test_metric_equals_the_number_worked_by_hand(name: str, judgement: metrics.Judgement) -> None:
    assert getattr(judgement, name) == pytest.approx(GOLDEN[name], rel=1e-12)


def test_every_number_of_the_judgement_is_worked_by_hand() -> None:
    numbers = {
        field.name
        for field in dataclasses.fields(metrics.Judgement)
        if field.type in ("float", "float | None")
    }
    assert numbers == GOLDEN.keys()


def test_counts_are_those_worked_by_hand(judgement: metrics.Judgement) -> None:
    assert judgement.examples == 8
    assert judgement.majority_class == "PNEUMONIA"
    assert judgement.confusion_matrix == ((2, 1), (2, 3))
    assert judgement.by_etiology == {
        "bacteria": metrics.EtiologyRecall(examples=2, correct=2, recall=1.0),
        "normal": metrics.EtiologyRecall(examples=3, correct=2, recall=2 / 3),
        "virus": metrics.EtiologyRecall(examples=3, correct=1, recall=1 / 3),
    }


def test_output_distribution_is_that_worked_by_hand(judgement: metrics.Judgement) -> None:
    distribution = judgement.output_distribution
    assert distribution.true_counts == {"NORMAL": 3, "PNEUMONIA": 5}
    assert distribution.predicted_counts == {"NORMAL": 4, "PNEUMONIA": 4}
    assert distribution.mean_probability == pytest.approx({"NORMAL": 0.5, "PNEUMONIA": 0.5})


def test_histogram_has_ten_bins_with_the_ends_inside() -> None:
    # Bins, each closed below and the last one above: [0, .1) 2, [.2, .3) 1, [.5, .6) 1, [.9, 1] 2.
    judgement = metrics.judge(predictions_of([0, 0, 0, 1, 1, 1], [0, 0.05, 0.25, 0.5, 0.95, 1]))
    assert judgement.output_distribution.histogram == (2, 0, 1, 0, 0, 1, 0, 0, 0, 2)


def test_judgement_equals_scikit_learn_on_many_examples() -> None:
    rng = np.random.default_rng(0)
    label = rng.integers(0, 2, 500)
    positive = np.clip(rng.normal(0.3 + 0.4 * label, 0.25), 0.001, 0.999)
    predicted = (positive > 0.5).astype(int)
    judgement = metrics.judge(predictions_of(label, positive, np.full(500, "normal")))
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
    assert {name: getattr(judgement, name) for name in expected} == pytest.approx(expected)
    matrix = sklearn.metrics.confusion_matrix(label, predicted)
    assert np.array_equal(judgement.confusion_matrix, matrix)
    assert judgement.classification_report_text == sklearn.metrics.classification_report(
        label, predicted, target_names=CLASSES, digits=4
    )
    assert judgement.classification_report == sklearn.metrics.classification_report(
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
def test_published_matrices_give_the_published_figures(
    matrix: tuple[tuple[int, int], tuple[int, int]], accuracy: float, macro_recall: float
) -> None:
    judgement = metrics.judge(predictions_with_matrix(matrix))
    assert judgement.confusion_matrix == matrix
    assert judgement.accuracy == pytest.approx(accuracy, abs=5e-5)
    assert judgement.macro_recall == pytest.approx(macro_recall, abs=5e-3)


def test_one_class_leaves_undefined_what_needs_two() -> None:
    judgement = metrics.judge(predictions_of([1, 1, 1], [0.9, 0.8, 0.3]))
    assert (judgement.roc_auc, judgement.pr_auc, judgement.mcc) == (None, None, None)
    assert judgement.specificity is None
    assert judgement.sensitivity == judgement.macro_recall == judgement.accuracy == 2 / 3
    assert judgement.brier == pytest.approx((0.01 + 0.04 + 0.49) / 3)


def test_negatives_alone_leave_undefined_what_needs_a_positive() -> None:
    judgement = metrics.judge(predictions_of([0, 0], [0.1, 0.2]))
    assert (judgement.sensitivity, judgement.ppv, judgement.f1) == (None, None, None)
    assert judgement.specificity == judgement.npv == 1.0


def test_judgement_is_json_even_where_undefined() -> None:
    judgement = metrics.judge(predictions_of([0, 0], [0.1, math.nan]))
    document = json.loads(json.dumps(judgement.to_json(), allow_nan=False))
    assert document["roc_auc"] is None
    assert document["by_etiology"]["normal"] == {"examples": 2, "correct": 2, "recall": 1.0}


def test_the_guard_lets_a_sound_run_pass() -> None:
    judgement = metrics.judge(predictions_with_matrix(((340, 56), (26, 1043))))
    assert judgement.warnings == ()
    assert not judgement.guard_fired


def test_the_guard_fires_below_the_majority_baseline() -> None:
    judgement = metrics.judge(predictions_with_matrix(((1, 395), (4, 1065))))
    assert judgement.guard_fired
    assert judgement.warnings == (
        (
            "Accuracy 72.76 % (1066 of 1465) is not above the 72.97 % (1069 of 1465) of always "
            "answering PNEUMONIA."
        ),
    )


def test_the_guard_fires_at_the_majority_baseline(judgement: metrics.Judgement) -> None:
    assert judgement.accuracy == judgement.majority_baseline
    assert "not above the 62.50 % (5 of 8)" in judgement.warnings[0]


def test_the_guard_fires_when_a_class_is_never_predicted() -> None:
    judgement = metrics.judge(predictions_of([0, 1, 1], [0.6, 0.7, 0.8]))
    assert "NORMAL is never predicted, but true of 1 of 3 examples." in judgement.warnings


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_the_guard_fires_when_outputs_are_not_finite(value: float) -> None:
    judgement = metrics.judge(predictions_of([0, 1, 1, 0], [0.1, 0.9, 0.8, value]))
    assert judgement.warnings == ("The outputs for 1 of 4 examples are not finite.",)
    assert judgement.log_loss is judgement.brier is judgement.roc_auc is judgement.pr_auc is None
    assert judgement.output_distribution.mean_probability == {"NORMAL": None, "PNEUMONIA": None}
    assert sum(judgement.output_distribution.histogram) == 3


def test_a_probability_that_exceeds_one_by_rounding_is_judged() -> None:
    predictions = predictions_of([0, 1], [0.0, 1 + 1e-7])
    assert metrics.judge(predictions).brier == 0


def test_a_confident_error_keeps_its_small_probability_in_the_log_loss() -> None:
    predictions = dataclasses.replace(
        predictions_of([0], [1.0]), probabilities=np.array([[1e-9, 1]], np.float32)
    )
    assert metrics.judge(predictions).log_loss == pytest.approx(-math.log(1e-9))


def test_nothing_cannot_be_judged(predictions: metrics.Predictions) -> None:
    with pytest.raises(ValueError, match="There is no example to judge"):
        metrics.judge(predictions.take([]))


def test_three_classes_cannot_be_judged() -> None:
    predictions = dataclasses.replace(
        predictions_of([0], [0.5]), class_names=("A", "B", "C"), probabilities=np.array([[0, 0, 1]])
    )
    with pytest.raises(ValueError, match="Two classes can be judged, not A, B, C"):
        metrics.judge(predictions)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"class_names": ("A", "A")}, "two or more distinct names"),
        ({"class_names": ("A",)}, "two or more distinct names"),
        ({"file_name": np.array(["a"])}, r"file_name has shape \(1,\), but label has \(8,\)"),
        ({"patient_id": np.array([b"a"] * 8)}, r"patient_id holds \|S1, not text"),
        ({"probabilities": np.ones((8, 3)) / 3}, r"shape \(8, 3\).* there are 2 classes"),
        ({"label": np.zeros(8)}, "label holds float64, not integers"),
        ({"label": np.array([0] * 7 + [2])}, "Label 2 is none of"),
        ({"label": np.array([0] * 7 + [-1])}, "Label -1 is none of"),
        ({"probabilities": np.ones((8, 2))}, r"outputs for 0000 are not prob.*\[1.0, 1.0\]"),
        ({"probabilities": np.tile([-1.0, 2.0], (8, 1))}, r"\[-1.0, 2.0\]"),
    ],
)
def test_a_table_that_contradicts_itself_is_refused(
    change: dict[str, object], message: str, predictions: metrics.Predictions
) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(predictions, **change)  # type: ignore[arg-type]


def test_equal_probabilities_predict_the_first_class() -> None:
    assert predictions_of([1], [0.5]).predicted.tolist() == [0]


def test_score_is_the_probability_of_the_predicted_class() -> None:
    assert predictions_of([0, 0], [0.25, 0.75]).score.tolist() == [0.75, 0.75]


def test_take_keeps_rows_together(predictions: metrics.Predictions) -> None:
    taken = predictions.take([6, 2, 2])
    assert taken.file_name.tolist() == ["0006", "0002", "0002"]
    assert taken.patient_id.tolist() == ["0006", "0002", "0002"]
    assert taken.etiology.tolist() == ["virus", "normal", "normal"]
    assert taken.label.tolist() == [1, 0, 0]
    assert taken.probabilities[:, 1].tolist() == [0.4, 0.6, 0.6]


# Tables


def assert_equal(left: metrics.Predictions, right: metrics.Predictions) -> None:
    assert left.class_names == right.class_names
    for name in ("file_name", "patient_id", "etiology", "label", "predicted", "probabilities"):
        np.testing.assert_array_equal(getattr(left, name), getattr(right, name))


def test_the_table_has_classes_by_name(
    tmp_path: pathlib.Path, predictions: metrics.Predictions
) -> None:
    path = tmp_path / "predictions_test.csv"
    predictions.save_csv(path)
    assert path.read_text().splitlines()[:4] == [
        "file_name,patient_id,etiology,label,predicted,p_NORMAL,p_PNEUMONIA",
        "0000,0000,normal,NORMAL,NORMAL,0.9,0.1",
        "0001,0001,normal,NORMAL,NORMAL,0.8,0.2",
        "0002,0002,normal,NORMAL,PNEUMONIA,0.4,0.6",
    ]


# What NumPy's fixed-width strings can hold: no surrogates, no NUL at the end.
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)


@st.composite
def tables(draw: st.DrawFn) -> metrics.Predictions:
    positive = draw(st.lists(st.floats(0, 1, width=32) | st.just(math.nan), max_size=8))
    size = len(positive)
    columns = [draw(st.lists(TEXT, min_size=size, max_size=size)) for _ in range(3)]
    probabilities = np.array([[np.float32(1) - p, p] for p in positive], np.float32)
    return metrics.Predictions(
        class_names=CLASSES,
        file_name=np.array(columns[0], str),
        patient_id=np.array(columns[1], str),
        etiology=np.array(columns[2], str),
        label=np.array(draw(st.lists(st.integers(0, 1), min_size=size, max_size=size)), np.int32),
        probabilities=probabilities.reshape(size, 2),
    )


@hypothesis.given(table=tables())
@hypothesis.settings(deadline=None)
def test_the_table_reads_back_exactly(
    table: metrics.Predictions, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("table") / "predictions.csv"
    table.save_csv(path)
    assert_equal(metrics.Predictions.load_csv(path), table)


@hypothesis.given(table=tables().filter(len), data=st.data())
@hypothesis.settings(deadline=None)
def test_row_order_does_not_change_the_judgement(
    table: metrics.Predictions, data: st.DataObject
) -> None:
    order = data.draw(st.permutations(range(len(table))))
    assert metrics.judge(table.take(order)) == metrics.judge(table)


HEADER = "file_name,patient_id,etiology,label,predicted,p_NORMAL,p_PNEUMONIA\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is not a table of predictions: its columns are none, not file_name, patient_id"),
        ("a,b\n1,2\n", "its columns are a, b, not"),
        (HEADER.replace("p_N", "q_N"), "is not a table of predictions"),
        (HEADER + "a,b,normal,NORMAL\n", "row 1 has 4 fields, not 7"),
        (HEADER + "a,b,normal,COVID,NORMAL,1,0\n", "row 1: label 'COVID' is none of NORMAL, PNEU"),
        (HEADER + "a,b,normal,NORMAL,NORMAL,1,x\n", "row 1: 'x' is not a probability"),
        (HEADER + "a,b,normal,NORMAL,NORMAL,0.2,0.8\n", "row 1: predicted is NORMAL, but .* PNEU"),
    ],
)
def test_a_damaged_table_is_refused(tmp_path: pathlib.Path, text: str, message: str) -> None:
    path = tmp_path / "predictions.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        metrics.Predictions.load_csv(path)


# Samples


def cells(predictions: metrics.Predictions, chosen: npt.NDArray[np.intp]) -> list[list[int]]:
    taken = predictions.take(chosen)
    matrix = sklearn.metrics.confusion_matrix(taken.label, taken.predicted, labels=[0, 1])
    return [list(row) for row in matrix]


@pytest.mark.parametrize(
    ("matrix", "chosen"),
    [
        (((340, 56), (26, 1043)), [[4, 4], [4, 4]]),
        (((340, 56), (1, 1043)), [[4, 7], [1, 4]]),  # The other error fills up.
        (((340, 1), (0, 1043)), [[8, 1], [0, 7]]),  # The right answers fill up.
        (((2, 394), (1, 1051)), [[2, 7], [1, 6]]),
        (((3, 50), (50, 0)), [[3, 4], [4, 0]]),  # Errors never take more than half.
    ],
)
def test_samples_are_balanced_over_the_cells(
    matrix: tuple[tuple[int, int], tuple[int, int]], chosen: list[list[int]]
) -> None:
    predictions = predictions_with_matrix(matrix)
    assert cells(predictions, metrics.choose_samples(predictions)) == chosen


def test_samples_come_by_cell_and_are_spread_over_the_names(
    predictions: metrics.Predictions,
) -> None:
    many = predictions_with_matrix(((100, 0), (0, 100)))
    assert metrics.choose_samples(many, count=4).tolist() == [0, 50, 100, 150]
    assert metrics.choose_samples(predictions).tolist() == [0, 1, 2, 6, 7, 3, 4, 5]


@hypothesis.given(order=st.permutations(range(len(LABEL))), count=st.integers(0, 9))
@hypothesis.settings(deadline=None)
def test_row_order_does_not_change_the_samples(order: list[int], count: int) -> None:
    predictions = predictions_of(LABEL, POSITIVE)
    moved = predictions.take(order)
    chosen = predictions.take(metrics.choose_samples(predictions, count=count))
    assert_equal(moved.take(metrics.choose_samples(moved, count=count)), chosen)
    assert len(chosen) <= count


# History


def test_curves_are_sorted_and_other_entries_left_out() -> None:
    history = {
        "val_loss": [1.0],
        "loss": [2.0],
        "auc": [0.5],
        "learning_rate": [0.1],
        "val_auc": [],
    }
    assert metrics.curves(history) == {
        "log-loss": {"training": [2.0], "validation": [1.0]},
        "ROC-AUC": {"training": [0.5]},
    }


def test_span_has_the_form_of_the_paper() -> None:
    assert metrics.span([0.3, 0.1234, 0.4564, 0.2]) == "(min: 0.123, max: 0.456, cur: 0.200)"


def test_span_does_not_take_nan_for_an_extreme() -> None:
    assert metrics.span([0.1, 0.2, math.nan]) == "(min: 0.100, max: 0.200, cur: nan)"
    assert metrics.span([math.nan]) == "(min: nan, max: nan, cur: nan)"


@pytest.mark.parametrize(
    ("losses", "epoch"),
    [([3.0, 1.0, 2.0], 2), ([1.0, 1.0], 1), ([math.nan, 2.0, 1.0], 3), ([math.nan], None)],
)
def test_best_epoch_has_the_lowest_validation_loss(losses: list[float], epoch: int | None) -> None:
    assert metrics.best_epoch({"val_loss": losses}) == epoch


def test_without_validation_no_epoch_is_best() -> None:
    assert metrics.best_epoch({"loss": [1.0]}) is None
