"""The figures of decisions at a threshold, and PPV and NPV at another prevalence."""

from __future__ import annotations

import math

import pytest

from tests.support.tables import predictions_of
from trainer.evaluation import decisions, resampling


def test_predictive_values_follow_bayes_rule() -> None:
    """Of 10,000 people 500 are ill: 450 found, 50 missed; of 9,500 others, 1,900 are alarmed."""
    found = decisions.predictive_values({"sensitivity": 0.9, "specificity": 0.8}, 0.05)
    assert found == pytest.approx({"ppv": 450 / 2350, "npv": 7600 / 7650}, rel=1e-12)


@pytest.mark.parametrize("missing", ["sensitivity", "specificity"])
def test_an_undefined_recall_leaves_both_undefined(missing: str) -> None:
    figures = {"sensitivity": 0.9, "specificity": 0.8, missing: None}
    assert decisions.predictive_values(figures, 0.05) == {"ppv": None, "npv": None}


def test_nothing_called_positive_has_no_ppv() -> None:
    found = decisions.predictive_values({"sensitivity": 0.0, "specificity": 1.0}, 0.05)
    assert found == {"ppv": None, "npv": 0.95}


def _restated(hits: int, misses: int, alarms: int, passed: int) -> decisions.Restated:
    label = [1] * (hits + misses) + [0] * (alarms + passed)
    positive = [0.9] * hits + [0.2] * misses + [0.9] * alarms + [0.1] * passed
    table = predictions_of(label, positive, [""] * len(label))
    drawn = resampling.PatientBootstrap(table.patient_id)
    return decisions.restate(table, None, 0.05, drawn)


def test_a_ppv_without_a_false_alarm_is_bounded_by_how_rare_they_can_be() -> None:
    found = _restated(hits=54, misses=6, alarms=0, passed=40)
    assert found.ppv == 1
    # Of 40 negatives none is alarmed: by Wilson and Student's t, at least 90.7 % are not. Of 60
    # positives 54 are found: at least 79.4 %.
    low, high = found.intervals["ppv"] or (math.nan, math.nan)
    assert (low, high) == pytest.approx(
        (0.05 * 0.794 / (0.05 * 0.794 + 0.95 * 0.0928), 1), abs=2e-3
    )


def test_a_restated_value_lies_in_its_interval() -> None:
    for counts in ((54, 6, 3, 37), (60, 0, 1, 39), (1, 59, 0, 40), (59, 1, 40, 0)):
        found = _restated(*counts)
        for name in ("ppv", "npv"):
            low, high = found.intervals[name] or (math.nan, math.nan)
            assert 0 <= low <= getattr(found, name) <= high <= 1


def test_more_false_alarms_never_raise_the_low_end_of_ppv() -> None:
    lows = [
        (_restated(54, 6, alarms, 40 - alarms).intervals["ppv"] or (1, 1))[0] for alarms in range(9)
    ]
    assert lows == sorted(lows, reverse=True)


def test_an_undefined_ppv_has_no_interval() -> None:
    found = _restated(hits=0, misses=60, alarms=0, passed=40)
    assert found.ppv is None
    assert found.intervals["ppv"] is None
    assert found.intervals["npv"] is not None
