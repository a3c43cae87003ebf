"""Batch norm: frozen where a backbone is pretrained, trained where its weights are random."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.support import devices, radiographs
from trainer.data import batches
from trainer.models import classifier, inference_mode, saved
from trainer.options import ModelOptions, OptimizationOptions
from trainer.training import driver, optimization

SIDE, COUNT = 32, 16


@pytest.fixture(autouse=True)
def _small_backbone(monkeypatch):
    """A backbone with batch norm that compiles in a second."""

    def build(config: ModelOptions) -> keras.Model:
        del config
        image = keras.Input((SIDE, SIDE, 3))
        x = image
        for width in (4, 8):
            x = keras.layers.Conv2D(width, 3, strides=4, use_bias=False)(x)
            x = keras.layers.BatchNormalization(momentum=0.999)(x)
            x = keras.layers.ReLU()(x)
        return keras.Model(image, x)

    monkeypatch.setattr(classifier, "build_backbone", build)


def _options(**options) -> ModelOptions:
    random = {"backbone": "small_cnn", "weights": "none", "layers_to_unfreeze": "all"}
    return ModelOptions(**{**random, "image_size": SIDE, "neurons": 4, "dropout": 0.0, **options})


def _trained(replicas: int, **options) -> keras.Model:
    keras.utils.set_random_seed(0)
    images = tf.constant(radiographs.noise(COUNT, SIDE))
    rows = (images, np.arange(COUNT, dtype=np.int32) % 2, np.ones(COUNT, np.float32))
    data = batches.pad(tf.data.Dataset.from_tensor_slices(rows), COUNT, COUNT)
    strategy = devices.strategy_of(replicas)
    with strategy.scope():
        network = classifier.build(_options(**options), (SIDE, SIDE, 1), 2)
        model = keras.Model(network.whole.inputs, network.whole.outputs)
        optimization.compile_model(
            model, OptimizationOptions(optimizer="sgd", learning_rate=0.01), [8, 8], 1
        )
        driver.Driver(model, strategy).fit(lambda _: data, validation=data, epochs=2)
    return network.whole


def _statistics(model: keras.Model) -> list[np.ndarray]:
    return [
        keras.ops.convert_to_numpy(statistic)
        for layer in inference_mode.batch_norm_layers(model)
        for statistic in (layer.moving_mean, layer.moving_variance)
    ]


def test_random_weights_train_their_batch_norm():
    model = _trained(1)
    means = _statistics(model)[::2]
    assert all(np.abs(mean).max() > 0 for mean in means)
    assert len(inference_mode.moving_statistics(model)) == 2 * len(means)
    frozen = {id(weight) for weight in inference_mode.frozen_weights(model)}
    assert not frozen & {id(weight) for weight in inference_mode.moving_statistics(model)}


def test_replicas_have_the_statistics_of_the_global_batch():
    """Each of two replicas sees other images; the moments are those of all of them."""
    one, two = _statistics(_trained(1)), _statistics(_trained(2))
    for ours, theirs in zip(one, two, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


def test_each_replica_has_the_same_statistics():
    for layer in inference_mode.batch_norm_layers(_trained(2)):
        first, second = (value.numpy() for value in layer.moving_mean.value.values)
        np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("unfrozen", ["0", "4", "all"])
def test_pretrained_weights_keep_their_statistics(unfrozen, tmp_path):
    path = tmp_path / "trunk.weights.h5"
    source = classifier.build(_options(), (SIDE, SIDE, 1), 2).trunk
    source.save_weights(path)
    model = _trained(1, weights=str(path), layers_to_unfreeze=unfrozen)
    for ours, theirs in zip(_statistics(model), _statistics(source), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert not inference_mode.moving_statistics(model)


def test_a_saved_model_has_the_statistics(tmp_path):
    keras.utils.set_random_seed(0)
    network = classifier.build(_options(), (SIDE, SIDE, 1), 2)
    for count, statistic in enumerate(inference_mode.moving_statistics(network.whole)):
        statistic.assign(keras.ops.ones_like(statistic) * (count + 1))
    saved.save(network, tmp_path / "best.keras")
    loaded = keras.models.load_model(tmp_path / "best.keras")
    for ours, theirs in zip(_statistics(loaded), _statistics(network.whole), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_dropout_inside_a_backbone_differs_by_replica():
    image = keras.Input((4,))
    backbone = keras.Model(image, keras.layers.Dropout(0.5)(image))
    inference_mode.leave(backbone)
    strategy = devices.strategy_of(2)

    @tf.function
    def masks() -> tf.Tensor:
        drawn = strategy.run(lambda: backbone(tf.ones((8, 4)), training=True))
        return tf.stack(strategy.experimental_local_results(drawn))

    first, second = masks().numpy()
    assert (first != second).any()
