from __future__ import annotations

import io
import zipfile
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from cxr_tfds import images, source
from tests.support import radiographs

if TYPE_CHECKING:
    import pathlib

    from tests.support.radiographs import Files


def pixels(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image).astype(int)


def png(grey: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(grey).save(buffer, format="PNG")
    return buffer.getvalue()


def test_facts_tell_size_and_colour_coding() -> None:
    facts = images.examine_bytes(radiographs.draw(0, mode="RGB", size=(60, 40)))
    assert (facts.height, facts.width, facts.is_rgb_coded) == (40, 60, True)
    assert not images.examine_bytes(radiographs.draw(0)).is_rgb_coded


def test_content_hash_is_that_of_the_bytes() -> None:
    one, same, other = (images.examine_bytes(radiographs.draw(seed)) for seed in (0, 0, 1))
    assert one.content_hash == same.content_hash != other.content_hash


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"", "empty"),
        (radiographs.draw(0, size=(31, 400)), "31 x 400, under 32 pixels"),
        (radiographs.draw(0, mode="I;16", format="PNG"), "mode I;16"),
    ],
)
def test_unusable_images_are_refused(data: bytes, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        images.examine_bytes(data)


@pytest.mark.parametrize(
    "data", [b"not an image", radiographs.draw(0)[:-200], radiographs.draw(0)[:20]]
)
def test_undecodable_images_are_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"cannot be decoded \(.*(identify|truncated)"):
        images.examine_bytes(data)


@pytest.mark.parametrize("mode", ["L", "RGB", "P"])
def test_decoding_gives_grey_pixels_of_the_original_size(mode: str) -> None:
    decoded = images.decode(radiographs.draw(0, mode=mode, size=(90, 60), format="PNG"))
    assert (decoded.shape, decoded.dtype) == ((60, 90), np.uint8)
    expected = pixels(radiographs.draw(0, size=(90, 60), format="PNG"))
    assert np.abs(decoded - expected).max() <= 1


def test_decoding_to_a_side_stretches_to_a_square() -> None:
    assert images.decode(radiographs.draw(0, mode="RGB", size=(90, 60)), 48).shape == (48, 48)


def test_decoding_keeps_the_orientation_of_the_stored_image() -> None:
    corner = np.zeros((80, 60), np.uint8)
    corner[:40, 30:] = 255
    for side in (None, 40):
        decoded = images.decode(png(corner), side)
        middle_row, middle_column = (length // 2 for length in decoded.shape)
        assert decoded[: middle_row - 2, middle_column + 2 :].min() == 255
        assert decoded[middle_row + 2 :].max() == 0


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"", "is empty"),
        (radiographs.draw(0)[:-200], r"cannot be decoded \(.*truncated"),
        (radiographs.draw(0, size=(31, 400)), "is 31 x 400, under 32 pixels a side"),
        (
            radiographs.draw(0, mode="I;16", format="PNG"),
            "has pixels of mode I;16; convert it to 8 bits",
        ),
    ],
)
def test_decoding_refuses_what_the_builder_refuses(data: bytes, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        images.decode(data, 48)


def test_resizing_averages_over_what_it_drops() -> None:
    stripes = np.tile(np.array([0, 255], np.uint8), (64, 512))
    resized = images.decode(png(stripes), 32).astype(int)
    assert np.abs(resized - 127).max() < 8


def test_a_record_stores_the_decoded_pixels_as_jpeg() -> None:
    data = radiographs.draw(0, mode="RGB", size=(90, 60))
    stored = pixels(images.encode_resized(data, 48))
    assert stored.shape == (48, 48)
    assert np.abs(stored - images.decode(data, 48)).max() < 12


def test_original_grey_jpeg_keeps_its_bytes() -> None:
    data = radiographs.draw(0)
    assert images.encode_original(data) is data


@pytest.mark.parametrize(("mode", "format_"), [("RGB", "PNG"), ("L", "PNG")])
def test_other_originals_become_grey_jpeg_within_rounding(mode: str, format_: str) -> None:
    data = radiographs.draw(0, mode=mode, format=format_)
    original = pixels(data)
    grey = original[..., 0] if original.ndim == 3 else original
    stored = pixels(images.encode_original(data))
    assert stored.shape == grey.shape
    assert np.abs(stored - grey).max() <= 2


def test_parallel_map_keeps_the_order() -> None:
    assert list(images.parallel_map(str, range(500))) == [(i, str(i)) for i in range(500)]


def test_inspection_collects_every_bad_file(files: Files, tmp_path: pathlib.Path) -> None:
    bad = {
        "chest_xray/train/NORMAL/IM-0000-0000.jpeg": b"",
        "chest_xray/train/NORMAL/IM-0000-0001.jpeg": radiographs.draw(1)[:-200],
        "chest_xray/train/PNEUMONIA/person0_virus_0.jpeg": b"not an image",
        "chest_xray/train/PNEUMONIA/IM-0777-0001.jpeg": radiographs.draw(3),
    }
    files.content |= bad
    facts, issues = images.inspect(source.open_archive(files.zip(tmp_path)))
    assert sorted(f"chest_xray/{issue.key}" for issue in issues) == sorted(bad)
    assert len(facts) == 113


def test_a_member_damaged_in_the_zip_is_an_issue(manual_dir: pathlib.Path) -> None:
    path = manual_dir / "archive.zip"
    with zipfile.ZipFile(path) as archive:
        info = archive.getinfo("chest_xray/train/NORMAL/IM-0000-0000.jpeg")
    data = bytearray(path.read_bytes())
    data[info.header_offset + 200] ^= 0xFF
    path.write_bytes(data)
    _, (issue,) = images.inspect(source.open_archive(manual_dir))
    assert issue.key == "train/NORMAL/IM-0000-0000.jpeg"
    assert "Bad CRC-32" in issue.problem
