"""One image file, decoded to its last byte, or the reason why not. No TensorFlow.

The content decides what a file is, never its suffix. Pillow repairs what it can and says nothing:
of a damaged JPEG it returns the blocks that it could guess, of 16 bits the upper 8. So this module
reads the containers itself where Pillow is silent.

    image = file_formats.load(data)               # a loaded PIL.Image.Image of 8 bits a channel
    file_formats.load(data, deep_modes=("I;16",)) # or of more, where the caller knows what to do
    file_formats.is_grey_huffman_jpeg(data)       # whether every JPEG decoder reads it
"""

from __future__ import annotations

import dataclasses
import io
import re
import struct
import zlib
from typing import TYPE_CHECKING, Final

import numpy as np
from PIL import Image, JpegImagePlugin, TiffImagePlugin, UnidentifiedImageError

from cxr_tfds import text

if TYPE_CHECKING:
    from collections.abc import Collection

FORMATS: Final = ("JPEG", "PNG", "TIFF", "BMP", "WEBP")
"""What Pillow may decode. It knows 40 more, and starts Ghostscript for one of them."""
MIN_SIDE: Final = 32
"""Smaller images are stray thumbnails, in which no lung is visible."""
MAX_SIDE: Final = 65_500
"""Larger images can't be JPEG, and no radiograph is larger."""
MAX_PIXELS: Final = 89_000_000
"""Larger images are no radiographs: they are made to fill the memory. A digitised film has 40
million; Pillow warns from 89.5 million on."""

_OTHER_KINDS: Final = (
    (0, b"%!PS", "PostScript"),
    (0, b"\xc5\xd0\xd3\xc6", "PostScript"),
    (0, b"%PDF", "PDF"),
    (0, b"GIF8", "GIF"),
    (0, b"PK\x03\x04", "a zip archive"),
    (0, b"\x1f\x8b", "gzip"),
    (0, b"\x00\x00\x00\x0cjP", "JPEG 2000"),
    (0, b"\xff\x4f\xff\x51", "JPEG 2000"),
    (4, b"ftypavi", "AVIF"),
    (4, b"ftyp", "HEIC"),
    (0, b"8BPS", "Photoshop"),
    (0, b"version https://git-lfs", "a pointer of Git LFS, not the file itself"),
    (0, b"<", "HTML or XML"),
    (128, b"DICM", "DICOM"),
)
UNDECODABLE: Final = (
    OSError,
    SyntaxError,  # A broken PNG.
    ValueError,
    EOFError,
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    MemoryError,
    RuntimeError,
    TypeError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
)
"""What libraries raise for a file that they can't decode; they trust what they read."""
# Pillow would clip 16-bit pixels, or take their upper byte, instead of scaling them.
_EIGHT_BIT_MODES: Final = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr")

_START_OF_FRAME: Final = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_HUFFMAN: Final = (0xC0, 0xC1, 0xC2)  # Baseline, extended, progressive.
_IN_ONE_PASS: Final = (0xC0, 0xC1)
_RESTARTS: Final = range(0xD0, 0xD8)
_END_OF_IMAGE, _START_OF_SCAN = 0xD9, 0xDA
_MARKER: Final = re.compile(rb"\xff+([^\x00\xff])")
_LEFT_OVER: Final = 4
"""Bytes that an encoder may append to the image data."""
_LOOK_AHEAD: Final = bytes(8)
"""libjpeg fills its buffer of 64 bits before it decodes the last block."""


class ImageError(ValueError):
    """An image file can't be used; the message is a sentence about "the image".

    Attributes:
      problem: the same as a clause, whose subject is the file: for callers who know its name.
    """

    def __init__(self, problem: str) -> None:
        super().__init__(f"The image {problem}.")
        self.problem = problem


class _CorruptError(ValueError):
    """The file is damaged; the message says how, in words that follow "its"."""


@dataclasses.dataclass(frozen=True)
class Jpeg:
    """What the markers of a JPEG file tell.

    Attributes:
      process: marker of the frame, 0xC0 to 0xCF: how the pixels are coded.
      bits: per channel.
      channels: 1 for grey, 3 for colour, 4 for print.
      scans: number of passes over the image.
      end: offset of the marker after the image data.
    """

    process: int
    bits: int
    channels: int
    scans: int
    end: int


def load(data: bytes, *, deep_modes: Collection[str] = ()) -> Image.Image:
    """Decodes a file to its last byte; its pixels are as stored, with 8 bits a channel.

    Args:
      data: the whole file.
      deep_modes: Pillow's modes of more than 8 bits that the caller can use too, such as "I;16".

    Raises:
      ImageError: the file is none of `FORMATS`, is damaged, holds several images, has more than 8
        bits a channel in another mode than `deep_modes`, or sides beyond the limits above.
      TypeError: `data` is no bytes, but a path, an open file or an array.
    """
    require_bytes(data)
    if not data:
        raise ImageError("is empty")
    try:
        image = _opened(data)
        require_size(image.width, image.height)
        _decode(image, data, deep_modes)
    except ImageError:
        raise
    except UNDECODABLE as error:
        raise ImageError(cannot_decode(error)) from error
    return image


def require_bytes(data: object) -> None:
    """Raises TypeError, a sentence, unless `data` is bytes."""
    if not isinstance(data, bytes | bytearray):
        raise TypeError(
            f"data (of type {type(data).__name__}) must be a file's bytes: give them, such as "
            "pathlib.Path(p).read_bytes()."
        )


def is_grey_huffman_jpeg(data: bytes) -> bool:
    """Whether a sound file is a JPEG of the kind that every decoder reads: grey, 8 bits, Huffman.

    Pillow also reads lossless and arithmetic coding, TensorFlow does not.

    Raises:
      ImageError: its markers are damaged.
    """
    if not data.startswith(b"\xff\xd8"):
        return False
    try:
        jpeg = parse_jpeg(data)
    except _CorruptError as error:
        raise ImageError(cannot_decode(error)) from error
    return jpeg.process in _HUFFMAN and jpeg.bits == 8 and jpeg.channels == 1


def cannot_decode(error: BaseException) -> str:
    """Returns the clause about a file that a library could not read."""
    reason = text.visible(str(error).rstrip("."))
    return f"cannot be decoded ({reason or type(error).__name__})"


def parse_jpeg(data: bytes) -> Jpeg:
    """Reads the markers of a JPEG file, which are in order unless the file is damaged.

    Raises:
      ValueError: a marker is missing, or is where none can be.
    """
    frame: tuple[int, int, int] | None = None
    scans = 0
    position = 2
    while True:
        marker = _MARKER.match(data, position)
        if marker is None:
            raise _CorruptError("JPEG markers are damaged or truncated")
        code, start = marker[1][0], marker.end()
        if code == _END_OF_IMAGE:
            break
        position = start + int.from_bytes(data[start : start + 2], "big")
        if code in _START_OF_FRAME:
            frame = (code, data[start + 2], data[start + 7])
        if code == _START_OF_SCAN:
            scans += 1
            position = _end_of_scan(data, position)
    if frame is None or not scans:
        raise _CorruptError("JPEG data is missing")
    return Jpeg(*frame, scans=scans, end=marker.start())


def _end_of_scan(data: bytes, start: int) -> int:
    """Returns the offset of the first marker after a scan; restart markers count 0 to 7."""
    # numpy, because a regular expression takes as long as the decoder.
    values = np.frombuffer(data, np.uint8, offset=min(start, len(data)))
    prefixes = np.flatnonzero(values[:-1] == 0xFF)
    codes = values[prefixes + 1]
    for count, i in enumerate(np.flatnonzero((codes != 0) & (codes != 0xFF))):
        if codes[i] not in _RESTARTS:
            return start + int(prefixes[i])
        if codes[i] != _RESTARTS[count % 8]:
            raise _CorruptError("JPEG data lacks a part")
    raise _CorruptError("JPEG data is truncated")


def _opened(data: bytes) -> Image.Image:
    """Returns the image, not yet decoded."""
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError:
        raise ImageError(_unexpected(data)) from None
    # "MPO" is a JPEG with more images behind it, and the name that Pillow gives it.
    if (count := getattr(image, "n_frames", 1)) > 1:
        raise ImageError(f"holds {count} images; keep one of them")
    return image


def _unexpected(data: bytes) -> str:
    if _could_be_expected(data):
        return "cannot be decoded (its header is damaged or truncated)"
    kinds = (kind for offset, magic, kind in _OTHER_KINDS if data[offset:].startswith(magic))
    seen = next(kinds, None)
    wanted = "JPEG, PNG, TIFF, BMP or WebP"
    return f"is {seen}; convert it to {wanted}" if seen else f"is not {wanted}"


def _could_be_expected(data: bytes) -> bool:
    magics = (b"\xff\xd8", b"\x89PNG", b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+", b"BM")
    return data.startswith(magics) or data[8:12] == b"WEBP"


def require_size(width: int, height: int) -> None:
    """Raises ImageError unless an image of that many pixels is within the limits above."""
    size = f"is {width} x {height}"
    if min(width, height) < MIN_SIDE:
        raise ImageError(f"{size}, under {MIN_SIDE} pixels a side")
    if max(width, height) > MAX_SIDE:
        raise ImageError(f"{size}, over {MAX_SIDE:,} pixels a side")
    if width * height > MAX_PIXELS:
        raise ImageError(f"{size}, over {MAX_PIXELS // 10**6} million pixels")


def _decode(image: Image.Image, data: bytes, deep_modes: Collection[str]) -> None:
    """Decodes all pixels; refuses what Pillow would repair or shorten without a word."""
    if isinstance(image, JpegImagePlugin.JpegImageFile):
        _decode_jpeg(image, data, parse_jpeg(data))
        return
    bits = 8
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        bits = max(image.tag_v2.get(TiffImagePlugin.BITSPERSAMPLE, (1,)))
        if set(image.tag_v2.get(TiffImagePlugin.SAMPLEFORMAT, (1,))) != {1}:
            raise ImageError("has signed or fractional pixels; convert it to 8 bits")
    elif image.format == "PNG":
        _check_png(data)
        bits = data[24]
    if image.mode not in deep_modes:
        _check_bits(image, bits)
    image.load()


def _check_bits(image: Image.Image, bits: int) -> None:
    if bits > 8:
        raise ImageError(f"has {bits} bits a channel; convert it to 8 bits")
    if image.mode not in _EIGHT_BIT_MODES:
        raise ImageError(f"has pixels of mode {image.mode}; convert it to 8 bits")


def _check_png(data: bytes) -> None:
    """Pillow does not compare the checksums of pixels."""
    view, position = memoryview(data), 8
    while True:
        length = int.from_bytes(data[position : position + 4], "big")
        start, end = position + 4, position + 8 + length
        if len(data) < end + 4:
            raise _CorruptError("PNG data is truncated")
        if zlib.crc32(view[start:end]) != int.from_bytes(data[end : end + 4], "big"):
            raise _CorruptError("PNG data has a wrong checksum")
        if data[start : start + 4] == b"IEND":
            return
        position = end + 4


def _decode_jpeg(image: JpegImagePlugin.JpegImageFile, data: bytes, jpeg: Jpeg) -> None:
    _check_bits(image, jpeg.bits)
    if jpeg.channels == 4 and "adobe_transform" not in image.info:
        raise ImageError("is CMYK without a mark of which end is black; convert it to grey")
    if jpeg.process in _IN_ONE_PASS and jpeg.scans == 1:
        _decode_to_the_end(image, data, jpeg.end)
    else:
        image.load()


def _decode_to_the_end(image: JpegImagePlugin.JpegImageFile, data: bytes, end: int) -> None:
    """Decodes a JPEG whose data must end with its last pixel: not before it, not after it.

    A lost or flipped byte shifts what follows, so that libjpeg ends with too much data or too
    little. It makes do with both, and its warnings don't reach Pillow. But Pillow asks for the file
    part by part, and stops when it has the last row.
    """
    early = max(end - _LEFT_OVER, 0)
    parts = [data[:early], data[early:end] + _LOOK_AHEAD]
    given = 0

    def read(_: int) -> bytes:
        nonlocal given
        if given == len(parts):
            raise _CorruptError("JPEG data ends before the last pixel")
        given += 1
        return parts[given - 1]

    # Where an image has this attribute, Pillow reads by it.
    image.load_read = read  # type: ignore[assignment,method-assign]
    image.load()
    if given < len(parts):
        raise _CorruptError("JPEG data goes on after the last pixel")
