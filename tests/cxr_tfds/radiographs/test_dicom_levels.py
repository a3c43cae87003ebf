"""How stored values become grey: range, window, tables, colour."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from cxr_tfds.radiographs import dicom
from tests.support.scans import dicom_files
from tests.support.scans.dicom_files import off, refusal, scaled

FULL_RANGE = "no window: the whole range of {} bits"


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
@pytest.mark.parametrize("kind", ["MONOCHROME1", "MONOCHROME2"])
def test_without_a_window_the_whole_range_is_shown(kind: str, bits: int) -> None:
    levels = dicom_files.levels(bits) // 2
    picture = dicom.load(dicom_files.file(levels, bits, PhotometricInterpretation=kind))
    expected = scaled(levels, 0, 2**bits - 1)
    assert off(picture, 255 - expected if kind == "MONOCHROME1" else expected) == 0
    assert picture.notes == (FULL_RANGE.format(bits),)


@pytest.mark.parametrize("bits", [8, 12, 16])
def test_signed_values_are_shown_from_the_lowest(bits: int) -> None:
    levels = dicom_files.levels(bits).astype(np.int32) - 2 ** (bits - 1)
    picture = dicom.load(dicom_files.file(levels, bits, is_signed=True))
    assert off(picture, scaled(levels + 2 ** (bits - 1), 0, 2**bits - 1)) == 0


@pytest.mark.parametrize("kind", ["MONOCHROME1", "MONOCHROME2"])
def test_a_window_is_linear_between_its_ends(kind: str) -> None:
    levels = dicom_files.levels(12)
    data = dicom_files.file(
        levels, 12, PhotometricInterpretation=kind, WindowCenter=2048, WindowWidth=1001
    )
    expected = scaled(levels, 2047.5 - 500, 2047.5 + 500)
    picture = dicom.load(data)
    assert off(picture, 255 - expected if kind == "MONOCHROME1" else expected) == 0
    assert picture.notes == ()


def test_an_exact_window_has_no_half_level() -> None:
    levels = dicom_files.levels(12)
    window = {"WindowCenter": 2048, "WindowWidth": 1000, "VOILUTFunction": "LINEAR_EXACT"}
    assert off(dicom.load(dicom_files.file(levels, 12, **window)), scaled(levels, 1548, 2548)) <= 1


def test_a_sigmoid_window_follows_the_standard() -> None:
    levels = dicom_files.levels(12)
    window = {"WindowCenter": 2048, "WindowWidth": 1000, "VOILUTFunction": "SIGMOID"}
    shares = 1 / (1 + np.exp(-4 * (levels.astype(float) - 2048) / 1000))
    assert off(dicom.load(dicom_files.file(levels, 12, **window)), scaled(shares, 0, 1)) == 0


def test_a_window_of_width_one_is_a_threshold() -> None:
    levels = dicom_files.levels(12)
    picture = dicom.load(dicom_files.file(levels, 12, WindowCenter=2048, WindowWidth=1))
    np.testing.assert_array_equal(picture.pixels == 255, levels >= 2048)


def test_the_first_of_several_windows_is_taken_and_told() -> None:
    levels = dicom_files.levels(12)
    several = dicom_files.file(levels, 12, WindowCenter=[2048, 1], WindowWidth=[1001, 9])
    one = dicom_files.file(levels, 12, WindowCenter=2048, WindowWidth=1001)
    picture = dicom.load(several)
    assert off(picture, dicom.load(one).pixels) == 0
    assert picture.notes == ("the first of 2 windows",)


@pytest.mark.parametrize(("centre", "width"), [(2048, 0), (2048, -5), (2048, 0.5)])
def test_a_window_that_cannot_be_is_left_out_and_told(centre: float, width: float) -> None:
    levels = dicom_files.levels(12)
    picture = dicom.load(dicom_files.file(levels, 12, WindowCenter=centre, WindowWidth=width))
    assert picture.notes == (
        f"a window of width {width:g} at 2048 can't be; left out",
        FULL_RANGE.format(12),
    )


def test_a_window_is_of_rescaled_values() -> None:
    levels = dicom_files.levels(12)
    rescale = {"RescaleSlope": "0.5", "RescaleIntercept": "-100"}
    data = dicom_files.file(levels, 12, WindowCenter=900, WindowWidth=1001, **rescale)
    assert off(dicom.load(data), scaled(levels * 0.5 - 100, 399.5, 1399.5)) <= 1


def test_a_negative_slope_turns_the_range_around() -> None:
    levels = dicom_files.levels(12)
    picture = dicom.load(dicom_files.file(levels, 12, RescaleSlope="-1", RescaleIntercept="4095"))
    assert off(picture, scaled(4095 - levels.astype(int), 0, 4095)) == 0


@pytest.mark.parametrize("slope", ["0", "1e308"])
def test_a_slope_that_cannot_be_is_left_out_and_told(slope: str) -> None:
    levels = dicom_files.levels(12)
    picture = dicom.load(dicom_files.file(levels, 12, RescaleSlope=slope, RescaleIntercept="0"))
    assert off(picture, scaled(levels, 0, 4095)) == 0
    assert "can't be; left out" in picture.notes[0]


@pytest.mark.parametrize("name", ["VOILUTSequence", "ModalityLUTSequence"])
@pytest.mark.parametrize(("entries", "first"), [(4096, 0), (1000, 500), (65536, 0)])
def test_a_table_is_looked_up(name: str, entries: int, first: int) -> None:
    levels = dicom_files.levels(12)
    curve = (np.sqrt(np.linspace(0, 1, entries)) * 1023).astype(np.uint16)
    data = dicom_files.file(levels, 12, **{name: [dicom_files.table(curve, 10, first)]})
    looked_up = curve[np.clip(levels.astype(int) - first, 0, entries - 1)]
    assert off(dicom.load(data), scaled(looked_up, 0, 1023)) == 0


def test_a_table_of_signed_values_begins_below_zero() -> None:
    levels = dicom_files.levels(12).astype(np.int32) - 2048
    curve = (np.sqrt(np.linspace(0, 1, 4096)) * 4095).astype(np.uint16)
    lut = dicom_files.table(curve, 12, first=-2048)
    picture = dicom.load(dicom_files.file(levels, 12, is_signed=True, VOILUTSequence=[lut]))
    assert off(picture, scaled(curve[levels + 2048], 0, 4095)) == 0


def test_a_table_goes_before_a_window() -> None:
    levels = dicom_files.levels(12)
    lut = dicom_files.table(np.arange(4096)[::-1], 12)
    data = dicom_files.file(levels, 12, VOILUTSequence=[lut], WindowCenter=9, WindowWidth=9)
    assert off(dicom.load(data), scaled(4095 - levels.astype(int), 0, 4095)) == 0


def test_a_table_that_is_too_short_is_refused() -> None:
    lut = dicom_files.table(np.arange(4096), 12)
    lut.LUTData = lut.LUTData[:5000]
    data = dicom_files.file(dicom_files.levels(12), 12, VOILUTSequence=[lut])
    assert refusal(data) == "has a damaged lookup table (2,500 of 4,096 entries)"


def test_colour_becomes_luma() -> None:
    rgb = np.stack([dicom_files.levels(8, seed=seed) for seed in range(3)], -1).astype(np.uint8)
    picture = dicom.load(dicom_files.file(rgb))
    assert off(picture, np.asarray(Image.fromarray(rgb).convert("L"))) == 0
    assert picture.notes == ("colour, read as luma (ITU-R 601)",)


def test_deep_colour_becomes_luma() -> None:
    rgb = np.stack([dicom_files.levels(12, seed=seed) for seed in range(3)], -1)
    expected = np.asarray(Image.fromarray(scaled(rgb, 0, 4095)).convert("L"))
    assert off(dicom.load(dicom_files.file(rgb, 12)), expected) == 0


def test_luma_and_chroma_become_luma() -> None:
    ycc = np.full((48, 64, 3), 128, np.uint8)
    ycc[..., 0] = dicom_files.levels(8)
    data = dicom_files.file(ycc, PhotometricInterpretation="YBR_FULL")
    assert off(dicom.load(data), ycc[..., 0]) <= 1


@pytest.mark.parametrize("bits", [8, 16])
def test_a_palette_is_looked_up(bits: int) -> None:
    codes = dicom_files.levels(8)
    tags: dict[str, object] = {"PhotometricInterpretation": "PALETTE COLOR"}
    entries = (np.arange(256) * (257 if bits == 16 else 1)).astype("<u2" if bits == 16 else "u1")
    for name in ("Red", "Green", "Blue"):
        tags[f"{name}PaletteColorLookupTableDescriptor"] = [256, 0, bits]
        tags[f"{name}PaletteColorLookupTableData"] = entries.tobytes()
    assert off(dicom.load(dicom_files.file(codes, **tags)), codes) == 0


def test_bits_above_those_used_are_left_out_and_told() -> None:
    levels = dicom_files.levels(12)
    picture = dicom.load(dicom_files.file(levels | 0x8000, 12))
    assert off(picture, scaled(levels, 0, 4095)) == 0
    assert picture.notes[0] == "bits above the 12 that are used are left out"


def test_bits_may_lie_at_the_upper_end() -> None:
    levels = dicom_files.levels(12)
    assert (
        off(dicom.load(dicom_files.file(levels << 4, 12, HighBit=15)), scaled(levels, 0, 4095)) == 0
    )
