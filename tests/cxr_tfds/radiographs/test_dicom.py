"""What a DICOM file shows, and what is refused, on files that the tests write themselves."""

from __future__ import annotations

import concurrent.futures
import logging
import pathlib
import queue
import random
import subprocess
import sys
import time
import tracemalloc
import warnings
import zlib
from typing import TYPE_CHECKING

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom import dataset, encaps, uid

from cxr_tfds import file_formats
from cxr_tfds.radiographs import dicom, isolated
from tests.cxr_tfds.radiographs import dicom_files

if TYPE_CHECKING:
    from cxr_tfds.radiographs.dicom import Picture

BUNDLED = sorted(
    path
    for path in (pathlib.Path(pydicom.__file__).parent / "data").rglob("*")
    if path.is_file() and path.suffix not in (".py", ".pyc", ".json", ".gz", ".icc", ".dump")
)
FULL_RANGE = "no window: the whole range of {} bits"


def refusal(data: bytes) -> str:
    """Why a file is not read; empty if it is."""
    try:
        dicom.load(data)
    except file_formats.ImageError as error:
        return error.problem
    return ""


def scaled(levels: np.ndarray, low: float, high: float) -> np.ndarray:
    shares = np.clip((levels.astype(float) - low) / (high - low), 0, 1)
    return np.floor(shares * 255 + 0.5).astype(np.uint8)


def off(picture: Picture, expected: np.ndarray) -> int:
    """The largest difference in grey levels."""
    assert picture.pixels.shape == expected.shape
    assert picture.pixels.dtype == np.uint8
    return int(np.abs(picture.pixels.astype(int) - expected).max())


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


@pytest.mark.parametrize(
    "syntax",
    [
        uid.ImplicitVRLittleEndian,
        uid.ExplicitVRLittleEndian,
        uid.ExplicitVRBigEndian,
        uid.DeflatedExplicitVRLittleEndian,
    ],
)
@pytest.mark.parametrize("bits", [8, 12])
def test_every_plain_syntax_gives_the_same_pixels(syntax: uid.UID, bits: int) -> None:
    levels = dicom_files.levels(bits, size=(64, 47))
    order = ">" if syntax == uid.ExplicitVRBigEndian else "<"
    lut = dicom_files.table(np.arange(4096) ** 2 // 4096, 12, order=order)
    picture = dicom.load(dicom_files.file(levels, bits, syntax=syntax, VOILUTSequence=[lut]))
    shown = np.minimum(levels.astype(int) ** 2 // 4096, 4095)
    assert off(picture, scaled(shown, 0, 4095)) == 0


@pytest.mark.parametrize("name", sorted(dicom_files.SYNTAXES))
@pytest.mark.parametrize("bits", [8, 12, 16])
def test_compressed_pixels_are_those_before(name: str, bits: int) -> None:
    if name == "JPEG baseline" and bits > 8:
        pytest.skip("JPEG baseline has 8 bits")
    plain = dicom_files.file(dicom_files.levels(bits), bits)
    twin = dicom.load(plain).pixels
    allowed = 12 if name == "JPEG baseline" else 0  # The lossy one.
    assert off(dicom.load(dicom_files.compressed(plain, name)), twin) <= allowed


def test_jpeg_baseline_gives_the_pixels_of_the_jpeg_file() -> None:
    data = dicom_files.compressed(dicom_files.file(dicom_files.levels(8)), "JPEG baseline")
    frame = next(encaps.generate_frames(_dataset(data).PixelData, number_of_frames=1))
    twin = np.asarray(file_formats.load(frame))
    assert off(dicom.load(data), twin) == 0


@pytest.mark.parametrize("name", ["RLE", "JPEG lossless", "JPEG-LS"])
def test_signed_compressed_pixels_are_those_before(name: str) -> None:
    levels = dicom_files.levels(16).astype(np.int32) - 2**15
    plain = dicom_files.file(levels, 16, is_signed=True)
    twin = dicom.load(plain).pixels
    assert off(dicom.load(dicom_files.compressed(plain, name)), twin) == 0


def _dataset(data: bytes) -> dataset.Dataset:
    return pydicom.dcmread(pydicom.filebase.DicomBytesIO(data))


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


@pytest.mark.parametrize(
    ("tags", "problem"),
    [
        ({"NumberOfFrames": 12}, "holds 12 frames; keep one of them"),
        ({"Rows": None}, "is a DICOM file without Rows"),
        ({"PhotometricInterpretation": None}, "is 0 black or white?"),
        ({"PhotometricInterpretation": "HSV", "SamplesPerPixel": 3}, "has pixels of kind HSV"),
        ({"SamplesPerPixel": 4}, "has 4 samples a pixel, which MONOCHROME2 can't have"),
        ({"BitsAllocated": 32}, "has 32 bits a sample; only 8 and 16 are read"),
        ({"BitsStored": 4}, "uses 4 of 8 bits a sample"),
        ({"Rows": 20}, "is 64 x 20, under 32 pixels a side"),
        ({"Rows": 65000, "Columns": 65000}, "is 65000 x 65000, over 89 million pixels"),
        ({"Rows": 49}, "is truncated: 3,072 of the 3,136 bytes of its pixels"),
        ({"PixelData": None}, "is DICOM without pixels (Digital X-Ray Image"),
    ],
)
def test_what_cannot_be_shown_is_refused_by_name(tags: dict[str, object], problem: str) -> None:
    data = dicom_files.file(dicom_files.levels(8))
    written = _dataset(data)
    for name, value in tags.items():
        setattr(written, name, value) if value is not None else delattr(written, name)
    assert problem in refusal(dicom_files.saved(written))


@pytest.mark.parametrize(
    ("kind", "what"),
    [
        (uid.BasicTextSRStorage, "a report (Basic Text SR Storage)"),
        (uid.EncapsulatedPDFStorage, "a document (Encapsulated PDF Storage)"),
        (uid.GrayscaleSoftcopyPresentationStateStorage, "a presentation state, which"),
        (uid.TwelveLeadECGWaveformStorage, "a waveform ("),
        (uid.KeyObjectSelectionDocumentStorage, "a list of images ("),
    ],
)
def test_objects_without_pixels_are_refused_by_their_kind(kind: uid.UID, what: str) -> None:
    data = dicom_files.file(dicom_files.levels(8), SOPClassUID=kind, PixelData=None)
    assert refusal(data).startswith(f"is DICOM, but {what}")


@pytest.mark.parametrize(
    ("syntax", "name"),
    [
        (uid.HTJ2KLossless, "High-Throughput JPEG 2000"),
        (uid.MPEG2MPML, "MPEG2"),
        (uid.UID("1.2.3.4"), "the unknown syntax 1.2.3.4"),
    ],
)
def test_a_syntax_without_decoder_is_refused_with_a_way_out(syntax: uid.UID, name: str) -> None:
    written = _dataset(dicom_files.compressed(dicom_files.file(dicom_files.levels(8)), "JPEG 2000"))
    written.file_meta.TransferSyntaxUID = syntax
    problem = refusal(dicom_files.saved(written))
    assert problem.startswith("is compressed as ")
    assert name in problem
    assert "gdcmconv --raw" in problem or "pip install" in problem


def test_a_compressed_image_of_another_size_is_refused_before_decoding() -> None:
    data = dicom_files.file(dicom_files.levels(8, size=(64, 48)))
    for name in ("JPEG baseline", "JPEG lossless", "JPEG-LS", "JPEG 2000"):
        written = _dataset(dicom_files.compressed(data, name))
        written.Rows = 4000
        problem = "holds a compressed image of 64 x 48 with 1 channels, and declares 64 x 4000"
        assert refusal(dicom_files.saved(written)).startswith(problem)


@pytest.mark.parametrize("name", sorted(dicom_files.SYNTAXES))
def test_a_truncated_compressed_image_is_refused(name: str) -> None:
    written = _dataset(dicom_files.compressed(dicom_files.file(dicom_files.levels(8)), name))
    frame = next(encaps.generate_frames(written.PixelData, number_of_frames=1))
    written.PixelData = encaps.encapsulate([frame[: len(frame) // 2 * 2 // 3 // 2 * 2]])
    assert refusal(dicom_files.saved(written)).startswith(("is truncated", "cannot be decoded"))


def test_what_expands_without_end_is_refused_early() -> None:
    data = dicom_files.file(dicom_files.levels(8), syntax=uid.DeflatedExplicitVRLittleEndian)
    meta_end = data.index(uid.DeflatedExplicitVRLittleEndian.encode()) + 22
    engine = zlib.compressobj(9, zlib.DEFLATED, -15)
    zeros = bytes(1 << 20)
    bomb = b"".join(engine.compress(zeros) for _ in range(400)) + engine.flush()
    assert "expands to over 194 million bytes" in refusal(data[:meta_end] + bomb)


def test_run_lengths_that_expand_beyond_the_image_are_refused() -> None:
    written = _dataset(dicom_files.compressed(dicom_files.file(dicom_files.levels(8)), "RLE"))
    header = np.array([1, 64, *[0] * 14], "<u4").tobytes()
    written.PixelData = encaps.encapsulate([header + b"\x81\x00" * 200_000])
    assert "RLE data don't end with the last pixel" in refusal(dicom_files.saved(written))


@pytest.mark.parametrize("name", [None, *sorted(dicom_files.SYNTAXES)])
def test_sizes_that_are_not_there_allocate_nothing(name: str | None) -> None:
    data = dicom_files.file(dicom_files.levels(8))
    written = _dataset(dicom_files.compressed(data, name) if name else data)
    written.Rows, written.Columns = 9000, 9000
    forged = dicom_files.saved(written)
    refusal(forged)  # Loads modules.
    tracemalloc.start()
    problem = refusal(forged)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert problem
    assert peak < 4e6


@pytest.mark.parametrize("cut", [128, 132])
def test_the_preamble_may_be_missing(cut: int) -> None:
    data = dicom_files.file(dicom_files.levels(8))
    assert dicom.is_dicom(data[cut:][: dicom.HEAD_BYTES])
    assert off(dicom.load(data[cut:]), dicom.load(data).pixels) == 0


@pytest.mark.parametrize(
    "syntax", [uid.ImplicitVRLittleEndian, uid.ExplicitVRLittleEndian, uid.ExplicitVRBigEndian]
)
def test_all_that_precedes_the_data_set_may_be_missing(syntax: uid.UID) -> None:
    data = dicom_files.file(dicom_files.levels(8), syntax=syntax)
    meta = int.from_bytes(data[140:144], "little")
    bare = data[144 + meta :]
    assert dicom.is_dicom(bare[: dicom.HEAD_BYTES])
    assert off(dicom.load(bare), dicom.load(data).pixels) == 0


def test_noise_and_text_are_no_dicom() -> None:
    rng = np.random.default_rng(0)
    assert not any(dicom.is_dicom(rng.bytes(300)) for _ in range(2000))
    assert not any(map(dicom.is_dicom, (b"", b"{}", b"a,b\n", b"PK\x03\x04", bytes(300))))


def test_nothing_that_tells_a_patient_is_kept() -> None:
    picture = dicom.load(dicom_files.file(dicom_files.levels(8), Modality="XX", ViewPosition="PA"))
    told = repr((picture.notes, picture.tags))
    assert not any(secret in told for secret in ("Secret", "secret", "1901"))


@pytest.mark.parametrize("path", BUNDLED, ids=lambda path: path.name)
def test_every_file_of_pydicom_ends_in_pixels_or_a_sentence(
    path: pathlib.Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG):
        problem = refusal(path.read_bytes())
    assert "\n" not in problem
    assert len(problem) < 250
    assert capfd.readouterr() == ("", "")
    assert not caplog.records


def _forgeries(data: bytes, rng: random.Random, count: int) -> list[bytes]:
    forged = []
    for _ in range(count):
        damaged = bytearray(data[: rng.choice([len(data), rng.randrange(1, len(data))])])
        for _ in range(rng.choice([0, 1, 2, 8])):
            reach = rng.choice([len(damaged), min(len(damaged), 900)])
            damaged[rng.randrange(reach)] = rng.choice([0, 255, rng.randrange(256)])
        forged.append(bytes(damaged))
    return forged


@pytest.mark.parametrize("name", ["plain", "deflated", *sorted(dicom_files.SYNTAXES)])
def test_forged_files_end_in_pixels_or_a_sentence_within_a_second(
    name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    bits = 8 if name == "JPEG baseline" else 12
    syntax = (
        uid.DeflatedExplicitVRLittleEndian if name == "deflated" else uid.ExplicitVRLittleEndian
    )
    tables = [dicom_files.table(np.arange(2**bits), bits)]
    plain = dicom_files.file(dicom_files.levels(bits), bits, syntax=syntax, VOILUTSequence=tables)
    data = dicom_files.compressed(plain, name) if name in dicom_files.SYNTAXES else plain
    slowest = 0.0
    for forged in _forgeries(data, random.Random(7), 100):
        start = time.perf_counter()
        assert "\n" not in refusal(forged)
        slowest = max(slowest, time.perf_counter() - start)
    assert slowest < 1
    assert capfd.readouterr() == ("", "")


def test_threads_are_quiet_and_others_keep_their_warnings(
    capfd: pytest.CaptureFixture[str],
) -> None:
    """pydicom warns of the padding behind the pixels."""
    data = dicom_files.file(dicom_files.levels(8))
    written = _dataset(data)
    written.PixelData += bytes(100)
    odd = dicom_files.saved(written)
    with concurrent.futures.ThreadPoolExecutor(4) as threads:
        results = [threads.submit(dicom.load, odd) for _ in range(100)]
        for _ in range(100):
            with pytest.warns(UserWarning, match="of this thread"):
                warnings.warn("of this thread", UserWarning, stacklevel=1)
        assert all(off(result.result(), dicom.load(data).pixels) == 0 for result in results)
    assert capfd.readouterr() == ("", "")


def test_an_image_that_ends_the_decoder_costs_nothing_but_itself(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As GDCM ends it on some damaged files: here by a request that the child can't parse."""
    plain = dicom_files.file(dicom_files.levels(12), 12)
    data = dicom_files.compressed(plain, "JPEG lossless")
    with monkeypatch.context() as patched:
        patched.setattr(isolated.json, "dumps", lambda _: "no JSON")
        assert "are damaged" in refusal(data)
    assert off(dicom.load(data), dicom.load(plain).pixels) == 0


def test_an_image_that_takes_too_long_is_refused(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = dicom_files.compressed(dicom_files.file(dicom_files.levels(12), 12), "JPEG lossless")
    script = tmp_path / "slow.py"
    script.write_text("import time\ntime.sleep(60)\n")
    monkeypatch.setattr(isolated, "_SCRIPT", script)
    monkeypatch.setattr(isolated, "_idle", queue.SimpleQueue())
    monkeypatch.setattr(isolated, "TIMEOUT_S", 0.1)
    assert "are damaged" in refusal(data)


def test_a_decoder_that_ended_between_two_images_is_replaced() -> None:
    plain = dicom_files.file(dicom_files.levels(12), 12)
    data = dicom_files.compressed(plain, "JPEG lossless")
    dicom.load(data)
    children = [isolated._idle.get_nowait() for _ in range(isolated._idle.qsize())]
    for child in children:
        child.close()
        isolated._idle.put(child)
    assert off(dicom.load(data), dicom.load(plain).pixels) == 0


def test_without_the_extra_the_way_to_it_is_named() -> None:
    data = dicom_files.file(dicom_files.levels(8))
    code = (
        "import sys; sys.modules['pydicom'] = None\n"
        "from cxr_tfds.radiographs import reading\n"
        "try: reading.read(sys.stdin.buffer.read())\n"
        "except ValueError as error: print(error.problem)"
    )
    run = subprocess.run([sys.executable, "-c", code], input=data, capture_output=True, check=True)
    assert run.stdout.decode().strip() == 'is DICOM; to read it, pip install ".[dicom]"'


def test_the_core_does_not_import_the_extra() -> None:
    code = "import sys, cxr_tfds.radiographs.reading; sys.exit('pydicom' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
