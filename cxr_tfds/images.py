"""One image file: what it is, whether it can be trusted, and how it is stored. No TensorFlow.

Apart from `audit`, because `python -m cxr_tfds.audit` must not find itself imported by the builder.

    facts, issues = images.inspect(archive)
    jpeg = images.encode_resized(data, 224)
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

from PIL import Image

from cxr_tfds import source

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

MIN_SIDE: Final = 32
"""Smaller images are thumbnails that strayed into the archive: no lung is visible in them."""
JPEG_QUALITY: Final = 95
# The 283 or so originals with colour channels, and any PNG, enter the `_raw` configs as grey JPEG:
# a TFDS feature has one encoding, and at this quality no pixel moves by more than rounding.
_RAW_QUALITY: Final = 100
# Eight bits a channel. Pillow clips 16-bit modes instead of scaling them.
_EIGHT_BIT_MODES: Final = ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr")
_UNREADABLE: Final = (
    OSError,
    SyntaxError,  # Pillow's word for a broken PNG.
    ValueError,
    Image.DecompressionBombError,
    zipfile.BadZipFile,
    zlib.error,
    RuntimeError,  # An encrypted member.
    NotImplementedError,  # A compression method that zipfile lacks.
)

_T = TypeVar("_T")
_U = TypeVar("_U")


@dataclasses.dataclass(frozen=True)
class Facts:
    """What decoding tells about an image.

    Attributes:
      height: in pixels, as stored.
      width: in pixels, as stored.
      is_rgb_coded: the file has colour channels, though the radiograph has none.
      content_hash: SHA-256 of the file's bytes.
    """

    height: int
    width: int
    is_rgb_coded: bool
    content_hash: str


def inspect(archive: source.Archive) -> tuple[dict[str, Facts], list[source.Issue]]:
    """Decodes every image of the archive.

    Returns:
      The facts of each good image by key, and everything that is wrong with the others, including
      what their names already told.
    """
    facts: dict[str, Facts] = {}
    issues = list(archive.issues)
    with archive.reader() as read:

        def examine(record: source.Record) -> Facts | source.Issue:
            try:
                return examine_bytes(read(record))
            except _UNREADABLE as error:
                return source.Issue(record.key, _clause(error))

        for record, result in parallel_map(examine, archive.records):
            if isinstance(result, source.Issue):
                issues.append(result)
            else:
                facts[record.key] = result
    return facts, issues


def examine_bytes(data: bytes) -> Facts:
    """Decodes a whole file, so that truncation shows.

    Raises:
      ValueError: empty, too small, or more than eight bits a channel.
      OSError: not an image, or a truncated one.
    """
    if not data:
        raise ValueError("is empty")
    with Image.open(io.BytesIO(data)) as image:
        image.load()
        if min(image.size) < MIN_SIDE:
            raise ValueError(f"is {image.width} x {image.height}, under {MIN_SIDE} pixels a side")
        if image.mode not in _EIGHT_BIT_MODES:
            raise ValueError(f"has pixels of mode {image.mode}; convert it to 8 bits")
        return Facts(
            height=image.height,
            width=image.width,
            is_rgb_coded=image.mode not in ("1", "L", "LA"),
            content_hash=hashlib.sha256(data).hexdigest(),
        )


def encode_resized(data: bytes, side: int) -> bytes:
    """Returns a grey JPEG of (side, side), stretched with antialiasing as the paper's input is."""
    with Image.open(io.BytesIO(data)) as image:
        grey = image.convert("L")
    # Pillow widens the filter when it shrinks: a radiograph of 2,000 pixels does not alias.
    return encode_jpeg(grey.resize((side, side), Image.Resampling.BILINEAR), JPEG_QUALITY)


def encode_original(data: bytes) -> bytes:
    """Returns the very bytes of a grey JPEG, and a near-lossless grey JPEG of anything else."""
    with Image.open(io.BytesIO(data)) as image:
        if image.format == "JPEG" and image.mode == "L":
            return data
        return encode_jpeg(image.convert("L"), _RAW_QUALITY)


def encode_jpeg(image: Image.Image, quality: int) -> bytes:
    """Returns `image` (mode L) as JPEG."""
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", quality=quality)
    return buffer.getvalue()


def parallel_map(function: Callable[[_T], _U], items: Iterable[_T]) -> Iterator[tuple[_T, _U]]:
    """Yields (item, function(item)) in order from a thread pool (Pillow releases the GIL).

    Unlike `Executor.map` it holds only a window of results: the `_raw` configs weigh 1.2 GB.
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


def _clause(error: BaseException) -> str:
    text = str(error).rstrip(".") or type(error).__name__
    return text if isinstance(error, ValueError) else f"cannot be decoded ({text})"
