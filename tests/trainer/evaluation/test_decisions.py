"""The figures of decisions at a threshold, and PPV and NPV at another prevalence."""

from __future__ import annotations

import numpy as np
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


def test_each_resample_is_restated() -> None:
    drawn = {"sensitivity": np.array([0.9, 0.0, np.nan]), "specificity": np.array([0.8, 1.0, 0.5])}
    found = decisions.predictive_values(drawn, 0.05)
    np.testing.assert_allclose(found["ppv"], [450 / 2350, np.nan, np.nan])
    np.testing.assert_allclose(found["npv"], [7600 / 7650, 0.95, np.nan])


def test_a_ppv_without_a_false_alarm_is_bounded_by_how_rare_they_can_be() -> None:
    """Of 40 negatives none is alarmed: at least 91.2 % are not, by Clopper and Pearson."""
    label, positive = [0] * 40 + [1] * 60, [0.1] * 40 + [0.9] * 54 + [0.2] * 6
    table = predictions_of(label, positive, [""] * 100)
    drawn = resampling.PatientBootstrap(table.patient_id)
    found = decisions.restate(table, None, 0.05, drawn)
    assert found.ppv == 1
    low, high = found.intervals["ppv"] or (np.nan, np.nan)
    assert high == 1
    lowest_sensitivity = 0.83  # About: 54 of 60.
    alarms = 1 - 0.025 ** (1 / 40)
    assert low == pytest.approx(0.05 / (0.05 + 0.95 * alarms / lowest_sensitivity), abs=0.02)
