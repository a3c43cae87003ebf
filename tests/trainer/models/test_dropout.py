"""Dropout whose masks differ by replica, and are Keras's own on one device."""

from __future__ import annotations

import itertools
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.support import devices
from trainer.models import dropout

RATE = 0.3
INPUT = np.ones((8, 500), np.float32)


class Dropping:
    """A dropout layer under a strategy; each replica gets the same input."""

    def __init__(self, replicas: int, layer: Any = dropout.layer) -> None:
        keras.utils.set_random_seed(3)
        self._strategy = devices.strategy_of(replicas)
        with self._strategy.scope():
            self.layer = layer(RATE, name="dropout_1")
        self._run = tf.function(
            lambda: self._strategy.run(lambda: self.layer(INPUT, training=True))
        )

    def step(self) -> list[np.ndarray]:
        """Returns what each replica's mask left."""
        return [part.numpy() for part in self._strategy.experimental_local_results(self._run())]


def test_replicas_draw_different_masks_at_every_step():
    """No mask of a replica is another's at another step either."""
    dropping = Dropping(2)
    masks = [mask for _ in range(4) for mask in dropping.step()]
    agreement = RATE**2 + (1 - RATE) ** 2  # Of independent masks.
    for one, other in itertools.combinations(masks, 2):
        assert np.mean((one > 0) == (other > 0)) == pytest.approx(agreement, abs=0.05)


def test_every_replica_keeps_the_mean():
    for mask in Dropping(2).step():
        assert np.unique(mask) == pytest.approx([0, 1 / (1 - RATE)])
        assert mask.mean() == pytest.approx(1, abs=0.05)  # 4000 draws: four standard deviations.


def test_one_device_and_the_first_replica_draw_keras_own_masks():
    ours, first, keras_own = Dropping(1), Dropping(2), Dropping(1, keras.layers.Dropout)
    for _ in range(3):
        (expected,) = keras_own.step()
        np.testing.assert_array_equal(ours.step()[0], expected)
        np.testing.assert_array_equal(first.step()[0], expected)


def test_a_restored_state_draws_the_same_masks():
    one, other = Dropping(2), Dropping(2)
    one.step(), one.step()
    (state,) = one.layer.variables
    saved = state.numpy()
    expected = one.step()
    other.layer.variables[0].assign(saved)
    np.testing.assert_array_equal(other.step(), expected)


def test_it_is_saved_as_keras_own_layer():
    ours, keras_own = (make(RATE, name="a") for make in (dropout.layer, keras.layers.Dropout))
    configs = [keras.saving.serialize_keras_object(layer) for layer in (ours, keras_own)]
    assert configs[0] == configs[1]
    assert type(ours) is keras.layers.Dropout


def test_without_dropout_nothing_is_drawn():
    layer = dropout.layer(0.0, "dropout_1")
    assert not layer.variables
    np.testing.assert_array_equal(layer(INPUT, training=True), INPUT)
