"""What is compared of a split: evenly spaced examples, each with its own columns."""

from __future__ import annotations

import numpy as np
import pytest

from tests.support import runs
from trainer.data import opening, statistics
from trainer.evaluation.shifts import shift
from trainer.training import shift_samples
from trainer.training.outputs import Outputs


@pytest.fixture
def data(data_dir, tmp_path):
    config = runs.small_config(data_dir, tmp_path)
    return opening.load(config.data, 32)


def outputs_of(count):
    """Outputs that tell their row: its number is the first feature."""
    numbers = np.arange(count, dtype=np.float32)
    positive = numbers / count
    return Outputs(np.stack([1 - positive, positive], axis=1), numbers[:, np.newaxis])


def test_a_small_split_is_compared_as_a_whole(data):
    count = data.num_examples("test")
    found = shift_samples.take(outputs_of(count), data, "test")
    assert len(found) == count
    assert found.patient_id.tolist() == data.table("test").patient_id.tolist()
    assert found.scores == pytest.approx(np.arange(count) / count)
    assert found.statistics.keys() == set(statistics.NAMES)


def test_of_a_large_split_each_example_keeps_its_own_columns(data, monkeypatch):
    monkeypatch.setattr(shift, "MAX_ROWS", 5)
    whole = statistics.compute(data, "test").values["level"]
    found = shift_samples.take(outputs_of(data.num_examples("test")), data, "test")
    rows = found.features[:, 0].astype(int)
    assert len(rows) == 5
    assert np.array_equal(found.statistics["level"], whole[rows])
    assert np.array_equal(found.patient_id, data.table("test").patient_id[rows])


def test_chosen_rows_keep_their_own_columns(data):
    rows = np.array([3, 1, 7])
    found = shift_samples.take(outputs_of(3), data, "train", rows)
    assert np.array_equal(found.patient_id, data.table("train").patient_id[rows])
    level = statistics.compute(data, "train").values["level"]
    assert np.array_equal(found.statistics["level"], level[rows])
