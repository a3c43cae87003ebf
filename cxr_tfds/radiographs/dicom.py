"""One DICOM file: its picture as a radiologist sees it, in 8 bits, and what its tags say of it.

Needs the extra `dicom`. Of the tags, only those are read that the picture needs, and those of
`dicom_tags.KEYWORDS`: never names, numbers or dates of patients.

    if dicom.is_dicom(data):
        picture = dicom.load(data)
        picture.pixels                            # (H, W) uint8, 0 is black
        picture.tags.is_lateral
"""

from __future__ import annotations

import dataclasses
import io
import re
import zlib
from typing import TYPE_CHECKING, Any, Final

from cxr_tfds import file_formats, text
from cxr_tfds.file_formats import ImageError
from cxr_tfds.radiographs import dicom_frames, dicom_levels, dicom_tags, quiet

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from cxr_tfds.radiographs.dicom_tags import Tags

HEAD_BYTES: Final = 132
"""What `is_dicom` needs of a file."""
_MAGIC: Final = b"DICM"
# Files without preamble begin with the group of the file's or the data set's identification.
_EXPLICIT: Final = re.compile(
    rb"(?:\x02\0[\0-\x18]\0|\x08\0[\0-\x18]\0|\0\x08\0[\0-\x18])(?:UL|OB|UI|CS|DA|TM|SH|LO)"
)
_IMPLICIT: Final = re.compile(
    rb"\x08\0[\0\x01\x05\x08\x16]\0[\x02-\x40]\0\0\0[\x20-\x7e\0-\x40]{2}"
)
_PIXELS: Final = 0x7FE00010
_PIXELS_BYTES: Final = b"\xe0\x7f\x10\0"
_PICTURE: Final = (
    "PixelData", "FloatPixelData", "DoubleFloatPixelData",
    "SamplesPerPixel", "PhotometricInterpretation", "PlanarConfiguration", "NumberOfFrames",
    "Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation",
    "RescaleSlope", "RescaleIntercept", "ModalityLUTSequence",
    "VOILUTSequence", "VOILUTFunction", "WindowCenter", "WindowWidth",
    "RedPaletteColorLookupTableDescriptor", "RedPaletteColorLookupTableData",
    "GreenPaletteColorLookupTableDescriptor", "GreenPaletteColorLookupTableData",
    "BluePaletteColorLookupTableDescriptor", "BluePaletteColorLookupTableData",
    "SegmentedRedPaletteColorLookupTableData", "SegmentedGreenPaletteColorLookupTableData",
    "SegmentedBluePaletteColorLookupTableData",
)  # fmt: skip
_MAX_INFLATED: Final = 2 * file_formats.MAX_PIXELS + (1 << 24)
"""Bytes of the largest radiograph, and of what stands around it."""
_OTHERS: Final = (
    ("SR Storage", "a report"),
    ("SR", "a report"),
    ("Report", "a report"),
    ("Key Object", "a list of images"),
    ("Encapsulated", "a document"),
    ("Presentation State", "a presentation state, which says how to show another file"),
    ("Waveform", "a waveform"),
    ("ECG", "a waveform"),
    ("Directory", "the index of a medium, a DICOMDIR"),
)
"""Parts of the names of what has no pixels, and what a reader calls it."""


@dataclasses.dataclass(frozen=True, eq=False)
class Picture:
    """A DICOM file, read.

    Attributes:
      pixels: (H, W) uint8, 0 is black.
      notes: what was taken for granted, a clause each.
      tags: what the tags say of it.
    """

    pixels: NDArray[np.uint8]
    notes: tuple[str, ...]
    tags: Tags


def is_dicom(data: bytes) -> bool:
    """Whether a file is DICOM, by its first `HEAD_BYTES`; the preamble may be missing."""
    if data[128:132] == _MAGIC or data.startswith(_MAGIC):
        return True
    return bool(_EXPLICIT.match(data) or _IMPLICIT.match(data))


def load(data: bytes) -> Picture:
    """Reads a DICOM file with one grey or colour image.

    Raises:
      ImageError: it can't be used, or the extra is not installed.
    """
    _require_extra()
    with quiet.libraries():
        try:
            return _load(data)
        except ImageError:
            raise
        except Exception as error:  # pydicom has kinds of its own, such as BytesLengthException.
            message = text.visible(str(error).split("\n", 1)[0].rstrip("."))
            reason = message or type(error).__name__
            raise ImageError(f"cannot be decoded (as DICOM: {reason})") from error


def _require_extra() -> None:
    try:
        import pydicom  # noqa: F401, PLC0415
    except ImportError:
        raise ImageError('is DICOM; to read it, pip install ".[dicom]"') from None


def _load(data: bytes) -> Picture:
    dataset, syntax = _parse(data)
    _require_picture(dataset, is_begun=_PIXELS_BYTES in data)
    tags = dicom_tags.parse(dataset)
    layout = dicom_frames.layout_of(dataset)
    stored = dicom_frames.decode(dataset, layout, syntax)
    grey, notes = dicom_levels.to_grey(stored, layout, dataset)
    return Picture(grey, (*tags.notes(), *notes), tags)


def _parse(data: bytes) -> tuple[Any, Any]:
    """Returns the data set, of the tags that are read, and its transfer syntax."""
    from pydicom import dataset, filereader, tag, uid  # noqa: PLC0415

    file = io.BytesIO(data)
    file.seek(132 if data[128:132] == _MAGIC else 4 if data.startswith(_MAGIC) else 0)
    meta = filereader.read_dataset(
        file, is_implicit_VR=False, is_little_endian=True, stop_when=_is_behind_meta,
        specific_tags=[tag.Tag("TransferSyntaxUID"), tag.Tag("MediaStorageSOPClassUID")],
    )  # fmt: skip
    syntax = uid.UID(str(meta.get("TransferSyntaxUID") or _guessed_syntax(data[file.tell() :])))
    if syntax == uid.DeflatedExplicitVRLittleEndian:
        file = io.BytesIO(_inflated(data[file.tell() :]))
    keywords = (*dicom_tags.KEYWORDS, *_PICTURE)
    is_known = syntax.is_transfer_syntax and not syntax.is_private
    is_implicit = is_known and syntax.is_implicit_VR
    is_little = not is_known or syntax.is_little_endian
    found = filereader.read_dataset(
        file, is_implicit_VR=is_implicit, is_little_endian=is_little, stop_when=_is_behind_pixels,
        specific_tags=[tag.Tag(keyword) for keyword in keywords],
    )  # fmt: skip
    found.set_original_encoding(is_implicit, is_little)
    found.file_meta = dataset.FileMetaDataset()
    found.file_meta.TransferSyntaxUID = syntax
    if "SOPClassUID" not in found and (kind := meta.get("MediaStorageSOPClassUID")):
        found.SOPClassUID = kind
    return found, syntax


def _is_behind_meta(tag: Any, vr: str | None, length: int) -> bool:  # noqa: ARG001
    return bool(tag >> 16 != 2)


def _is_behind_pixels(tag: Any, vr: str | None, length: int) -> bool:  # noqa: ARG001
    return bool(tag > _PIXELS)


def _guessed_syntax(head: bytes) -> str:
    """Returns the syntax of a data set that doesn't tell it: by its first element."""
    if _IMPLICIT.match(head) or not _EXPLICIT.match(head):
        return "1.2.840.10008.1.2"
    return "1.2.840.10008.1.2.2" if head.startswith(b"\0") else "1.2.840.10008.1.2.1"


def _inflated(data: bytes) -> bytes:
    engine = zlib.decompressobj(-zlib.MAX_WBITS)
    inflated = engine.decompress(data, _MAX_INFLATED)
    if engine.unconsumed_tail:
        raise ImageError(f"expands to over {_MAX_INFLATED // 10**6} million bytes")
    return inflated


def _require_picture(dataset: Any, *, is_begun: bool) -> None:
    """Raises ImageError unless there are pixels; `is_begun`: whether the file has their tag."""
    if dataset.get("PixelData"):
        return
    if "FloatPixelData" in dataset or "DoubleFloatPixelData" in dataset:
        raise ImageError("has fractional pixels; convert it to 16 bits")
    kind = str(getattr(dataset.get("SOPClassUID"), "name", ""))
    name = f" ({text.visible(kind)})" if kind else ""
    what = next((what for part, what in _OTHERS if part in kind), None)
    if what:
        raise ImageError(f"is DICOM, but {what}{name}, not an image")
    if is_begun:
        raise ImageError("is truncated: its pixels have no end")
    is_image = "Image Storage" in kind
    raise ImageError(f"is DICOM without pixels{name}{'; is it complete?' if is_image else ''}")
