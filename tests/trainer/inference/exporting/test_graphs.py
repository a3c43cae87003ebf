"""What a server answers."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tensorflow as tf

from cxr_tfds.radiographs import reading
from tests.support import radiographs
from trainer.evaluation import calibration
from trainer.evaluation.predictions import Predictions
from trainer.inference.exporting import graphs


@pytest.fixture(scope="module")
def server(exported):
    return tf.saved_model.load(str(exported / "export" / "savedmodel"))


@pytest.fixture(scope="module")
def answer(server, images):
    found = server.signatures["serving_default"](images=images.astype(np.float32))
    return {name: value.numpy() for name, value in found.items()}


def test_all_outputs_have_a_row_an_image(answer, images):
    """TensorFlow Serving's REST interface answers nothing else in rows."""
    assert {len(value) for value in answer.values()} == {len(images)}


def test_the_class_is_that_at_the_operating_point(answer, facts):
    positive = answer["probabilities"][:, 1] >= facts["threshold"]
    assert 0 < positive.sum() < len(positive)
    expected = np.where(positive, b"PNEUMONIA", b"NORMAL")
    np.testing.assert_array_equal(answer["class"], expected)


def test_the_calibrated_probability_is_that_of_the_evaluation(answer, facts):
    count = len(answer["probabilities"])
    texts = np.array([str(index) for index in range(count)])
    names, labels = tuple(facts["class_names"]), np.zeros(count, int)
    table = Predictions(names, texts, texts, texts, labels, answer["probabilities"])
    expected = calibration.scaled(table, facts["temperature"]).probabilities[:, 1]
    np.testing.assert_allclose(answer["calibrated_probability"], expected, atol=1e-6)


def test_class_names_are_those_of_the_columns(answer, facts):
    assert {tuple(row) for row in answer["class_names"]} == {
        tuple(name.encode() for name in facts["class_names"])
    }


def test_whole_levels_give_the_same_answer(server, answer, images):
    found = server.signatures["serve_uint8"](images=images)["probabilities"]
    np.testing.assert_array_equal(found, answer["probabilities"])


def test_files_give_the_probabilities_of_their_pixels(server, model):
    contents = [
        radiographs.draw(1, size=(90, 70)),
        radiographs.draw(2, size=(300, 201), mode="RGB", format="PNG"),
    ]
    pixels = np.stack([reading.read(content, 64, 32).pixels for content in contents])[..., None]
    found = server.signatures["serve_bytes"](contents=tf.constant(contents))["probabilities"]
    np.testing.assert_allclose(found, model(pixels.astype(np.float32)), atol=1e-6)


def test_the_metadata_are_the_facts(server, facts):
    assert json.loads(server.signatures["metadata"]()["json"].numpy()) == facts


def test_of_three_classes_the_most_probable_is_named(build, images, tmp_path):
    model = build(num_classes=3)
    facts = {"class_names": ["a", "b", "c"], "threshold": None, "temperature": None}
    graphs.save_for_serving(model, facts, tmp_path / "model")
    served = tf.saved_model.load(str(tmp_path / "model")).signatures["serving_default"]
    found = served(images=images.astype(np.float32))
    probabilities = found["probabilities"].numpy()
    expected = np.array([b"a", b"b", b"c"])[probabilities.argmax(1)]
    np.testing.assert_array_equal(found["class"], expected)
    np.testing.assert_allclose(found["calibrated_probability"], probabilities.max(1), rtol=1e-5)
