"""Grey of 16 bits becomes 8, by the bits that are really used."""

from __future__ import annotations

import functools
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cxr_tfds import images
from cxr_tfds.radiographs import deep_pixels, reading
from tests.support.scans import dicom_files, refusals

GREY, GREY_ALPHA, RGB = 0, 4, 2


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(pixels: np.ndarray, colour: int = GREY, *, extra: bytes = b"") -> bytes:
    """A PNG of 16 bits, (H, W) or (H, W, C), with the filter "up" in every row."""
    height, width = pixels.shape[:2]
    rows = pixels.astype(">u2").reshape(height, -1).view(np.uint8)
    filtered = rows - np.concatenate([np.zeros_like(rows[:1]), rows[:-1]])
    body = b"".join(b"\x02" + row.tobytes() for row in filtered)
    header = struct.pack(">IIBBBBB", width, height, 16, colour, 0, 0, 0)
    chunks = (chunk(b"IHDR", header), extra, chunk(b"IDAT", zlib.compress(body)))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks) + chunk(b"IEND", b"")


def tiff(pixels: np.ndarray, order: str = "<", **tags: int) -> bytes:
    """A plain TIFF of one strip; tags are given as t262=0."""
    height, width = pixels.shape
    bits = 8 * pixels.dtype.itemsize
    strip = pixels.astype(pixels.dtype.newbyteorder(order)).tobytes()
    values = {256: width, 257: height, 258: bits, 259: 1, 262: 1, 273: 8, 277: 1}
    values |= {278: height, 279: len(strip)}
    values |= {int(name[1:]): value for name, value in tags.items()}
    entries = b"".join(
        struct.pack(f"{order}HHI", tag, 4 if tag in (273, 279) else 3, 1)
        + struct.pack(f"{order}{'I' if tag in (273, 279) else 'Hxx'}", value)
        for tag, value in sorted(values.items())
    )
    magic = b"II*\0" if order == "<" else b"MM\0*"
    directory = struct.pack(f"{order}H", len(values)) + entries + bytes(4)
    return magic + struct.pack(f"{order}I", 8 + len(strip)) + strip + directory


def scaled(levels: np.ndarray, bits: int) -> np.ndarray:
    top = (1 << bits) - 1
    return np.floor(levels.astype(float) * 255 / top + 0.5).astype(np.uint8)


refusal = functools.partial(refusals.reason, reading.read)


@pytest.mark.parametrize(
    ("bits", "depth"), [(9, 10), (10, 10), (11, 12), (12, 12), (14, 14), (15, 16), (16, 16)]
)
@pytest.mark.parametrize("order", ["png", "<", ">"])
def test_the_largest_level_tells_the_bits_in_use(order: str, bits: int, depth: int) -> None:
    levels = dicom_files.levels(bits)
    radiograph = reading.read(png(levels) if order == "png" else tiff(levels, order))
    np.testing.assert_array_equal(radiograph.pixels, scaled(levels, depth))
    note = f"16 bits, read as {depth} (largest level {levels.max():,})"
    assert radiograph.notes == ((note,) if depth < 16 else ())


@pytest.mark.parametrize("declared", [11, 12, 13])
def test_what_a_png_declares_goes_before_its_largest_level(declared: int) -> None:
    levels = dicom_files.levels(11)
    radiograph = reading.read(png(levels, extra=chunk(b"sBIT", bytes([declared]))))
    np.testing.assert_array_equal(radiograph.pixels, scaled(levels, declared))
    assert radiograph.notes == (f"16 bits, read as {declared} (as the file declares)",)


@pytest.mark.parametrize("order", ["<", ">"])
def test_what_a_tiff_declares_goes_before_its_largest_level(order: str) -> None:
    levels = dicom_files.levels(11)
    radiograph = reading.read(tiff(levels, order, t281=4095))
    np.testing.assert_array_equal(radiograph.pixels, scaled(levels, 12))
    assert radiograph.notes == ("16 bits, read as 12 (as the file declares)",)


def test_levels_beyond_those_declared_are_scaled_to_all_bits() -> None:
    levels = dicom_files.levels(12) << 4
    radiograph = reading.read(png(levels, extra=chunk(b"sBIT", b"\x0c")))
    np.testing.assert_array_equal(radiograph.pixels, scaled(levels, 16))


@pytest.mark.parametrize("declared", [0, 16])
def test_a_declaration_that_says_nothing_is_left_out(declared: int) -> None:
    levels = dicom_files.levels(12)
    radiograph = reading.read(png(levels, extra=chunk(b"sBIT", bytes([declared]))))
    np.testing.assert_array_equal(radiograph.pixels, scaled(levels, 12))


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("bits", [12, 16])
def test_zero_may_be_white(order: str, bits: int) -> None:
    levels = dicom_files.levels(bits)
    radiograph = reading.read(tiff(levels, order, t262=0))
    np.testing.assert_array_equal(
        radiograph.pixels, scaled((1 << bits) - 1 - levels.astype(int), bits)
    )


def test_zero_may_be_white_in_eight_bits_as_for_the_builder() -> None:
    levels = dicom_files.levels(8).astype(np.uint8)
    data = tiff(levels, t262=0)
    np.testing.assert_array_equal(reading.read(data).pixels, 255 - levels)
    np.testing.assert_array_equal(images.decode(data), 255 - levels)


def test_thirty_two_unsigned_bits_are_read_if_sixteen_hold_them() -> None:
    levels = dicom_files.levels(12).astype(np.uint32)
    radiograph = reading.read(tiff(levels))
    np.testing.assert_array_equal(radiograph.pixels, scaled(levels, 12))
    assert radiograph.notes == (f"32 bits, read as 12 (largest level {levels.max():,})",)
    assert "beyond the 65,535 of 16 bits" in refusal(tiff(levels << 8))


def test_opaque_alpha_is_dropped() -> None:
    levels = dicom_files.levels(12)
    pixels = np.stack([levels, np.full_like(levels, 65535)], -1)
    np.testing.assert_array_equal(reading.read(png(pixels, GREY_ALPHA)).pixels, scaled(levels, 12))


def test_transparency_is_refused() -> None:
    levels = dicom_files.levels(12)
    alpha = np.full_like(levels, 65535)
    alpha[3, 3] -= 1
    transparent = png(np.stack([levels, alpha], -1), GREY_ALPHA)
    level = struct.pack(">H", levels[5, 5])
    for data in (transparent, png(levels, extra=chunk(b"tRNS", level))):
        assert refusal(data) == "is partly transparent; remove its transparency"
    assert not refusal(png(levels // 2, extra=chunk(b"tRNS", struct.pack(">H", 4095))))


@pytest.mark.parametrize("orientation", [3, 6])
def test_an_orientation_is_applied(orientation: int) -> None:
    levels = dicom_files.levels(12)
    exif = Image.Exif()
    exif[274] = orientation
    data = png(levels, extra=chunk(b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0")))
    turns = {3: 2, 6: 3}[orientation]
    np.testing.assert_array_equal(reading.read(data).pixels, np.rot90(scaled(levels, 12), turns))
    turned = tiff(levels, t274=orientation)
    np.testing.assert_array_equal(reading.read(turned).pixels, np.rot90(scaled(levels, 12), turns))


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (png(np.stack([dicom_files.levels(12)] * 3, -1), RGB), "has 16 bits a channel"),
        (tiff(dicom_files.levels(12), t339=2), "has signed or fractional pixels"),
        (tiff(dicom_files.levels(12).astype(np.float32), t339=3), "has signed or fractional"),
        (png(dicom_files.levels(12))[:-3000], "PNG data is truncated"),
        (png(np.full((64, 64), 700)), "is blank"),
        (png(dicom_files.levels(12, size=(64, 20))), "under 32 pixels a side"),
    ],
)
def test_what_the_builder_refuses_otherwise_stays_refused(data: bytes, problem: str) -> None:
    assert problem in refusal(data)


@pytest.mark.parametrize("colour", [GREY, GREY_ALPHA])
def test_a_damaged_header_is_refused(colour: int) -> None:
    pixels = np.full((48, 64, 2), 65535) if colour else dicom_files.levels(12)
    data = bytearray(png(pixels, colour))
    data[19] ^= 1
    assert refusal(bytes(data)).startswith("cannot be decoded")


@pytest.mark.parametrize("write", [png, tiff])
def test_the_builder_still_refuses_deep_pixels(write: Any) -> None:
    with pytest.raises(images.ImageError, match="has 16 bits a channel; convert it to 8 bits"):
        images.decode(write(dicom_files.levels(12)))


def test_only_deep_grey_is_taken_from_the_builders_path() -> None:
    assert deep_pixels.is_deep(png(dicom_files.levels(12)))
    assert not deep_pixels.is_deep(png(np.zeros((40, 40, 3)), RGB))
    assert not deep_pixels.is_deep(b"\xff\xd8\xff")
    assert not deep_pixels.is_deep(b"\x89PNG\r\n\x1a\n")


def test_what_pillow_logs_of_a_forged_tiff_is_not_shown(caplog: pytest.LogCaptureFixture) -> None:
    assert refusal(tiff(dicom_files.levels(12), t277=70)).startswith("cannot be decoded")
    assert not caplog.records
