"""The figures of decisions at a threshold."""

from __future__ import annotations

import pytest

from trainer.evaluation import decisions


def test_predictive_values_follow_bayes_rule() -> None:
    """Of 10,000 people 500 are ill: 450 found, 50 missed; of 9,500 others, 1,900 are alarmed."""
    found = decisions.predictive_values({"sensitivity": 0.9, "specificity": 0.8}, 0.05)
    assert found == pytest.approx({"ppv": 450 / 2350, "npv": 7600 / 7650}, rel=1e-12)
