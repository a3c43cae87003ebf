"""The one way from a file's bytes to pixels, flags and notes."""

from __future__ import annotations

import io
import pathlib
from typing import Any

import numpy as np
import pytest
from PIL import ExifTags, Image
from pydicom import uid

from cxr_tfds import images
from cxr_tfds.radiographs import reading
from tests.cxr_tfds.radiographs import test_deep_pixels
from tests.support import radiographs
from tests.support.scans import dicom_files


def rotated(format_: str) -> bytes:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    return radiographs.draw(0, size=(90, 60), format=format_, exif=exif)


def opened(mode: str) -> Image.Image:
    return Image.open(io.BytesIO(radiographs.draw(3, size=(90, 70), format="PNG"))).convert(mode)


def saved(image: Image.Image, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, **options)
    return buffer.getvalue()


ORDINARY = {
    "grey JPEG": radiographs.draw(0, size=(301, 207)),
    "RGB JPEG": radiographs.draw(0, mode="RGB", size=(301, 207)),
    "CMYK JPEG": radiographs.draw(0, mode="CMYK", size=(90, 60)),
    "progressive JPEG": radiographs.draw(0, size=(90, 60), progressive=True),
    "rotated JPEG": rotated("JPEG"),
    "rotated PNG": rotated("PNG"),
    "rotated TIFF": rotated("TIFF"),
    "rotated WebP": rotated("WEBP"),
    "palette PNG": saved(opened("P"), format="PNG"),
    "1-bit PNG": saved(opened("1"), format="PNG"),
    "PNG with alpha": saved(opened("LA"), format="PNG"),
    "RGBA PNG": saved(opened("RGBA"), format="PNG"),
    "TIFF": radiographs.draw(0, size=(90, 60), format="TIFF"),
    "LZW TIFF": radiographs.draw(0, size=(90, 60), format="TIFF", compression="tiff_lzw"),
    "RGB TIFF": radiographs.draw(0, mode="RGB", size=(90, 60), format="TIFF"),
    "BMP": radiographs.draw(0, size=(90, 60), format="BMP"),
    "WebP": radiographs.draw(0, mode="RGB", size=(90, 60), format="WEBP"),
}


@pytest.mark.parametrize("sides", [(), (48,), (224,)])
@pytest.mark.parametrize("kind", ORDINARY)
def test_pixels_are_those_of_the_builder(kind: str, sides: tuple[int, ...]) -> None:
    radiograph = reading.read(ORDINARY[kind], *sides)
    np.testing.assert_array_equal(radiograph.pixels, images.decode(ORDINARY[kind], *sides))
    facts = images.examine_bytes(ORDINARY[kind])
    assert (radiograph.height, radiograph.width) == (facts.height, facts.width)
    assert (radiograph.notes, radiograph.flags) == ((), ())


def test_a_record_that_is_shrunk_is_stretched_twice() -> None:
    data = radiographs.draw(0, size=(301, 207))
    record = images.encode(data, 224).content
    np.testing.assert_array_equal(reading.read(data, 224, 48).pixels, images.decode(record, 48))


@pytest.mark.parametrize(
    "data", [b"", b"garbage", radiographs.draw(0)[:400], b"GIF89a" + bytes(99)]
)
def test_refusals_are_those_of_the_builder(data: bytes) -> None:
    with pytest.raises(images.ImageError) as by_builder:
        images.decode(data)
    with pytest.raises(images.ImageError) as here:
        reading.read(data)
    assert here.value.problem == by_builder.value.problem


def test_the_builder_still_refuses_dicom() -> None:
    with pytest.raises(images.ImageError, match="is DICOM; convert it"):
        images.decode(dicom_files.file(dicom_files.levels(8)))


DEEP = dicom_files.levels(12)
HEADERS = {
    "PNG": saved(opened("L"), format="PNG"),
    "deep PNG": test_deep_pixels.png(DEEP),
    "deep PNG with alpha": test_deep_pixels.png(
        np.stack([DEEP, np.full_like(DEEP, 0xFFFF)], axis=-1), test_deep_pixels.GREY_ALPHA
    ),
    "TIFF": radiographs.draw(0, size=(90, 60), format="TIFF"),
    "deep TIFF": test_deep_pixels.tiff(DEEP),
    "deep TIFF of Motorola": test_deep_pixels.tiff(DEEP, ">", t262=0),
    "DICOM": dicom_files.file(DEEP, 12),
    "implicit DICOM": dicom_files.file(DEEP, 12, syntax=uid.ImplicitVRLittleEndian),
}
"""Files of containers that this package or pydicom parses in Python."""


def refusal(data: bytes) -> str:
    """What is said of a file that can't be read."""
    try:
        reading.read(data, 32)
    except images.ImageError as error:
        return error.problem
    return ""


@pytest.mark.parametrize("kind", HEADERS)
def test_a_damaged_header_is_refused_like_any_file(kind: str) -> None:
    """Whatever libraries raise, a folder of thousands must not end with one of its files."""
    whole = HEADERS[kind]
    assert refusal(whole) == ""
    # The tags of a TIFF may stand at its end.
    places = (*range(min(len(whole), 600)), *range(max(0, len(whole) - 200), len(whole)))
    rng = np.random.default_rng(0)
    for _ in range(60):
        data = bytearray(whole)
        for at in rng.choice(places, size=rng.integers(1, 5)):
            data[at] = rng.choice([0, 1, 0x10, 0x7F, 0xFF, rng.integers(256)])
        assert refusal(bytes(data)).isprintable()
    for length in range(60):
        assert refusal(whole[:length])


@pytest.mark.parametrize("colour", [b"", b"\0", b"\4"])
def test_a_deep_png_that_ends_in_its_header_is_refused(colour: bytes) -> None:
    header = b"\x89PNG\r\n\x1a\n" + b"\0\0\0\rIHDR" + b"\0\0\1\0\0\0\1\0\x10"
    with pytest.raises(images.ImageError, match="cannot be decoded"):
        reading.read(header + colour)


def test_a_number_of_dicom_of_no_length_is_refused() -> None:
    data = dicom_files.file(DEEP, 12)
    rows = b"\x28\0\x10\0US\x02\0" + len(DEEP).to_bytes(2, "little")
    assert rows in data
    broken = data.replace(rows, rows[:6] + b"\x03\0" + b"\x40\0\0")
    with pytest.raises(images.ImageError, match=r"cannot be decoded \(as DICOM: .*length"):
        reading.read(broken)


@pytest.mark.parametrize(
    "error", [KeyError("x"), MemoryError(), ValueError("two\nlines"), Exception("two\nlines")]
)
def test_whatever_a_library_raises_is_said_of_the_file(monkeypatch, error: Exception) -> None:
    def open_image(*_: Any, **__: Any) -> Any:
        raise error

    monkeypatch.setattr(Image, "open", open_image)
    with pytest.raises(images.ImageError, match=r"cannot be decoded \(") as raised:
        reading.read(HEADERS["deep PNG"])
    assert raised.value.problem.isprintable()


@pytest.mark.parametrize("value", ["x.dcm", None, pathlib.Path("x.dcm")])
def test_what_is_no_bytes_is_refused_in_a_sentence(value: Any) -> None:
    with pytest.raises(TypeError, match=r"^data \(of type \w+\) must be "):
        reading.read(value)


@pytest.mark.parametrize(("side", "error"), [(0, ValueError), (2.5, TypeError), (None, TypeError)])
def test_a_side_is_checked(side: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="side"):
        reading.read(radiographs.draw(0), side)


def test_dicom_is_resized_as_its_png_is() -> None:
    levels = dicom_files.levels(8, size=(301, 207)).astype(np.uint8)
    twin = saved(Image.fromarray(levels), format="PNG")
    radiograph = reading.read(dicom_files.file(levels), 64)
    np.testing.assert_array_equal(radiograph.pixels, images.decode(twin, 64))
    assert (radiograph.height, radiograph.width) == (207, 301)


def test_a_blank_dicom_is_refused() -> None:
    levels = dicom_files.levels(12)
    with pytest.raises(images.ImageError, match="is blank"):
        reading.read(dicom_files.file(levels, 12, WindowCenter=60000, WindowWidth=10))


@pytest.mark.parametrize("preamble", [b"II*\0", b"MM\0*"])
def test_dicom_whose_preamble_is_a_tiff_header_is_dicom(preamble: bytes) -> None:
    data = dicom_files.file(dicom_files.levels(8))
    data = preamble + data[4:]
    assert reading.read(data).notes == ("no window: the whole range of 8 bits",)


def flags(**tags: Any) -> tuple[str, ...]:
    return reading.read(dicom_files.file(dicom_files.levels(8), **tags)).flags


@pytest.mark.parametrize(
    "view",
    [
        *("LL", "RL", "ll ", "LATERAL", "LAT", "L-LAT", "LEFT LATERAL", "LLD", "RLD", "LLO"),
        *("PROFIL", "SEITLICH", "PERFIL", "LATERALE", "left_lateral"),
    ],
)
def test_a_lateral_view_is_flagged(view: str) -> None:
    assert flags(ViewPosition=view) == ("lateral",)


@pytest.mark.parametrize("view", ["PA", "AP", "", "LAO", "BILATERAL", "PLAT", "ANTEROPOSTERIOR"])
def test_other_views_are_not_flagged(view: str) -> None:
    assert flags(ViewPosition=view) == ()


@pytest.mark.parametrize(
    ("value", "meaning", "is_lateral"),
    [
        ("399173006", "x", True),
        ("R-10232", "x", True),
        ("1", "left lateral", True),
        ("272479007", "postero-anterior", False),
    ],
)
def test_a_view_code_is_read(value: str, meaning: str, is_lateral: bool) -> None:
    code = dicom_files.table(np.arange(9), 8)
    code.CodeValue, code.CodeMeaning = value, meaning
    assert flags(ViewCodeSequence=[code]) == (("lateral",) if is_lateral else ())


@pytest.mark.parametrize(
    "part",
    [
        *("CHEST", "chest pa", "THORAX", "Thorax ap", "LUNG", "LUNGS", "POUMONS", "POITRINE"),
        *("PULMON", "BRUSTKORB", "LUNGE", "TORAX", "CHESTABDOMEN", "CHEST_PORT"),
        *("", "UNKNOWN", None),
    ],
)
def test_a_chest_is_not_flagged(part: str | None) -> None:
    tags = {} if part is None else {"BodyPartExamined": part}
    assert flags(**tags) == ()


@pytest.mark.parametrize("part", ["T\u00d3RAX", "Pulm\u00f3n"])
def test_accents_do_not_matter(part: str) -> None:
    data = dicom_files.file(dicom_files.levels(8), BodyPartExamined="X" * len(part) + "X")
    stored = part.encode("latin-1").ljust(len(part) + 1 + (len(part) + 1) % 2)
    placed = b"X" * (len(part) + 1)
    data = data.replace(placed.ljust(len(stored)), stored)
    assert reading.read(data).flags == ()


@pytest.mark.parametrize(
    "part", ["HAND", "ABDOMEN", "TSPINE", "THORACIC SPINE", "BRUSTWIRBELSAEULE", "KNEE", "RACHIS"]
)
def test_another_part_of_the_body_is_flagged_and_named(part: str) -> None:
    radiograph = reading.read(dicom_files.file(dicom_files.levels(8), BodyPartExamined=part))
    assert radiograph.flags == ("not_chest",)
    assert f"body part {part}: not the chest" in radiograph.notes


@pytest.mark.parametrize("modality", ["CT", "MR", "US", "MG", "XA"])
def test_a_modality_other_than_radiography_is_flagged(modality: str) -> None:
    radiograph = reading.read(dicom_files.file(dicom_files.levels(8), Modality=modality))
    assert radiograph.flags == ("not_chest",)
    assert f"modality {modality}: no radiograph" in radiograph.notes


@pytest.mark.parametrize("modality", ["CR", "DX", "RG", "DR"])
def test_radiography_draws_no_note(modality: str) -> None:
    radiograph = reading.read(dicom_files.file(dicom_files.levels(8), Modality=modality))
    assert radiograph.flags == ()
    assert radiograph.notes == ("no window: the whole range of 8 bits",)


@pytest.mark.parametrize(
    ("modality", "named"), [("OT", "modality OT"), ("SC", "modality SC"), (None, "no modality")]
)
def test_a_modality_that_tells_nothing_draws_a_note(modality: str | None, named: str) -> None:
    radiograph = reading.read(dicom_files.file(dicom_files.levels(8), Modality=modality))
    assert radiograph.flags == ()
    assert f"{named}: taken for a radiograph" in radiograph.notes


def test_raw_pixels_draw_a_note() -> None:
    data = dicom_files.file(dicom_files.levels(8), PresentationIntentType="FOR PROCESSING")
    assert any("FOR PROCESSING" in note for note in reading.read(data).notes)


def test_tags_cannot_write_to_a_terminal() -> None:
    data = dicom_files.file(dicom_files.levels(8), BodyPartExamined="HAND-XXX")
    notes = reading.read(data.replace(b"HAND-XXX", b"HA\x1b[2JXX")).notes
    assert all(note.isprintable() for note in notes)
    assert any("\\x1b" in note for note in notes)


@pytest.mark.parametrize(
    ("name", "is_tried"),
    [("a.JPG", True), ("a.dcm", True), ("a.IMA", True), ("a.txt", False), ("a", False)],
)
def test_a_suffix_makes_a_candidate(name: str, is_tried: bool) -> None:
    assert reading.looks_like_radiograph(name, b"") is is_tried


def test_dicom_is_a_candidate_whatever_its_name() -> None:
    head = dicom_files.file(dicom_files.levels(8))[: reading.HEAD_BYTES]
    for name in ("IM000001", "1.2.840.1", "a.txt"):
        assert reading.looks_like_radiograph(name, head)
    assert not reading.looks_like_radiograph("IM000001", head[:-1])
