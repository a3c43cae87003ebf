"""The record of a trial: an undefined objective is no score."""

from __future__ import annotations

import json
import math
import re

import pytest

from tuner import records

UNDEFINED = [None, math.nan, math.inf, -math.inf]


@pytest.mark.parametrize("value", UNDEFINED)
def test_an_undefined_epoch_is_never_the_best(value):
    curve = [{"epoch": 1, "val_auc": 0.25}, {"epoch": 2, "val_auc": value}]
    record = records.of_curve(curve, 2, "val_auc", 1.0)
    assert (record.score, record.best_epoch, record.reason) == (0.25, 1, "")


@pytest.mark.parametrize("value", UNDEFINED)
@pytest.mark.parametrize(
    ("others", "reason"),
    [
        ({"val_loss": 0.5}, "undefined: val_auc has no value in any epoch, but val_loss has"),
        ({"val_loss": math.nan}, "diverged: val_auc is NaN or infinite in every epoch"),
    ],
)
def test_a_trial_without_a_value_fails_with_its_reason(value, others, reason):
    record = records.of_curve([{"epoch": 1, "val_auc": value, **others}], 1, "val_auc", 1.0)
    assert (record.score, record.reason) == (None, reason)


def test_an_objective_that_is_not_logged_is_a_reason():
    record = records.of_curve([{"epoch": 1, "val_loss": 0.5}], 1, "val_auc", 1.0)
    assert record.reason == "undefined: val_auc is not among the metrics of any epoch"


@pytest.mark.parametrize("value", UNDEFINED)
def test_what_is_undefined_is_saved_as_null(tmp_path, value):
    records.save(tmp_path, records.TrialRecord(score=value, curve=[{"val_auc": value}]))
    document = json.loads((tmp_path / records.RESULT).read_text())
    assert document["score"] is None
    assert document["curve"] == [{"val_auc": None}]


@pytest.mark.parametrize("curve", [[{}], [{"epoch": 2}], [{"epoch": 1}, {"epoch": 2, "loss": 1.0}]])
def test_a_curve_that_is_none_counts_as_failed(tmp_path, curve):
    records.save(tmp_path, records.TrialRecord(0.5, 1, 1, curve=curve))
    found = records.load(tmp_path)
    assert found.score is None
    assert re.match("no result: row [12] is not the row of epoch", found.reason)
