"""Tests that every backbone in the registry must pass; the full matrix is slow."""

from __future__ import annotations

import math

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.support import devices, radiographs
from trainer import backbones
from trainer.data import batches
from trainer.features import partition
from trainer.models import classifier, stored, weights
from trainer.options import ModelOptions, OptimizationOptions
from trainer.training import optimization
from trainer.training.driver import Driver

SIZE = 96
PIXELS = radiographs.noise(4, SIZE)
QUICK = "mobilenet_v2"
SLOW = pytest.mark.slow


def _case(name: str):
    return pytest.param(name, marks=[] if name == QUICK else [SLOW])


@pytest.fixture(scope="module", params=[_case(name) for name in backbones.REGISTRY])
def name(request):
    return request.param


@pytest.fixture(scope="module")
def network(name):
    """Shared by tests that don't change its weights; they may change which layers train."""
    return _build(name)


@pytest.fixture(scope="module")
def outputs(network):
    return network.whole(PIXELS)


@pytest.fixture(scope="module")
def saved(network, tmp_path_factory):
    path = tmp_path_factory.mktemp("saved") / "whole.keras"
    network.whole.save(path)
    return path


def _build(name: str, unfrozen: str = "0") -> classifier.Network:
    config = ModelOptions(
        backbone=name,
        weights="none",
        image_size=SIZE,
        layers_to_unfreeze=unfrozen,
        neurons=8,
        dropout=0.0,
    )
    return classifier.build(config, (SIZE, SIZE, 1), 2)


def _data(count: int = 8) -> batches.Batches:
    labels = np.arange(count, dtype=np.int32) % 2
    weighted = tf.data.Dataset.from_tensor_slices(
        (radiographs.noise(count, SIZE), labels, np.ones(count, "f4"))
    )
    return batches.pad(weighted, 4, count)


def test_preprocessing_is_the_backbones_own(name, network):
    expected = backbones.REGISTRY[name].load_preprocessing()(
        np.repeat(PIXELS, 3, axis=-1).astype(np.float32)
    )
    np.testing.assert_allclose(network.preprocessing(PIXELS), expected, atol=1e-3)


def test_a_training_step_has_the_outputs_of_inference(network, outputs):
    """Neither dropout nor batch norm of the backbone is active: the head here has no dropout."""
    np.testing.assert_allclose(network.whole(PIXELS, training=True), outputs, rtol=0, atol=1e-7)


@pytest.mark.parametrize(
    ("replicas", "precision"),
    [
        pytest.param(1, "float32", marks=pytest.mark.long),
        pytest.param(2, "float32", marks=pytest.mark.long),
        (2, "mixed_bfloat16"),
    ],
)
def test_only_unfrozen_layers_train(name, replicas, precision):
    """Frozen weights and batch norm statistics don't change."""
    keras.mixed_precision.set_dtype_policy(precision)
    strategy = devices.strategy_of(replicas)
    with strategy.scope():
        network = _build(name, unfrozen="4")
        trained = keras.Model(network.whole.inputs, network.whole.outputs)
        optimization.compile_model(trained, OptimizationOptions(learning_rate=0.1), [4, 4], 2)
    before = [weight.numpy() for weight in network.whole.weights]
    trains = {id(weight) for weight in network.whole.trainable_weights}
    driver = Driver(trained, strategy)
    # Without validation: tracing it would take as long, and be of the same layers.
    driver._train_steps(iter(driver._distribute(_data())), tf.constant(2))
    assert np.isfinite(driver._read_metrics()["loss"])
    for weight, old in zip(network.whole.weights, before, strict=True):
        assert (weight.numpy() != old).any() == (id(weight) in trains), weight.path


@pytest.mark.parametrize(("layers", "eighths"), [(0, 0), (4, 0), (0, 2), (0, 5)])
def test_wherever_it_is_cut_prefix_and_suffix_equal_the_whole(network, outputs, layers, eighths):
    unfrozen = layers + len(network.trunk.layers) * eighths // 8
    classifier.freeze(network.trunk, str(unfrozen + 1))  # The pooling layer is one more.
    _assert_parts_equal_the_whole(network, outputs)


def test_in_16_bits_prefix_and_suffix_equal_the_whole(name):
    keras.mixed_precision.set_dtype_policy("mixed_bfloat16")
    network = _build(name, unfrozen="4")
    outputs = network.whole(PIXELS)
    _assert_probabilities(outputs)
    _assert_parts_equal_the_whole(network, outputs)


def _assert_parts_equal_the_whole(network, outputs):
    divided = partition.cut(network)
    assert divided is not None
    stored = partition.to_stored(np.asarray(divided.prefix(PIXELS)), divided.dtype)
    exact = divided.dtype == divided.prefix.output.dtype
    np.testing.assert_allclose(
        divided.suffix(tf.constant(stored)), outputs, atol=1e-6 if exact else 2e-3
    )
    assert not divided.prefix.trainable_weights
    assert len(divided.suffix.trainable_weights) == len(network.whole.trainable_weights)


def test_outputs_are_probabilities_in_float32(outputs):
    _assert_probabilities(outputs)


def _assert_probabilities(outputs):
    assert outputs.shape == (len(PIXELS), 2)
    assert outputs.dtype == tf.float32
    np.testing.assert_allclose(np.sum(outputs, axis=1), 1, atol=1e-5)


def test_a_saved_model_gives_the_same_output(saved, outputs):
    restored = keras.saving.load_model(saved, safe_mode=True)
    np.testing.assert_array_equal(restored(PIXELS), outputs)


def test_weights_go_from_one_model_to_another_by_file(name, network, saved):
    target = classifier.build_backbone(ModelOptions(backbone=name, image_size=SIZE))
    before = [weight + 1 for weight in target.get_weights()]
    target.set_weights(before)
    weights.load(target, ModelOptions(backbone=name, weights=str(saved)))
    after = target.get_weights()
    for ours, theirs in zip(network.trunk.get_weights(), after, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert any((old != new).any() for old, new in zip(before, after, strict=True))


def test_the_registry_knows_its_layers(name, network):
    """The limit of layers to unfreeze, and the layer by which a file is recognized."""
    row = backbones.REGISTRY[name]
    assert len(network.trunk.layers) - 1 == row.num_layers  # One is for pooling.
    names = {layer.name for layer in stored.weighted_layers(network.trunk)}
    landmarks = {other for other, its in backbones.REGISTRY.items() if its.landmark in names}
    assert landmarks == {name}


def test_the_registry_knows_the_first_layer_that_unfreezing_trains(name):
    """One layer fewer adds no weights, and is refused before TensorFlow is imported."""
    top = backbones.REGISTRY[name].top
    backbone = classifier.build_backbone(ModelOptions(backbone=name, image_size=SIZE))
    classifier.freeze(backbone, str(top.position - 1))
    assert not backbone.trainable_weights
    classifier.freeze(backbone, str(top.position))
    (layer,) = [layer for layer in backbone.layers if layer.trainable_weights]
    assert layer.name.startswith(top.name)
    assert sum(math.prod(w.shape) for w in layer.trainable_weights) == top.num_weights


def test_registry_tells_batch_norm(network, name):
    kinds = {type(layer) for layer in network.trunk.layers}
    is_listed = backbones.REGISTRY[name].has_batch_norm
    assert is_listed == (keras.layers.BatchNormalization in kinds)


def test_batch_norm_never_trains(network):
    classifier.freeze(network.trunk, "all")
    for layer in network.trunk.layers:
        assert layer.trainable != isinstance(layer, keras.layers.BatchNormalization)
