"""What a DICOM file shows, and what is refused, on files that the tests write themselves."""

from __future__ import annotations

import concurrent.futures
import logging
import pathlib
import random
import subprocess
import sys
import time
import tracemalloc
import warnings
import zlib

import numpy as np
import pydicom
import pytest
from pydicom import dataset, encaps, uid

from cxr_tfds import file_formats
from cxr_tfds.radiographs import dicom
from tests.support.scans import dicom_files
from tests.support.scans.dicom_files import off, refusal, scaled

BUNDLED = sorted(
    path
    for path in (pathlib.Path(pydicom.__file__).parent / "data").rglob("*")
    if path.is_file() and path.suffix not in (".py", ".pyc", ".json", ".gz", ".icc", ".dump")
)


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


@pytest.mark.parametrize("name", sorted({*dicom_files.SYNTAXES} - {"JPEG baseline"}))
@pytest.mark.parametrize("bits", [8, 10, 12, 16])
def test_compressed_pixels_are_those_before(name: str, bits: int) -> None:
    plain = dicom_files.file(dicom_files.levels(bits), bits)
    twin = dicom.load(plain).pixels
    assert off(dicom.load(dicom_files.compressed(plain, name)), twin) == 0


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
        dicom_files.set_tag(written, name, value)
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
def test_forged_files_end_in_pixels_or_a_sentence_within_seconds(
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
    assert slowest < 10  # Seconds; an idle machine takes one.
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
