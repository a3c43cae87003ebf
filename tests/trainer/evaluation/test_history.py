"""Facts of a training history: its span and its best epoch."""

from __future__ import annotations

import math

import pytest

from trainer.evaluation import history


def test_curves_are_sorted_and_other_entries_left_out() -> None:
    logged = {
        "val_loss": [1.0],
        "loss": [2.0],
        "auc": [0.5],
        "learning_rate": [0.1],
        "val_auc": [],
    }
    assert history.curves(logged) == {
        "log-loss": {"training": [2.0], "validation": [1.0]},
        "ROC-AUC": {"training": [0.5]},
    }


def test_span_has_the_form_of_the_paper() -> None:
    assert history.span([0.3, 0.1234, 0.4564, 0.2]) == "(min: 0.123, max: 0.456, cur: 0.200)"


def test_span_does_not_take_nan_for_an_extreme() -> None:
    assert history.span([0.1, 0.2, math.nan]) == "(min: 0.100, max: 0.200, cur: undefined)"


def test_a_curve_without_a_value_is_undefined() -> None:
    undefined = "(min: undefined, max: undefined, cur: undefined)"
    assert history.span([math.nan]) == undefined


@pytest.mark.parametrize(
    ("losses", "epoch"),
    [([3.0, 1.0, 2.0], 2), ([1.0, 1.0], 1), ([math.nan, 2.0, 1.0], 3), ([math.nan], None)],
)
def test_best_epoch_has_the_lowest_validation_loss(losses: list[float], epoch: int | None) -> None:
    assert history.best_epoch({"val_loss": losses}) == epoch


@pytest.mark.parametrize(
    ("values", "epoch"),
    [([0.7, 0.9, 0.8], 2), ([0.9, 0.9], 1), ([math.nan, 0.1], 2), ([math.nan], None)],
)
def test_best_epoch_may_have_the_highest_auc(values: list[float], epoch: int | None) -> None:
    assert history.best_epoch({"val_auc": values, "val_loss": [1.0, 2.0]}, "val_auc") == epoch


def test_without_validation_no_epoch_is_best() -> None:
    assert history.best_epoch({"loss": [1.0]}) is None
