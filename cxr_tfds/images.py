"""One image file: whether it can be used, its pixels, and how a record stores them. No TensorFlow.

`decode` is the only way from a file to a model's pixels: the builder calls it, and so should code
that scores a file outside of a data set.

    facts, issues = images.inspect(archive)
    pixels = images.decode(data, 224)             # (224, 224) uint8
    jpeg = images.encode_jpeg(pixels, images.JPEG_QUALITY)
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import hashlib
import io
import os
import zipfile
import zlib
from collections import deque
from typing import TYPE_CHECKING, Final, TypeVar

import numpy as np
from PIL import Image

from cxr_tfds import source

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from numpy.typing import NDArray

MIN_SIDE: Final = 32
"""Smaller images are stray thumbnails, in which no lung is visible."""
JPEG_QUALITY: Final = 95
# About 283 originals have colour channels. In the `_raw` configs they, and any PNG, become grey
# JPEG, because a TFDS feature has one encoding; at this quality pixels change by rounding only.
_RAW_QUALITY: Final = 100
# Eight bits per channel. Pillow would clip 16-bit pixels instead of scaling them.
_EIGHT_BIT_MODES: Final = ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr")
# What Pillow raises for a file that it can't decode.
_UNDECODABLE: Final = (
    OSError,
    SyntaxError,  # A broken PNG.
    ValueError,
    Image.DecompressionBombError,
    zlib.error,
)
# What a zip raises for a member that it can't read.
_UNREADABLE: Final = (
    OSError,
    zipfile.BadZipFile,
    zlib.error,
    RuntimeError,  # An encrypted member.
    NotImplementedError,  # A compression method that zipfile lacks.
)

_T = TypeVar("_T")
_U = TypeVar("_U")


@dataclasses.dataclass(frozen=True)
class Facts:
    """What decoding a file reveals.

    Attributes:
      height: in pixels, as stored.
      width: in pixels, as stored.
      is_rgb_coded: whether the file has colour channels, though the radiograph has no colour.
      content_hash: SHA-256 of the file's bytes.
    """

    height: int
    width: int
    is_rgb_coded: bool
    content_hash: str


def inspect(archive: source.Archive) -> tuple[dict[str, Facts], list[source.Issue]]:
    """Decodes every image of the archive.

    Returns:
      The facts of each good image by key, and the issues of all others, including those that
      `archive` found in their names.
    """
    facts: dict[str, Facts] = {}
    issues = list(archive.issues)
    with archive.reader() as read:

        def examine(record: source.Record) -> Facts | source.Issue:
            try:
                return examine_bytes(read(record))
            except _UNREADABLE as error:
                return source.Issue(record.key, _cannot_decode(error))
            except ValueError as error:
                return source.Issue(record.key, str(error))

        for record, result in parallel_map(examine, archive.records):
            if isinstance(result, source.Issue):
                issues.append(result)
            else:
                facts[record.key] = result
    return facts, issues


def examine_bytes(data: bytes) -> Facts:
    """Decodes the whole file, which detects truncation.

    Raises:
      ValueError: see `decode`.
    """
    image = _open(data)
    return Facts(
        height=image.height,
        width=image.width,
        is_rgb_coded=image.mode not in ("1", "L", "LA"),
        content_hash=hashlib.sha256(data).hexdigest(),
    )


def decode(data: bytes, side: int | None = None) -> NDArray[np.uint8]:
    """Decodes an image file to grey pixels and, where a side is given, stretches them to a square.

    Colour channels become luma (ITU-R 601), transparency is dropped, an EXIF orientation is not
    applied. The filter is bilinear with antialiasing: it widens with the reduction, so that a
    radiograph of 2,000 pixels does not alias.

    Args:
      data: the whole file: JPEG, PNG or another format that Pillow reads.
      side: height and width of the result in pixels; None: the image's own.

    Returns:
      (H, W) uint8, row 0 at the top and column 0 at the left of the image as stored; 0 is black.

    Raises:
      ValueError: the file is empty, can't be decoded, has under `MIN_SIDE` pixels a side, or has
        more than eight bits a channel. The message is a clause whose subject is the file.
    """
    grey = _open(data).convert("L")
    if side is not None:
        grey = grey.resize((side, side), Image.Resampling.BILINEAR)
    return np.asarray(grey)


def encode_resized(data: bytes, side: int) -> bytes:
    """Returns what a record stores of a file: its pixels at (side, side), as grey JPEG."""
    return encode_jpeg(decode(data, side), JPEG_QUALITY)


def encode_original(data: bytes) -> bytes:
    """Returns a grey JPEG unchanged, and anything else as a near-lossless grey JPEG."""
    with Image.open(io.BytesIO(data)) as image:
        if image.format == "JPEG" and image.mode == "L":
            return data
    return encode_jpeg(decode(data), _RAW_QUALITY)


def encode_jpeg(pixels: NDArray[np.uint8], quality: int) -> bytes:
    """Returns grey pixels, (H, W) uint8, as JPEG."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="JPEG", quality=quality)
    return buffer.getvalue()


def parallel_map(function: Callable[[_T], _U], items: Iterable[_T]) -> Iterator[tuple[_T, _U]]:
    """Yields (item, function(item)) in order, computed by threads (Pillow releases the GIL).

    Unlike `Executor.map`, this keeps only a few results in memory: the `_raw` configs have 1.2 GB.
    """
    workers = os.cpu_count() or 1
    with concurrent.futures.ThreadPoolExecutor(workers) as executor:
        window: deque[tuple[_T, concurrent.futures.Future[_U]]] = deque()
        for item in items:
            window.append((item, executor.submit(function, item)))
            if len(window) > 8 * workers:
                head, future = window.popleft()
                yield head, future.result()
        for item, future in window:
            yield item, future.result()


def _open(data: bytes) -> Image.Image:
    """Returns the image, decoded to its last row, or raises ValueError as `decode` says."""
    if not data:
        raise ValueError("is empty")
    try:
        image = Image.open(io.BytesIO(data))
        image.load()
    except _UNDECODABLE as error:
        raise ValueError(_cannot_decode(error)) from error
    if min(image.size) < MIN_SIDE:
        raise ValueError(f"is {image.width} x {image.height}, under {MIN_SIDE} pixels a side")
    if image.mode not in _EIGHT_BIT_MODES:
        raise ValueError(f"has pixels of mode {image.mode}; convert it to 8 bits")
    return image


def _cannot_decode(error: BaseException) -> str:
    return f"cannot be decoded ({str(error).rstrip('.') or type(error).__name__})"
