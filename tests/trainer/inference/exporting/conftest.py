"""A small model, what belongs to it, and its export to every format, made once."""

from __future__ import annotations

import json

import keras
import numpy as np
import pytest
from PIL import Image

from tests.support import radiographs, shared_folders
from trainer.inference.exporting import exports, formats
from trainer.models import classifier, saved
from trainer.options import ModelOptions

SIZE = 32


@pytest.fixture(scope="session")
def build(tmp_path_factory):
    """Returns a maker of models as they are loaded from a run."""

    def build(num_classes=2, **changed):
        keras.utils.set_random_seed(0)  # Made before a test's seed: with some weights, 8 bits fail.
        small = {"backbone": "small_cnn", "weights": "none", "image_size": SIZE, "neurons": 8}
        options = ModelOptions(**(small | changed))
        side = options.image_size
        network = classifier.build(options, (side, side, 1), num_classes)
        path = tmp_path_factory.mktemp("saved") / "best.keras"
        saved.save(network, path)
        return saved.load(path)

    return build


@pytest.fixture(scope="session")
def images():
    """[40, S, S, 1] uint8: noise, half of them dark."""
    noise = radiographs.noise(40, SIZE).astype(float)
    exposure = np.concatenate([np.linspace(0.2, 0.4, 20), np.linspace(0.8, 1, 20)])
    return (noise * exposure[:, None, None, None]).astype(np.uint8)


@pytest.fixture(scope="session")
def model(build):
    return build()


@pytest.fixture(scope="session")
def facts(model, images):
    """The operating point divides the images where their probabilities differ most."""
    ordered = np.sort(model(images.astype(np.float32)).numpy()[:, 1].astype(np.float64))
    widest = 10 + int(np.diff(ordered[10:30]).argmax())
    return {
        "class_names": ["NORMAL", "PNEUMONIA"],
        "positive_class": "PNEUMONIA",
        "rule": "youden",
        "threshold": float(ordered[widest : widest + 2].mean()),
        "temperature": 1.5,
        "pixels": {"side": SIZE, "record_side": 2 * SIZE, "takes": "grey levels"},
        "versions": {"keras": "3", "of": ["µ", None, 0.25]},
    }


@pytest.fixture(scope="session")
def exported(model, facts, images, tmp_path_factory):
    """A folder with `export/`, all formats of the model, and `image.png`, an image of its size."""

    def make(folder):
        labels = np.arange(len(images)) % 2
        exports.export(model, facts, images, labels, list(formats.REGISTRY), folder / "export")
        Image.fromarray(images[-1, ..., 0]).save(folder / "image.png")

    return shared_folders.made_once(tmp_path_factory, "exported", make)


@pytest.fixture(scope="session")
def rows(exported):
    table = json.loads((exported / "export" / exports.TABLE).read_text("utf-8"))
    return {row["format"]: row for row in table["formats"]}
