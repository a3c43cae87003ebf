"""Stored values of a DICOM image to grey levels, as a radiologist sees them: 0 is black.

PS3.3 C.11: modality transformation (a table, or slope and intercept), then the values of interest
(a table, or a window), then MONOCHROME1 turned around. A sample has 65,536 values at most, so all
of it is done once a value, and a pixel is only looked up.

    grey, notes = dicom_levels.to_grey(stored, layout, dataset)
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from PIL import Image

from cxr_tfds import text
from cxr_tfds.file_formats import ImageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cxr_tfds.radiographs.dicom_frames import PixelLayout

_COLOURS: Final = ("Red", "Green", "Blue")
_FULL_RANGE: Final = "no window: the whole range of {} bits"
_LUMA: Final = "colour, read as luma (ITU-R 601)"


def to_grey(
    stored: NDArray[np.integer], layout: PixelLayout, dataset: Any
) -> tuple[NDArray[np.uint8], tuple[str, ...]]:
    """Returns grey levels, (H, W), and what was taken for granted, a clause each.

    Args:
      stored: pixels as `dicom_frames.decode` returns them.
      layout: of the pixels.
      dataset: the pydicom.Dataset, with its tables and windows.

    Raises:
      ImageError: a table is damaged.
    """
    notes: list[str] = []
    codes = _codes(stored, layout, notes)
    if layout.samples == 3:
        notes.append(_LUMA)
        top = (1 << layout.stored) - 1
        channels = codes if top == 255 else _rounded(np.arange(top + 1) / top)[codes]
        return _luma(channels.astype(np.uint8)), tuple(notes)
    if layout.photometric == "PALETTE COLOR":
        notes.append(_LUMA)
        table = _palette(dataset, layout)
    else:
        table = _grey_table(dataset, layout, notes)
    return table[codes], tuple(notes)


def _codes(
    stored: NDArray[np.integer], layout: PixelLayout, notes: list[str]
) -> NDArray[np.integer]:
    """Returns the bits that are used of each sample, as numbers from 0."""
    native = stored.astype(stored.dtype.newbyteorder("="), copy=False)
    unsigned: NDArray[np.integer] = native.view(f"u{native.dtype.itemsize}")
    shift = layout.high + 1 - layout.stored
    codes = unsigned >> shift if shift else unsigned
    if layout.stored == 8 * codes.dtype.itemsize:
        return codes
    if not layout.is_signed and int(codes.max()) >> layout.stored:
        notes.append(f"bits above the {layout.stored} that are used are left out")
    return codes & ((1 << layout.stored) - 1)


def _luma(channels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.asarray(Image.fromarray(channels).convert("L"))


def _rounded(shares: NDArray[np.float64]) -> NDArray[np.uint8]:
    return np.floor(np.clip(shares, 0, 1) * 255 + 0.5).astype(np.uint8)


def _values(layout: PixelLayout) -> NDArray[np.float64]:
    """Returns the value that each code stands for."""
    values = np.arange(1 << layout.stored, dtype=np.float64)
    if layout.is_signed:
        values[len(values) // 2 :] -= len(values)
    return values


def _grey_table(dataset: Any, layout: PixelLayout, notes: list[str]) -> NDArray[np.uint8]:
    """Returns the grey level of each code."""
    values, low, high = _modality(dataset, _values(layout), notes)
    shares = _of_interest(dataset, values, notes)
    if shares is None:
        notes.append(_FULL_RANGE.format(layout.stored))
        shares = (values - low) / (high - low)
    grey = _rounded(shares)
    return 255 - grey if layout.photometric == "MONOCHROME1" else grey


def _modality(
    dataset: Any, values: NDArray[np.float64], notes: list[str]
) -> tuple[NDArray[np.float64], float, float]:
    """Returns the values after the modality transformation, the lowest and the highest possible."""
    if item := _first(dataset, "ModalityLUTSequence"):
        entries, first, bits = _table(item, "LUT", is_signed=bool(values.min() < 0))
        return _looked_up(entries, first, values), 0, (1 << bits) - 1
    slope = _number(dataset.get("RescaleSlope"), 1)
    intercept = _number(dataset.get("RescaleIntercept"), 0)
    with np.errstate(all="ignore"):
        rescaled = values * slope + intercept
        span = rescaled.max() - rescaled.min()
    if not (math.isfinite(span) and span > 0):
        notes.append(f"rescale slope {slope:g} and intercept {intercept:g} can't be; left out")
        rescaled = values
    return rescaled, float(rescaled.min()), float(rescaled.max())


def _of_interest(
    dataset: Any, values: NDArray[np.float64], notes: list[str]
) -> NDArray[np.float64] | None:
    """Returns brightness, 0 to 1, after table or window; None where there is neither."""
    if tables := dataset.get("VOILUTSequence"):
        if len(tables) > 1:
            notes.append(f"the first of {len(tables)} VOI tables")
        entries, first, bits = _table(tables[0], "LUT", is_signed=bool(values.min() < 0))
        return _looked_up(entries, first, values) / ((1 << bits) - 1)
    centres = _numbers(dataset.get("WindowCenter"))
    widths = _numbers(dataset.get("WindowWidth"))
    if not centres or not widths:
        return None
    centre, width = centres[0], widths[0]
    function = str(dataset.get("VOILUTFunction") or "LINEAR").strip().upper()
    if function not in ("LINEAR", "LINEAR_EXACT", "SIGMOID"):
        notes.append(f"the unknown VOI function {text.visible(function)}, read as LINEAR")
        function = "LINEAR"
    # PS3.3 C.11.2.1.2: a width of 1 is a threshold where the window is linear.
    is_possible = width >= 1 if function == "LINEAR" else width > 0
    if not is_possible or not math.isfinite(width) or not math.isfinite(centre):
        notes.append(f"a window of width {width:g} at {centre:g} can't be; left out")
        return None
    if len(centres) > 1:
        notes.append(f"the first of {len(centres)} windows")
    return _windowed(values, centre, width, function)


def _windowed(
    values: NDArray[np.float64], centre: float, width: float, function: str
) -> NDArray[np.float64]:
    """PS3.3 C.11.2.1.2 and C.11.2.1.3."""
    if function == "LINEAR":
        centre, width = centre - 0.5, width - 1
    if width == 0:
        return (values > centre).astype(np.float64)
    with np.errstate(all="ignore"):
        shares = np.nan_to_num((values - centre) / width)
        return 1 / (1 + np.exp(-4 * shares)) if function == "SIGMOID" else shares + 0.5


def _palette(dataset: Any, layout: PixelLayout) -> NDArray[np.uint8]:
    """Returns the luma of each code."""
    if any(f"Segmented{name}PaletteColorLookupTableData" in dataset for name in _COLOURS):
        raise ImageError("has a segmented palette; convert it to MONOCHROME2")
    channels = []
    for name in _COLOURS:
        entries, first, bits = _table(dataset, f"{name}PaletteColorLookupTable", is_signed=False)
        levels = _looked_up(entries, first, _values(layout))
        channels.append(_rounded(levels / ((1 << bits) - 1)))
    return _luma(np.stack(channels, -1)[None])[0]


def _table(item: Any, name: str, *, is_signed: bool) -> tuple[NDArray[np.float64], int, int]:
    """Reads a lookup table: its entries, the value that the first is for, and bits of an entry."""
    descriptor = _integers(item, f"{name}Descriptor")
    if len(descriptor) != 3:
        raise ImageError(f"has a damaged lookup table ({name}Descriptor)")
    count, first, bits = (number & 0xFFFF for number in descriptor)
    count = count or 1 << 16
    entries = _integers(item, f"{name}Data", count)[:count]
    if len(entries) < count:
        raise ImageError(f"has a damaged lookup table ({len(entries):,} of {count:,} entries)")
    if is_signed and first >= 1 << 15:
        first -= 1 << 16
    entries = entries & 0xFFFF
    # Some writers declare 8 bits and use 16, and the other way around.
    bits = max(bits, int(entries.max()).bit_length()) if 8 <= bits <= 16 else 16
    return entries.astype(np.float64), first, bits


def _looked_up(
    entries: NDArray[np.float64], first: int, values: NDArray[np.float64]
) -> NDArray[np.float64]:
    index = np.clip(np.rint(values) - first, 0, len(entries) - 1)
    return entries[index.astype(np.intp)]


def _integers(item: Any, keyword: str, count: int = 0) -> NDArray[np.int64]:
    """Returns the numbers of an element, of which pydicom may know no more than their bytes.

    Where it has just `count` bytes, or one more that fills them up, each is a number.
    """
    value = item.get(keyword)
    if value is None:
        raise ImageError(f"has a damaged lookup table (no {keyword})")
    if not isinstance(value, bytes):
        return np.atleast_1d(np.asarray(value, dtype=np.int64))
    if len(value) in (count, count + count % 2):
        return np.frombuffer(value, np.uint8).astype(np.int64)
    is_big_endian = item.original_encoding[1] is False
    return np.frombuffer(value, ">u2" if is_big_endian else "<u2", len(value) // 2).astype(np.int64)


def _first(dataset: Any, keyword: str) -> Any:
    items = dataset.get(keyword)
    return items[0] if items else None


def _number(value: Any, default: float) -> float:
    numbers = _numbers(value)
    return numbers[0] if numbers else default


def _numbers(value: Any) -> list[float]:
    """Returns the numbers of an element with one value, several or none."""
    if value is None or value == "":
        return []
    several = value if isinstance(value, list) or hasattr(value, "append") else [value]
    return [float(number) for number in several if number not in (None, "")]
