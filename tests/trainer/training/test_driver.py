from __future__ import annotations

import math
import time
from typing import Any

import keras
import numpy as np
import pytest
import sklearn.metrics
import tensorflow as tf

from tests.support import devices, radiographs
from trainer.data import batches
from trainer.evaluation import metrics
from trainer.options import OptimizationOptions
from trainer.training import optimization
from trainer.training.driver import Driver

BATCH = 16


def _labels(count: int) -> np.ndarray:
    return (np.arange(count) * 7 % 5 < 2).astype(np.int32)


def _batches(count: int, batch_size: int = BATCH) -> batches.Batches:
    weighted = tf.data.Dataset.from_tensor_slices(
        (radiographs.noise(count, 8), _labels(count), np.ones(count, np.float32))
    )
    return batches.pad(weighted, batch_size, count)


def _driver(replicas: int, steps_per_execution: int = 3, **options: Any) -> Driver:
    keras.utils.set_random_seed(1)
    strategy = devices.strategy_of(replicas)
    with strategy.scope():
        model = keras.Sequential(
            [
                keras.Input((8, 8, 1), dtype="uint8"),
                keras.layers.Rescaling(1 / 255),
                keras.layers.Conv2D(4, 3, activation="relu"),
                keras.layers.Flatten(),
                keras.layers.Dense(2, activation="softmax"),
            ]
        )
        optimization.compile_model(model, OptimizationOptions(**options), [3, 2], 4)
    return Driver(model, strategy, steps_per_execution=steps_per_execution)


def _fit(driver: Driver, count: int = 64, epochs: int = 3) -> dict[str, list[float]]:
    full = _batches(count // BATCH * BATCH)
    return driver.fit(lambda _: full, validation=_batches(count), epochs=epochs)


@pytest.mark.parametrize(
    ("count", "global_clipnorm"), [pytest.param(64, 0.0, marks=pytest.mark.slow), (61, 0.05)]
)
def test_mirrored_equals_one_device(count, global_clipnorm):
    _check_equality(2, count, global_clipnorm)


@pytest.mark.long
def test_four_replicas_equal_one_device():
    devices.run_with_replicas(4, _check_equality, 4, 61, 0.05)


def _check_equality(replicas: int, count: int, global_clipnorm: float) -> None:
    """With momentum and class weights, but without Adam, which amplifies rounding."""
    options = {
        "optimizer": "sgd",
        "learning_rate": 0.05,
        "global_clipnorm": global_clipnorm,
        "class_weights": "balanced",
    }
    one, many = _driver(1, **options), _driver(replicas, **options)
    history, mirrored = _fit(one, count), _fit(many, count)
    for name in ("loss", "accuracy", "auc", "val_loss", "val_accuracy", "val_auc"):
        np.testing.assert_allclose(mirrored[name], history[name], atol=1e-5, err_msg=name)
    for ours, theirs in zip(one.model.get_weights(), many.model.get_weights(), strict=True):
        np.testing.assert_allclose(theirs, ours, atol=1e-5)


@pytest.mark.parametrize("replicas", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_accumulated_batches_train_like_one_larger_batch(replicas):
    options = {"optimizer": "adam", "global_clipnorm": 0.5, "class_weights": "balanced"}
    large, small = (
        _driver(1, **options),
        _driver(replicas, gradient_accumulation_steps=4, **options),
    )
    for loop, batch_size in ((large, BATCH), (small, BATCH // 4)):
        loop.fit(lambda _, size=batch_size: _batches(64, size), validation=_batches(5), epochs=3)
    assert small.model.optimizer.iterations.numpy() == 12
    for ours, theirs in zip(large.model.get_weights(), small.model.get_weights(), strict=True):
        np.testing.assert_allclose(theirs, ours, atol=1e-4)  # Adam moved them by up to 1e-2.


def test_an_update_may_span_the_end_of_an_epoch():
    """With 3 steps per epoch and 2 per update, there are 3 updates after the second epoch."""
    driver = _driver(1, 2, gradient_accumulation_steps=2)
    counts = []

    class Count(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            del epoch, logs
            counts.append(int(self.model.optimizer.iterations.numpy()))

    data = _batches(3 * BATCH)
    driver.fit(lambda _: data, validation=data, epochs=3, callbacks=[Count()])
    assert counts == [1, 3, 4]


def test_clipping_limits_the_change_of_the_weights():
    clipped = _driver(1, optimizer="sgd", learning_rate=1.0, global_clipnorm=0.01)
    before = clipped.model.get_weights()
    clipped.fit(lambda _: _batches(BATCH), validation=_batches(BATCH), epochs=1)
    change = [after - b for after, b in zip(clipped.model.get_weights(), before, strict=True)]
    norm = np.sqrt(sum(np.sum(np.square(c)) for c in change))
    assert norm == pytest.approx(0.01, rel=1e-4)


@pytest.mark.parametrize("steps_per_execution", [2, 100])
def test_steps_per_execution_change_nothing(steps_per_execution):
    expected = _driver(1)
    _fit(expected)
    driver = _driver(1, steps_per_execution)
    _fit(driver)
    for ours, theirs in zip(expected.model.get_weights(), driver.model.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_the_loop_equals_keras_fit():
    data = _batches(64)
    driver, reference = _driver(1), _driver(1).model
    history = driver.fit(lambda _: data, validation=data, epochs=2)
    expected = reference.fit(data.dataset, epochs=2, shuffle=False, verbose=0).history
    np.testing.assert_allclose(history["loss"], expected["loss"], rtol=1e-6)
    for ours, theirs in zip(driver.model.get_weights(), reference.get_weights(), strict=True):
        np.testing.assert_allclose(theirs, ours, atol=1e-6)


@pytest.mark.parametrize(("count", "batch_size"), [(13, 4), (7, 8), (32, 16), (1, 2)])
def test_every_example_is_evaluated_exactly_once(count, batch_size):
    _check_evaluated_once(count, batch_size, 2)


@pytest.mark.slow
def test_1465_examples_over_8_replicas_are_evaluated_exactly_once():
    devices.run_with_replicas(8, _check_evaluated_once, 1465, 64, 8)


def _check_evaluated_once(count: int, batch_size: int, replicas: int) -> None:
    data = _batches(count, batch_size)
    one, many = _driver(1), _driver(replicas)
    probabilities = many.predict(data)
    assert probabilities.shape == (count, 2)
    np.testing.assert_allclose(probabilities, one.predict(_batches(count, 1)), atol=1e-6)
    logs = many.evaluate(data)
    labels = _labels(count)
    assert logs["accuracy"] == pytest.approx(np.mean(probabilities.argmax(1) == labels), abs=1e-6)
    probabilities = probabilities.astype(float)
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    log_loss = sklearn.metrics.log_loss(labels, probabilities, labels=[0, 1])
    assert logs["loss"] == pytest.approx(log_loss, rel=1e-12)


@pytest.mark.parametrize("replicas", [1, 2])
@pytest.mark.parametrize("count", [61, 1])
def test_validation_logs_the_final_evaluations_figures(replicas, count):
    """Equal to the last bit: of the outputs for every example once, as `metrics.compute` has them.

    The weights are large: outputs then lie near 0 and 1, where Keras's AUC is far off.
    """
    driver, data = _driver(replicas, optimizer="sgd", learning_rate=5.0), _batches(count)
    train = _batches(64)
    history = driver.fit(lambda _: train, validation=data, epochs=2)
    found = metrics.figures(_labels(count), driver.predict(data))
    expected = (found.log_loss, found.accuracy, found.roc_auc or math.nan)
    logged = tuple(history[f"val_{name}"][1] for name in ("loss", "accuracy", "auc"))
    np.testing.assert_array_equal(logged, expected)


def test_validation_keeps_the_sums_of_training():
    """A run that is stopped within validation saves them in its checkpoint."""
    driver = _driver(1)
    _fit(driver)
    sums = [variable.numpy() for metric in driver.model.metrics for variable in metric.variables]
    driver.evaluate(_batches(61))
    after = [variable.numpy() for metric in driver.model.metrics for variable in metric.variables]
    assert len(sums) > 6
    for ours, theirs in zip(after, sums, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_outputs_that_are_not_finite_leave_loss_and_area_undefined():
    driver = _driver(1)
    driver.model.layers[-1].bias.assign([np.nan, 0.0])
    logs = driver.evaluate(_batches(61))
    assert math.isnan(logs["loss"])
    assert math.isnan(logs["auc"])
    assert 0 < logs["accuracy"] < 1


def test_loss_halves_in_30_steps():
    driver = _driver(1, learning_rate=0.02)
    bright = np.repeat(np.array([40, 200], np.uint8), 32)[:, None, None, None]
    x = np.clip(radiographs.noise(64, 8) // 4 + bright, 0, 255).astype(np.uint8)
    y = np.repeat(np.array([0, 1], np.int32), 32)
    order = np.random.default_rng(0).permutation(64)
    weighted = tf.data.Dataset.from_tensor_slices((x[order], y[order], np.ones(64, np.float32)))
    data = batches.pad(weighted.repeat(15), 32, 960)
    before = driver.evaluate(data)["loss"]
    driver.fit(lambda _: data, validation=data, epochs=1)
    assert driver.evaluate(data)["loss"] < before / 2


@pytest.mark.parametrize("replicas", [1, 2])
def test_loops_are_traced_once(replicas):
    driver = _driver(replicas)
    _fit(driver, count=61)
    assert driver._train_steps.experimental_get_tracing_count() == 1
    assert driver._test_steps.experimental_get_tracing_count() == 1


def test_time_spent_waiting_for_input_is_logged():
    fast = _batches(64)

    def delay(x, y, weight):
        waited = tf.numpy_function(_wait, [x], tf.uint8)
        return tf.ensure_shape(waited, (BATCH, 8, 8, 1)), y, weight

    slow = fast.dataset.map(delay)  # One batch after the other.
    delayed = batches.Batches(lambda _: slow, fast.steps, 64)
    driver = _driver(1)

    def waited_s(data) -> float:
        history = driver.fit(lambda _: data, validation=fast, epochs=2)
        return history["input_wait"][1] * 64 / history["examples_per_s"][1]

    assert waited_s(fast) < 1 < waited_s(delayed)


def _wait(x: np.ndarray) -> np.ndarray:
    time.sleep(0.5)  # The slow input itself, not a wait for something to happen.
    return x


def test_a_callback_can_stop_training():
    class Stop(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            del logs
            self.model.stop_training = epoch == 1

    data = _batches(BATCH)
    history = _driver(1).fit(lambda _: data, validation=data, epochs=9, callbacks=[Stop()])
    assert len(history["loss"]) == 2
