from __future__ import annotations

from types import SimpleNamespace

import filelock
import keras
import numpy as np
import pytest

from tests.support import radiographs
from trainer import backbones
from trainer.errors import ConfigError, RunError
from trainer.models import classifier, weights
from trainer.options import ModelOptions


def _config(**options) -> ModelOptions:
    small = {"backbone": "small_cnn", "weights": "none", "image_size": 32, "neurons": 8}
    return ModelOptions(**(small | options))


def _trainable(network: classifier.Network) -> list[str]:
    return [layer.name for layer in network.trunk.layers if layer.trainable_weights]


@pytest.mark.parametrize(
    ("unfrozen", "expected"),
    [
        ("0", []),
        ("2", ["block4_conv"]),
        ("4", ["block3_conv", "block4_conv"]),
        ("all", ["block1_conv", "block2_conv", "block3_conv", "block4_conv"]),
    ],
)
def test_the_last_layers_of_the_backbone_train(unfrozen, expected):
    network = classifier.build(_config(layers_to_unfreeze=unfrozen), (32, 32, 1), 2)
    assert _trainable(network) == expected
    assert network.head.trainable_weights


@pytest.mark.parametrize(
    ("unfrozen", "said"),
    [
        ("0", ""),
        ("2", "--layers_to_unfreeze=2 adds 73,856 weights of 1 layer (block4_conv)."),
        ("3", "--layers_to_unfreeze=3 adds 73,856 weights of 1 layer (block4_conv)."),
        (
            "4",
            "--layers_to_unfreeze=4 adds 92,352 weights of 2 layers (block3_conv … block4_conv).",
        ),
    ],
)
def test_a_network_tells_what_unfreezing_adds(unfrozen, said):
    assert classifier.build(_config(layers_to_unfreeze=unfrozen), (32, 32, 1), 2).unfrozen == said


def test_layers_without_weights_are_not_unfrozen_in_silence():
    with pytest.raises(ConfigError, match=r"\(1\) adds no weights: .*=2 adds 73,856 "):
        classifier.build(_config(layers_to_unfreeze="1"), (32, 32, 1), 2)


def test_unfreezing_more_layers_than_exist_is_an_error():
    with pytest.raises(ConfigError, match=r"layers_to_unfreeze \(10\) exceeds the 9 layers"):
        classifier.build(_config(layers_to_unfreeze="10"), (32, 32, 1), 2)


def test_an_image_size_that_does_not_fit_is_an_error():
    with pytest.raises(
        ConfigError, match=r"image_size \(8\) does not fit vgg16 .*at least 32.*own is 224"
    ):
        classifier.build(_config(backbone="vgg16", image_size=8), (32, 32, 1), 2)


@pytest.mark.parametrize(("pooling", "width"), [("avg", 128), ("avgmax", 256), ("flatten", 512)])
def test_pooling_and_dense_layers(pooling, width):
    network = classifier.build(_config(pooling=pooling, dense_layers=3, neurons=5), (32, 32, 1), 2)
    dense = [layer for layer in network.head.layers if isinstance(layer, keras.layers.Dense)]
    assert [layer.kernel.shape for layer in dense] == [(width, 5), (5, 5), (5, 5), (5, 2)]
    assert sum(isinstance(layer, keras.layers.Dropout) for layer in network.head.layers) == 3


def test_images_of_another_size_are_resized_inside():
    network = classifier.build(_config(), (50, 50, 1), 2)
    assert network.whole(radiographs.noise(2, 50)).shape == (2, 2)


def test_pixels_are_not_rounded_by_16_bit_policies():
    keras.mixed_precision.set_dtype_policy("mixed_bfloat16")
    network = classifier.build(_config(backbone="vgg16"), (32, 32, 1), 2)
    grey = np.full((1, 32, 32, 1), 200, np.uint8)
    scaled = network.preprocessing(grey)[0, 0, 0]
    np.testing.assert_allclose(scaled, [200 - 103.939, 200 - 116.779, 200 - 123.68], atol=1e-4)
    assert network.whole(grey).dtype == "float32"


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
@pytest.mark.parametrize("pooling", ["avg", "avgmax", "flatten"])
def test_the_head_computes_in_float32_and_the_backbone_in_16_bits(policy, pooling, tmp_path):
    keras.mixed_precision.set_dtype_policy(policy)
    network = classifier.build(_config(pooling=pooling, dense_layers=2), (32, 32, 1), 2)
    path = tmp_path / "whole.keras"
    network.whole.save(path)
    keras.mixed_precision.set_dtype_policy("float32")
    restored = keras.saving.load_model(path, safe_mode=True)
    for head in (network.head, restored.get_layer("head")):
        assert {layer.compute_dtype for layer in head.layers[1:]} == {"float32"}
    assert network.trunk.get_layer("block4_conv").compute_dtype == policy.removeprefix("mixed_")
    images = radiographs.noise(3, 32)
    np.testing.assert_array_equal(restored(images), network.whole(images))


@pytest.mark.parametrize("suffix", [".weights.h5", ".h5", ".keras"])
def test_weights_are_read_from_every_format(suffix, tmp_path):
    path = tmp_path / f"backbone{suffix}"
    source = classifier.build(_config(), (32, 32, 1), 2).trunk
    (source.save_weights if suffix == ".weights.h5" else source.save)(path)
    restored = classifier.build(_config(weights=str(path)), (32, 32, 1), 2).trunk
    for ours, theirs in zip(source.get_weights(), restored.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("name", ["absent.h5", "absent.keras"])
def test_a_missing_weights_file_is_an_error(name, tmp_path):
    with pytest.raises(RunError, match=rf"weights file .*{name} does not exist"):
        classifier.build(_config(weights=str(tmp_path / name)), (32, 32, 1), 2)


@pytest.mark.parametrize("name", ["some.weights.h5", "some.h5", "some.keras"])
def test_a_file_that_holds_no_weights_is_an_error(name, tmp_path):
    (tmp_path / name).write_bytes(b"no weights")
    with pytest.raises(RunError, match=rf"{name} can't be used: it is not a"):
        classifier.build(_config(weights=str(tmp_path / name)), (32, 32, 1), 2)


def test_weights_of_another_backbone_are_an_error(tmp_path):
    path = tmp_path / "vgg.weights.h5"
    classifier.build(_config(backbone="vgg16"), (32, 32, 1), 2).trunk.save_weights(path)
    with pytest.raises(RunError, match="looks like vgg16; give a file of small_cnn"):
        classifier.build(_config(weights=str(path)), (32, 32, 1), 2)


def test_one_process_of_a_machine_downloads_at_a_time(monkeypatch, tmp_path):
    """Keras downloads to the final path, where a second process would find a partial file."""
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    constructor = backbones.REGISTRY["vgg16"].load_constructor()

    def construct(*, weights, **options):
        if weights == "imagenet":
            with pytest.raises(filelock.Timeout):
                filelock.FileLock(tmp_path / ".cxr-trainer.lock").acquire(blocking=False)
        return constructor(weights=None, **options)

    row = SimpleNamespace(load_constructor=lambda: construct)
    monkeypatch.setitem(backbones.REGISTRY, "vgg16", row)
    config = _config(backbone="vgg16", weights="imagenet")
    weights.load(constructor(weights=None, include_top=False), config)


def test_small_cnn_has_no_imagenet_weights():
    with pytest.raises(ConfigError, match="small_cnn has no ImageNet weights"):
        classifier.build(_config(weights="imagenet"), (32, 32, 1), 2)
