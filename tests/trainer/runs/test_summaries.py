"""The TensorBoard events of an evaluation."""

from __future__ import annotations

import numpy as np
import pytest
import sklearn.metrics
from tensorboard.backend.event_processing import event_accumulator
from tensorboard.util import tensor_util

from tests.support import runs
from trainer.commands import train
from trainer.runs import summaries


@pytest.fixture(scope="module")
def evaluation(data_dir, tmp_path_factory):
    folder = tmp_path_factory.mktemp("summaries")
    return train.train(runs.small_config(data_dir, folder)).evaluation


def events_in(folder):
    found = event_accumulator.EventAccumulator(str(folder), size_guidance={"tensors": 0})
    return found.Reload()


def value_of(events, tag):
    (event,) = events.Tensors(tag)
    return tensor_util.make_ndarray(event.tensor_proto)


def test_a_run_writes_its_figures_beside_its_curves(evaluation):
    folder = evaluation.folder / "tensorboard" / "test"
    events = events_in(folder)
    for name in ("accuracy", "roc_auc", "ece"):
        expected = getattr(evaluation.metrics, name)
        assert value_of(events, name) == pytest.approx(expected, rel=1e-6)
    assert events.Tensors("accuracy")[0].step == 2  # Epochs.


def test_the_pr_curve_is_that_of_scikit_learn(evaluation, tmp_path):
    summaries.write(evaluation, tmp_path)
    hits, alarms, rejections, misses, precision, recall = value_of(events_in(tmp_path), "pr_curve")
    table = evaluation.predictions
    for place in (0, 60, 100, 140):
        decided = table.decided(place / 200)
        matrix = sklearn.metrics.confusion_matrix(table.label, decided, labels=[0, 1])
        counts = [rejections[place], alarms[place], misses[place], hits[place]]
        assert counts == matrix.ravel().tolist()
        assert recall[place] == pytest.approx(sklearn.metrics.recall_score(table.label, decided))
        expected = sklearn.metrics.precision_score(table.label, decided, zero_division=1.0)
        assert precision[place] == pytest.approx(expected)


def test_the_confusion_matrix_is_a_picture(evaluation, tmp_path):
    summaries.write(evaluation, tmp_path)
    width, height, picture = value_of(events_in(tmp_path), "confusion_matrix")
    assert picture.startswith(b"\x89PNG")
    assert int(width) > 100
    assert int(height) > 100


def test_a_second_call_replaces_the_events(evaluation, tmp_path):
    for _ in range(2):
        summaries.write(evaluation, tmp_path)
    assert len(list(tmp_path.iterdir())) == 1
    assert np.isfinite(value_of(events_in(tmp_path), "accuracy"))
