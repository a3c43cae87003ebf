"""A radiograph as a hospital has it, from its file's bytes to grey pixels, for prediction.

It reads what the builder does (`cxr_tfds.images.decode`), with equal pixels; and DICOM, and grey of
16 bits.

    if reading.looks_like_radiograph(path.name, head):
        radiograph = reading.read(path.read_bytes(), 224)
        radiograph.pixels                         # (224, 224) uint8
        radiograph.flags                          # ("lateral",)
"""

from __future__ import annotations

import dataclasses
from pathlib import PurePath
from typing import TYPE_CHECKING, Final

from PIL import Image

from cxr_tfds import file_formats, images
from cxr_tfds.archives import listing
from cxr_tfds.file_formats import ImageError
from cxr_tfds.radiographs import deep_pixels, dicom, quiet

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

FLAGS: Final = ("lateral", "not_chest")
"""What a file's own tags may say against asking a model of frontal chest radiographs: the view is
from the side; the modality is no radiography, or the body part not the chest."""
SUFFIXES: Final = (
    *(".jpeg", ".jpg", ".jfif", ".png", ".tif", ".tiff", ".bmp", ".webp"),
    *listing.DICOM_SUFFIXES,
)
"""Suffixes worth a try, in lower case. DICOM often has none: see `looks_like_radiograph`."""
HEAD_BYTES: Final = dicom.HEAD_BYTES
_NOT_DICOM: Final = (b"\xff\xd8", b"\x89PNG", b"BM", b"RIFF")


@dataclasses.dataclass(frozen=True, eq=False)
class Radiograph:
    """A file, read.

    Attributes:
      pixels: (H, W) or (side, side) uint8, upright; 0 is black.
      height: of the upright original, in pixels.
      width: of the upright original, in pixels.
      notes: what was taken for granted, a clause each.
      flags: of `FLAGS`, what the file's tags say.
    """

    pixels: NDArray[np.uint8]
    height: int
    width: int
    notes: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()


def looks_like_radiograph(name: str, head: bytes) -> bool:
    """Whether a file of a folder is worth a try: by its suffix, or because it is DICOM.

    Args:
      name: of the file.
      head: its first `HEAD_BYTES`; empty where only the name shall count.
    """
    return PurePath(name).suffix.lower() in SUFFIXES or is_dicom(head)


def is_dicom(data: bytes) -> bool:
    """Whether a file, or its first `HEAD_BYTES`, is read as DICOM."""
    # A preamble is free, and often a header of TIFF. Read as TIFF, its window would be lost.
    return not data.startswith(_NOT_DICOM) and dicom.is_dicom(data)


def read(data: bytes, *sides: int) -> Radiograph:
    """Reads a file: JPEG, PNG, TIFF, BMP, WebP or DICOM.

        radiograph = reading.read(data, 224, 112)   # As a record of 224 px in a run at 112 px.

    Args:
      data: the whole file.
      *sides: heights and widths in pixels, to which the image is stretched one after the other;
        none: it keeps its own.

    Raises:
      ImageError: the file can't be used; its `problem` is a clause whose subject is the file.
      ValueError: a side is out of range.
      TypeError: `data` is no bytes, or a side no whole number.
    """
    file_formats.require_bytes(data)
    images.require_sides(*sides)
    try:
        with quiet.libraries():
            image, notes, flags = _load(bytes(data))
            image = images.usable(image)
            pixels = images.grey_pixels(image, *sides)
    except ImageError:
        raise
    # What the caller gave is checked. The rest is the file's, and must not end those beside it.
    except Exception as error:
        raise ImageError(file_formats.cannot_decode(error)) from error
    return Radiograph(pixels, image.height, image.width, notes, flags)


def _load(data: bytes) -> tuple[Image.Image, tuple[str, ...], tuple[str, ...]]:
    """Returns the image, of 8 bits, with notes and flags."""
    if is_dicom(data):
        picture = dicom.load(data)
        is_not_chest = picture.tags.is_radiograph is False or picture.tags.is_chest is False
        told = (picture.tags.is_lateral, is_not_chest)
        flags = tuple(flag for flag, is_told in zip(FLAGS, told, strict=True) if is_told)
        return Image.fromarray(picture.pixels), picture.notes, flags
    if deep_pixels.is_deep(data):
        return *deep_pixels.load(data), ()
    return file_formats.load(data), (), ()
