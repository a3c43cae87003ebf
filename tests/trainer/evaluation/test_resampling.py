"""Every resampled figure against scikit-learn and `metrics`, and what a resample is."""

from __future__ import annotations

import dataclasses
import time
from typing import TYPE_CHECKING

import hypothesis
import numpy as np
import numpy.typing as npt
import pytest
import sklearn.metrics
from hypothesis import strategies as st

from tests.support import tables
from trainer.evaluation import metrics, resampling
from trainer.evaluation.resampling import PatientBootstrap

if TYPE_CHECKING:
    from trainer.evaluation.predictions import Predictions

TABLES = {
    "two classes": tables.study(1, patients=60),
    "ties": tables.study(2, patients=60, levels=1),
    "float32": tables.in_float32(tables.study(3, patients=60)),
    "three classes": tables.study(4, patients=60, num_classes=3),
    "three classes with ties": tables.study(5, patients=60, num_classes=3, levels=1),
}
ALL = pytest.mark.parametrize("name", TABLES)


def once(table: Predictions) -> PatientBootstrap:
    """One resample, in which each patient is once."""
    drawn = PatientBootstrap(table.patient_id, resamples=1)
    drawn._counts[:] = 1
    return drawn


def weights(drawn: PatientBootstrap, size: int) -> npt.NDArray[np.uint8]:
    """How often each example is in each resample, [R, N]."""
    return np.concatenate(list(drawn.weights(np.arange(size))))


def by_scikit_learn(table: Predictions, weight: npt.NDArray[np.uint8]) -> dict[str, float]:
    """Every figure but the calibration error, of weighted examples."""
    label, predicted, given = table.label, table.predicted, table.probabilities
    classes = [1] if len(table.class_names) == 2 else range(len(table.class_names))
    recall, precision = sklearn.metrics.recall_score, sklearn.metrics.precision_score
    of_class = {
        "sensitivity": lambda k: recall(label == k, predicted == k, sample_weight=weight),
        "specificity": lambda k: recall(label != k, predicted != k, sample_weight=weight),
        "ppv": lambda k: precision(label == k, predicted == k, sample_weight=weight),
        "npv": lambda k: precision(label != k, predicted != k, sample_weight=weight),
        "f1": lambda k: sklearn.metrics.f1_score(label == k, predicted == k, sample_weight=weight),
        "roc_auc": lambda k: sklearn.metrics.roc_auc_score(
            label == k, given[:, k], sample_weight=weight
        ),
        "pr_auc": lambda k: sklearn.metrics.average_precision_score(
            label == k, given[:, k], sample_weight=weight
        ),
    }
    # scikit-learn knows the Brier score of more than two classes from 1.7 on.
    squares = (given - np.eye(len(table.class_names))[label]) ** 2
    squares = squares[:, 1] if len(table.class_names) == 2 else squares.sum(axis=1)
    normalised = given / given.sum(axis=1, keepdims=True)
    return {name: float(np.mean([of(k) for k in classes])) for name, of in of_class.items()} | {
        "accuracy": sklearn.metrics.accuracy_score(label, predicted, sample_weight=weight),
        "macro_recall": sklearn.metrics.balanced_accuracy_score(
            label, predicted, sample_weight=weight
        ),
        "mcc": sklearn.metrics.matthews_corrcoef(label, predicted, sample_weight=weight),
        "brier": float(np.average(squares, weights=weight)),
        "log_loss": sklearn.metrics.log_loss(label, normalised, sample_weight=weight),
    }


@ALL
def test_with_each_patient_once_every_figure_is_scikit_learns(name: str) -> None:
    table = TABLES[name]
    found = resampling.distributions(table, once(table))
    expected = by_scikit_learn(table, np.ones(len(table), np.uint8))
    assert {key: found[key][0] for key in expected} == pytest.approx(expected, abs=1e-12, rel=1e-12)


@ALL
def test_resampled_figures_are_those_of_scikit_learn_with_weights(name: str) -> None:
    table = TABLES[name]
    drawn = PatientBootstrap(table.patient_id, resamples=5, seed=7)
    found = resampling.distributions(table, drawn)
    for row, weight in enumerate(weights(drawn, len(table))):
        expected = by_scikit_learn(table, weight)
        assert {key: found[key][row] for key in expected} == pytest.approx(expected, abs=1e-9)


def test_the_brier_score_of_two_classes_is_scikit_learns() -> None:
    table = TABLES["float32"]
    expected = sklearn.metrics.brier_score_loss(table.label, table.probabilities[:, 1])
    assert resampling.distributions(table, once(table))["brier"][0] == pytest.approx(
        expected, rel=1e-12
    )


def assert_are_those_of_the_resampled_tables(table: Predictions, drawn: PatientBootstrap) -> None:
    found = resampling.distributions(table, drawn)
    for row, weight in enumerate(weights(drawn, len(table))):
        resampled = metrics.compute(table.take(np.repeat(np.arange(len(table)), weight)))
        expected = {key: getattr(resampled, key) for key in found}
        expected = {key: np.nan if of is None else of for key, of in expected.items()}
        assert {key: of[row] for key, of in found.items()} == pytest.approx(
            expected, abs=1e-9, nan_ok=True
        )


@ALL
def test_resampled_figures_are_those_of_the_resampled_tables(name: str) -> None:
    table = TABLES[name]
    assert_are_those_of_the_resampled_tables(table, PatientBootstrap(table.patient_id, resamples=3))


@hypothesis.given(table=tables.tables().filter(len), seed=st.integers(0, 99))
@hypothesis.settings(deadline=None, max_examples=40)
def test_a_figure_is_undefined_in_a_resample_where_it_is_of_that_table(
    table: Predictions, seed: int
) -> None:
    drawn = PatientBootstrap(table.patient_id, resamples=2, seed=seed)
    assert_are_those_of_the_resampled_tables(table, drawn)


def test_a_resample_without_a_rare_class_has_the_mean_over_the_others() -> None:
    table = tables.study(0, patients=6, num_classes=3)
    drawn = PatientBootstrap(table.patient_id, resamples=20)
    classes = [np.unique(table.label[weight > 0]).size for weight in weights(drawn, len(table))]
    assert min(classes) < max(classes) == 3
    assert_are_those_of_the_resampled_tables(table, drawn)


def test_a_threshold_decides_instead_of_the_most_probable_class() -> None:
    table = TABLES["two classes"]
    found = resampling.distributions(table, once(table), 0.3)
    decided = table.probabilities[:, 1] >= 0.3
    assert found["sensitivity"][0] == sklearn.metrics.recall_score(table.label, decided)
    assert "roc_auc" not in found


def test_what_needs_finite_probabilities_is_left_out_where_they_are_not() -> None:
    table = tables.predictions_of([0, 1, 1], [0.1, 0.9, np.nan])
    found = resampling.distributions(table, once(table))
    assert found.keys() == {
        "accuracy", "macro_recall", "sensitivity", "specificity", "ppv", "npv", "f1", "mcc",
    }  # fmt: skip


# Resamples


def test_a_patient_is_drawn_with_all_images() -> None:
    table = TABLES["two classes"]
    drawn = weights(PatientBootstrap(table.patient_id, resamples=50), len(table))
    first = np.unique(table.patient_id, return_index=True)[1]
    of_patient = dict(zip(table.patient_id[first], drawn[:, first].T, strict=True))
    expected = np.stack([of_patient[name] for name in table.patient_id], axis=1)
    np.testing.assert_array_equal(drawn, expected)


def test_as_many_patients_are_drawn_as_there_are() -> None:
    drawn = PatientBootstrap(TABLES["two classes"].patient_id, resamples=50)
    assert drawn._counts.sum(axis=1).tolist() == [60] * 50


@hypothesis.given(order=st.permutations(range(8)))
@hypothesis.settings(deadline=None, max_examples=20)
def test_the_order_of_examples_changes_no_resample(order: list[int]) -> None:
    patient_id = np.array(list("aabbbcde"))
    drawn = PatientBootstrap(patient_id, resamples=5)
    moved = PatientBootstrap(patient_id[order], resamples=5)
    np.testing.assert_array_equal(weights(moved, 8), weights(drawn, 8)[:, order])


def test_two_tables_of_the_same_patients_are_resampled_in_pairs() -> None:
    a, b = (PatientBootstrap(np.array(list(ids)), resamples=9) for ids in ("aabc", "abccc"))
    np.testing.assert_array_equal(a._counts, b._counts)


def test_some_of_the_examples_keep_their_resamples() -> None:
    table, rows = TABLES["two classes"], np.array([40, 3, 17])
    drawn = PatientBootstrap(table.patient_id, resamples=9)
    np.testing.assert_array_equal(
        weights(drawn.restricted_to(rows), 3), weights(drawn, len(table))[:, rows]
    )


@ALL
def test_figures_do_not_depend_on_how_many_resamples_are_held_at_once(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = TABLES[name]
    drawn = PatientBootstrap(table.patient_id, resamples=20)
    whole = resampling.distributions(table, drawn)
    monkeypatch.setattr(resampling, "_BLOCK_CELLS", 3 * len(table))
    parts = resampling.distributions(table, drawn)
    assert whole.keys() == parts.keys()
    for key, values in whole.items():
        np.testing.assert_allclose(parts[key], values, rtol=1e-12)


# Intervals


def test_an_interval_leaves_out_a_fortieth_at_each_end() -> None:
    assert resampling.interval(np.arange(1001.0)) == pytest.approx((25, 975))


def test_of_few_patients_an_interval_leaves_out_less() -> None:
    """Student's t of nine degrees of freedom is 2.262; with n - 1 for n, 2.384 deviations."""
    assert resampling.interval(np.arange(1001.0), 10) == pytest.approx((8.55, 991.45), abs=0.01)


def test_a_figure_of_one_patient_has_no_interval() -> None:
    assert resampling.interval(np.arange(100.0), 1) is None


def test_a_figure_that_is_undefined_in_over_a_twentieth_has_no_interval() -> None:
    values = np.arange(100.0)
    values[:5] = np.nan
    assert resampling.interval(values) is not None
    values[5] = np.nan
    assert resampling.interval(values) is None


def test_a_figure_that_never_changes_has_no_interval() -> None:
    assert resampling.interval(np.full(100, 0.75)) is None


# Time


def seconds_of_intervals(examples: int) -> float:
    table = tables.study(0, patients=examples // 4)
    table = tables.in_float32(table.take(np.arange(examples) % len(table)))
    patients = np.array([f"p{i // 4}" for i in range(examples)])
    table = dataclasses.replace(table, patient_id=patients)
    start = time.process_time()
    resampling.distributions(table, PatientBootstrap(table.patient_id))
    return time.process_time() - start


def test_2000_resamples_of_2000_images_take_less_than_5_s() -> None:
    """0.4 s of a processor of machine B."""
    assert seconds_of_intervals(2_000) < 5


@pytest.mark.slow
def test_2000_resamples_of_100000_images_take_less_than_60_s() -> None:
    """7 s of a processor of machine B."""
    assert seconds_of_intervals(100_000) < 60
