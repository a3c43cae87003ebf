"""Odd and broken files beside good ones, each with what prediction says of it.

expected = odd_files.write(folder)
expected["bomb.png"]                    # a pattern of the note; "" for one that is read
"""

from __future__ import annotations

import io
import os
import struct
import zipfile
import zlib
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import ExifTags, Image

from tests.support import radiographs
from tests.support.scans import dicom_files

if TYPE_CHECKING:
    from pathlib import Path

READ = ""
SIZE = (90, 60)


def opened(mode: str = "L", seed: int = 3) -> Image.Image:
    """A drawn image in a mode of Pillow."""
    data = radiographs.draw(seed, size=SIZE, format="PNG")
    return Image.open(io.BytesIO(data)).convert(mode)


def saved(image: Image.Image, format_: str = "PNG", **options: Any) -> bytes:
    """The bytes of an image file."""
    buffer = io.BytesIO()
    image.save(buffer, format_, **options)
    return buffer.getvalue()


def _rotated() -> bytes:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    return radiographs.draw(0, size=SIZE, exif=exif)


def _deep(bits: int, format_: str = "PNG") -> bytes:
    return saved(Image.fromarray(dicom_files.levels(bits)), format_)


def _with_hole() -> bytes:
    image = opened("RGBA")
    image.putpixel((4, 4), (0, 0, 0, 0))
    return saved(image)


def _bomb() -> bytes:
    """A PNG of a kilobyte that declares 60,000 x 60,000 pixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 0, 0, 0, 0)
    parts = (
        chunk(b"IHDR", header),
        chunk(b"IDAT", zlib.compress(bytes(1 << 20))),
        chunk(b"IEND", b""),
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def _zip() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as zipped:
        zipped.writestr("a.png", saved(opened()))
    return buffer.getvalue()


def _frames(format_: str) -> bytes:
    others = [opened(seed=seed) for seed in (4, 5)]
    return saved(opened(), format_, save_all=True, append_images=others)


def _dicom(**tags: Any) -> bytes:
    return dicom_files.file(dicom_files.levels(8).astype(np.uint8), **tags)


def _multi_frame() -> bytes:
    return dicom_files.file(dicom_files.levels(8).astype(np.uint8), NumberOfFrames=2)


FILES: dict[str, tuple[bytes, str]] = {
    "good.jpeg": (radiographs.draw(0, size=SIZE), READ),
    "good.png": (radiographs.draw(1, size=SIZE, format="PNG"), READ),
    "empty.jpeg": (b"", "is empty"),
    "truncated.jpeg": (radiographs.draw(2, size=(200, 200))[:-900], "cannot be decoded"),
    "cmyk.jpeg": (radiographs.draw(3, size=SIZE, mode="CMYK"), READ),
    "progressive.jpeg": (radiographs.draw(4, size=SIZE, progressive=True), READ),
    "rotated.jpeg": (_rotated(), READ),
    "palette.png": (saved(opened("P")), READ),
    "one bit.png": (saved(opened("1")), READ),
    "16 bits.png": (_deep(16), READ),
    "12 in 16.png": (_deep(12), READ),
    "opaque la.png": (saved(opened("LA")), READ),
    "opaque rgba.png": (saved(opened("RGBA")), READ),
    "with a hole.png": (_with_hole(), "is partly transparent"),
    "pages.tiff": (_frames("TIFF"), "holds 3 images"),
    "16 bits.tiff": (_deep(16, "TIFF"), READ),
    "float.tiff": (saved(opened("F"), "TIFF"), "fractional pixels"),
    "plain.bmp": (radiographs.draw(5, size=SIZE, format="BMP"), READ),
    "plain.webp": (radiographs.draw(6, size=SIZE, mode="RGB", format="WEBP"), READ),
    "moving.webp": (_frames("WEBP"), "holds 3 images"),
    "gif.png": (saved(opened(), "GIF"), "is GIF; convert"),
    "pdf.jpeg": (b"%PDF-1.7\n" + bytes(99), "is PDF; convert"),
    "page.jpg": (b"<!doctype html><title>404</title>", "is HTML or XML"),
    "text.png": (b"see the other folder\n", "is not JPEG, PNG"),
    "zip.jpeg": (_zip(), "is a zip archive"),
    "blank.png": (saved(Image.new("L", SIZE, 128)), "is blank"),
    "tiny.png": (saved(opened().resize((9, 9))), "is 9 x 9, under 32"),
    "bomb.png": (_bomb(), "decompression bomb"),
    "black is zero.dcm": (_dicom(), READ),
    "white is zero.dcm": (_dicom(PhotometricInterpretation="MONOCHROME1"), READ),
    "frames.dcm": (_multi_frame(), "frames|images"),
    "lateral.dcm": (_dicom(ViewPosition="LL"), READ),
    "ct.dcm": (_dicom(Modality="CT"), READ),
    "eps.jpeg": (b"%!PS-Adobe-3.0 EPSF-3.0\n", "is PostScript"),
    "IM000017": (_dicom(ViewPosition="PA"), READ),
}
"""By name: bytes, and what is said."""
FLAGGED = {"lateral.dcm": "lateral", "ct.dcm": "not_chest"}
"""Files whose own tags raise a flag."""
SPECIAL = {
    "pipe.png": "is not a regular file",
    "nowhere.png": "is not a regular file",
}
"""What is no file, made by `write` too."""


def write(folder: Path) -> dict[str, str]:
    """Writes all into a folder; returns a pattern of the note by the name of each."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, (data, _) in FILES.items():
        (folder / name).write_bytes(data)
    os.mkfifo(folder / "pipe.png")
    (folder / "nowhere.png").symlink_to(folder / "absent.png")
    (folder / "folder.png").mkdir()
    (folder / "folder.png" / "inside.jpeg").write_bytes(radiographs.draw(9, size=SIZE))
    (folder / "notes.txt").write_text("no radiograph")
    (folder / ".DS_Store").write_bytes(b"debris")
    said = {name: pattern for name, (_, pattern) in FILES.items()}
    return {**said, **SPECIAL, "folder.png/inside.jpeg": READ}
