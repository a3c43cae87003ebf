"""Calibration error and temperature: worked by hand, and against scikit-learn."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING

import hypothesis
import numpy as np
import pytest
import sklearn.calibration
import sklearn.metrics

from tests.support import tables
from tests.support.tables import predictions_of
from trainer.evaluation import calibration

if TYPE_CHECKING:
    from trainer.evaluation.predictions import Predictions


def calibrated(seed: int, num_classes: int = 2) -> Predictions:
    """Labels that are drawn with the probabilities that the table has."""
    table = tables.study(seed, patients=4000, num_classes=num_classes)
    steps = table.probabilities.cumsum(axis=1)[:, :-1]
    draws = np.random.default_rng(seed).random((len(table), 1))
    return dataclasses.replace(table, label=(draws > steps).sum(axis=1))


# Bins


def test_the_calibration_error_is_that_worked_by_hand() -> None:
    # Bins are a fifteenth wide: .02 and .06 share the first, .5 is in the eighth, 1 in the last.
    table = predictions_of([0, 1, 1, 1], [0.02, 0.06, 0.5, 1.0])
    # The first: mean .04, share 1/2; the eighth: .5, 1; the last: 1, 1.
    expected = (2 * 0.46 + 1 * 0.5 + 1 * 0.0) / 4
    assert calibration.expected_error(table) == pytest.approx(expected, rel=1e-12)


def test_reliability_has_a_row_for_each_bin_with_examples() -> None:
    found = calibration.reliability(predictions_of([0, 1, 1, 1], [0.02, 0.06, 0.5, 1.0]))
    assert [row.examples for row in found] == [2, 1, 1]
    assert found[0] == calibration.Bin(0, 1 / 15, 2, pytest.approx(0.04), 0.5)
    assert (found[-1].low, found[-1].high) == (14 / 15, 1)


@pytest.mark.parametrize("positive", [1 / 15, 5 / 15, 9 / 15])
def test_the_upper_end_is_inside_its_bin(positive: float) -> None:
    (row,) = calibration.reliability(predictions_of([1], [positive]))
    assert row.high == pytest.approx(positive)


@pytest.mark.parametrize("name", ["study", "ties", "float32"])
def test_bins_are_those_of_scikit_learn(name: str) -> None:
    table = {
        "study": tables.study(1, patients=200),
        "ties": tables.study(2, patients=200, levels=2),
        "float32": tables.in_float32(tables.study(3, patients=200)),
    }[name]
    share, mean = sklearn.calibration.calibration_curve(
        table.label, table.probabilities[:, 1], n_bins=calibration.NUM_BINS
    )
    found = calibration.reliability(table)
    assert [row.share for row in found] == pytest.approx(share.tolist(), rel=1e-12)
    assert [row.mean_probability for row in found] == pytest.approx(mean.tolist(), rel=1e-12)


def test_of_three_classes_the_predicted_ones_probability_is_compared_with_the_share_right() -> None:
    table = dataclasses.replace(
        predictions_of([0, 0], [0, 0]),
        class_names=("A", "B", "C"),
        label=np.array([0, 2]),
        probabilities=np.array([[0.7, 0.2, 0.1], [0.1, 0.7, 0.2]]),
    )
    assert calibration.expected_error(table) == pytest.approx(0.2)  # .7 against a half.


def test_calibrated_probabilities_have_almost_no_error() -> None:
    error = calibration.expected_error(calibrated(1))
    assert error is not None
    assert error < 0.01


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_not_finite_leaves_calibration_undefined(value: float) -> None:
    table = predictions_of([0, 1], [0.1, value])
    assert calibration.reliability(table) == ()
    assert calibration.expected_error(table) is None


# Temperature


def at_temperature(table: Predictions, temperature: float) -> Predictions:
    """The table, as a model gives it whose logits are divided by a temperature."""
    odds = table.probabilities ** (1 / temperature)
    return dataclasses.replace(table, probabilities=odds / odds.sum(axis=1, keepdims=True))


@pytest.mark.parametrize("temperature", [0.25, 0.5, 1, 2, 5])
@pytest.mark.parametrize("num_classes", [2, 3])
def test_the_temperature_of_logits_that_were_multiplied_is_found(
    temperature: float, num_classes: int
) -> None:
    table = calibrated(2, num_classes)
    own = calibration.fit_temperature(table)
    found = calibration.fit_temperature(at_temperature(table, 1 / temperature))
    assert own == pytest.approx(1, abs=0.05)
    assert found == pytest.approx(temperature * own, rel=1e-5)


@pytest.mark.parametrize("num_classes", [2, 3])
def test_scaling_divides_the_logits(num_classes: int) -> None:
    table = calibrated(3, num_classes)
    scaled = calibration.scaled(table, 2.5)
    np.testing.assert_allclose(
        scaled.probabilities, at_temperature(table, 2.5).probabilities, rtol=1e-9
    )


def test_temperature_1_changes_nothing_but_rounding() -> None:
    table = tables.study(4, patients=50)
    scaled = calibration.scaled(table, 1)
    np.testing.assert_allclose(scaled.probabilities, table.probabilities, rtol=1e-12)


@pytest.mark.parametrize("num_classes", [2, 3])
@pytest.mark.parametrize("seed", range(5))
def test_log_loss_on_validation_never_rises(num_classes: int, seed: int) -> None:
    table = tables.study(seed, patients=40, num_classes=num_classes)
    temperature = calibration.fit_temperature(table)
    assert temperature is not None
    before, after = (
        sklearn.metrics.log_loss(of.label, of.probabilities, labels=range(num_classes))
        for of in (table, calibration.scaled(table, temperature))
    )
    assert after <= before + 1e-12


def test_a_temperature_that_would_raise_the_log_loss_is_none_at_all() -> None:
    """A thousand examples, one of them wrong with a margin of 120: its probability is 0."""
    margin = np.where(np.arange(1000) < 1, -120.0, 6.0)
    wrong = np.exp(-np.logaddexp(0, margin)).astype(np.float32)
    table = tables.predictions_of(np.ones(1000, int), 1 - wrong, [""] * 1000)
    table = dataclasses.replace(table, probabilities=np.stack([wrong, 1 - wrong], 1))
    assert calibration.fit_temperature(table) is None


@hypothesis.given(
    table=tables.tables().filter(lambda table: np.isfinite(table.probabilities).all()),
    temperature=hypothesis.strategies.floats(0.05, 20),
)
@hypothesis.settings(deadline=None)
def test_scaling_never_changes_the_predicted_class(table: Predictions, temperature: float) -> None:
    scaled = calibration.scaled(table, temperature)
    assert scaled.predicted.tolist() == table.predicted.tolist()


CERTAIN = {
    "no examples": predictions_of([], [], []),
    "all right": predictions_of([0, 1], [0.1, 0.9]),
    "all right and certain": predictions_of([0, 1], [0.0, 1.0]),
    "all wrong": predictions_of([1, 0], [0.1, 0.9]),
    "nothing learnt": predictions_of([1, 0, 1, 0], [0.5, 0.5, 0.5, 0.5]),
    "not finite": predictions_of([0, 1, 0], [0.1, 0.2, math.nan]),
}


@pytest.mark.parametrize("name", CERTAIN)
def test_examples_that_do_not_determine_a_temperature_give_none(name: str) -> None:
    assert calibration.fit_temperature(CERTAIN[name]) is None


def test_an_output_of_exactly_0_for_the_true_class_is_no_infinite_loss() -> None:
    table = predictions_of([1] * 200 + [0] * 2, [1.0] * 201 + [0.0], ["x"] * 202)
    temperature = calibration.fit_temperature(table)
    assert temperature is not None
    assert np.isfinite(calibration.scaled(table, temperature).probabilities).all()
