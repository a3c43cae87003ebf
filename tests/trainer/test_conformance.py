"""What must hold of every backbone in the registry; the full matrix is slow."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.trainer.conftest import images, strategy_of
from trainer import backbones, batches, features, model, optimization
from trainer.config import Model, Optimization
from trainer.driver import Driver

SIZE = 96
QUICK = "mobilenet_v2"
SLOW = pytest.mark.slow

every_backbone = pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[] if name == QUICK else SLOW) for name in backbones.REGISTRY],
)


def _build(name: str, unfrozen: str = "0", **options) -> model.Network:
    config = Model(
        backbone=name,
        weights="none",
        image_size=SIZE,
        layers_to_unfreeze=unfrozen,
        neurons=8,
        dropout=0.0,
        **options,
    )
    return model.build(config, (SIZE, SIZE, 1), 2)


def _data(count: int = 8) -> batches.Batches:
    labels = np.arange(count, dtype=np.int32) % 2
    weighted = tf.data.Dataset.from_tensor_slices(
        (images(count, SIZE), labels, np.ones(count, "f4"))
    )
    return batches.pad(weighted, 4, count)


@every_backbone
def test_preprocessing_is_the_backbones_own(name):
    preprocessing = model._build_preprocessing(
        Model(backbone=name, image_size=SIZE), (SIZE, SIZE, 1)
    )
    pixels = images(2, SIZE)
    expected = backbones.REGISTRY[name].load_preprocessing()(
        np.repeat(pixels, 3, axis=-1).astype(np.float32)
    )
    np.testing.assert_allclose(preprocessing(pixels), expected, atol=1e-3)


@every_backbone
@pytest.mark.parametrize(
    ("replicas", "precision"),
    [(1, "float32"), (2, "float32"), pytest.param(2, "mixed_bfloat16", marks=SLOW)],
)
def test_only_unfrozen_layers_train(name, replicas, precision):
    """And nothing else moves: frozen weights, and every statistic of batch norm."""
    keras.mixed_precision.set_dtype_policy(precision)
    strategy = strategy_of(replicas)
    with strategy.scope():
        network = _build(name, unfrozen="4")
        trained = keras.Model(network.whole.inputs, network.whole.outputs)
        optimization.compile_model(trained, Optimization(learning_rate=0.1), [4, 4], 2)
    data = _data()
    before = [weight.numpy() for weight in network.whole.weights]
    trains = {id(weight) for weight in network.whole.trainable_weights}
    driver = Driver(trained, strategy)
    history = driver.fit(lambda _: data, validation=data, epochs=1)
    assert np.isfinite(history["loss"][0])
    for weight, old in zip(network.whole.weights, before, strict=True):
        assert (weight.numpy() != old).any() == (id(weight) in trains), weight.path
    probabilities = driver.predict(data)
    assert probabilities.shape == (8, 2)
    assert probabilities.dtype == np.float32
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-5)


@every_backbone
@pytest.mark.parametrize(
    ("unfrozen", "precision"), [("0", "float32"), ("4", "float32"), ("4", "mixed_bfloat16")]
)
def test_prefix_and_suffix_equal_the_whole(name, unfrozen, precision):
    keras.mixed_precision.set_dtype_policy(precision)
    _assert_parts_equal_the_whole(_build(name, unfrozen))


@every_backbone
@pytest.mark.slow
@pytest.mark.parametrize("eighths", [2, 5])
def test_wherever_it_is_cut_prefix_and_suffix_equal_the_whole(name, eighths):
    layers = len(model.build_backbone(Model(backbone=name, image_size=SIZE)).layers)
    _assert_parts_equal_the_whole(_build(name, str(layers * eighths // 8)))


def _assert_parts_equal_the_whole(network):
    parts = features.cut(network)
    assert parts is not None
    pixels = images(4, SIZE)
    stored = features.to_stored(np.asarray(parts.prefix(pixels)), parts.dtype)
    exact = parts.dtype == parts.prefix.output.dtype
    np.testing.assert_allclose(
        parts.suffix(tf.constant(stored)), network.whole(pixels), atol=1e-6 if exact else 2e-3
    )
    assert not parts.prefix.trainable_weights
    assert len(parts.suffix.trainable_weights) == len(network.whole.trainable_weights)


@every_backbone
def test_a_saved_model_gives_the_same_output(name, tmp_path):
    network = _build(name)
    network.whole.save(tmp_path / "whole.keras")
    restored = keras.saving.load_model(tmp_path / "whole.keras", safe_mode=True)
    pixels = images(2, SIZE)
    np.testing.assert_array_equal(restored(pixels), network.whole(pixels))


@every_backbone
def test_weights_go_from_one_model_to_another_by_file(name, tmp_path):
    source = _build(name).whole
    source.save(tmp_path / "whole.keras")
    target = model.build_backbone(Model(backbone=name, image_size=SIZE))
    before = target.get_weights()
    model.load_weights(target, Model(backbone=name, weights=str(tmp_path / "whole.keras")))
    after = target.get_weights()
    for ours, theirs in zip(source.get_layer(name).get_weights(), after, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert any((old != new).any() for old, new in zip(before, after, strict=True))


@every_backbone
def test_batch_norm_never_trains(name):
    backbone = model.build_backbone(Model(backbone=name, image_size=SIZE))
    model.freeze(backbone, "all")
    for layer in backbone.layers:
        assert layer.trainable != isinstance(layer, keras.layers.BatchNormalization)
