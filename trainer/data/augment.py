"""Random changes to training images, each drawn from the example's own seed.

The seed combines the example with the number of an epoch or a view. It does not depend on the
example's place in a batch, on the replica, or on what was read before: every strategy and every
resumed run sees the same images. There are no flips: they would put the heart on the wrong side.

    image = augment.apply(image, "light", seed=(example_id, draw))
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import tensorflow as tf


@dataclasses.dataclass(frozen=True)
class Strength:
    """Upper limits of the changes; each is drawn uniformly from [-limit, limit]."""

    rotation_deg: float
    shift: float  # share of the image's side
    zoom: float  # share of the image's side
    brightness: float  # share of the pixel range
    contrast: float  # share of the contrast
    noise: float  # standard deviation, share of the pixel range


STRENGTHS = {
    "light": Strength(5, 0.04, 0.05, 0.08, 0.10, 0.0),
    "strong": Strength(15, 0.10, 0.15, 0.20, 0.25, 0.02),
}
_WHITE = 255.0


def apply(image: tf.Tensor, strength: str, seed: Any) -> tf.Tensor:
    """Returns a randomly changed copy of `image` ([H, W, 1] uint8), of the same shape and dtype.

    Args:
      image: one image.
      strength: a key of STRENGTHS.
      seed: two int64; the same seed gives the same changes.
    """
    limits = STRENGTHS[strength]
    # Keras's random layers draw from a state that every call advances: their results would depend
    # on the order of reading. Stateless ops depend on the seed alone.
    draw = tf.random.stateless_uniform([6], seed, -1.0, 1.0)
    pixels = _transform(tf.cast(image, tf.float32), limits, draw)
    mean = tf.reduce_mean(pixels)
    pixels = (pixels - mean) * (1 + draw[4] * limits.contrast) + mean
    pixels += draw[5] * limits.brightness * _WHITE
    if limits.noise:
        # The high bits of a seed are free: an epoch's or a view's number stays below 2^32.
        noise_seed = tf.stack([seed[0], seed[1]]) + tf.constant([0, 1 << 32], tf.int64)
        noise = tf.random.stateless_normal(tf.shape(image), noise_seed)
        pixels += noise * limits.noise * _WHITE
    return tf.cast(tf.round(tf.clip_by_value(pixels, 0.0, _WHITE)), tf.uint8)


def _transform(pixels: tf.Tensor, limits: Strength, draw: tf.Tensor) -> tf.Tensor:
    """Rotates, zooms and shifts around the centre; edge pixels fill what moves into view.

    All three are one projective transform: interpolating three times would blur the image.
    """
    height, width = tf.unstack(tf.cast(tf.shape(pixels)[:2], tf.float32))
    angle = draw[0] * limits.rotation_deg * (math.pi / 180)
    scale = 1 + draw[1] * limits.zoom
    cos, sin = scale * tf.cos(angle), scale * tf.sin(angle)
    centre_x, centre_y = (width - 1) / 2, (height - 1) / 2
    shift_x, shift_y = draw[2] * limits.shift * width, draw[3] * limits.shift * height
    transform = [
        cos, -sin, centre_x - cos * centre_x + sin * centre_y + shift_x,
        sin, cos, centre_y - sin * centre_x - cos * centre_y + shift_y,
        0.0, 0.0,
    ]  # fmt: skip
    return tf.raw_ops.ImageProjectiveTransformV3(
        images=pixels[None],
        transforms=tf.stack(transform)[None],
        output_shape=tf.shape(pixels)[:2],
        fill_value=0.0,
        interpolation="BILINEAR",
        fill_mode="NEAREST",
    )[0]
