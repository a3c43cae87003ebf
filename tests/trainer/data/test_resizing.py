"""The builder (Pillow), the pipeline (TensorFlow) and the model (Keras) resize alike."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from cxr_tfds import images
from tests.support import radiographs
from trainer.config import Config
from trainer.data import pipeline
from trainer.models import classifier

FILE = radiographs.draw(0, size=(700, 500), quality=95)
"""Noise over a gradient: no radiograph has as much in its highest frequencies."""


def _by_pipeline(jpeg: bytes, side: int | None) -> np.ndarray:
    return pipeline.decode(tf.constant(jpeg), side).numpy()[..., 0].astype(int)


def _by_model(jpeg: bytes, side: int) -> np.ndarray:
    config = Config.from_flat({"backbone": "small_cnn", "weights": "none", "image_size": side})
    pixels = images.decode(jpeg)[..., None]
    network = classifier.build(config.model, pixels.shape, num_classes=2)
    resize = network.preprocessing.get_layer("resize")
    return resize(pixels[None].astype(np.float32)).numpy()[0, ..., 0]


def _largest_difference(ours: np.ndarray, theirs: np.ndarray) -> float:
    return np.abs(ours - theirs.astype(float)).max()


def test_the_pipeline_decodes_what_pillow_decodes_to_the_bit():
    np.testing.assert_array_equal(_by_pipeline(FILE, None), images.decode(FILE))


@pytest.mark.parametrize("side", [32, 224, 299, 900])
def test_the_pipeline_resizes_within_1_grey_level_of_the_builder(side):
    assert _largest_difference(_by_pipeline(FILE, side), images.decode(FILE, side)) <= 1


@pytest.mark.parametrize("side", [701, 900])
def test_the_model_enlarges_within_1_grey_level_of_the_builder(side):
    assert _largest_difference(_by_model(FILE, side), images.decode(FILE, side)) <= 1


def test_the_model_must_not_reduce_as_its_layer_has_no_antialiasing():
    """The pipeline hands on no image that is larger than the model's (`opening.describe`)."""
    assert _largest_difference(_by_model(FILE, 64), images.decode(FILE, 64)) > 10
