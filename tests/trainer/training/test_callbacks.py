from __future__ import annotations

import json
import math

import keras
import pytest

from trainer.runs.run_directory import RunDirectory
from trainer.training import callbacks
from trainer.training.logs import metrics_log
from trainer.training.logs import progress as progress_lib

LOGS = {
    "loss": 0.5, "accuracy": 0.75, "auc": 0.8, "val_loss": 0.25, "val_accuracy": 0.875,
    "val_auc": 0.9, "examples_per_s": 412.3, "input_wait": 0.02,
}  # fmt: skip


def _attach(callback: keras.callbacks.Callback) -> keras.callbacks.Callback:
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    callback.set_model(model)
    return callback


class Clock:
    """Seconds that a test sets."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def _train_epoch(progress, clock, epoch: int, steps: range, *, step_s: float, validation_s: float):
    progress.on_epoch_begin(epoch)
    for step in steps:
        progress.on_train_batch_begin(step)
        clock.now += step_s
        progress.on_train_batch_end(step)
    clock.now += validation_s
    progress.on_epoch_end(epoch, LOGS)


def test_the_time_left_of_a_resumed_run_comes_from_the_epochs_of_this_process():
    """Epochs of 10 steps of 2 s and a validation of 10 s; the run resumes in its 8th epoch."""
    clock, lines = Clock(), []
    clock.now = 1000.0
    progress = progress_lib.Progress(10, 10, clock=clock, say=lines.append)
    progress.on_train_begin()
    _train_epoch(progress, clock, 7, range(9, 10), step_s=2, validation_s=10)
    _train_epoch(progress, clock, 8, range(10), step_s=2, validation_s=10)
    assert [line.rpartition("at most ")[2] for line in lines] == ["1:00 left", "0:30 left"]


def test_after_a_divergence_the_time_left_starts_anew():
    clock, lines = Clock(), []
    progress = progress_lib.Progress(3, 10, clock=clock, say=lines.append)
    progress.on_train_begin()
    _train_epoch(progress, clock, 0, range(10), step_s=100, validation_s=0)
    progress.on_train_begin()
    _train_epoch(progress, clock, 0, range(10), step_s=1, validation_s=0)
    assert lines[-1].endswith("at most 0:20 left")


def test_the_last_epoch_leaves_no_time():
    assert progress_lib.format_epoch(0, 1, LOGS, 0).endswith("input wait 2%")


def test_an_undefined_metric_is_printed_as_undefined():
    line = progress_lib.format_epoch(0, 1, LOGS | {"val_auc": math.nan}, 0)
    assert "accuracy 0.8750  auc undefined" in line


def test_an_undefined_metric_is_null_in_the_file(tmp_path):
    log = _attach(metrics_log.MetricsLog(tmp_path / "metrics.jsonl"))
    log.on_epoch_end(0, LOGS | {"val_auc": math.nan})
    assert json.loads((tmp_path / "metrics.jsonl").read_text())["val_auc"] is None
    json.dumps(log.state(), allow_nan=False)
    assert math.isnan(RunDirectory(tmp_path).load_history()["val_auc"][0])


def test_an_undefined_metric_is_never_the_best():
    model = _attach(metrics_log.MetricsLog(None)).model
    stopping = callbacks.EarlyStopping(model.trainable_variables, monitor="val_auc", patience=3)
    stopping.set_model(model)
    for epoch, value in enumerate([math.nan, 0.5, math.nan]):
        stopping.on_epoch_end(epoch, {"val_auc": value})
    assert stopping.state() == {"best": 0.5, "wait": 1}
    assert stopping.reason == ""


def test_each_epoch_prints_one_line_with_the_time_left():
    clock, lines = Clock(), []
    progress = progress_lib.Progress(5, 10, clock=clock, say=lines.append)
    progress.on_train_begin()
    _train_epoch(progress, clock, 0, range(10), step_s=3, validation_s=0)
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


ROWS = [{"epoch": 1, "loss": 0.5, "val_auc": None}, {"epoch": 2, "loss": 0.4, "val_auc": None}]


def _lines(rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (_lines(ROWS), ""),
        (_lines([*ROWS, {**ROWS[0], "epoch": 3}]), ""),  # Of an epoch after the checkpoint.
        (_lines(ROWS[:1]), "it had 1 of 2 epochs"),
        (_lines([ROWS[0], {**ROWS[1], "loss": 0.3}]), "its row of epoch 2 was another"),
        (_lines(ROWS[:1]) + "noise\n", "can't be read (line 2 is not JSON"),
        (_lines(ROWS[:1]) + '{"epoch": "2"}\n', 'can\'t be read (line 2 has epoch = "2"'),
        (_lines(ROWS[:1]) + "\n" + _lines(ROWS[1:]), "can't be read (line 2 is empty)"),
    ],
)
def test_a_damaged_log_is_written_again_and_said_to_be(tmp_path, capsys, content, problem):
    path = tmp_path / "metrics.jsonl"
    path.write_text(content)
    metrics_log.MetricsLog(path).restore(ROWS)
    said = capsys.readouterr().out
    assert problem in said
    assert said.count("written again from the checkpoint") == bool(problem)
    assert path.read_text() == _lines(ROWS)


def test_epochs_of_the_head_alone_tell_no_time_left():
    """The next ones cost a hundred times as much."""
    clock, lines = Clock(), []
    progress = progress_lib.Progress(4, 10, head_epochs=2, clock=clock, say=lines.append)
    for epochs, step_s in (((0, 1), 1), ((2,), 100)):
        progress.on_train_begin()
        for epoch in epochs:
            _train_epoch(progress, clock, epoch, range(10), step_s=step_s, validation_s=0)
    assert ["left" in line for line in lines] == [False, False, True]
    assert lines[2].endswith("at most 16:40 left")
