"""The figures of decisions at a threshold, and PPV and NPV at another prevalence."""

from __future__ import annotations

import numpy as np
import pytest

from trainer.evaluation import decisions


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
