"""Scores of images are those of the saved model, on whatever devices and in whatever batches."""

from __future__ import annotations

import concurrent.futures

import keras
import numpy as np
import pytest

from tests.support import devices, radiographs
from trainer.inference import scoring
from trainer.inference.scoring import Scorer
from trainer.models import classifier, saved
from trainer.options import ModelOptions
from trainer.training import outputs

SIDE, TOLERANCE = 32, 1e-6


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """Returns (number of classes, pooling) -> a saved model."""
    folder = tmp_path_factory.mktemp("scoring")

    def save(classes: int = 2, pooling: str = "avg"):
        file = folder / f"{classes}{pooling}.keras"
        if not file.exists():
            keras.utils.set_random_seed(1)
            options = ModelOptions(
                backbone="small_cnn", weights="none", image_size=SIDE, neurons=8, pooling=pooling
            )
            saved.save(classifier.build(options, (SIDE, SIDE, 1), classes), file)
        return file

    return save


def scorer_of(path, replicas: int, batch_size: int) -> Scorer:
    strategy = devices.strategy_of(replicas)
    with strategy.scope():
        return Scorer(saved.load(path), strategy, batch_size)


@pytest.fixture(scope="module")
def images():
    return radiographs.noise(11, SIDE)[..., 0]


@pytest.mark.parametrize(("classes", "pooling"), [(2, "avg"), (3, "flatten"), (2, "avgmax")])
def test_scores_are_those_of_the_model(path, images, classes, pooling):
    model = saved.load(path(classes, pooling))
    found = scorer_of(path(classes, pooling), 1, 16)(images)
    expected = model.predict(images[..., None].astype(np.float32), verbose=0)
    assert found.probabilities.shape == (11, classes)
    np.testing.assert_allclose(found.probabilities, expected, atol=TOLERANCE)
    assert found.features.shape == (11, outputs.num_features(model))
    assert found.features.dtype == np.float32


def test_two_devices_give_what_one_gives(path, images):
    one, two = (scorer_of(path(), replicas, 12)(images) for replicas in (1, 2))
    np.testing.assert_allclose(two.probabilities, one.probabilities, atol=TOLERANCE)
    np.testing.assert_allclose(two.features, one.features, rtol=1e-5, atol=TOLERANCE)


@pytest.mark.parametrize("replicas", [1, 2])
@pytest.mark.parametrize("count", [1, 3, 4])
def test_padding_changes_nothing_and_the_order_is_kept(path, images, replicas, count):
    scorer = scorer_of(path(), replicas, 4)
    whole = np.concatenate([scorer(images[i : i + 1]).probabilities for i in range(count)])
    np.testing.assert_allclose(scorer(images[:count]).probabilities, whole, atol=TOLERANCE)


def test_no_images_give_no_rows(path):
    found = scorer_of(path(), 1, 4)(np.zeros((0, SIDE, SIDE), np.uint8))
    assert found.probabilities.shape == (0, 2)


@pytest.mark.parametrize("replicas", [1, 2])
def test_threads_that_share_a_scorer_get_their_own_outputs(path, images, replicas):
    scorer = scorer_of(path(), replicas, 4)
    parts = [images[i : i + 4] for i in range(7)] * 6
    expected = [scorer(part).probabilities for part in parts]
    with concurrent.futures.ThreadPoolExecutor(4) as executor:
        found = [of.probabilities for of in executor.map(scorer, parts)]
    np.testing.assert_allclose(found, expected, atol=TOLERANCE)


@pytest.mark.parametrize(
    ("replicas", "batch_size", "expected"), [(1, 32, 16), (1, 7, 3), (1, 1, 1), (2, 32, 32)]
)
def test_two_batches_in_work_take_the_memory_of_one(path, replicas, batch_size, expected):
    strategy = devices.strategy_of(replicas)
    with strategy.scope():
        model = saved.load(path())
    assert scoring.for_batches(model, strategy, batch_size).batch_size == expected
