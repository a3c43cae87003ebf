"""Statistics of images are those of the records, in the order of the split."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from cxr_tfds import images
from trainer.data import opening, pipeline, statistics
from trainer.options import DataOptions


@pytest.fixture
def open_data(data_dir):
    def open_(side: int = 224) -> pipeline.Data:
        return opening.load(DataOptions(data_dir=str(data_dir), dataset="paper"), side)

    return open_


def _by_hand(image: np.ndarray) -> list[float]:
    levels = image[..., 0].astype(float)
    steps = [np.abs(np.diff(levels, axis=axis)).ravel() for axis in (0, 1)]
    return [
        levels.mean(),
        levels.std(),
        np.concatenate(steps).mean(),
        np.isin(image, [0, 255]).mean(),
    ]


def test_statistics_of_an_image_worked_by_hand():
    """0 255 / 10 11: mean 69, neighbours differ by 255, 1 (right) and 10, 244 (below)."""
    image = np.array([[0, 255], [10, 11]], np.uint8)[..., None]
    found = statistics._measure(tf.constant(image)).numpy()
    deviation = np.sqrt((69**2 + 186**2 + 59**2 + 58**2) / 4)
    np.testing.assert_allclose(found, [69, deviation, 127.5, 0.5], rtol=1e-6)


@pytest.mark.parametrize("side", [224, 48])
@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_each_row_has_the_statistics_of_its_image(open_data, split, side):
    """Of the image that the model sees, in the order of the table."""
    data = open_data(side)
    found = statistics.compute(data, split)
    seen = data.images(split, np.arange(data.num_examples(split)))
    expected = np.array([_by_hand(image) for image in seen])
    assert tuple(found.values) == statistics.NAMES
    np.testing.assert_allclose(np.stack([*found.values.values()], 1), expected, rtol=1e-4)


def test_rows_choose_examples_and_their_order(open_data):
    data, rows = open_data(), np.array([9, 0, 4])
    whole, some = statistics.compute(data, "test"), statistics.compute(data, "test", rows)
    np.testing.assert_array_equal(some.rows, rows)
    for name, values in some.values.items():
        np.testing.assert_array_equal(values, whole.values[name][rows])


def test_no_rows_are_no_statistics(open_data):
    found = statistics.compute(open_data(), "test", np.zeros(0, int))
    assert [*map(len, found.values.values())] == [0] * len(statistics.NAMES)


def test_equal_digests_of_a_table_are_equal_images(open_data):
    data = open_data()
    rows = np.arange(data.num_examples("train"))
    files = [file.numpy() for file in data.encoded_images("train", rows)]
    digests = data.table("train").image_digest.tolist()
    assert digests == [images.digest(images.decode(file)) for file in files]
    assert len(set(digests)) == len(set(files))


def test_a_split_that_is_withheld_is_not_read(open_data):
    with pytest.raises(ValueError, match="withheld"):
        statistics.compute(open_data().without("test"), "test")


@pytest.mark.parametrize(("count", "limit"), [(0, 5), (4, 5), (5, 5), (6, 5), (3529, 2000)])
def test_a_sample_is_evenly_spaced(count, limit):
    rows = statistics.sample(count, limit)
    assert len(rows) == min(count, limit)
    assert len(set(rows.tolist())) == len(rows)
    assert ((rows >= 0) & (rows < max(count, 1))).all()
    gaps = np.diff(rows)
    assert gaps.size == 0 or gaps.max() - gaps.min() <= 1
