"""The pixels of a DICOM data set as stored: what it declares of them, checked, then decoded.

Nothing is decoded, and nothing large allocated, before the declared sizes agree with the bytes that
are there.

    layout = dicom_frames.layout_of(dataset)
    stored = dicom_frames.decode(dataset, layout, syntax)     # (H, W), or (H, W, 3) RGB
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from cxr_tfds import file_formats, text
from cxr_tfds.file_formats import ImageError
from cxr_tfds.radiographs import isolated

if TYPE_CHECKING:
    from numpy.typing import NDArray

_GREY: Final = ("MONOCHROME1", "MONOCHROME2", "PALETTE COLOR")
_COLOUR: Final = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")
_CONVERT: Final = "convert it to Explicit VR Little Endian, as with `gdcmconv --raw` or `dcmdjpeg`"
_MAX_BYTES: Final = 3 * file_formats.MAX_PIXELS

_BASELINE: Final = "1.2.840.10008.1.2.4.50"
_EXTENDED: Final = "1.2.840.10008.1.2.4.51"
_LOSSLESS_JPEG: Final = ("1.2.840.10008.1.2.4.57", "1.2.840.10008.1.2.4.70")
_JPEG_LS: Final = ("1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.81")
_JPEG_2000: Final = ("1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.91")
_RLE: Final = "1.2.840.10008.1.2.5"
_END_OF_IMAGE: Final = b"\xff\xd9"
_START_OF_CODESTREAM: Final = b"\xff\x4f\xff\x51"
# 0xF7 is that of JPEG-LS.
_START_OF_FRAME: Final = frozenset([*range(0xC0, 0xD0), 0xF7]) - {0xC4, 0xC8, 0xCC}


@dataclasses.dataclass(frozen=True)
class PixelLayout:
    """What a data set declares of its pixels.

    Attributes:
      height: in pixels.
      width: in pixels.
      samples: channels, 1 or 3.
      allocated: bits that a sample takes, 8 or 16.
      stored: bits of it that are used, 8 to 16.
      high: number of the highest of these, from 0.
      is_signed: whether they are in two's complement.
      photometric: what the samples mean, such as MONOCHROME1.
    """

    height: int
    width: int
    samples: int
    allocated: int
    stored: int
    high: int
    is_signed: bool
    photometric: str


def layout_of(dataset: Any) -> PixelLayout:
    """Reads and checks what a data set declares.

    Raises:
      ImageError: a size is missing or beyond the limits, or the pixels are of a kind that is not
        read.
    """
    if (frames := _whole(dataset, "NumberOfFrames", 1)) > 1:
        raise ImageError(f"holds {frames:,} frames; keep one of them")
    height, width = _whole(dataset, "Rows"), _whole(dataset, "Columns")
    file_formats.require_size(width, height)
    stored = _whole(dataset, "BitsStored")
    layout = PixelLayout(
        height=height,
        width=width,
        samples=_whole(dataset, "SamplesPerPixel", 1),
        allocated=_whole(dataset, "BitsAllocated"),
        stored=stored,
        high=_whole(dataset, "HighBit", stored - 1),
        is_signed=_whole(dataset, "PixelRepresentation", 0) == 1,
        photometric=str(dataset.get("PhotometricInterpretation") or "").strip().upper(),
    )
    _require_known(layout)
    return layout


def _whole(dataset: Any, keyword: str, default: int | None = None) -> int:
    value = dataset.get(keyword)
    if value is None:
        if default is None:
            raise ImageError(f"is a DICOM file without {keyword}")
        return default
    try:
        return int(value)
    except (TypeError, ValueError):
        raise ImageError(f"is a DICOM file whose {keyword} is no single whole number") from None


def _require_known(layout: PixelLayout) -> None:
    kind = layout.photometric
    if not kind:
        raise ImageError("is a DICOM file without PhotometricInterpretation: is 0 black or white?")
    if kind not in (*_GREY, *_COLOUR):
        raise ImageError(f"has pixels of kind {text.visible(kind)}; convert it to MONOCHROME2")
    if layout.samples != (1 if kind in _GREY else 3):
        raise ImageError(f"has {layout.samples} samples a pixel, which {kind} can't have")
    if layout.allocated not in (8, 16):
        raise ImageError(f"has {layout.allocated} bits a sample; only 8 and 16 are read")
    if not 8 <= layout.stored <= layout.allocated:
        raise ImageError(
            f"uses {layout.stored} of {layout.allocated} bits a sample; 8 to 16 are read"
        )
    if not layout.stored - 1 <= layout.high < layout.allocated:
        raise ImageError(f"has {layout.stored} bits a sample up to bit {layout.high}")
    if layout.height * layout.width * layout.samples * layout.allocated // 8 > _MAX_BYTES:
        raise ImageError(f"has pixels of over {_MAX_BYTES // 10**6} million bytes")


def decode(dataset: Any, layout: PixelLayout, syntax: Any) -> NDArray[np.integer]:
    """Decodes the pixels of a data set.

    Args:
      dataset: a pydicom.Dataset, with `file_meta`.
      layout: of its pixels.
      syntax: its transfer syntax, a pydicom.uid.UID.

    Returns:
      (H, W), or (H, W, 3) of RGB.

    Raises:
      ImageError: they are not all there, or of a syntax that can't be decoded here.
    """
    from pydicom.pixels.decoders import base  # noqa: PLC0415

    data = dataset.PixelData
    if not isinstance(data, bytes):
        raise ImageError("is a DICOM file whose pixel data are no bytes")
    try:
        decoder = base.get_decoder(syntax)
    except NotImplementedError:
        name = syntax.name if syntax.name != syntax else f"the unknown syntax {syntax}"
        raise ImageError(f"is compressed as {text.visible(name)}; {_CONVERT}") from None
    if not decoder.is_available:
        # GDCM, of the extra, reads all kinds of JPEG but the newest.
        is_of_the_extra = syntax in (*_LOSSLESS_JPEG, *_JPEG_LS)
        way = 'pip install ".[dicom]"' if is_of_the_extra else _CONVERT
        raise ImageError(f"is compressed as {syntax.name}; {way}")
    if not syntax.is_encapsulated:
        _require_length(data, layout)
    else:
        frame = _frame(data)
        _require_sound(frame, layout, syntax)
        if _is_grey_baseline(frame, layout, syntax):
            return np.asarray(file_formats.load(frame))
    return _decoded(decoder, dataset, layout, syntax)


def _require_length(data: bytes, layout: PixelLayout) -> None:
    needed = layout.height * layout.width * layout.samples * layout.allocated // 8
    if layout.photometric == "YBR_FULL_422":
        needed = needed * 2 // 3
    if len(data) < needed:
        raise ImageError(f"is truncated: {len(data):,} of the {needed:,} bytes of its pixels")


def _frame(data: bytes) -> bytes:
    from pydicom import encaps  # noqa: PLC0415

    return next(encaps.generate_frames(data, number_of_frames=1))


def _require_sound(frame: bytes, layout: PixelLayout, syntax: str) -> None:
    """Raises ImageError unless the frame is complete, and of the size that is declared."""
    if syntax == _RLE:
        _require_rle(frame, layout)
        return
    # An odd length is filled up, with 0 or 255.
    if not frame.rstrip(b"\0\xff").endswith(_END_OF_IMAGE):
        raise ImageError("is truncated: its compressed pixels have no end")
    if syntax in (_BASELINE, _EXTENDED, *_LOSSLESS_JPEG):
        file_formats.parse_jpeg(frame)
    header = _codestream_header if syntax in _JPEG_2000 else _jpeg_header
    height, width, samples, bits = header(frame)
    if (height, width, samples) != (layout.height, layout.width, layout.samples):
        raise ImageError(
            f"holds a compressed image of {width} x {height} with {samples} channels, and declares "
            f"{layout.width} x {layout.height} with {layout.samples}"
        )
    if bits > layout.allocated:
        raise ImageError(f"holds {bits} bits a sample, and declares {layout.allocated}")
    if syntax == _EXTENDED and bits > 8:
        raise ImageError(f"is compressed as JPEG Extended of {bits} bits; {_CONVERT}")


def _jpeg_header(frame: bytes) -> tuple[int, int, int, int]:
    """Returns height, width, samples and bits of a JPEG or JPEG-LS frame."""
    position = 2
    while frame[position : position + 1] == b"\xff":
        code, start = frame[position + 1], position + 2
        if code == 0xFF:
            position += 1
        elif code in _START_OF_FRAME:
            height, width = frame[start + 3 : start + 5], frame[start + 5 : start + 7]
            sizes = int.from_bytes(height, "big"), int.from_bytes(width, "big")
            return *sizes, frame[start + 7], frame[start + 2]
        else:
            position = start + int.from_bytes(frame[start : start + 2], "big")
    raise ImageError("cannot be decoded (its compressed pixels have no header)")


def _codestream_header(frame: bytes) -> tuple[int, int, int, int]:
    """Returns height, width, samples and bits of a JPEG 2000 frame."""
    start = frame.find(_START_OF_CODESTREAM, 0, 4096)
    if start < 0:
        raise ImageError("cannot be decoded (its compressed pixels have no header)")
    width, height, left, top = np.frombuffer(frame, ">u4", 4, start + 8).tolist()
    samples = int.from_bytes(frame[start + 40 : start + 42], "big")
    return height - top, width - left, samples, (frame[start + 42] & 0x7F) + 1


def _require_rle(frame: bytes, layout: PixelLayout) -> None:
    """Raises ImageError unless every segment has one byte a pixel: a run of 2 bytes may be 128."""
    count, *offsets = np.frombuffer(frame[:64].ljust(64, b"\0"), "<u4").tolist()
    needed = layout.height * layout.width
    if count != layout.samples * layout.allocated // 8:
        raise ImageError(f"has {count} RLE segments, not {layout.samples * layout.allocated // 8}")
    for start, end in zip(offsets[:count], [*offsets[1:count], len(frame)], strict=True):
        found, position = 0, start
        while position < end and found <= needed:
            header = frame[position]
            found += 0 if header == 128 else header + 1 if header < 128 else 257 - header
            position += 2 if header > 128 else 1 if header == 128 else header + 2
        # An encoder may fill a segment up to an even number of bytes.
        if not needed <= found <= needed + 1:
            raise ImageError("cannot be decoded (its RLE data don't end with the last pixel)")


def _is_grey_baseline(frame: bytes, layout: PixelLayout, syntax: str) -> bool:
    """Whether the frame is a file that the builder reads: then it is checked as thoroughly."""
    is_jpeg = layout.samples == 1 and syntax in (_BASELINE, _EXTENDED) and not layout.is_signed
    return is_jpeg and file_formats.is_grey_huffman_jpeg(frame)


def _decoded(decoder: Any, dataset: Any, layout: PixelLayout, syntax: Any) -> NDArray[np.integer]:
    options: dict[str, Any] = {}
    try:
        if not syntax.is_encapsulated:
            # `dicom_levels` does so, also where the unused bits are the lower ones.
            options["correct_unused_bits"] = False
        elif syntax == _RLE:
            options["decoding_plugin"] = "pydicom"
        elif _is_for_pillow(decoder, layout, syntax):
            options["decoding_plugin"] = "pillow"
        else:
            array, kind = isolated.decode(dataset.PixelData, _options(dataset, layout, syntax))
            return _of_kind(array, kind, layout)
        array, made = decoder.as_array(dataset, index=0, raw=layout.samples == 1, **options)
        return _of_kind(array, made["photometric_interpretation"], layout)
    except ImageError:
        raise
    except file_formats.UNDECODABLE as error:
        # A RuntimeError says that no plug-in could do it. What those say is of their own code.
        is_damaged = syntax.is_encapsulated and isinstance(error, RuntimeError)
        said = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        reason = f"its pixels, compressed as {syntax.name}, are damaged" if is_damaged else said
        raise ImageError(f"cannot be decoded ({text.visible(reason)})") from error


def _is_for_pillow(decoder: Any, layout: PixelLayout, syntax: str) -> bool:
    is_jpeg = syntax in (_BASELINE, _EXTENDED)
    is_jpeg_2000 = syntax in _JPEG_2000 and (layout.samples == 1 or layout.stored == 8)
    return (is_jpeg or is_jpeg_2000) and "pillow" in decoder.available_plugins


def _options(dataset: Any, layout: PixelLayout, syntax: str) -> dict[str, Any]:
    return {
        "syntax": str(syntax),
        "raw": layout.samples == 1,
        "rows": layout.height,
        "columns": layout.width,
        "number_of_frames": 1,
        "samples_per_pixel": layout.samples,
        "bits_allocated": layout.allocated,
        "bits_stored": layout.stored,
        "pixel_representation": int(layout.is_signed),
        "photometric_interpretation": layout.photometric,
        "planar_configuration": _whole(dataset, "PlanarConfiguration", 0),
        "pixel_keyword": "PixelData",
    }


def _of_kind(array: Any, kind: object, layout: PixelLayout) -> NDArray[np.integer]:
    if layout.samples == 3 and kind != "RGB":
        raise ImageError(f"has pixels of kind {text.visible(str(kind))}; convert it to MONOCHROME2")
    return np.asarray(array)
