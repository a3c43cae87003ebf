"""What a file is, and whether all of it is there, is found in its content."""

from __future__ import annotations

import functools
import io
import random
import struct
import subprocess
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cxr_tfds import file_formats
from tests.support import radiographs
from tests.support.scans import refusals

refusal = functools.partial(refusals.reason, file_formats.load)
"""Why a file is not loaded; empty if it is."""


def saved(image: Image.Image, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, **options)
    return buffer.getvalue()


def deep_png(channels: int, *, filler: int = 0) -> bytes:
    """A PNG of 64 x 48 pixels with 12 of 16 bits in each channel, as scanners export them."""
    rng = np.random.default_rng(0)
    rows = rng.integers(0, 4096, (48, 64 * channels)).astype(">u2")
    body = zlib.compress(b"".join(bytes([filler]) + row.tobytes() for row in rows))
    colour = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    parts = {
        b"IHDR": struct.pack(">IIBBBBB", 64, 48, 16, colour, 0, 0, 0),
        b"IDAT": body,
        b"IEND": b"",
    }
    chunks = (
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in parts.items()
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_sixteen_bits_are_refused_with_any_number_of_channels(channels: int) -> None:
    assert refusal(deep_png(channels)) == "has 16 bits a channel; convert it to 8 bits"


@pytest.mark.parametrize("mode", ["I;16", "I", "F"])
def test_deep_tiffs_are_refused(mode: str) -> None:
    image = Image.fromarray(np.ones((48, 64), np.float32)).convert("I").convert(mode)
    assert "convert it to 8 bits" in refusal(saved(image, format="TIFF"))


@pytest.mark.parametrize("kind", ["DEEP", "SIGNED"])
def test_tiffs_that_pillow_shortens_are_refused(kind: str) -> None:
    """Pillow takes the upper byte of RGB with 16 bits, and -1 for 255."""
    bits, sample = {"DEEP": (16, 1), "SIGNED": (8, 2)}[kind]
    channels = {"DEEP": 3, "SIGNED": 1}[kind]
    strip = bytes(64 * 48 * channels * bits // 8)
    tags = {256: 64, 257: 48, 259: 1, 262: 2 if channels == 3 else 1, 277: channels, 278: 48}
    extra = 8 + 2 + 12 * 10 + 4
    tags |= {258: bits, 273: extra + 8, 279: len(strip), 339: sample}
    shorts = struct.pack("<3H", *[bits] * 3)
    entries = []
    for tag, value in sorted(tags.items()):
        count, field = (3, extra) if tag == 258 and channels == 3 else (1, value)
        kind_of_field = 4 if tag in (273, 279) else 3
        entries.append(struct.pack("<HHII", tag, kind_of_field, count, field))
    data = b"II*\x00" + struct.pack("<IH", 8, 10) + b"".join(entries) + bytes(4)
    assert "convert it to 8 bits" in refusal(data + shorts.ljust(8, b"\0") + strip)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
@pytest.mark.parametrize("format_", ["PNG", "TIFF"])
def test_eight_bits_are_taken_in_every_mode(mode: str, format_: str) -> None:
    data = radiographs.draw(0, mode=mode, format=format_)
    assert file_formats.load(data).size == (48, 40)


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"", "is empty"),
        (b"not an image", "is not JPEG, PNG, TIFF, BMP or WebP"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 100 100\n", "is PostScript; convert it"),
        (b"%PDF-1.7", "is PDF; convert it"),
        (radiographs.draw(0, format="GIF"), "is GIF; convert it"),
        (radiographs.draw(0, format="JPEG2000"), "is JPEG 2000; convert it"),
        (radiographs.draw(0, format="PPM"), "is not JPEG, PNG"),
        (bytes(128) + b"DICM", "is DICOM; convert it"),
        (b"<!DOCTYPE html>", "is HTML or XML; convert it"),
        (b"version https://git-lfs.github.com/spec/v1", "is a pointer of Git LFS, not the file"),
        (radiographs.draw(0)[:20], "its header is damaged or truncated"),
        (radiographs.draw(0, size=(31, 400)), "is 31 x 400, under 32 pixels a side"),
    ],
)
def test_what_is_no_expected_image_is_named(data: bytes, problem: str) -> None:
    assert problem in refusal(data)


def test_no_file_starts_another_program(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow would hand this one to Ghostscript."""

    def refuse(*args: object, **_: object) -> None:
        raise AssertionError(f"started {args}")

    monkeypatch.setattr(subprocess, "Popen", refuse)
    grey = Image.new("L", (64, 64))
    assert refusal(saved(grey, format="EPS")).startswith("is PostScript")


@pytest.mark.parametrize("size", [(70_000, 40), (10_000, 9_000)])
def test_images_that_fill_the_memory_are_refused_before_they_are_decoded(
    size: tuple[int, int],
) -> None:
    assert " pixels" in refusal(saved(Image.new("1", size), format="PNG"))


@pytest.mark.filterwarnings("error")
def test_a_decompression_bomb_is_one_line() -> None:
    header = deep_png(1)[:16] + struct.pack(">II", 60_000, 60_000) + deep_png(1)[24:]
    assert refusal(header).startswith("cannot be decoded (")


@pytest.mark.parametrize("format_", ["TIFF", "WEBP", "PNG", "MPO"])
def test_a_file_of_several_images_is_refused(format_: str) -> None:
    first, second = (Image.effect_noise((64, 48), spread) for spread in (50, 90))
    data = saved(first, format=format_, save_all=True, append_images=[second])
    assert refusal(data) == "holds 2 images; keep one of them"


@pytest.mark.parametrize("cut", [1, 2, 100, 400])
@pytest.mark.parametrize("format_", ["JPEG", "PNG", "TIFF", "BMP"])
def test_a_truncated_file_is_refused(format_: str, cut: int) -> None:
    assert "cannot be decoded (" in refusal(radiographs.draw(0, format=format_)[:-cut])


JPEGS = {
    "grey": {},
    "colour": {"mode": "RGB"},
    "whole colour": {"mode": "RGB", "subsampling": 0},
    "rough": {"quality": 5},
    "fine": {"quality": 100},
    "optimized": {"optimize": True},
    "restarts": {"restart_marker_blocks": 7},
    "progressive": {"progressive": True},
}


@pytest.mark.parametrize("kind", JPEGS)
@pytest.mark.parametrize("size", [(32, 32), (33, 47), (48, 40), (127, 64), (300, 211)])
def test_a_sound_jpeg_gives_the_pixels_of_pillow(kind: str, size: tuple[int, int]) -> None:
    for seed in range(5):
        data = radiographs.draw(seed, size=size, **JPEGS[kind])
        with Image.open(io.BytesIO(data)) as plain:
            np.testing.assert_array_equal(file_formats.load(data), plain)


def test_a_jpeg_with_a_black_or_white_end_is_sound() -> None:
    """Its last blocks take a few bits, so that the data ends within a byte."""
    for value in (0, 255):
        for rows in range(1, 30):
            grey = np.full((64, 80), value, np.uint8)
            grey[:rows] = np.random.default_rng(rows).integers(0, 256, (rows, 80))
            assert refusal(saved(Image.fromarray(grey), format="JPEG")) == ""


def test_bytes_after_the_end_of_a_jpeg_are_no_damage() -> None:
    assert refusal(radiographs.draw(0) + b"\0" * 100) == ""


@pytest.mark.parametrize("size", [512, 1500])
@pytest.mark.parametrize("way", ["lost", "zeroed", "doubled", "overwritten"])
@pytest.mark.parametrize("kind", ["grey", "colour", "rough", "optimized"])
def test_a_jpeg_that_lost_part_of_its_data_is_refused(kind: str, way: str, size: int) -> None:
    """libjpeg fills the gap with grey, and warns nobody."""
    data = radiographs.draw(1, size=(800, 600), **JPEGS[kind])
    start = len(data) // 2
    part = data[start : start + size]
    damaged = {
        "lost": b"",
        "zeroed": bytes(size),
        "doubled": part + part,
        "overwritten": random.Random(size).randbytes(size),
    }
    assert "JPEG" in refusal(data[:start] + damaged[way] + data[start + size :])


def test_a_lost_restart_marker_is_refused() -> None:
    data = radiographs.draw(0, size=(400, 300), restart_marker_blocks=7)
    start = data.index(b"\xff\xd3")
    assert "lacks a part" in refusal(data[:start] + data[data.index(b"\xff\xd5") :])


def test_a_marker_within_the_data_is_refused() -> None:
    data = radiographs.draw(0, size=(400, 300))
    middle = len(data) // 2
    assert "JPEG markers are damaged" in refusal(data[:middle] + b"\xff\xe1" + data[middle + 2 :])


def test_a_png_with_a_flipped_bit_is_refused() -> None:
    data = bytearray(radiographs.draw(0, format="PNG"))
    data[len(data) // 2] ^= 1
    assert "PNG data has a wrong checksum" in refusal(bytes(data))


def test_cmyk_is_read_only_where_the_file_says_which_end_is_black() -> None:
    data = radiographs.draw(0, mode="CMYK")
    marker = data.index(b"\xff\xee")
    plain = data[:marker] + data[marker + 16 :]
    assert refusal(data) == ""
    assert refusal(plain).startswith("is CMYK without a mark")


@pytest.mark.parametrize("bits", [12, 16])
def test_jpegs_of_more_bits_are_refused(bits: int) -> None:
    data = bytearray(radiographs.draw(0))
    data[data.index(b"\xff\xc0") + 4] = bits
    assert "cannot be decoded" in refusal(bytes(data)) or "bits a channel" in refusal(bytes(data))


@pytest.mark.parametrize("process", [0xC3, 0xC9, 0xCA])
def test_a_jpeg_that_tensorflow_does_not_know_is_told_from_others(process: int) -> None:
    """Lossless and arithmetic coding; this one only claims it."""
    data = radiographs.draw(0)
    assert file_formats.is_grey_huffman_jpeg(data)
    claimed = data.replace(b"\xff\xc0", bytes([0xFF, process]), 1)
    assert not file_formats.is_grey_huffman_jpeg(claimed)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("format_", ["JPEG", "PNG", "TIFF", "BMP", "WEBP"])
def test_no_forged_file_ends_in_another_error(format_: str) -> None:
    data, generator = radiographs.draw(0, format=format_), random.Random(format_)
    for _ in range(400):
        forged = bytearray(data)
        for _ in range(generator.randrange(1, 6)):
            forged[generator.randrange(min(len(data), 700))] = generator.randrange(256)
        refusal(bytes(forged))
