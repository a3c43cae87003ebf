"""Which images are called unlike the training data."""

from __future__ import annotations

import numpy as np
import pytest

from tests.support import radiographs
from trainer.evaluation.shifts import novelty, shift


def _sample(images, features, patients):
    return shift.Sample(np.zeros(len(images)), features, {}, patients, novelty.layouts(images))


@pytest.fixture(scope="module")
def images():
    """[400, 32, 32] of one layout with noise, as radiographs are alike."""
    rng = np.random.default_rng(0)
    pattern = 60 + 120 * np.outer(np.hanning(32), np.cos(np.linspace(0, 9, 32)) ** 2)
    return np.clip(pattern + rng.normal(0, 25, (400, 32, 32)), 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def features():
    rng = np.random.default_rng(1)
    return rng.normal(3, 1, (400, 20)).astype(np.float32)


@pytest.fixture(scope="module")
def reference(images, features):
    patients = np.array([f"p{i // 2}" for i in range(200)])
    return novelty.KnownImages.of(_sample(images[:200], features[:200], patients))


def test_few_images_of_the_same_kind_are_unlike(reference, images, features):
    found = reference.compare(features[200:], novelty.layouts(images[200:]))
    assert found.is_unlike.mean() <= 0.1
    assert not found.is_inverted.any()


def test_a_threshold_is_what_2_percent_exceed_times_a_margin(images, features, reference):
    """Of 200 images of 100 patients: ceil(0.98 * 201) = 197, the fourth largest distance."""

    def fourth_largest(vectors):
        vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        apart = np.linalg.norm(vectors[:, None] - vectors[None], axis=2)
        for i in range(200):
            apart[i, i // 2 * 2 : i // 2 * 2 + 2] = np.inf
        return np.sort(np.sort(apart, 1)[:, 4])[-4]

    layouts = novelty.layouts(images[:200]).astype(float)
    of_layouts = fourth_largest(layouts - layouts.mean(1, keepdims=True))
    assert reference.layout_threshold == pytest.approx(1.05 * of_layouts, rel=1e-4)
    of_features = fourth_largest(features[:200].astype(float))
    assert reference.feature_threshold == pytest.approx(1.1 * of_features, rel=1e-4)


def test_negatives_are_unlike_and_called_inverted(reference, images, features):
    found = reference.compare(features[200:], novelty.layouts(255 - images[200:]))
    assert found.is_unlike.all()
    assert found.is_inverted.mean() > 0.9


def test_noise_is_unlike_but_not_inverted(reference, features):
    noise = radiographs.noise(50, 32)[..., 0]
    found = reference.compare(features[200:250], novelty.layouts(noise))
    assert found.is_unlike.all()
    assert found.is_inverted.mean() < 0.1


def test_other_features_are_unlike_though_the_layout_is_known(reference, images, features):
    found = reference.compare(-features[200:], novelty.layouts(images[200:]))
    assert found.is_unlike.all()
    assert not found.is_inverted.any()


@pytest.mark.parametrize("change", [lambda x: x // 2, lambda x: x // 2 + 100])
def test_exposure_alone_makes_no_layout_unlike(reference, images, features, change):
    found = reference.compare(features[200:], novelty.layouts(change(images[200:])))
    assert found.is_unlike.mean() <= 0.1


@pytest.mark.parametrize("level", [0, 255])
def test_a_plain_image_is_unlike(reference, features, level):
    plain = np.full((1, 32, 32), level, np.uint8)
    found = reference.compare(features[:1], novelty.layouts(plain))
    assert found.ratio[0] > 1
    assert not found.is_inverted[0]


def test_images_of_the_same_patient_are_no_neighbours(images, features):
    """Each image ten times: among copies every distance would be 0, and anything else unlike."""
    rows = np.repeat(np.arange(60), 10)
    reference = novelty.KnownImages.of(_sample(images[rows], features[rows], rows))
    found = reference.compare(features[200:], novelty.layouts(images[200:]))
    assert found.is_unlike.mean() < 0.2


@pytest.mark.parametrize(("rows", "patients"), [(49, 49), (200, 5)])
def test_too_small_a_sample_says_nothing(images, features, rows, patients):
    sample = _sample(images[:rows], features[:rows], np.arange(rows) % patients)
    assert novelty.KnownImages.of(sample) is None


def test_the_share_of_validation_beyond_the_threshold_is_as_stated(images, features):
    patients = np.arange(400)
    reference = novelty.KnownImages.of(_sample(images, features, patients))
    own = novelty._distances(reference.features, reference.features, patients)
    assert (own > reference.feature_threshold).mean() <= novelty.SHARE


@pytest.mark.parametrize("size", [(16, 16), (32, 48), (37, 101), (5, 500)])
def test_a_layout_is_the_mean_of_each_part(size):
    image = np.random.default_rng(0).integers(0, 256, (2, *size)).astype(np.uint8)
    found = novelty.layouts(image).reshape(2, 16, 16)
    assert abs(found.mean() - image.mean()) < 0.6
    if size == (32, 48):
        expected = image.reshape(2, 16, 2, 16, 3).mean((2, 4))
        np.testing.assert_allclose(found, expected, atol=0.501)
