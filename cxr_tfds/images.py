"""One image file: whether it can be used, its pixels, and how a record stores them. No TensorFlow.

`decode` is the only way from a file to a record's pixels, and records store them without loss.
`cxr_tfds.radiographs.reading`, for files outside of a data set, loads more kinds, and has the steps
after that from here: `usable` and `grey_pixels`.

    facts, issues = images.inspect(archive)
    pixels = images.decode(data, 224)             # (224, 224) uint8
    image = images.encode(data, 224)
    image.content                                 # PNG of these pixels
    image.digest == images.digest(pixels)
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
from PIL import ExifTags, Image, ImageOps

from cxr_tfds import file_formats, source
from cxr_tfds.file_formats import ImageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from numpy.typing import NDArray

__all__ = [
    "MIN_CONTRAST",
    "EncodedImage",
    "Facts",
    "ImageError",
    "decode",
    "digest",
    "encode",
    "encode_png",
    "examine_bytes",
    "grey_pixels",
    "inspect",
    "keeps_bytes",
    "parallel_map",
    "require_sides",
    "upright",
    "usable",
]

MIN_CONTRAST: Final = 16
"""Grey levels (of 256) between the darkest and the brightest 1 % of an image. Radiographs have 90
or more; less is a blank file, or 12 bits that were saved as 8."""
# What a zip raises for a member that it can't read.
_UNREADABLE: Final = (
    OSError,
    EOFError,
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
      height: in pixels, of the upright image.
      width: in pixels, of the upright image.
      is_rgb_coded: whether the file has colour channels, though the radiograph has no colour.
      content_hash: SHA-256 of the file's bytes.
      size: of the file in bytes.
    """

    height: int
    width: int
    is_rgb_coded: bool
    content_hash: str
    size: int = 0


def inspect(
    archive: source.Archive, check: Callable[[bytes, Image.Image], None] | None = None
) -> tuple[dict[str, Facts], list[source.Issue]]:
    """Decodes every image of the archive.

    Args:
      archive: where to read them.
      check: called with the bytes and the upright image of each good file; what it raises
        ImageError for is an issue.

    Returns:
      The facts of each good image by key, and the issues of all others, including those that
      `archive` found in their names.
    """
    facts: dict[str, Facts] = {}
    issues = list(archive.issues)
    with archive.reader() as read:

        def examine(record: source.Record) -> Facts | source.Issue:
            try:
                data = read(record)
                image = _open(data)
                if check:
                    check(data, image)
            except _UNREADABLE as error:
                return source.Issue(record.key, _unreadable(archive, error), record.path)
            except ImageError as error:
                return source.Issue(record.key, error.problem, record.path)
            return _facts(data, image)

        for record, result in parallel_map(examine, archive.records):
            if isinstance(result, source.Issue):
                issues.append(result)
            else:
                facts[record.key] = result
    return facts, issues


def _unreadable(archive: source.Archive, error: Exception) -> str:
    if getattr(error, "errno", None) is not None or not archive.is_zip:
        return file_formats.cannot_decode(error)
    reason = "wrong checksum" if "Bad CRC" in str(error) else str(error) or type(error).__name__
    return f"{source.DAMAGED} ({reason})"


def examine_bytes(data: bytes) -> Facts:
    """Decodes the whole file, which detects truncation.

    Raises:
      ImageError: see `decode`.
    """
    return _facts(data, _open(data))


def _facts(data: bytes, image: Image.Image) -> Facts:
    return Facts(
        height=image.height,
        width=image.width,
        is_rgb_coded=image.mode not in ("1", "L", "LA"),
        content_hash=hashlib.sha256(data).hexdigest(),
        size=len(data),
    )


def decode(data: bytes, side: int | None = None) -> NDArray[np.uint8]:
    """Decodes an image file to grey pixels and, where a side is given, stretches them to a square.

    Colour channels become luma (ITU-R 601), and an EXIF orientation is applied. Gamma and colour
    profiles are not: pixels are taken as stored. The filter is bilinear with antialiasing: it
    widens with the reduction, so that a radiograph of 2,000 pixels does not alias.

    Args:
      data: the whole file, one of `file_formats.FORMATS`.
      side: height and width of the result in pixels; None: the image's own.

    Returns:
      (H, W) uint8, row 0 at the top and column 0 at the left of the upright image; 0 is black.

    Raises:
      ImageError: the file can't be used as `file_formats.load` says, is partly transparent, or has
        less contrast than `MIN_CONTRAST`. It is a ValueError.
      ValueError: `side` is out of range.
      TypeError: `data` is no bytes, or `side` no whole number.
    """
    sides = [] if side is None else [side]
    require_sides(*sides)
    return grey_pixels(_open(data), *sides)


def grey_pixels(image: Image.Image, *sides: int) -> NDArray[np.uint8]:
    """Returns the pixels of an image of 8 bits as `decode` does: luma, stretched to a square.

    Args:
      image: upright.
      *sides: heights and widths in pixels, to which it is stretched one after the other.
    """
    grey = image if image.mode == "L" else image.convert("L")
    for side in sides:
        grey = grey.resize((side, side), Image.Resampling.BILINEAR)
    return np.asarray(grey)


def require_sides(*sides: object) -> None:
    """Raises TypeError or ValueError, a sentence, unless an image can have such sides."""
    for side in sides:
        if isinstance(side, bool) or not isinstance(side, int | np.integer):
            raise TypeError(
                f"side (px) is a whole number, height and width of a square, such as 224, not of "
                f"type {type(side).__name__}."
            )
        if not 1 <= side <= file_formats.MAX_SIDE:
            raise ValueError(f"side ({side} px) must be 1 to {file_formats.MAX_SIDE:,} px.")


@dataclasses.dataclass(frozen=True)
class EncodedImage:
    """What a record stores of an image.

    Attributes:
      content: a file that TensorFlow decodes to the pixels of `decode`.
      digest: of these pixels, see `digest`.
    """

    content: bytes
    digest: str


def encode(data: bytes, side: int | None) -> EncodedImage:
    """Returns what a record stores of a file: its pixels as grey PNG, or its own bytes.

    Args:
      data: the whole file.
      side: height and width of the stored image in pixels; None, as in the `_raw` configs: those
        of the file, whose bytes are then kept if `keeps_bytes`.

    Raises:
      ImageError: as `decode`.
    """
    pixels = decode(data, side)
    keeps = side is None and keeps_bytes(data)
    return EncodedImage(data if keeps else encode_png(pixels), digest(pixels))


def digest(pixels: NDArray[np.uint8]) -> str:
    """Returns 16 hexadecimal digits that are equal for equal images, however they are encoded.

    A hash of the encoded image would not do: PNG of one image differs between releases of zlib.

    Args:
      pixels: grey levels, (H, W) uint8.
    """
    size = f"{pixels.shape[0]} {pixels.shape[1]} ".encode()
    return hashlib.blake2b(size + pixels.tobytes(), digest_size=8).hexdigest()


def keeps_bytes(data: bytes) -> bool:
    """Whether a `_raw` record can store the bytes of a good file as they are.

    TensorFlow decodes them in training. It knows fewer kinds of JPEG than Pillow, and no EXIF
    orientation.
    """
    file_formats.require_bytes(data)
    if not file_formats.is_grey_huffman_jpeg(data):
        return False
    with Image.open(io.BytesIO(data), formats=file_formats.FORMATS) as image:
        return _is_upright(image)


def encode_png(pixels: NDArray[np.uint8], compress_level: int = 6) -> bytes:
    """Returns grey pixels, (H, W) uint8, as PNG.

    Args:
      pixels: see there.
      compress_level: 0 to 9, of zlib; at 1 it takes a third of the time and a sixth more space.

    Raises:
      TypeError: `pixels` is no such array.
    """
    if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8 or pixels.ndim != 2:
        shape, dtype = getattr(pixels, "shape", ""), getattr(pixels, "dtype", type(pixels).__name__)
        raise TypeError(f"pixels ({dtype} {shape}) must be grey levels 0 to 255, (H, W) uint8.")
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG", compress_level=compress_level)
    return buffer.getvalue()


def parallel_map(
    function: Callable[[_T], _U], items: Iterable[_T], ahead: int = 0, workers: int = 0
) -> Iterator[tuple[_T, _U]]:
    """Yields (item, function(item)) in order, computed by threads (Pillow releases the GIL).

    Unlike `Executor.map`, this keeps only a few results in memory: the `_raw` configs have 1.2 GB.

    Args:
      function: of an item.
      items: read as they are needed.
      ahead: how many results are computed before they are asked for; 0: eight a thread.
      workers: how many threads; 0: one a CPU.
    """
    workers = workers or os.cpu_count() or 1
    ahead = ahead or 8 * workers
    executor = concurrent.futures.ThreadPoolExecutor(workers)
    try:
        window: deque[tuple[_T, concurrent.futures.Future[_U]]] = deque()
        for item in items:
            window.append((item, executor.submit(function, item)))
            if len(window) > ahead:
                head, future = window.popleft()
                yield head, future.result()
        for item, future in window:
            yield item, future.result()
    finally:
        # Whoever stops half-way does not wait for results that nobody will ask for.
        executor.shutdown(cancel_futures=True)


def _open(data: bytes) -> Image.Image:
    """Returns the image, upright, or raises ImageError as `decode` says."""
    return usable(file_formats.load(data))


def usable(image: Image.Image) -> Image.Image:
    """Returns a loaded image of 8 bits, upright.

    Raises:
      ImageError: it is partly transparent, or has less contrast than `MIN_CONTRAST`.
    """
    image = upright(image)
    if image.has_transparency_data and np.asarray(image.convert("RGBA"))[..., 3].min() < 255:
        raise ImageError("is partly transparent; remove its transparency")
    if not _has_sampled_contrast(image) and (contrast := _contrast(image)) < MIN_CONTRAST:
        raise ImageError(f"is blank: 98 % of its pixels are within {contrast} of 255 grey levels")
    return image


def upright(image: Image.Image) -> Image.Image:
    """Returns the image as its EXIF orientation says."""
    return image if _is_upright(image) else ImageOps.exif_transpose(image)


def _is_upright(image: Image.Image) -> bool:
    return bool(image.getexif().get(ExifTags.Base.Orientation, 1) == 1)


def _has_sampled_contrast(image: Image.Image) -> bool:
    """Whether 256 pixels prove the contrast. Counting all of them costs a sixth of the decoding."""
    sample = sorted(image.resize((16, 16), Image.Resampling.NEAREST).convert("L").tobytes())
    return sample[-26] - sample[25] >= MIN_CONTRAST


def _contrast(image: Image.Image) -> int:
    """Returns how many levels lie between the darkest and the brightest 1 % of the pixels."""
    shares = np.cumsum(image.convert("L").histogram()) / (image.width * image.height)
    low, high = np.searchsorted(shares, (0.01, 0.99))
    return int(high - low)
