"""From a file's bytes to the pixels of `cxr_tfds.images.decode`, in operations of TensorFlow.

A server that is sent files has TensorFlow alone. JPEG, PNG and BMP become the same pixels as with
Pillow, to the last level: the decoders are the same libraries, luma and resampling are written out
here in whole numbers, as Pillow computes them. What would come out differently is refused: 16 bits,
CMYK, transparency, an image that has to be turned upright, and colours of a BMP's palette.

    pixels = decoding.decode(content, 224)        # a string tensor -> [224, 224, 1] float32
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf

_RED, _GREEN, _BLUE, _HALF, _LUMA_BITS = 19595, 38470, 7471, 1 << 15, 16
"""Pillow's luma of ITU-R 601: (19595 R + 38470 G + 7471 B + 32768) >> 16."""
_WEIGHT_BITS = 22
"""Pillow rounds the weights of its filters to multiples of 2^-22."""
_HEAD_BYTES = 1 << 16
"""Where a JPEG has its orientation: one segment is no longer."""
_PNG_BITS, _BMP_BITS, _BMP_HEADER, _BMP_PALETTE = 24, 28, 14, 54


def decode(content: tf.Tensor, *sides: int) -> tf.Tensor:
    """Decodes a file and stretches it to a square, bilinear with antialiasing.

    Args:
      content: the file, a string tensor of rank 0: JPEG, PNG or BMP.
      *sides: heights and widths in pixels, to which it is stretched one after the other.

    Returns:
      [S, S, 1] float32, whole grey levels 0 to 255.

    Raises:
      tf.errors.InvalidArgumentError: when it runs, for a file that is damaged, of another kind, or
        would have other pixels than Pillow gives.
    """
    grey = _grey(_channels(content))
    for side in sides:
        shape = tf.shape(grey)
        rows = _filter(shape[0], side)
        columns = _filter(shape[1], side)
        # Columns first, and rounded in between, as Pillow does.
        narrow = _level(tf.matmul(grey, columns, transpose_b=True))
        grey = tf.ensure_shape(_level(tf.matmul(rows, narrow)), (side, side))
    return tf.cast(grey[..., tf.newaxis], tf.float32)


def _channels(content: tf.Tensor) -> tf.Tensor:
    """Decodes to [H, W, C] uint8, as stored."""
    head = tf.io.decode_raw(tf.strings.substr(content, 0, _HEAD_BYTES), tf.uint8)
    is_jpeg = tf.equal(tf.strings.substr(content, 0, 2), b"\xff\xd8")
    is_png = tf.equal(tf.strings.substr(content, 0, 4), b"\x89PNG")
    is_bmp = tf.equal(tf.strings.substr(content, 0, 2), b"BM")
    _require(is_jpeg | is_png | is_bmp, "The image is not JPEG, PNG or BMP.")
    with tf.control_dependencies([_require_upright(head)]):
        head = tf.identity(head)
    return tf.case(
        [
            (is_jpeg, lambda: _jpeg(content)),
            (is_png, lambda: _png(content, head)),
        ],
        default=lambda: _bmp(content, head),
    )


def _jpeg(content: tf.Tensor) -> tf.Tensor:
    channels = tf.image.extract_jpeg_shape(content)[2]
    _require(channels < 4, "The image is CMYK; convert it to grey.")
    pixels = tf.io.decode_jpeg(content, channels=0, dct_method="INTEGER_ACCURATE")
    return tf.ensure_shape(pixels, (None, None, None))


def _png(content: tf.Tensor, head: tf.Tensor) -> tf.Tensor:
    _require(head[_PNG_BITS] <= 8, "The image has 16 bits a channel; convert it to 8 bits.")
    return tf.ensure_shape(tf.io.decode_png(content, channels=0), (None, None, None))


def _bmp(content: tf.Tensor, head: tf.Tensor) -> tf.Tensor:
    """Decodes a BMP; TensorFlow takes the numbers of colours in a palette for levels."""
    start = _BMP_HEADER + tf.cast(head[_BMP_HEADER], tf.int32)
    ramp = tf.repeat(tf.range(256), 3)
    palette = tf.cast(head[start : start + 4 * 256], tf.int32)
    has_256 = tf.equal(tf.size(palette), 4 * 256)
    shown = tf.cond(
        has_256, lambda: tf.reshape(tf.reshape(palette, (256, 4))[:, :3], (-1,)), lambda: ramp - 1
    )
    is_grey = tf.reduce_all(tf.equal(shown, ramp))
    has_palette = head[_BMP_BITS] <= 8
    _require(~has_palette | is_grey, "The image has a palette of colours; convert it to grey.")
    return tf.ensure_shape(tf.io.decode_bmp(content, channels=0), (None, None, None))


def _grey(pixels: tf.Tensor) -> tf.Tensor:
    """Returns luma [H, W] float64 of [H, W, C] uint8, as Pillow rounds it."""
    values = tf.cast(pixels, tf.int32)
    channels = tf.shape(values)[2]
    is_colour = channels >= 3
    has_alpha = tf.equal(channels % 2, 0)
    alpha = values[..., -1]
    is_opaque = tf.reduce_all(tf.equal(alpha, 255))
    _require(~has_alpha | is_opaque, "The image is partly transparent; remove its transparency.")

    def luma() -> tf.Tensor:
        weighted = _RED * values[..., 0] + _GREEN * values[..., 1] + _BLUE * values[..., 2]
        return tf.bitwise.right_shift(weighted + _HALF, _LUMA_BITS)

    return tf.cast(tf.cond(is_colour, luma, lambda: values[..., 0]), tf.float64)


def _filter(length: tf.Tensor, side: int) -> tf.Tensor:
    """Returns Pillow's weights [side, length] of a bilinear filter that widens with the reduction.

    They are multiples of 2^-22, so that float64 has every product and sum exactly.
    """
    scale = tf.cast(length, tf.float64) / side
    support = tf.maximum(scale, 1.0)
    centres = (tf.range(side, dtype=tf.float64) + 0.5) * scale
    positions = tf.cast(tf.range(length), tf.float64) + 0.5
    distance = tf.abs(positions - centres[:, tf.newaxis]) / support
    weights = tf.maximum(1.0 - distance, 0.0)
    weights /= tf.reduce_sum(weights, 1, keepdims=True)
    unit = tf.constant(2.0**_WEIGHT_BITS, tf.float64)
    return tf.floor(weights * unit + 0.5) / unit


def _level(values: tf.Tensor) -> tf.Tensor:
    return tf.clip_by_value(tf.floor(values + 0.5), 0.0, 255.0)


def _require_upright(head: tf.Tensor) -> Any:
    """Refuses what EXIF turns: TensorFlow's decoders leave it as it lies."""
    values = tf.cast(head, tf.int32)
    found = tf.concat([_after(values, b"Exif\0\0"), _after(values, b"eXIf")], 0)
    # Zeros behind the end: a damaged directory is no reason to read beyond it.
    padded = tf.concat([values, tf.zeros((1 << 17,), tf.int32)], 0)
    turned = tf.map_fn(lambda start: _is_turned(padded, start), found, fn_output_signature=tf.bool)
    return _require(~tf.reduce_any(turned), "The image has to be turned upright (EXIF).")


def _after(values: tf.Tensor, mark: bytes) -> tf.Tensor:
    """Returns the positions behind each occurrence of a mark in bytes, [N]."""
    count = tf.maximum(tf.size(values) - len(mark), 0)
    equal = [tf.equal(values[i : i + count], byte) for i, byte in enumerate(mark)]
    return tf.cast(tf.where(tf.reduce_all(equal, 0))[:, 0], tf.int32) + len(mark)


def _is_turned(values: tf.Tensor, start: tf.Tensor) -> tf.Tensor:
    """Whether the TIFF directory at a position has an orientation other than upright."""
    is_little = tf.equal(values[start], ord("I"))

    def number(at: tf.Tensor, size: int) -> tf.Tensor:
        # Of four bytes the lower two: a larger offset lies behind what is read.
        low = values[at] + 256 * values[at + 1]
        high = 256 * values[at + size - 2] + values[at + size - 1]
        return tf.where(is_little, low, high)

    directory = start + number(start + 4, 4)
    entries = directory + 2 + 12 * tf.range(tf.minimum(number(directory, 2), 64))
    tags = tf.map_fn(lambda at: number(at, 2), entries)
    orientations = tf.boolean_mask(entries, tf.equal(tags, 0x0112))
    turns = tf.map_fn(lambda at: number(at + 8, 2), orientations)
    return tf.reduce_any((turns > 1) & (turns <= 8))


def _require(condition: tf.Tensor, message: str) -> Any:
    return tf.debugging.Assert(condition, [message], name="refused")
