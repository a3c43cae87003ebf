"""Heat maps from a model alone, for every backbone and pooling."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.support import radiographs
from trainer import backbones
from trainer.errors import ConfigError
from trainer.inference import gradcam
from trainer.models import classifier, saved
from trainer.options import ModelOptions

SIZE = 64
PIXELS = radiographs.noise(5, SIZE)
CLASSES = np.array([0, 1, 1, 0, 1])
ALL_SIZE = 160
"""At which the coarsest map of the registry, InceptionResNetV2's, still has 3 x 3 cells."""
LAST_CONVOLUTION = {"small_cnn": "block4_conv", "vgg16": "block5_conv3"}
"""Of the backbones that end with a maximum."""


def build(backbone="small_cnn", size=SIZE, classes=2, **options):
    config = ModelOptions(
        backbone=backbone, weights="none", image_size=size, layers_to_unfreeze="all",
        **({"neurons": 8, "dropout": 0.5} | options),
    )  # fmt: skip
    return classifier.build(config, (size, size, 1), classes)


@pytest.fixture(scope="module")
def network():
    keras.utils.set_random_seed(1)
    return build()


def by_hand(network, images, classes, method):
    """The formulas, by Keras's own layers, an image at a time, scaled to a highest value of 1."""
    trunk, head = network.trunk, network.head
    before = trunk.get_layer("block4_conv").output
    features_of = keras.Model(trunk.input, before)
    pooled_of = keras.Model(before, trunk.output)
    hidden_of = keras.Model(head.input, head.layers[-1].input)
    kernel, bias = (tf.convert_to_tensor(weight) for weight in head.layers[-1].weights)
    maps = []
    for image, named in zip(images, classes, strict=True):
        features = features_of(network.preprocessing(image[None].astype(np.float32)))
        with tf.GradientTape() as tape:
            tape.watch(features)
            logits = hidden_of(pooled_of(features)) @ kernel + bias
            logit = logits[0, named]
        gradient, values = tape.gradient(logit, features).numpy()[0], features.numpy()[0]
        weights = gradient.mean((0, 1)) if method == "gradcam" else gradient
        heat = np.maximum((weights * values).sum(-1), 0)
        maps.append(heat / (heat.max() or 1))
    return np.stack(maps)


@pytest.mark.parametrize("method", gradcam.METHODS)
@pytest.mark.parametrize("pooling", ["avg", "flatten", "avgmax"])
@pytest.mark.parametrize("dense_layers", [0, 2])
def test_maps_are_those_of_the_formulas(pooling, method, dense_layers):
    network = build(pooling=pooling, dense_layers=dense_layers)
    maps = gradcam.of_model(network.whole, method=method)(PIXELS, CLASSES)
    expected = by_hand(network, PIXELS, CLASSES, method)
    np.testing.assert_allclose(maps, expected, atol=1e-5)
    assert np.isin(maps.max((1, 2)), (0, 1)).all()


def _case(name):
    """Larger networks take minutes."""
    marks = {"small_cnn": [], "mobilenet_v2": [pytest.mark.slow]}
    return pytest.param(name, marks=marks.get(name, [pytest.mark.long]))


@pytest.mark.parametrize("name", [_case(name) for name in backbones.REGISTRY])
def test_every_backbone_has_maps(name, tmp_path):
    """Under average pooling alone both methods agree: see `gradcam.Explainer`."""
    keras.utils.set_random_seed(2)
    saved.save(build(name, ALL_SIZE), tmp_path / "best.keras")
    model = saved.load(tmp_path / "best.keras")
    images = radiographs.noise(2, ALL_SIZE)
    images[1, :80, :80] = 0
    found = {
        (method, k): gradcam.of_model(model, method=method, batch_size=2)(images, [k, k])
        for method in gradcam.METHODS
        for k in (0, 1)
    }
    trunk, last = classifier.parts_of(model)[1], LAST_CONVOLUTION.get(name)
    tensor = trunk.get_layer(last).output if last else trunk.get_layer("average_pool").input
    shape = (2, *tensor.shape[1:3])
    for maps in found.values():
        assert maps.shape == shape
        assert maps.dtype == np.float32
        assert np.isfinite(maps).all()
        assert maps.min() >= 0
        np.testing.assert_array_equal(np.isin(maps.max((1, 2)), (0, 1)), [True, True])
    assert max(maps.max() for maps in found.values()) == 1
    assert not np.allclose(found["gradcam", 0], found["gradcam", 1])
    for k in (0, 1):
        is_same = np.allclose(found["gradcam", k], found["hirescam", k], atol=1e-4)
        assert is_same == (last is None)


def test_the_methods_differ_where_positions_have_weights_of_their_own():
    whole = build(pooling="flatten").whole
    both = [gradcam.of_model(whole, method=method)(PIXELS, CLASSES) for method in gradcam.METHODS]
    assert not np.allclose(*both)


def test_a_sure_model_has_the_maps_of_an_unsure_one(network):
    """The gradient of its probability would be 0."""
    unsure = gradcam.of_model(network.whole)(PIXELS, CLASSES)
    last = network.head.layers[-1]
    kernel = last.kernel.numpy()
    last.kernel.assign(kernel * 1e4)
    assert np.asarray(network.whole(PIXELS)).max() == 1
    sure = gradcam.of_model(network.whole)(PIXELS, CLASSES)
    last.kernel.assign(kernel)
    np.testing.assert_allclose(sure, unsure, atol=1e-4)


def test_maps_are_float32_under_mixed_precision():
    maps = {}
    for policy in ("float32", "mixed_bfloat16"):
        keras.mixed_precision.set_dtype_policy(policy)
        keras.utils.set_random_seed(1)
        maps[policy] = gradcam.of_model(build().whole)(PIXELS, CLASSES)
    assert maps["mixed_bfloat16"].dtype == np.float32
    np.testing.assert_allclose(maps["mixed_bfloat16"], maps["float32"], atol=0.05)
    assert (
        np.unique(maps["mixed_bfloat16"]).size
        > np.unique(tf.cast(maps["mixed_bfloat16"], tf.bfloat16).numpy()).size
    )


def test_a_model_is_traced_once_for_batches_of_any_size(network):
    explainer = gradcam.of_model(network.whole, batch_size=2)
    whole = gradcam.of_model(network.whole, batch_size=8)(PIXELS, CLASSES)
    parts = [explainer(PIXELS[:1], CLASSES[:1]), explainer(PIXELS[1:].astype("f8"), CLASSES[1:])]
    np.testing.assert_allclose(np.concatenate(parts), whole, atol=1e-5)
    assert explainer(PIXELS[:0], []).shape == (0, 8, 8)
    assert explainer._maps.experimental_get_tracing_count() == 1


def test_no_heat_where_nothing_speaks_for_the_class():
    network = build(dense_layers=0)
    kernel = network.head.layers[-1].kernel
    kernel.assign(np.stack([np.full(128, -1), np.full(128, 1)], axis=1))
    against, favour = (gradcam.of_model(network.whole)(PIXELS, np.full(5, k)) for k in (0, 1))
    assert against.max() == 0
    assert favour.max() == 1


def test_no_heat_of_a_model_whose_output_is_not_finite():
    network = build()
    network.head.layers[-1].kernel.assign(np.full((8, 2), np.nan))
    assert gradcam.of_model(network.whole)(PIXELS, CLASSES).max() == 0


def test_a_model_that_enlarges_its_images_takes_them_small():
    config = ModelOptions(backbone="small_cnn", weights="none", image_size=SIZE)
    whole = classifier.build(config, (32, 32, 1), 2).whole
    explainer = gradcam.of_model(whole)
    assert explainer.image_shape == (32, 32, 1)
    assert explainer(radiographs.noise(1, 32), [0]).shape == (1, 8, 8)


@pytest.mark.parametrize(("classes", "said"), [
    ([0, 1, 2, 0, 1], "class 2 is none of the model's; it has 0 to 1"),
    ([0, 1, -1, 0, 1], "class -1 is none of the model's; it has 0 to 1"),
    ([0, 1], r"classes \(of shape \(2,\) and type int64\) must be 5 whole numbers"),
    ([0.5] * 5, "must be 5 whole numbers, one for each image"),
])  # fmt: skip
def test_a_wrong_class_is_named(network, classes, said):
    with pytest.raises(ConfigError, match=said):
        gradcam.of_model(network.whole)(PIXELS, classes)


def test_images_of_another_size_are_named(network):
    with pytest.raises(ConfigError, match="must be grey"):
        gradcam.of_model(network.whole)(radiographs.noise(2, 32), [0, 1])


def test_another_method_is_named(network):
    with pytest.raises(ConfigError, match="draws no heat maps; give gradcam or hirescam"):
        gradcam.of_model(network.whole, method="saliency")
