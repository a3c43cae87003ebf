from __future__ import annotations

import math

import keras
import numpy as np
import pytest
import sklearn.metrics
import sklearn.utils.class_weight
import tensorflow as tf

from tests.support import devices
from trainer.data import batches
from trainer.errors import ConfigError, DivergedError
from trainer.options import OptimizationOptions
from trainer.training import callbacks, driver, optimization


def _rates(steps: int, **options) -> list[float]:
    rate = optimization.build_learning_rate(OptimizationOptions(**options), steps_per_epoch=10)
    return [float(rate(step)) if callable(rate) else rate for step in range(steps)]


def test_constant_is_a_plain_number():
    assert optimization.build_learning_rate(OptimizationOptions(learning_rate=0.1), 10) == 0.1


def test_cosine_ends_at_zero_after_max_epochs():
    rates = _rates(41, learning_rate=0.1, schedule="cosine", max_epochs=4)
    assert rates[0] == pytest.approx(0.1)
    assert rates[20] == pytest.approx(0.05)  # Half way: cos(pi / 2) = 0.
    assert rates[40] == pytest.approx(0.0, abs=1e-9)
    assert rates == sorted(rates, reverse=True)


def test_a_run_that_ends_early_has_the_schedule_of_the_whole():
    options = {"learning_rate": 0.1, "schedule": "cosine", "warmup_epochs": 1}
    whole = _rates(20, max_epochs=4, **options)
    assert _rates(20, max_epochs=2, schedule_epochs=4, **options) == whole


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_warmup_rises_linearly_to_the_learning_rate(schedule):
    rates = _rates(40, learning_rate=0.1, schedule=schedule, warmup_epochs=2, max_epochs=4)
    assert rates[:20] == pytest.approx([0.1 * step / 20 for step in range(20)])
    assert rates[20] == pytest.approx(0.1)
    assert rates[30] == pytest.approx(0.1 if schedule == "constant" else 0.05)


def test_warmup_over_the_whole_run_is_allowed():
    rates = _rates(20, learning_rate=0.1, schedule="cosine", warmup_epochs=2, max_epochs=2)
    assert rates[19] == pytest.approx(0.1 * 19 / 20)


def test_schedules_count_updates_not_steps():
    """With 2 steps per update, 40 steps are 10 updates of warm-up and 10 of decay."""
    rates = _rates(
        21,
        learning_rate=0.1,
        schedule="cosine",
        warmup_epochs=2,
        max_epochs=4,
        gradient_accumulation_steps=2,
    )
    assert rates[:10] == pytest.approx([0.1 * update / 10 for update in range(10)])
    assert rates[10] == pytest.approx(0.1)
    assert rates[20] == pytest.approx(0.0, abs=1e-9)


def test_a_run_too_short_for_one_update_is_an_error():
    with pytest.raises(
        ConfigError, match=r"gradient_accumulation_steps \(41\) exceeds the 40 steps of the run"
    ):
        _rates(1, max_epochs=4, gradient_accumulation_steps=41)


def test_balanced_weights_are_those_of_scikit_learn():
    labels = np.array([0] * 27 + [1] * 73)
    expected = sklearn.utils.class_weight.compute_class_weight(
        "balanced", classes=np.array([0, 1]), y=labels
    )
    assert optimization.class_weights_for("balanced", [27, 73]) == pytest.approx(expected)
    assert optimization.class_weights_for("none", [27, 73]) == [1.0, 1.0]


def test_a_class_without_examples_cannot_be_balanced():
    with pytest.raises(ConfigError, match=r"needs training examples of every class, not \[0, 3\]"):
        optimization.class_weights_for("balanced", [0, 3])


def test_crossentropy_by_hand():
    """-ln 0.5 = 0.6931 at weight 2; smoothed by 0.2: -(0.9 ln 0.8 + 0.1 ln 0.2) = 0.3618."""
    labels, probabilities = np.array([0, 1]), np.array([[0.5, 0.5], [0.2, 0.8]], np.float32)
    weighted = optimization.Crossentropy([2.0, 1.0], 0.0).call(labels, probabilities)
    np.testing.assert_allclose(weighted, [2 * math.log(2), -math.log(0.8)], rtol=1e-5)
    smoothed = optimization.Crossentropy([1.0, 1.0], 0.2).call(labels, probabilities)
    np.testing.assert_allclose(smoothed[1], 0.36176, rtol=1e-3)


@pytest.mark.parametrize("spread", [0.1, 0.3, 1, 3, 8, 20])
def test_the_auc_of_training_is_within_0_002_of_that_of_the_positive_class(spread):
    """Also where most outputs are near 0 and 1: Keras's thresholds put it up to 0.2 off there."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 500)
    log_odds = spread * (rng.normal(size=500) + 3 * labels - 1)
    positive = (1 / (1 + np.exp(-log_odds))).astype(np.float32)
    metric = optimization.PositiveAUC()
    metric.update_state(labels, np.stack([1 - positive, positive], 1))
    assert float(metric.result()) == pytest.approx(
        sklearn.metrics.roc_auc_score(labels, positive), abs=2e-3
    )


def _compiled(**options) -> keras.Model:
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, activation="softmax")])
    optimization.compile_model(model, OptimizationOptions(**options), [1, 3], 10)
    return model


@pytest.mark.parametrize(
    ("name", "cls"),
    [("adam", keras.optimizers.Adam), ("adamw", keras.optimizers.AdamW),
     ("sgd", keras.optimizers.SGD)],
)  # fmt: skip
@pytest.mark.parametrize("global_clipnorm", [0.0, 1.0])
def test_optimizers_are_keras_own_and_built(name, cls, global_clipnorm):
    optimizer = _compiled(optimizer=name, global_clipnorm=global_clipnorm).optimizer
    assert isinstance(optimizer.inner_optimizer, cls)
    assert optimizer.built


def test_weight_decay_spares_biases():
    model = _compiled(optimizer="sgd", learning_rate=0.1, weight_decay=0.5)
    kernel, bias = model.trainable_variables
    before, _ = kernel.numpy(), bias.assign([1.0, 1.0])
    model.optimizer.apply([keras.ops.zeros_like(kernel), keras.ops.zeros_like(bias)])
    np.testing.assert_allclose(kernel.numpy(), before * (1 - 0.1 * 0.5), rtol=1e-6)
    np.testing.assert_array_equal(bias.numpy(), [1.0, 1.0])


def test_weight_decay_spares_scales_and_shifts():
    norm = keras.layers.LayerNormalization()
    model = keras.Sequential([keras.Input((3,)), norm, keras.layers.Dense(2, activation="softmax")])
    optimization.compile_model(
        model, OptimizationOptions(optimizer="sgd", learning_rate=0.1, weight_decay=0.5), [1, 3], 10
    )
    model.optimizer.apply([keras.ops.zeros_like(v) for v in model.trainable_variables])
    np.testing.assert_array_equal(norm.gamma.numpy(), np.ones(3))


@pytest.mark.parametrize("replicas", [1, 2])
def test_float16_trains_under_loss_scaling(replicas):
    keras.mixed_precision.set_dtype_policy("mixed_float16")
    strategy = devices.strategy_of(replicas)
    with strategy.scope():
        model = _compiled(optimizer="sgd", learning_rate=0.1, global_clipnorm=1.0)
    x, y = np.eye(3, dtype=np.float32)[[0, 1, 2, 0]], np.array([0, 1, 1, 0], np.int32)
    weighted = tf.data.Dataset.from_tensor_slices((x, y, np.ones(4, np.float32))).repeat(20)
    data = batches.pad(weighted, 4, 80)
    history = driver.Driver(model, strategy).fit(lambda _: data, validation=data, epochs=3)
    assert "loss_scale" in {variable.name for variable in model.optimizer.variables}
    assert history["val_loss"][2] < history["val_loss"][0] < 1.0


def test_float16_gradients_that_overflow_at_any_scale_are_a_divergence():
    """The loss is finite at every weight that was trained, but no gradient of them is."""
    keras.mixed_precision.set_dtype_policy("mixed_float16")
    hidden = keras.layers.Dense(4, activation="relu", kernel_initializer=_constant(1e-7))
    last = keras.layers.Dense(
        2, activation="softmax", dtype="float32", kernel_initializer=lambda *_, **__: [[9, -9]] * 4
    )
    model = keras.Sequential([keras.Input((3,)), hidden, last])
    optimization.compile_model(model, OptimizationOptions(optimizer="sgd"), [1, 1], 32)
    x, y = np.full((4, 3), 6e4, np.float32), np.ones(4, np.int32)
    weighted = tf.data.Dataset.from_tensor_slices((x, y, np.ones(4, np.float32))).repeat(32)
    data = batches.pad(weighted, 4, 128)
    loop = driver.Driver(model, tf.distribute.get_strategy())
    assert math.isfinite(loop.evaluate(data)["loss"])
    before = model.get_weights()
    stopping = callbacks.StopAtDivergence()
    with pytest.raises(DivergedError, match="the loss is nan in epoch 1 at step 17"):
        loop.fit(lambda _: data, validation=data, epochs=1, callbacks=[stopping])
    assert all(np.isfinite(weights).all() for weights in before)


def _constant(value: float) -> keras.initializers.Initializer:
    return keras.initializers.Constant(value)


def test_the_reported_loss_is_the_plain_log_loss():
    """Class weights and label smoothing change what is minimised, not what is reported."""
    model = _compiled(class_weights="balanced", label_smoothing=0.3)
    x, y = np.ones((4, 3), np.float32), np.array([0, 1, 1, 1])
    logs = model.test_on_batch(x, y, return_dict=True)
    expected = sklearn.metrics.log_loss(y, np.asarray(model(x), float))
    assert logs["loss"] == pytest.approx(expected, rel=1e-5)


def _auc(labels, positive) -> float:
    metric = optimization.PositiveAUC()
    metric.update_state(np.array(labels), np.stack([1 - np.array(positive), positive], axis=1))
    return float(metric.result())


@pytest.mark.parametrize("label", [0, 1])
def test_the_auc_of_one_class_is_undefined(label):
    assert math.isnan(_auc([label, label], [0.2, 0.7]))


def test_the_auc_of_both_classes_is_defined():
    assert _auc([0, 1, 0, 1], [0.1, 0.9, 0.2, 0.8]) == pytest.approx(1.0)


def test_the_auc_without_an_example_is_undefined():
    assert math.isnan(float(optimization.PositiveAUC().result()))


@pytest.mark.parametrize(
    ("options", "head", "backbone"),
    [
        ({"learning_rate": 0.5}, 0.5, 0.005),
        ({"learning_rate": 1e-4}, 1e-4, 1e-5),
        ({"learning_rate": 1e-6}, 1e-6, 1e-6),
        ({"learning_rate": 0.0}, 0.0, 0.0),
        ({"learning_rate": 0.5, "backbone_learning_rate": 0.25}, 0.5, 0.25),
    ],
)
@pytest.mark.parametrize("replicas", [1, 2])
def test_the_backbone_trains_at_a_low_rate(options, head, backbone, replicas):
    strategy = devices.strategy_of(replicas)
    with strategy.scope():
        below = keras.Sequential([keras.Input((3,)), keras.layers.Dense(3, name="below")])
        model = keras.Sequential([below, keras.layers.Dense(2, name="above")])
        rules = OptimizationOptions(optimizer="sgd", weight_decay=0.5, **options)
        changing = optimization.compile_model(model, rules, [1, 3], 10, backbone=below)
    before = [variable.numpy() for variable in model.trainable_variables]

    def replica_step() -> None:
        model.optimizer.apply([tf.ones(v.shape) / replicas for v in model.trainable_variables])

    tf.function(lambda: strategy.run(replica_step))()
    assert {id(v) for v in model.optimizer.variables} <= {id(v) for v in changing}
    rates = dict.fromkeys([id(v) for v in below.trainable_variables], backbone)
    for variable, old in zip(model.trainable_variables, before, strict=True):
        rate, decay = rates.get(id(variable), head), 0.5 if old.ndim > 1 else 0.0
        expected = old - rate * decay * old - rate
        np.testing.assert_allclose(variable.numpy(), expected, rtol=1e-5, atol=1e-7)


def test_two_rates_share_the_schedule_and_the_factor():
    rules = OptimizationOptions(optimizer="sgd", schedule="cosine", learning_rate=1.0, max_epochs=1)
    optimizer = optimization.build_optimizer(rules, 10, is_divided=True)
    optimizer.build([keras.Variable([0.0]), keras.Variable([0.0])], [])
    optimizer.learning_rate_factor.assign(0.5)
    rates = [x.learning_rate for x in (optimizer.inner_optimizer, optimizer.backbone_optimizer)]
    assert [float(rate) for rate in rates] == pytest.approx([0.5, 0.005])
