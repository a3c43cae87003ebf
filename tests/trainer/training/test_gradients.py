"""Updates: sums over replicas, overflow, accumulation and clipping."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.support import devices
from trainer.training import gradients


class Stepper:
    """A weight vector and an optimizer; `step` gives each replica one row of gradients."""

    def __init__(self, replicas: int, rule: str = "SGD", rate: float = 1.0, **options) -> None:
        self._strategy = devices.strategy_of(replicas)
        with self._strategy.scope():
            self.weight = keras.Variable(np.zeros(2, np.float32))
            constructor = gradients.taking_sums(getattr(keras.optimizers, rule))
            self.optimizer = gradients.GlobalUpdate(constructor(rate), **options)
            self.optimizer.build([self.weight])
        self._run = tf.function(self._step)

    def _step(self, rows: tf.Tensor) -> None:
        def replica_step() -> None:
            replica = tf.distribute.get_replica_context().replica_id_in_sync_group
            loss_gradient = self.optimizer.scale_loss(tf.gather(rows, replica))
            self.optimizer.apply([loss_gradient])

        self._strategy.run(replica_step)

    def step(self, *rows: list[float]) -> list[float]:
        """Returns the weights after a step."""
        self._run(tf.constant(rows, tf.float32))
        return self.weight.numpy().tolist()


@pytest.mark.parametrize("rule", ["SGD", "Adam", "AdamW"])
def test_gradients_are_summed_over_replicas_once(rule):
    one, two = Stepper(1, rule), Stepper(2, rule)
    for gradient in ([1.0, -2.0], [0.5, 4.0]):
        expected = one.step(gradient)
        half = [g / 2 for g in gradient]
        assert two.step(half, half) == pytest.approx(expected, rel=1e-6)


def test_clipping_takes_the_norm_of_the_sum():
    """(3, 0) and (0, 4) have norms 3 and 4, their sum has 5: clipped to 1 it is (0.6, 0.8)."""
    assert Stepper(2, global_clipnorm=1.0).step([3, 0], [0, 4]) == pytest.approx([-0.6, -0.8])


def test_clipping_takes_the_norm_of_the_mean_of_accumulated_batches():
    stepper = Stepper(2, global_clipnorm=1.0, gradient_accumulation_steps=2)
    assert stepper.step([6, 0], [0, 0]) == [0, 0]
    assert stepper.step([0, 4], [0, 4]) == pytest.approx([-0.6, -0.8])


@pytest.mark.parametrize("replicas", [1, 2])
@pytest.mark.parametrize("rule", ["SGD", "Adam"])
def test_between_updates_nothing_changes(replicas, rule):
    stepper = Stepper(replicas, rule, gradient_accumulation_steps=3)
    rows = [[1.0, 2.0]] * replicas
    for _ in range(2):
        stepper.step(*rows), stepper.step(*rows)
        before = [v.numpy() for v in (stepper.weight, *stepper.optimizer.inner_optimizer.variables)]
        stepper.step(*rows)
        after = [v.numpy() for v in (stepper.weight, *stepper.optimizer.inner_optimizer.variables)]
        assert not any(np.array_equal(a, b) for a, b in zip(after[:2], before[:2], strict=True))
    assert stepper.optimizer.iterations.numpy() == 2


def test_accumulated_batches_equal_one_batch_of_all():
    accumulated, whole = Stepper(2, "Adam", gradient_accumulation_steps=4), Stepper(2, "Adam")
    rng = np.random.default_rng(0)
    for _ in range(5):
        batches = rng.normal(size=(4, 2, 2))
        for batch in batches:
            weights = accumulated.step(*batch.tolist())
        assert weights == pytest.approx(whole.step(*batches.mean(axis=0).tolist()), rel=1e-5)


@pytest.mark.parametrize("bad_replica", [0, 1])
def test_an_overflow_on_any_replica_skips_the_step_everywhere(bad_replica):
    stepper = Stepper(2, scales_loss=True)
    scale = stepper.optimizer._scale.numpy()
    rows = [[1.0, 1.0], [1.0, 1.0]]
    rows[bad_replica][1] = np.inf
    assert stepper.step(*rows) == [0, 0]
    assert stepper.optimizer._scale.numpy() == scale / 2
    assert stepper.optimizer.iterations.numpy() == 0
    assert stepper.step([1, 2], [1, 2]) == [-2, -4]


def test_an_overflowing_batch_is_left_out_of_its_update():
    stepper = Stepper(2, scales_loss=True, gradient_accumulation_steps=2)
    assert stepper.step([1, 2], [1, 2]) == [0, 0]
    assert stepper.step([np.nan, 0], [0, 0]) == [0, 0]
    assert stepper.step([2, 1], [2, 1]) == [-3, -3]  # The mean of (2, 4) and (4, 2).


def test_the_loss_scale_doubles_after_a_long_time_without_overflow(monkeypatch):
    monkeypatch.setattr(gradients, "GROWTH_STEPS", 3)
    stepper = Stepper(1, scales_loss=True)
    scales = [(stepper.step([1, 1]), stepper.optimizer._scale.numpy())[1] for _ in range(6)]
    start = gradients.INITIAL_LOSS_SCALE
    assert scales == [start, start, 2 * start, 2 * start, 2 * start, 4 * start]


def test_every_state_is_a_variable_that_a_checkpoint_can_hold():
    def fill(optimizer, values):
        for variable, value in zip(optimizer.variables, values, strict=True):
            variable.assign(value)

    options = {"rule": "Adam", "gradient_accumulation_steps": 3, "scales_loss": True}
    first, second = Stepper(2, **options), Stepper(2, **options)
    for gradient in ([1.0, 2.0], [np.inf, 0.0], [3.0, 1.0], [0.5, 0.5], [1.0, 1.0]):
        first.step(gradient, gradient)
    second.weight.assign(first.weight)
    fill(second.optimizer, [variable.numpy() for variable in first.optimizer.variables])
    for gradient in ([4.0, 1.0], [1.0, 0.0], [2.0, 2.0]):
        assert first.step(gradient, gradient) == second.step(gradient, gradient)


@pytest.mark.parametrize("replicas", [1, 2])
def test_the_loss_scale_never_exceeds_its_limit(monkeypatch, replicas):
    """Without it, the scale is infinite after 113 doublings, and every later step is skipped."""
    monkeypatch.setattr(gradients, "GROWTH_STEPS", 1)
    stepper = Stepper(replicas, scales_loss=True)
    for _ in range(150):
        weights = stepper.step(*[[0.5, 1.0]] * replicas)
    assert stepper.optimizer._scale.numpy() == gradients.MOST_LOSS_SCALE
    assert weights == [-75.0 * replicas, -150.0 * replicas]


def test_the_loss_scale_never_falls_below_1():
    stepper = Stepper(1, scales_loss=True)
    for _ in range(15):  # From 2^15.
        assert stepper.step([np.inf, 0]) == [0, 0]
    assert stepper.optimizer._scale.numpy() == 1
    stepper.step([np.inf, 0])
    assert stepper.optimizer._scale.numpy() == 1


@pytest.mark.parametrize("steps", [1, 2])
def test_an_overflow_at_the_least_scale_makes_every_weight_nan(steps):
    """A run that skipped every batch would report weights that it never trained."""
    stepper = Stepper(1, scales_loss=True, gradient_accumulation_steps=steps)
    stepper.optimizer._scale.assign(1.0)
    for _ in range(steps):
        weights = stepper.step([np.inf, 1.0])
    assert np.isnan(weights).all()
    assert stepper.optimizer.iterations.numpy() == 1
