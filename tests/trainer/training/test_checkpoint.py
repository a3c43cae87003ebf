"""Checkpoints are complete or absent, and a resumed run ends like an uninterrupted one."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.support import devices, radiographs
from trainer.data import batches
from trainer.errors import ConfigError, DiskError, DivergedError, RunError, Stopped
from trainer.models import dropout
from trainer.options import CheckpointOptions, OptimizationOptions
from trainer.system import signals
from trainer.training import callbacks, checkpoint, optimization
from trainer.training.checkpoint import Checkpoints
from trainer.training.driver import Driver, Position
from trainer.training.logs import metrics_log

EPOCHS, BATCH = 3, 4
OPTIONS = OptimizationOptions(
    optimizer="adam", gradient_accumulation_steps=2, global_clipnorm=1.0, learning_rate=0.01
)


class KilledError(Exception):
    """Simulates the end of a process at a chosen step."""


class KillAt(keras.callbacks.Callback):
    def __init__(self, calls: int) -> None:
        super().__init__()
        self._left = calls

    def on_train_batch_end(self, batch, logs=None):
        del batch, logs
        self._left -= 1
        if self._left == 0:
            raise KilledError


def _batches(epoch: int) -> batches.Batches:
    order = np.random.default_rng(epoch).permutation(18)
    labels = (order % 2).astype(np.int32)
    rows = tf.data.Dataset.from_tensor_slices(
        (radiographs.noise(18, 8)[order], labels, np.ones(18, "f4"))
    )
    return batches.pad(rows, BATCH, 18)


class Run:
    """The objects of one process: model, driver and callbacks; runs share only the folder."""

    def __init__(self, folder, replicas=1, *, options=OPTIONS, patience=9, keep=2, every_steps=1):
        folder.mkdir(exist_ok=True)
        strategy = devices.strategy_of(replicas)
        keras.utils.set_random_seed(1)
        with strategy.scope():
            image = keras.Input((8, 8, 1), dtype="uint8")
            x = keras.layers.Rescaling(1 / 255)(image)
            x = keras.layers.Flatten()(x)
            x = keras.layers.Dense(6, activation="relu")(x)
            x = dropout.layer(0.5, "dropout_1")(x)
            self.model = keras.Model(image, keras.layers.Dense(2, activation="softmax")(x))
            state = optimization.compile_model(self.model, options, [9, 9], 5)
        self.log = metrics_log.MetricsLog(folder / "metrics.jsonl", clock=lambda: 0.0)
        stopping = callbacks.EarlyStopping(
            self.model.trainable_variables, monitor="val_loss", patience=patience
        )
        checkpoints = Checkpoints(
            folder / "checkpoints", [*state, *stopping.variables], "frozen", keep=keep
        )
        frequency = CheckpointOptions(checkpoint_every_steps=every_steps, checkpoint_every_s=0)
        self.saving = callbacks.Checkpointing(
            checkpoints, self.model.trainable_variables, [self.log, stopping], frequency
        )
        self.hooks = [callbacks.StopAtDivergence(), self.log, stopping, self.saving]
        self.driver = Driver(self.model, strategy, steps_per_execution=1, clock=lambda: 0.0)

    def train(self, *more) -> None:
        start = self.saving.restore() or self.saving.save_first()
        self.driver.fit(
            _batches, validation=_batches(99), epochs=EPOCHS, start=start,
            callbacks=[*self.hooks, *more],
        )  # fmt: skip


WALL_CLOCK = ("examples_per_s", "input_wait", "epoch_s")


def _assert_same(run: Run, expected: Run) -> None:
    for ours, theirs in zip(run.model.get_weights(), expected.model.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert _history(run) == _history(expected)


def _history(run: Run) -> list[dict[str, float]]:
    rows = [json.loads(line) for line in run.log._path.read_text().splitlines()]
    return [{k: v for k, v in row.items() if k not in WALL_CLOCK} for row in rows]


@pytest.mark.parametrize("replicas", [1, pytest.param(2, marks=pytest.mark.long)])
def test_a_run_that_dies_at_every_step_equals_an_uninterrupted_one(tmp_path, replicas):
    whole = Run(tmp_path / "whole", replicas)
    whole.train()
    deaths = 0
    while True:
        run = Run(tmp_path / "dying", replicas)
        try:
            run.train(KillAt(2))
        except KilledError:
            deaths += 1
        else:
            break
    assert deaths >= 7
    _assert_same(run, whole)


def test_saving_less_often_repeats_steps_and_changes_nothing(tmp_path):
    whole = Run(tmp_path / "whole", every_steps=0)
    whole.train()
    with pytest.raises(KilledError):
        Run(tmp_path / "dying", every_steps=3).train(KillAt(10))
    run = Run(tmp_path / "dying", every_steps=3)
    run.train()
    _assert_same(run, whole)


class StopInValidation(keras.callbacks.Callback):
    """Simulates a signal at a batch of the validation after an epoch."""

    def __init__(self, epoch: int, step: int) -> None:
        super().__init__()
        self._at = (epoch, step)

    def on_epoch_begin(self, epoch, logs=None):
        del logs
        self._epoch = epoch

    def on_test_batch_end(self, batch, logs=None):
        del logs
        if (self._epoch, batch) == self._at:
            signals._requests.append(signal.SIGTERM)


@pytest.mark.parametrize("step", [pytest.param(0, marks=pytest.mark.slow), 2])
def test_a_run_that_is_stopped_in_a_validation_repeats_no_step(tmp_path, step):
    whole = Run(tmp_path / "whole", every_steps=0)
    whole.train()
    run = Run(tmp_path / "stopped", every_steps=0)
    run.hooks.insert(0, StopInValidation(1, step))
    try:
        with pytest.raises(Stopped):
            run.train()
    finally:
        signals._requests.clear()
    run.saving.save_stopped()
    run = Run(tmp_path / "stopped", every_steps=0)
    assert run.saving.restore() == Position(1, 5)
    run.train()
    _assert_same(run, whole)


@pytest.mark.parametrize("by", ["this host", "another host"])
def test_a_request_after_the_last_step_stops_all_hosts(by):
    def any_host(mine: bool) -> bool:
        return mine or by == "another host"

    with signals.watched(), pytest.raises(Stopped) as stop:  # noqa: PT012 -- Its end raises.
        with signals.deferred(any_host):
            if by == "this host":
                signal.raise_signal(signal.SIGTERM)
        raise AssertionError("went on alone")
    assert stop.value.exit_code == 75


def test_a_run_that_has_diverged_and_is_stopped_stays_at_its_checkpoint(tmp_path):
    run = Run(tmp_path / "run", every_steps=0)
    run.hooks.insert(0, StopInValidation(1, 0))
    try:
        with pytest.raises(Stopped):
            run.train()
    finally:
        signals._requests.clear()
    weight = run.model.trainable_variables[0]
    weight.assign(np.full(weight.shape, np.nan))
    run.saving.save_stopped()
    assert Run(tmp_path / "run", every_steps=0).saving.restore() == Position(1)


def test_early_stopping_resumes_its_count_and_a_stopped_run_stays_stopped(tmp_path):
    options = OptimizationOptions(optimizer="sgd", learning_rate=0.0)  # It never improves.
    whole = Run(tmp_path / "whole", options=options, patience=1)
    whole.train()
    epochs = len(whole.log.state())
    assert epochs < EPOCHS
    again = Run(tmp_path / "whole", options=options, patience=1)
    again.train()
    assert len(again.log.state()) == epochs
    for ours, theirs in zip(again.model.get_weights(), whole.model.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of a finished run."""
    folder = tmp_path_factory.mktemp("finished")
    Run(folder, every_steps=0).train()
    return folder


@pytest.fixture
def saved(finished, tmp_path):
    """A copy of the folder, with the checkpoints after two epochs, which a test may damage."""
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    return tmp_path / "checkpoints"


def test_only_the_newest_are_kept(saved):
    assert sorted(path.name for path in saved.iterdir()) == ["00002-000000", "00003-000000"]


FILES = ["manifest.json", "state.json", "variables.index", "variables.data-00000-of-00001"]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", ["flip", "truncate", "delete"])
def test_damage_is_logged_and_the_previous_checkpoint_is_restored(saved, caplog, name, damage):
    path = saved / "00003-000000" / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(
        {"flip": bytes(content), "truncate": bytes(content[:-1]), "delete": b""}[damage]
    )
    if damage == "delete":
        path.unlink()
    run = Run(saved.parent)
    assert run.saving.restore() == Position(2, 0)
    assert "00003-000000 can't be restored" in caplog.text
    assert [path.name for path in saved.iterdir()] == ["00002-000000"]


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_was_blown_up_is_not_read_to_its_end(saved, name):
    os.truncate(saved / "00003-000000" / name, 1 << 40)  # Hashing its zeros would take minutes.
    assert Run(saved.parent).saving.restore() == Position(2, 0)


def test_a_checkpoint_without_sizes_is_restored(saved):
    manifest = saved / "00003-000000" / "manifest.json"
    content = json.loads(manifest.read_text())
    del content["sizes"]
    manifest.write_text(json.dumps(content))
    assert Run(saved.parent).saving.restore() == Position(3, 0)


def test_only_damaged_checkpoints_are_an_error(saved):
    for path in saved.glob("*/state.json"):
        path.unlink()
    with pytest.raises(
        RunError, match=r"no checkpoint in .* can be restored \(.*state.json can't be read"
    ):
        Run(saved.parent).saving.restore()


def test_weights_that_are_not_finite_count_as_damage(tmp_path, caplog):
    weight = keras.Variable([1.0], name="kernel")
    checkpoints = Checkpoints(tmp_path, [weight], "", keep=2)
    checkpoints.save(Position(1, 0), {})
    weight.assign([np.nan])
    checkpoints.save(Position(2, 0), {})
    found = checkpoints.restore()
    assert found is not None
    assert found.position == Position(1, 0)
    assert weight.numpy() == [1.0]
    assert "00002-000000 can't be restored: its weights kernel are not finite" in caplog.text


def test_other_frozen_weights_are_refused(saved):
    checkpoints = Checkpoints(saved, [], "others", keep=2)
    with pytest.raises(ConfigError, match="belongs to other frozen weights, other images, or"):
        checkpoints.restore()


def test_another_format_is_not_read(saved, caplog):
    manifest = saved / "00003-000000" / "manifest.json"
    content = json.loads(manifest.read_text())
    manifest.write_text(json.dumps(content | {"format_version": 0}))
    assert Run(saved.parent).saving.restore() == Position(2, 0)
    assert f"its format is 0, and this version writes {checkpoint.FORMAT_VERSION}" in caplog.text


def test_an_incomplete_checkpoint_leaves_nothing(saved, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    run = Run(saved.parent)
    monkeypatch.setattr(checkpoint.files, "save_json", full)
    with pytest.raises(OSError, match="No space left"):
        run.saving._save(Position(7, 0))
    assert sorted(path.name for path in saved.iterdir()) == ["00002-000000", "00003-000000"]


def test_saving_a_position_twice_keeps_the_second(tmp_path):
    variable = tf.Variable(1.0)
    checkpoints = Checkpoints(tmp_path, [variable], "", keep=2)
    checkpoints.save(Position(1, 2), {"a": 1})
    variable.assign(2.0)
    checkpoints.save(Position(1, 2), {"a": 2})
    variable.assign(3.0)
    assert checkpoints.restore() == checkpoint.Checkpoint(Position(1, 2), {"a": 2})
    assert variable.numpy() == 2.0
    shutil.rmtree(tmp_path / "00001-000002")
    assert checkpoints.restore() is None


def test_diverged_weights_are_never_saved(tmp_path):
    run = Run(tmp_path, options=OptimizationOptions(optimizer="sgd", learning_rate=1e38))
    with pytest.raises(DivergedError, match=r"the loss is (nan|inf) in epoch \d at step \d"):
        run.train()
    run.saving.restore()
    assert all(np.isfinite(weight).all() for weight in run.model.get_weights())


def test_a_full_disk_has_a_way_out_and_none_of_tensorflows_nodes(tmp_path):
    variables = [tf.Variable(tf.ones((100_000,)))]
    checkpoints = Checkpoints(tmp_path / "checkpoints", variables, "", keep=1)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
    try:
        with pytest.raises(DiskError) as raised:
            checkpoints.save(Position(1, 0), {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert str(raised.value) == (
        f"a checkpoint can't be written to {tmp_path / 'checkpoints'}: File too large; raise the "
        "limit of a file's size (ulimit -f), or name another --model_dir; the same command resumes "
        "from what is saved."
    )
