"""The saved model: who can load it, and forged files."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import time
import zipfile

import h5py
import keras
import numpy as np
import pytest

from trainer import backbones
from trainer.errors import RunError
from trainer.models import archive, saved

LOAD_S = 10


def test_a_model_saved_in_16_bits_classifies_as_in_training(build, images, tmp_path):
    keras.mixed_precision.set_dtype_policy("mixed_bfloat16")
    network = build()
    saved.save(network, tmp_path / "best.keras")
    model = saved.load(tmp_path / "best.keras")
    assert saved.precision_of(model) == "mixed_bfloat16"
    np.testing.assert_array_equal(model(images), network.whole(images))


def test_plain_keras_loads_it_without_this_package(network, path, images, tmp_path):
    np.save(tmp_path / "images.npy", images)
    program = (
        "import sys; sys.modules.update(trainer=None, tuner=None, cxr_tfds=None)\n"
        "import keras, numpy as np\n"
        f"model = keras.saving.load_model({str(path)!r})\n"
        f"np.save('out.npy', model.predict(np.load('images.npy'), verbose=0))\n"
    )
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=True, capture_output=True)
    out = np.load(tmp_path / "out.npy")
    np.testing.assert_allclose(out, network.whole(images), atol=1e-6)


FACTS = {
    "class_names": ["NORMAL", "PNEUMONIA"],
    "rule": "sensitivity=0.95",
    "threshold": 0.3125,
    "positive_class": "PNEUMONIA",
    "examples": 394,
    "sensitivity": 0.95,
    "specificity": 0.875,
    "temperature": 1.5,
}


@pytest.fixture(scope="module")
def chosen(network, tmp_path_factory):
    """The file of a model with an operating point."""
    path = tmp_path_factory.mktemp("chosen") / "best.keras"
    saved.save(network, path, FACTS)
    return path


def test_the_operating_point_travels_with_the_model(chosen):
    metadata = json.loads(zipfile.ZipFile(chosen).read("metadata.json"))
    assert metadata[archive.FACTS] == archive.facts(chosen) == FACTS
    assert {"keras_version", "date_saved"} <= metadata.keys()


def test_plain_keras_loads_a_model_with_an_operating_point(chosen, network, images):
    model = keras.saving.load_model(chosen)
    np.testing.assert_allclose(model(images), network.whole(images), atol=1e-6)


def test_a_model_without_an_operating_point_has_none(path):
    assert archive.facts(path) is None
    archive.check_model(path)


def test_what_validation_left_undecided_is_null(network, tmp_path):
    undecided = FACTS | {"threshold": None, "temperature": None}
    saved.save(network, tmp_path / "best.keras", undecided)
    archive.check_model(tmp_path / "best.keras")
    assert archive.facts(tmp_path / "best.keras") == undecided


FORGED_METADATA = {
    "no JSON": (b"{", "its metadata.json is not JSON"),
    "a list": (b"[]", "its metadata.json has a list|its metadata.json has "),
    "deep": (b"[" * 200 + b"]" * 200, "its metadata.json is nested more than 64 deep"),
    "not UTF-8": (b"\xff\xff", "its metadata.json is not UTF-8"),
    "empty": (b"", "its metadata.json is empty"),
    "a text": ({"trainer": "x"}, r'its metadata.json has trainer = "x", not an object'),
    "no threshold": (
        {"trainer": {"class_names": [], "rule": "", "temperature": 1}},
        "its metadata.json lacks trainer.threshold",
    ),
    "a threshold of text": ({"trainer": FACTS | {"threshold": "0.5"}}, "has trainer.threshold ="),
    "a threshold of 5": ({"trainer": FACTS | {"threshold": 5}}, "which is not from 0 to 2"),
    "a threshold of NaN": ({"trainer": FACTS | {"threshold": float("nan")}}, "is not from 0 to 2"),
    "a temperature of 0": ({"trainer": FACTS | {"temperature": 0}}, "is not from 0.01 to 100"),
    "records of 10^9 px": (
        {"trainer": FACTS | {"pixels": {"side": 32, "takes": "", "record_side": 10**9}}},
        "is not from 1 to 4096",
    ),
    "records without pixels": (
        {"trainer": FACTS | {"pixels": {"side": 32, "takes": "", "record_side": 0}}},
        "is not from 1 to 4096",
    ),
    "classes of numbers": (
        {"trainer": FACTS | {"class_names": [1]}},
        r"class_names\[0\] = 1, not",
    ),
}


@pytest.mark.parametrize("kind", FORGED_METADATA)
def test_forged_metadata_is_refused_in_a_line(kind, chosen, tmp_path):
    content, reason = FORGED_METADATA[kind]
    written = content if isinstance(content, bytes) else json.dumps(content).encode()
    forged = _forge(chosen, tmp_path, _set("metadata.json", written))
    with pytest.raises(RunError, match=f"is not a readable model: .*{reason}") as raised:
        saved.load(forged)
    assert str(raised.value).isprintable()


KNOWN_TO_3_13 = {
    "Activation": "activation",
    "All": "axis keepdims",
    "AveragePooling2D": "data_format padding pool_size strides",
    "BatchNormalization": "axis beta_constraint beta_initializer beta_regularizer center epsilon "
    "gamma_constraint gamma_initializer gamma_regularizer momentum moving_mean_initializer "
    "moving_variance_initializer scale synchronized",
    "Concatenate": "axis",
    "Conv2D": "activation activity_regularizer bias_constraint bias_initializer bias_regularizer "
    "data_format dilation_rate filters groups kernel_constraint kernel_initializer "
    "kernel_regularizer kernel_size padding strides use_bias",
    "Cumsum": "axis",
    "CustomScaleLayer": "scale",
    "DTypePolicy": "name",
    "Dense": "activation bias_constraint bias_initializer bias_regularizer kernel_constraint "
    "kernel_initializer kernel_regularizer units use_bias",
    "DepthwiseConv2D": "activation activity_regularizer bias_constraint bias_initializer "
    "bias_regularizer data_format depth_multiplier depthwise_constraint depthwise_initializer "
    "depthwise_regularizer dilation_rate kernel_size padding strides use_bias",
    "Dropout": "noise_shape rate seed",
    "ExpandDims": "axis",
    "Functional": "input_layers layers output_layers",
    "GlobalAveragePooling2D": "data_format keepdims",
    "GlorotUniform": "seed",
    "HeNormal": "seed",
    "InputLayer": "batch_shape optional ragged sparse",
    "LayerNormalization": "axis beta_constraint beta_initializer beta_regularizer center epsilon "
    "gamma_constraint gamma_initializer gamma_regularizer rms_scaling scale",
    "LayerScale": "init_values projection_dim",
    "Max": "axis initial keepdims",
    "MaxPooling2D": "data_format padding pool_size strides",
    "Normalization": "axis invert mean variance",
    "ReLU": "max_value negative_slope threshold",
    "Rescaling": "offset scale",
    "Reshape": "target_shape",
    "SeparableConv2D": "activation activity_regularizer bias_constraint bias_initializer "
    "bias_regularizer data_format depth_multiplier depthwise_constraint depthwise_initializer "
    "depthwise_regularizer dilation_rate filters kernel_size padding pointwise_constraint "
    "pointwise_initializer pointwise_regularizer strides use_bias",
    "Round": "decimals",
    "Sequential": "build_input_shape layers",
    "Squeeze": "axis",
    "Sum": "axis keepdims",
    "Transpose": "axes",
    "Take": "axis",
    "VarianceScaling": "distribution mode scale seed",
    "ZeroPadding2D": "data_format padding",
    "__keras_tensor__": "keras_history shape",
    "__tensor__": "value",
}
"""What each class writes in the lowest version of Keras that pyproject.toml allows."""


def _marks(name: str) -> list[pytest.MarkDecorator]:
    if name == "inception_resnet_v2":  # Takes minutes.
        return [pytest.mark.long]
    return [] if name in ("small_cnn", "mobilenet_v2") else [pytest.mark.slow]


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=_marks(name)) for name in backbones.REGISTRY]
)
def test_it_holds_no_argument_that_the_lowest_keras_does_not_know(build, name, tmp_path):
    saved.save(build(backbone=name, image_size=96), tmp_path / "best.keras")
    saved.load(tmp_path / "best.keras")  # Each class is one that `archive` allows.
    config = json.loads(zipfile.ZipFile(tmp_path / "best.keras").read("config.json"))
    unknown = set()
    for value in archive._values(config):
        described = isinstance(value, dict) and isinstance(value.get("config"), dict)
        found = value if described else {"class_name": "", "config": {}}
        known = set(KNOWN_TO_3_13.get(found["class_name"], "").split())
        common = {"name", "trainable", "dtype"}
        unknown |= {(found["class_name"], key) for key in set(found["config"]) - known - common}
    assert not unknown


def test_a_model_of_a_newer_keras_is_said_to_be(path, tmp_path):
    def newer(members):
        members["metadata.json"] = b'{"keras_version": "99.1.0"}'
        members["config.json"] = (
            members["config.json"]
            .replace(b'"epsilon"', b'"new"')
            .replace(b'"units"', b'"new_units"')
        )

    forged = _forge(path, tmp_path, newer)
    with pytest.raises(RunError, match=r"Keras 99\.1\.0 saved it, and this is Keras [\d.]+, which"):
        saved.load(forged)


def _forge(path, folder, change, **options):
    with zipfile.ZipFile(path) as zipped:
        members = {name: zipped.read(name) for name in zipped.namelist()}
    change(members)
    with zipfile.ZipFile(folder / "best.keras", "w", **options) as zipped:
        for name, content in members.items():
            zipped.writestr(name, content)
    return folder / "best.keras"


def _set(name, content):
    return lambda members: members.update({name: content})


def _swap(old, new):
    def change(members):
        assert old in members["config.json"]
        members["config.json"] = members["config.json"].replace(old, new)

    return change


def _with_weights(edit):
    def change(members):
        buffer = io.BytesIO(members["model.weights.h5"])
        with h5py.File(buffer, "r+") as file:
            edit(file)
        members["model.weights.h5"] = buffer.getvalue()

    return change


def _declare_terabytes(file):
    kernel = file["layers"].create_group("dense_9").create_group("vars")
    kernel.create_dataset("0", (10**6, 10**6), "f4")


def _link(file):
    file["layers/elsewhere"] = h5py.ExternalLink("/etc/passwd", "/")


def _first_convolution(file):
    found = []
    file.visititems(lambda _, item: found.append(item))
    return next(item for item in found if item.attrs.get("name") == "block1_conv")


def _cut(file):
    del _first_convolution(file)["0"]


def _reshape(file):
    group = _first_convolution(file)
    del group["0"]
    group["0"] = np.zeros((2, 2, 2, 2), np.float32)


HOSTILE = {
    "deep": (_set("config.json", b"[" * 100_000 + b"]" * 100_000), "nested"),
    "rather deep": (_set("config.json", b"[" * 200 + b"]" * 200), "nested"),
    "not JSON": (_set("config.json", b"{"), "not JSON"),
    "not UTF-8": (_set("config.json", b"\xff\xfe\x00"), "not UTF-8"),
    "a list": (_set("config.json", b"[]"), "readable"),
    "empty": (_set("config.json", b"{}"), "readable"),
    "large": (_set("config.json", b" " * (17 << 20)), "times its size|MiB"),
    "a lambda": (_swap(b'"class_name": "Dropout"', b'"class_name": "Lambda"'), "Lambda"),
    "another class": (_swap(b'"keras.layers"', b'"os.path"'), "os.path"),
    "a reader": (_swap(b'"class_name": "Dropout"', b'"class_name": "StringLookup"'), "StringLook"),
    "a function": (_swap(b'"class_name": "Dropout"', b'"class_name": "function"'), "function"),
    "huge layers": (_swap(b'"units": 8', b'"units": 1000000000'), "units"),
    "wrong units": (_swap(b'"units": 8', b'"units": 9'), "readable"),
    "path": (_set("../../evil.txt", b"x"), "evil"),
    "absolute path": (_set("/tmp/evil.txt", b"x"), "evil"),
    "no HDF5": (_set("model.weights.h5", b"x" * 1000), "HDF5"),
    "empty HDF5": (_set("model.weights.h5", b""), "HDF5|truncated|times its size"),
    "terabytes": (_with_weights(_declare_terabytes), "larger than the file"),
    "a link": (_with_weights(_link), "link"),
    "a missing array": (_with_weights(_cut), "readable"),
    "another shape": (_with_weights(_reshape), "readable"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_forged_archive_ends_in_one_line_and_soon(kind, path, tmp_path):
    change, reason = HOSTILE[kind]
    forged = _forge(path, tmp_path, change)
    start = time.monotonic()
    with pytest.raises(RunError, match=reason) as raised:
        saved.load(forged)
    assert time.monotonic() - start < LOAD_S
    assert len(str(raised.value).splitlines()) == 1
    assert [entry.name for entry in tmp_path.iterdir()] == ["best.keras"]


def test_a_zip_bomb_is_refused(path, tmp_path):
    forged = _forge(
        path, tmp_path, _set("config.json", b" " * (1 << 28)), compression=zipfile.ZIP_DEFLATED
    )
    start = time.monotonic()
    with pytest.raises(RunError, match="times its size"):
        saved.load(forged)
    assert time.monotonic() - start < LOAD_S


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.99])
def test_an_archive_that_is_cut_off_is_refused(path, tmp_path, share):
    content = path.read_bytes()
    (tmp_path / "best.keras").write_bytes(content[: int(len(content) * share)])
    with pytest.raises(RunError, match=r"is not a readable model: it is not a \.keras archive"):
        saved.load(tmp_path / "best.keras")


def test_a_flipped_bit_is_noticed(path, tmp_path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "best.keras").write_bytes(content)
    with pytest.raises(RunError, match="is damaged"):
        saved.load(tmp_path / "best.keras")


@pytest.mark.parametrize("kind", [k for k, (_, why) in HOSTILE.items() if why in ("HDF5", "link")])
def test_forged_weights_of_a_run_are_refused_too(build, kind, path, tmp_path):
    forged = _forge(path, tmp_path, HOSTILE[kind][0])
    with pytest.raises(RunError, match=f"weights file {forged} can't be used: its? "):
        build(weights=str(forged))
