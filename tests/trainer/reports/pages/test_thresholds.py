"""What each threshold gives."""

from __future__ import annotations

import json

import numpy as np
import pytest
import sklearn.metrics

from tests.support.pages import reports
from tests.support.tables import LABEL, POSITIVE, predictions_of
from trainer.reports.pages import thresholds

TABLE = reports.table()


def test_the_counts_are_those_worked_out_by_hand():
    counts = thresholds.count(predictions_of(LABEL, POSITIVE), operating_point=0.35)
    half, point = counts.at(0.5), counts.at(0.35)
    assert (half.tp, half.fp, half.fn, half.tn) == (3, 1, 2, 2)
    assert (point.tp, point.fp, point.fn, point.tn) == (4, 1, 1, 2)
    assert half.sensitivity == 3 / 5
    assert half.specificity == 2 / 3
    assert half.ppv == 3 / 4
    assert half.npv == 2 / 4
    assert half.accuracy == 5 / 8
    assert half.f1 == 2 * 3 / (2 * 3 + 1 + 2)


@pytest.mark.parametrize("step", [0, 1, 250, 431, 500, 999, 1000])
def test_each_step_agrees_with_scikit_learn(step):
    positive = TABLE.probabilities[:, 1] >= step / 1000
    matrix = sklearn.metrics.confusion_matrix(TABLE.label, positive, labels=[0, 1])
    at = thresholds.count(TABLE).at(step / 1000)
    assert [at.tn, at.fp, at.fn, at.tp] == matrix.ravel().tolist()


def test_a_probability_equal_to_the_threshold_is_positive():
    counts = thresholds.count(predictions_of([1, 0], [0.5, 0.25]))
    assert counts.at(0.5).tp == 1
    assert counts.at(0.25).fp == 1
    assert counts.at(0.251).fp == 0


def test_a_rate_without_a_denominator_is_none():
    at = thresholds.count(predictions_of([1, 1], [0.25, 0.75])).at(0.9)
    assert (at.specificity, at.ppv, at.f1) == (None, None, 0)


def test_the_size_does_not_depend_on_the_number_of_examples():
    sizes = [
        len(json.dumps(thresholds.count(reports.table(size)).to_json())) for size in (1000, 9000)
    ]
    assert sizes[1] < 1.5 * sizes[0] < 20_000


@pytest.mark.parametrize(
    "table",
    [reports.table(classes=("A", "B", "C")), predictions_of([0, 1], [np.nan, 0.5]),
     predictions_of([], [])],
    ids=["three classes", "not finite", "empty"],
)  # fmt: skip
def test_without_two_classes_and_finite_outputs_there_is_none(table):
    assert thresholds.count(table) is None


def test_the_static_table_has_the_operating_point_in_order():
    shown = [at.threshold for at in thresholds.count(TABLE, operating_point=0.43127).shown()]
    assert shown == sorted(shown)
    assert {0.43127, 0.5} <= set(shown)
