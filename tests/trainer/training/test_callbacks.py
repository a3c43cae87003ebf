from __future__ import annotations

import json

import keras
import pytest

from trainer.training import callbacks, metrics_log

LOGS = {
    "loss": 0.5, "accuracy": 0.75, "auc": 0.8, "val_loss": 0.25, "val_accuracy": 0.875,
    "val_auc": 0.9, "examples_per_s": 412.3, "input_wait": 0.02,
}  # fmt: skip


def _attach(callback: keras.callbacks.Callback) -> keras.callbacks.Callback:
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    callback.set_model(model)
    return callback


def test_each_epoch_prints_one_line_with_the_time_left():
    times, lines = iter([100.0, 130.0]), []
    progress = callbacks.Progress(5, 10, clock=lambda: next(times), say=lines.append)
    progress.on_train_begin()
    progress.on_epoch_begin(0)
    progress.on_train_batch_end(9)
    progress.on_epoch_end(0, LOGS)
    expected = (
        "epoch 1/5  train loss 0.5000  accuracy 0.7500  auc 0.8000  "
        "validation loss 0.2500  accuracy 0.8750  auc 0.9000  "
        "412 img/s  input wait 2%  at most 2:00 left"
    )
    assert lines == [expected]


def test_metrics_are_appended_as_json_lines(tmp_path):
    log = _attach(metrics_log.MetricsLog(tmp_path / "metrics.jsonl"))
    log.on_epoch_end(0, LOGS)
    log.on_epoch_end(1, LOGS)
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [1, 2]
    assert rows[0]["val_auc"] == 0.9
    assert rows[0]["learning_rate"] == pytest.approx(0.01)
