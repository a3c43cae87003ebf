"""Statistics of the images of a split, without the model.

    rows = statistics.sample(data.num_examples("train"))
    found = statistics.compute(data, "train", rows)
    found.values["level"]                             # [M] float64
    found.layouts                                     # [M, 256] uint8

They describe the images that the model sees: decoded, and resized where the input pipeline does.
Differences of exposure, contrast, focus and cropping between two splits show here first.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np
import tensorflow as tf

from trainer.data import batches, pipeline
from trainer.evaluation.shifts import novelty

if TYPE_CHECKING:
    from trainer.data.pipeline import Data

NAMES = ("level", "contrast", "sharpness", "saturated")
"""Mean grey level; standard deviation of the grey levels; mean absolute difference of neighbouring
pixels, right and below, all three in grey levels (0 to 255); share of the pixels that are 0 or 255.
"""
MAX_ROWS = 2000
"""Of a larger split, so many examples are taken: the standard error of a mean is then 2 % of the
images' standard deviation, far less than a shift that matters."""
_BATCH = 64


@dataclasses.dataclass(frozen=True, eq=False)  # `==` on arrays gives an array, not a bool.
class ImageStatistics:
    """The statistics of M examples of a split.

    Attributes:
      rows: [M] int64, the examples' rows in the split.
      values: [M] float64 for each of NAMES.
      layouts: [M, L] uint8 thumbnails, as of `novelty.layouts`.
    """

    rows: np.ndarray
    values: dict[str, np.ndarray]
    layouts: np.ndarray


def sample(num_examples: int, limit: int = MAX_ROWS) -> np.ndarray:
    """Returns at most `limit` evenly spaced rows of a split, [M] int64; all if it is smaller.

    TFDS has shuffled the split when it wrote it: evenly spaced rows are a random sample.
    """
    count = min(num_examples, limit)
    return np.arange(count, dtype=np.int64) * num_examples // max(count, 1)


def compute(data: Data, split: str, rows: np.ndarray | None = None) -> ImageStatistics:
    """Computes the statistics of examples of a split on this host, in one pass over their records.

    Args:
      data: the data set.
      split: train, validation or test.
      rows: the examples, [M]; None: the whole split, in its order.

    Raises:
      ValueError: when the split is withheld.
      RecordError: when a record is damaged (`Data.reading` turns it into one with a remedy).
    """
    rows = np.arange(data.num_examples(split)) if rows is None else np.asarray(rows, np.int64)
    side, shape = data.resize_to, data.image_shape

    weights = [tf.constant(novelty.layout_weights(size)) for size in shape[:2]]

    def measure(encoded: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        image = tf.ensure_shape(pipeline.decode(encoded, side), shape)
        return _measure(image), _layout(image, *weights)

    images = batches.parallel(data.encoded_images(split, rows), measure)
    blocks = list(batches.ahead(images.batch(_BATCH)).as_numpy_iterator())
    none = (np.zeros((0, len(NAMES))), np.zeros((0, novelty.LAYOUT_SIDE**2), np.uint8))
    values, layouts = (np.concatenate(parts) for parts in zip(none, *blocks, strict=True))
    return ImageStatistics(rows, dict(zip(NAMES, values.T, strict=True)), layouts)


def _measure(image: tf.Tensor) -> tf.Tensor:
    """Returns the statistics of an image [H, W, 1] uint8, in the order of NAMES."""
    levels = tf.cast(image[..., 0], tf.float32)
    mean = tf.reduce_mean(levels)
    # Around the mean: E[x²] - E[x]² would lose digits in float32.
    deviation = tf.sqrt(tf.reduce_mean(tf.square(levels - mean)))
    steps = [tf.abs(levels[:, 1:] - levels[:, :-1]), tf.abs(levels[1:] - levels[:-1])]
    sharpness = tf.reduce_mean(tf.concat([tf.reshape(step, [-1]) for step in steps], 0))
    is_saturated = (image == 0) | (image == 255)
    return tf.stack([mean, deviation, sharpness, tf.reduce_mean(tf.cast(is_saturated, tf.float32))])


def _layout(image: tf.Tensor, rows: tf.Tensor, columns: tf.Tensor) -> tf.Tensor:
    """Returns the thumbnail of an image [H, W, 1] uint8, as `novelty.layouts` computes it, [L]."""
    levels = tf.cast(image[..., 0], tf.float32)
    means = rows @ levels @ tf.transpose(columns)
    return tf.reshape(tf.cast(tf.round(means), tf.uint8), [-1])
