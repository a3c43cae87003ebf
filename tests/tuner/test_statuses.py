"""Statuses, which are saved and sent to workers, are spelled as in KerasTuner."""

from __future__ import annotations

import pytest
from keras_tuner.engine import trial

from tuner import statuses


@pytest.mark.parametrize("name", ["RUNNING", "COMPLETED", "FAILED", "IDLE", "STOPPED"])
def test_statuses_are_those_of_keras_tuner(name):
    assert getattr(statuses, name) == getattr(trial.TrialStatus, name)
