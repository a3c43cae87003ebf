"""Grey PNG and TIFF files of 16 bits: which of the bits are used, and their pixels in 8.

Scanners and converters write the 10 to 14 bits of a detector into 16. Read as 16 they are nearly
black, and 8 bits that Pillow takes of them are nearly empty.

    if deep_pixels.is_deep(data):
        image, notes = deep_pixels.load(data)     # of mode "L", upright
"""

from __future__ import annotations

import dataclasses
import struct
import zlib
from typing import TYPE_CHECKING, Final

import numpy as np
from PIL import Image, TiffImagePlugin

from cxr_tfds import file_formats, images
from cxr_tfds.file_formats import ImageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

_PNG: Final = b"\x89PNG\r\n\x1a\n"
_RGBA: Final = 6
_DEEP_GREY, _DEEP_GREY_ALPHA = b"\x10\0", b"\x10\x04"
"""Bits and kind of colour in the header of a PNG."""
_MODES: Final = ("I;16", "I;16B", "I;16L", "I;16N", "I")
_DEPTHS: Final = (10, 12, 14, 16)
"""Bits of detectors, and of a file that uses all it has."""
_WHITE_IS_ZERO, _BLACK_IS_ZERO = 0, 1
_MAX_SAMPLE_VALUE: Final = 281
_SHORT: Final = 3
"""Type of a TIFF tag's value: 16 bits."""


def is_deep(data: bytes) -> bool:
    """Whether this module reads the file, or names what is wrong with it; else 8 bits are read."""
    if data.startswith(_PNG):
        return data[24:26] in (_DEEP_GREY, _DEEP_GREY_ALPHA)
    # Only its tags tell what a TIFF has.
    return data.startswith((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"))


def load(data: bytes) -> tuple[Image.Image, tuple[str, ...]]:
    """Decodes a file that `is_deep`; a TIFF of 8 bits is as `file_formats.load` returns it.

    Returns:
      The upright image, of 8 bits; what was taken for granted, a clause each.

    Raises:
      ImageError: it can't be used, as `file_formats.load` says, or is partly transparent.
    """
    if data.startswith(_PNG) and data[24:26] == _DEEP_GREY_ALPHA:
        return _load_grey_alpha(data)
    # Pillow knows deep pixels whose 0 is white in one of the two orders of bytes, and leaves them.
    data, is_inverted = _with_black_as_zero(data)
    image = file_formats.load(data, deep_modes=_MODES)
    if image.mode not in _MODES:
        return image, ()
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        depth = _of_tiff(image.tag_v2)
    else:
        depth = _Depth(16, _of_png(data))
    levels = np.asarray(images.upright(image))
    transparent = image.info.get("transparency")
    if transparent is not None and (levels == transparent).any():
        raise ImageError("is partly transparent; remove its transparency")
    grey, notes = _eight_bits(levels, depth, is_inverted=is_inverted)
    return Image.fromarray(grey), notes


@dataclasses.dataclass(frozen=True)
class _Depth:
    """Bits of a level: those that are stored, and those that the file says it uses (0: nothing)."""

    stored: int
    declared: int


def _with_black_as_zero(data: bytes) -> tuple[bytes, bool]:
    """Returns a TIFF of deep pixels with the tag that its 0 is black, and whether it was white."""
    orders = {b"II*\0": "<", b"MM\0*": ">"}
    order = orders.get(data[:4])
    if order is None:
        return data, False
    (directory,) = struct.unpack(f"{order}4xI", data[:8].ljust(8, b"\0"))
    (count,) = struct.unpack(f"{order}H", data[directory : directory + 2].ljust(2, b"\0"))
    values = {}
    for at in range(directory + 2, min(directory + 2 + 12 * count, len(data) - 11), 12):
        tag, kind, number, value = struct.unpack_from(f"{order}HHIH", data, at)
        if (kind, number) == (_SHORT, 1):
            values[tag] = value, at + 8
    bits, _ = values.get(TiffImagePlugin.BITSPERSAMPLE, (1, 0))
    photometric, at = values.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION, (None, 0))
    if photometric != _WHITE_IS_ZERO or bits <= 8:
        return data, False
    return data[:at] + struct.pack(f"{order}H", _BLACK_IS_ZERO) + data[at + 2 :], True


def _of_png(data: bytes) -> int:
    """Returns the bits that its sBIT chunk declares, or 0."""
    position = 8
    while position < len(data):
        length = int.from_bytes(data[position : position + 4], "big")
        kind = data[position + 4 : position + 8]
        if kind == b"sBIT":
            return data[position + 8]
        if kind == b"IDAT":
            return 0
        position += 12 + length
    return 0


def _of_tiff(tags: TiffImagePlugin.ImageFileDirectory_v2) -> _Depth:
    largest = tags.get(_MAX_SAMPLE_VALUE, 0)
    largest = largest[0] if isinstance(largest, tuple) else largest
    declared = largest.bit_length() if isinstance(largest, int) and largest > 0 else 0
    return _Depth(int(max(tags.get(TiffImagePlugin.BITSPERSAMPLE, (1,)))), declared)


def _eight_bits(
    levels: NDArray[np.integer], depth: _Depth, *, is_inverted: bool = False
) -> tuple[NDArray[np.uint8], tuple[str, ...]]:
    """Scales levels, (H, W) and as stored, to 0 to 255; where `is_inverted`, 0 is white."""
    low, high = int(levels.min()), int(levels.max())
    if low < 0 or high > 0xFFFF:
        raise ImageError(
            f"has levels {low:,} to {high:,}, beyond the 65,535 of 16 bits; convert it to 8 bits"
        )
    used, reason = _used_bits(depth, high)
    top = (1 << used) - 1
    table = ((np.arange(top + 1) * 255 + top // 2) // top).astype(np.uint8)
    grey = (table[::-1] if is_inverted else table)[levels]
    is_usual = used == min(depth.stored, max(_DEPTHS))
    return grey, () if is_usual else (f"{depth.stored} bits, read as {used} ({reason})",)


def _used_bits(depth: _Depth, high: int) -> tuple[int, str]:
    """Returns how many bits a file uses whose largest level is `high`, and from what that follows.

    A file that declares all of its bits says nothing: writers do so that don't know better. Levels
    beyond those that are declared are scaled to all bits, as the PNG standard wants it.
    """
    if depth.stored < max(_DEPTHS):
        return depth.stored, "as stored"
    if 8 <= depth.declared < max(_DEPTHS):
        is_scaled = high >= 1 << depth.declared
        return (max(_DEPTHS) if is_scaled else depth.declared), "as the file declares"
    return next(bits for bits in _DEPTHS if high < 1 << bits), f"largest level {high:,}"


def _load_grey_alpha(data: bytes) -> tuple[Image.Image, tuple[str, ...]]:
    """Pillow keeps the upper byte of such a PNG alone.

    A pixel is 4 bytes, as in RGBA of 8 bits, and PNG's filters know nothing but bytes: read as
    RGBA, the channels are upper and lower byte of grey, and of alpha.
    """
    # Pillow would not see the header's damage once its checksum is new.
    if struct.pack(">I", zlib.crc32(data[12:29])) != data[29:33]:
        raise ImageError("cannot be decoded (PNG data has a wrong checksum)")
    header = data[12:24] + bytes([8, _RGBA]) + data[26:29]
    body = data[:12] + header + struct.pack(">I", zlib.crc32(header)) + data[33:]
    image = images.upright(file_formats.load(body))
    pairs = np.asarray(image).astype(np.uint16)
    if image.mode != "RGBA" or (pairs[..., 2:] != 0xFF).any():
        raise ImageError("is partly transparent; remove its transparency")
    grey, notes = _eight_bits(pairs[..., 0] << 8 | pairs[..., 1], _Depth(16, _of_png(data)))
    return Image.fromarray(grey), notes
