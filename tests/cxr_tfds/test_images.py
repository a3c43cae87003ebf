from __future__ import annotations

import functools
import io
import pathlib
import time
import zipfile
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import ExifTags, Image

from cxr_tfds import images, source
from tests.support import radiographs
from tests.support.scans import refusals

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.radiographs import Files


TURN = Image.Transpose
STORED_AS = {
    2: (TURN.FLIP_LEFT_RIGHT,),
    3: (TURN.ROTATE_180,),
    4: (TURN.FLIP_TOP_BOTTOM,),
    5: (TURN.TRANSPOSE,),
    6: (TURN.ROTATE_90,),
    7: (TURN.TRANSVERSE,),
    8: (TURN.ROTATE_270,),
}
"""How an upright image lies in a file with each orientation tag."""
DIGEST = "06533a7edbf71cfe"
LOSSLESS = {"WEBP": {"lossless": True}, "JPEG": {"quality": 95}}


def pixels(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image).astype(int)


def png(grey: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(grey).save(buffer, format="PNG")
    return buffer.getvalue()


def saved(image: Image.Image, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, **({"format": "PNG"} | options))
    return buffer.getvalue()


def _stored(data: bytes) -> bytes:
    return images.encode(data, None).content


refusal = functools.partial(refusals.reason, functools.partial(images.decode, side=48))
"""Why a file is not decoded; empty if it is."""


def test_facts_tell_size_and_colour_coding() -> None:
    facts = images.examine_bytes(radiographs.draw(0, mode="RGB", size=(60, 40)))
    assert (facts.height, facts.width, facts.is_rgb_coded) == (40, 60, True)
    assert not images.examine_bytes(radiographs.draw(0)).is_rgb_coded


def test_content_hash_is_that_of_the_bytes() -> None:
    one, same, other = (images.examine_bytes(radiographs.draw(seed)) for seed in (0, 0, 1))
    assert one.content_hash == same.content_hash != other.content_hash


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


def test_resizing_averages_over_what_it_drops() -> None:
    stripes = np.tile(np.array([0, 255], np.uint8), (64, 512))
    resized = images.decode(png(stripes), 32).astype(int)
    assert np.abs(resized - 127).max() < 8


@pytest.mark.parametrize("side", [48, None])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("format_", ["JPEG", "TIFF"])
def test_a_record_stores_the_decoded_pixels_without_loss(
    format_: str, mode: str, side: int | None
) -> None:
    data = radiographs.draw(0, mode=mode, size=(90, 60), format=format_)
    stored, decoded = images.encode(data, side), images.decode(data, side)
    np.testing.assert_array_equal(pixels(stored.content), decoded)
    assert stored.digest == images.digest(decoded)


def test_a_digest_is_of_the_pixels_and_that_of_another_machine() -> None:
    """It is stored with records and runs, and compared by later ones."""
    grey = np.arange(6, dtype=np.uint8).reshape(2, 3)
    assert images.digest(grey) == images.digest(grey.copy()) == DIGEST
    others = (grey.T.copy(), grey.reshape(3, 2), grey + 1, grey[:, ::-1])
    assert len({DIGEST, *map(images.digest, others)}) == 5
    assert images.digest(np.asfortranarray(grey)) == DIGEST


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format_", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_an_orientation_tag_is_applied(format_: str, orientation: int) -> None:
    upright = np.zeros((64, 96), np.uint8)
    upright[:32, :48], upright[32:, :48] = 255, 128
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    transposed = Image.fromarray(upright)
    for method in STORED_AS.get(orientation, ()):
        transposed = transposed.transpose(method)
    data = saved(transposed, format=format_, exif=exif, **LOSSLESS.get(format_, {}))
    decoded = images.decode(data)
    assert decoded.shape == upright.shape
    assert np.abs(decoded.astype(int) - upright).max() < 20
    facts = images.examine_bytes(data)
    assert (facts.height, facts.width) == (64, 96)


@pytest.mark.parametrize(
    ("levels", "is_refused"),
    [((128, 129), True), ((0, 16), True), ((0, 18), False), ((100, 200), False)],
)
def test_an_image_in_which_nothing_can_be_seen_is_refused(
    levels: tuple[int, int], is_refused: bool
) -> None:
    grey = np.random.default_rng(0).integers(*levels, (200, 300), dtype=np.uint8)
    grey[:4, :4] = 255  # A burnt-in mark is no picture.
    assert refusal(png(grey)).startswith("is blank: 98 %") == is_refused


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
@pytest.mark.parametrize(("alpha", "is_refused"), [(254, True), (255, False)])
def test_partly_transparent_images_are_refused(mode: str, alpha: int, is_refused: bool) -> None:
    image = Image.open(io.BytesIO(radiographs.draw(0, format="PNG"))).convert(mode)
    image.putpixel((3, 3), (*image.getpixel((3, 3))[:-1], alpha))
    assert bool(refusal(saved(image))) == is_refused


@pytest.mark.parametrize("mode", ["P", "L"])
def test_a_transparent_grey_level_is_refused(mode: str) -> None:
    image = Image.open(io.BytesIO(radiographs.draw(0, format="PNG"))).convert(mode)
    level = int(np.asarray(image)[0, 0])
    assert (
        refusal(saved(image, transparency=level))
        == "is partly transparent; remove its transparency"
    )


def test_an_oriented_original_is_stored_upright() -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    data = radiographs.draw(0, size=(90, 60), exif=exif)
    stored = images.encode(data, None).content
    assert pixels(stored).shape == (90, 60)
    np.testing.assert_array_equal(pixels(stored), images.decode(data))


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"optimize": True}])
def test_only_a_grey_jpeg_can_keep_its_bytes(mode: str, options: dict[str, bool]) -> None:
    assert images.keeps_bytes(radiographs.draw(0, mode=mode, **options)) == (mode == "L")


def test_original_grey_jpeg_keeps_its_bytes() -> None:
    data = radiographs.draw(0)
    assert images.encode(data, None).content is data


def test_parallel_map_keeps_the_order() -> None:
    assert list(images.parallel_map(str, range(500))) == [(i, str(i)) for i in range(500)]


def test_parallel_map_that_is_left_half_way_computes_no_more() -> None:
    begun: list[int] = []

    def slow(item: int) -> int:
        begun.append(item)
        time.sleep(0.05)
        return item

    results = images.parallel_map(slow, range(500), ahead=200, workers=2)
    assert next(results) == (0, 0)  # 201 were submitted by then.
    results.close()  # type: ignore[attr-defined]
    assert len(begun) < 100


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
    assert issue.problem == "is damaged in the zip (wrong checksum)"


@pytest.mark.parametrize(
    "function", [images.decode, images.examine_bytes, images.keeps_bytes, _stored]
)
@pytest.mark.parametrize(
    "value", ["x.jpeg", pathlib.Path("x.jpeg"), np.zeros((9, 9), np.uint8), None, io.BytesIO(b"")]
)
def test_what_is_no_bytes_is_refused_in_a_sentence(
    function: Callable[[Any], object], value: object
) -> None:
    with pytest.raises(
        TypeError, match=r"^data \(of type \w+\) must be .*Path\(p\)\.read_bytes\(\)"
    ):
        function(value)


@pytest.mark.parametrize("function", [images.decode, images.encode])
@pytest.mark.parametrize("side", [(224, 224), "224", 224.0, True, [224]])
def test_a_side_that_is_no_whole_number_is_refused_in_a_sentence(
    function: Callable[[bytes, Any], object], side: object
) -> None:
    with pytest.raises(TypeError, match=r"^side \(px\) is a whole number, "):
        function(radiographs.draw(0), side)


@pytest.mark.parametrize("side", [0, -3, 65_501])
def test_a_side_out_of_range_is_refused(side: int) -> None:
    with pytest.raises(ValueError, match=rf"side \({side} px\) must be 1 to 65,500 px"):
        images.decode(radiographs.draw(0), side)


def test_bytes_and_sides_of_every_kind_are_taken() -> None:
    data = radiographs.draw(0)
    wanted = images.decode(data, 32)
    np.testing.assert_array_equal(images.decode(bytearray(data), np.int64(32)), wanted)


@pytest.mark.parametrize(
    "pixels", [np.zeros((9, 9)), np.zeros((9, 9, 3), np.uint8), [[0]], "x.jpeg"]
)
def test_only_grey_levels_are_stored(pixels: Any) -> None:
    with pytest.raises(TypeError, match=r"must be grey levels 0 to 255, \(H, W\) uint8"):
        images.encode_png(pixels)


@pytest.mark.parametrize(
    "data", [b"", b"garbage", radiographs.draw(0)[:400], png(np.full((64, 64), 9, np.uint8))]
)
@pytest.mark.parametrize("use", [images.decode, images.examine_bytes, _stored])
def test_an_unusable_file_is_a_sentence_of_a_public_error(
    data: bytes, use: Callable[[bytes], Any]
) -> None:
    with pytest.raises(ValueError, match=r"^The image (is|cannot) [^\n]*[^.]\.$") as caught:
        use(data)
    assert type(caught.value) is images.ImageError
