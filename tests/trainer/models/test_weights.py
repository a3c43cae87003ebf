"""Weights that start a run: from files of every layout that people have, and from other runs."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from trainer import backbones
from trainer.errors import RunError
from trainer.models import classifier, saved
from trainer.options import ModelOptions

pytestmark = pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file")

LAYOUTS = ("nested", "flat", "sequential")
SUFFIXES = (".keras", ".h5", ".weights.h5")


def _options(**changed) -> ModelOptions:
    small = {"backbone": "small_cnn", "weights": "none", "image_size": 32, "neurons": 8}
    return ModelOptions(**(small | changed))


def _build(classes: int = 2, **changed) -> classifier.Network:
    return classifier.build(_options(**changed), (32, 32, 1), classes)


def _backbone(name: str = "small_cnn", size: int = 32) -> keras.Model:
    backbone = classifier.build_backbone(_options(backbone=name, image_size=size))
    generator = np.random.default_rng(0)
    values = [generator.uniform(0.1, 1, weight.shape) for weight in backbone.get_weights()]
    backbone.set_weights(values)
    return backbone


def _classifier_of(backbone: keras.Model, layout: str) -> keras.Model:
    """A classifier as tutorials build them."""
    layers = [
        keras.layers.GlobalAveragePooling2D(),
        keras.layers.BatchNormalization(),
        keras.layers.Dense(5, activation="relu"),
        keras.layers.Dense(1, activation="sigmoid"),
    ]
    if layout == "sequential":
        return keras.Sequential([keras.Input(backbone.input.shape[1:]), backbone, *layers])
    image = keras.Input(backbone.input.shape[1:]) if layout == "nested" else backbone.input
    x = backbone(image) if layout == "nested" else backbone.output
    for layer in layers:
        x = layer(x)
    return keras.Model(image, x)


def _write(model: keras.Model, path):
    (model.save_weights if path.name.endswith(".weights.h5") else model.save)(path)
    return path


def _assert_equal(ours: keras.Model, theirs: keras.Model) -> None:
    for one, other in zip(ours.get_weights(), theirs.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other.astype(one.dtype))


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_backbone_is_taken_out_of_a_classifier(layout, suffix, tmp_path):
    backbone = _backbone()
    path = _write(_classifier_of(backbone, layout), tmp_path / f"classifier{suffix}")
    network = _build(weights=str(path))
    _assert_equal(network.trunk, backbone)
    assert network.origin.startswith(f"weights: backbone of {path}; its other layers (")
    assert network.origin.endswith(" are not the trainer's: the head is new.")


# The largest takes minutes.
ALL = [
    pytest.param(
        name, marks=pytest.mark.long if name == "inception_resnet_v2" else pytest.mark.slow
    )
    for name in backbones.REGISTRY
]


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("name", ALL)
def test_every_backbone_is_taken_out_of_a_classifier(name, suffix, tmp_path):
    """Keras numbers most layers of some backbones by how many a process has built before."""
    backbone = _backbone(name, 96)
    path = _write(_classifier_of(backbone, "nested"), tmp_path / f"classifier{suffix}")
    again = _build(backbone=name, image_size=96, weights=str(path)).trunk
    _assert_equal(again, backbone)


def test_weights_with_the_top_of_imagenet_give_the_backbone(tmp_path):
    whole = keras.applications.VGG16(weights=None, input_shape=(32, 32, 3), classes=3)
    path = _write(whole, tmp_path / "vgg16_weights_tf_dim_ordering_tf_kernels.h5")
    trunk = _build(backbone="vgg16", weights=str(path)).trunk
    _assert_equal(trunk, keras.Model(whole.input, whole.get_layer("block5_pool").output))


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_another_backbone_is_named(suffix, tmp_path):
    path = _write(_backbone(), tmp_path / f"other{suffix}")
    with pytest.raises(
        RunError, match=r"looks like small_cnn; give a file of vgg16, or --backbone="
    ):
        _build(backbone="vgg16", weights=str(path))


def test_a_larger_model_that_contains_all_layers_is_another_one(tmp_path):
    """VGG19 has every layer of VGG16, and three more."""
    vgg19 = keras.applications.VGG19(weights=None, include_top=False, input_shape=(32, 32, 3))
    path = _write(vgg19, tmp_path / "vgg19.weights.h5")
    with pytest.raises(RunError, match=r"does not fit vgg16: it also has a layer 'block._conv4'"):
        _build(backbone="vgg16", weights=str(path))


def test_a_file_of_an_unknown_model_is_described(tmp_path):
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2, name="mine")])
    path = _write(model, tmp_path / "mine.keras")
    with pytest.raises(RunError, match=r"holds no small_cnn, but layers named mine \.\.\.;"):
        _build(weights=str(path))


GREY = (
    r"'block1_conv' has weights of \(3, 3, 1, 16\), \(16,\), not \(3, 3, 3, 16\), \(16,\); give a "
    r"file of small_cnn itself, not of one with another width, depth or input\."
)


def test_layers_of_another_shape_are_named_with_what_was_expected(tmp_path):
    backbone = classifier.backbones.REGISTRY["small_cnn"].load_constructor()(
        input_shape=(32, 32, 1)
    )
    path = _write(backbone, tmp_path / "grey.weights.h5")
    with pytest.raises(RunError, match=GREY):
        _build(weights=str(path))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run directory with a model whose weights are no other's."""
    folder = tmp_path_factory.mktemp("runs") / "a"
    folder.mkdir()
    keras.utils.set_random_seed(7)
    network = _build()
    saved.save(network, folder / "best.keras")
    return folder, network


@pytest.mark.parametrize("name", ["", "best.keras"])
def test_a_run_gives_backbone_and_head(run, name):
    folder, source = run
    network = _build(weights=str(folder / name), layers_to_unfreeze="4")
    assert network.origin == f"weights: backbone and head of {folder / 'best.keras'}."
    _assert_equal(network.whole, source.whole)


@pytest.mark.parametrize(
    ("changed", "difference"),
    [
        ({"neurons": 16}, "has 8 neurons, this run's 16"),
        ({"dense_layers": 2}, "has 1 dense layers, this run's 2"),
        ({"dense_layers": 0}, "has 1 dense layers, this run's 0"),
        ({"pooling": "avgmax"}, "takes 128 features, this run's 256 "),
        ({"pooling": "flatten", "image_size": 64}, "takes 128 features, this run's 2048 "),
        ({"classes": 3}, "tells 2 classes apart, this data 3"),
    ],
)
def test_a_head_that_does_not_fit_is_not_taken_and_said(run, changed, difference):
    folder, source = run
    network = _build(weights=str(folder), **changed)
    _assert_equal(network.trunk, source.trunk)
    start = f"weights: backbone of {folder / 'best.keras'}; its head {difference}"
    assert network.origin.startswith(start)
    assert network.origin.endswith(": the head is new.")


@pytest.mark.parametrize("layer", ["block2_conv", "dense_1"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_refused_with_their_layer(layer, value, tmp_path):
    network = _build()
    part = network.trunk if layer.startswith("block") else network.head
    kernel = part.get_layer(layer).kernel
    kernel.assign(keras.ops.full(kernel.shape, value))
    saved.save(network, tmp_path / "best.keras")
    with pytest.raises(RunError, match=f"weights of its layer '{layer}' are not finite"):
        _build(weights=str(tmp_path / "best.keras"))
    with pytest.raises(RunError, match=rf"its weights .*{layer}.* are not finite"):
        saved.load(tmp_path / "best.keras")
