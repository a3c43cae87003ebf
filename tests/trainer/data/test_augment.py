from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from tests.support import radiographs
from trainer.data import augment

IMAGE = radiographs.noise(1, 64)[0]


def _apply(strength: str, *seed: int, image: np.ndarray = IMAGE) -> np.ndarray:
    return augment.apply(tf.constant(image), strength, tf.constant(seed, tf.int64)).numpy()


@pytest.mark.parametrize("strength", augment.STRENGTHS)
def test_the_same_seed_gives_the_same_image(strength):
    np.testing.assert_array_equal(_apply(strength, 1, 2), _apply(strength, 1, 2))


@pytest.mark.parametrize("strength", augment.STRENGTHS)
def test_other_examples_and_other_epochs_give_other_changes(strength):
    first = _apply(strength, 1, 2)
    assert (first != _apply(strength, 1, 3)).any()
    assert (first != _apply(strength, 2, 2)).any()
    assert first.shape == IMAGE.shape
    assert first.dtype == np.uint8


@pytest.mark.parametrize("strength", augment.STRENGTHS)
def test_left_stays_left(strength):
    """Images are never flipped, neither left to right nor upside down."""
    image = np.zeros((64, 64, 1), np.uint8)
    image[8:24, 40:56] = 200
    for draw in range(20):
        rows, columns, _ = np.nonzero(_apply(strength, 0, draw, image=image) > 100)
        assert columns.mean() > 32
        assert rows.mean() < 32


def test_light_stays_within_its_limits():
    """A bright disc in the centre moves by at most 4 % of the side, up to rounding."""
    y, x = np.mgrid[:64, :64]
    image = (200 * (np.hypot(x - 31.5, y - 31.5) < 6)).astype(np.uint8)[..., None]
    for draw in range(20):
        rows, columns, _ = np.nonzero(_apply("light", 0, draw, image=image) > 120)
        assert abs(rows.mean() - 31.5) < 64 * 0.04 + 0.5
        assert abs(columns.mean() - 31.5) < 64 * 0.04 + 0.5


def test_mean_brightness_is_kept_on_average():
    means = [_apply("strong", 0, draw).mean() for draw in range(60)]
    assert np.mean(means) == pytest.approx(IMAGE.mean(), abs=12)
    assert np.std(means) > 5
