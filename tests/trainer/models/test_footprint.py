"""What is refused because it can't fit into memory."""

from __future__ import annotations

import keras
import pytest
import tensorflow as tf

from trainer.errors import TooLargeError
from trainer.models import footprint
from trainer.system import memory


@pytest.fixture(autouse=True)
def _one_mebibyte_is_free(monkeypatch):
    monkeypatch.setattr(memory, "obtainable_bytes", lambda: 2**20)


@pytest.fixture
def model():
    """16 x 16 px; 4 frozen and 2 trained channels, in a model within a model."""
    layers = keras.layers
    frozen = layers.Conv2D(4, 3, padding="same", trainable=False)
    trained = layers.Conv2D(2, 3, padding="same")
    inner = keras.Sequential([keras.Input((16, 16, 1)), frozen, trained])
    image = keras.Input((16, 16, 1))
    return keras.Model(image, layers.Dense(2)(layers.Flatten()(inner(image))))


def test_frozen_layers_count_by_the_largest_output_and_trained_ones_by_their_inputs(model):
    pixels = 16 * 16
    assert footprint.bytes_per_example(model, is_trained=False) == pixels * 4 * 4
    # The second convolution is given 4 channels, the dense layer 2.
    assert footprint.bytes_per_example(model, is_trained=True) == pixels * (4 + 2) * 4
    model.layers[1].layers[0].trainable = True
    assert footprint.bytes_per_example(model, is_trained=True) == pixels * (1 + 4 + 2) * 4


def test_frozen_batch_norm_and_a_shared_input_count_once():
    layers = keras.layers
    image = keras.Input((16, 16, 8))
    frozen = layers.BatchNormalization(trainable=False)(image)
    left, right = (layers.Conv2D(1, 1)(frozen) for _ in range(2))
    model = keras.Model(image, layers.Add()([left, right]))
    assert footprint.bytes_per_example(model, is_trained=True) == 16 * 16 * 8 * 4


def test_a_batch_that_can_not_fit_is_refused_with_the_largest_that_does(model):
    model.layers[1].trainable = False
    footprint.require_batch(model, "batch_size", 256)
    wanted = r"batch_size \(257\) needs at least 1.00 MiB .* an image, .* free; give at most 255\."
    with pytest.raises(TooLargeError, match=wanted):
        footprint.require_batch(model, "batch_size", 257, step=5)


def test_an_image_that_can_not_fit_names_its_size(model, monkeypatch):
    monkeypatch.setattr(memory, "obtainable_bytes", lambda: 100)
    with pytest.raises(TooLargeError, match="give a smaller --image_size"):
        footprint.require_batch(model, "batch_size", 1)


def test_a_batch_of_a_fixed_size_names_what_avoids_it(model):
    with pytest.raises(TooLargeError, match="give --feature_cache=off, or a smaller --image_size"):
        footprint.require_batch(model, "image_size (16)", 10**6, avoids="--feature_cache=off")


def test_a_head_that_can_not_fit_is_refused_with_the_most_neurons():
    footprint.require_head(width=64, neurons=2048, dense_layers=1)
    with pytest.raises(TooLargeError, match=r"neurons \(2049\) .* give at most 2048\."):
        footprint.require_head(width=64, neurons=2049, dense_layers=1)
    with pytest.raises(TooLargeError, match="give at most 331"):
        footprint.require_head(width=64, neurons=1024, dense_layers=2)
    footprint.require_head(width=64, neurons=10**9, dense_layers=0)


def test_a_head_on_an_accelerator_has_memory_of_its_own(monkeypatch):
    monkeypatch.setattr(tf.config, "list_logical_devices", lambda kind: [kind] * (kind == "GPU"))
    footprint.require_head(width=64, neurons=2049, dense_layers=1)
