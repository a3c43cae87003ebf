"""DICOM files that tests write themselves."""

from __future__ import annotations

import functools
import io
import pathlib
import tempfile
from typing import TYPE_CHECKING, Any

import gdcm
import numpy as np
import pydicom
from pydicom import config, dataset, uid

from cxr_tfds.radiographs import dicom
from tests.support.scans import refusals

if TYPE_CHECKING:
    from cxr_tfds.radiographs.dicom import Picture

SYNTAXES = {
    "RLE": gdcm.TransferSyntax.RLELossless,
    "JPEG baseline": gdcm.TransferSyntax.JPEGBaselineProcess1,
    "JPEG lossless": gdcm.TransferSyntax.JPEGLosslessProcess14_1,
    "JPEG-LS": gdcm.TransferSyntax.JPEGLSLossless,
    "JPEG 2000": gdcm.TransferSyntax.JPEG2000Lossless,
}
"""What GDCM can write, by the name that the tests give it."""


def levels(bits: int, *, size: tuple[int, int] = (64, 48), seed: int = 0) -> np.ndarray:
    """A noisy gradient that uses all levels of so many bits, (H, W) uint16; size is (W, H)."""
    top = (1 << bits) - 1
    rng = np.random.default_rng(seed)
    ramp = np.linspace(0, 0.9 * top, size[0])[None] + rng.uniform(0, 0.1 * top, size[::-1])
    ramp[0, 0], ramp[-1, -1] = 0, top
    return ramp.astype(np.uint16)


def file(pixels: np.ndarray, bits: int = 8, *, is_signed: bool = False, **tags: Any) -> bytes:
    """A DICOM file of stored values; a tag of None is left out."""
    allocated = 8 if bits <= 8 else 16
    samples = 1 if pixels.ndim == 2 else pixels.shape[2]
    written = dataset.Dataset()
    written.file_meta = dataset.FileMetaDataset()
    written.file_meta.TransferSyntaxUID = tags.pop("syntax", uid.ExplicitVRLittleEndian)
    written.SOPClassUID = uid.DigitalXRayImageStorageForPresentation
    written.SOPInstanceUID = "1.2.3"
    written.Modality = "DX"
    written.PatientName = "Secret^Name"
    written.PatientID = "secret-id"
    written.PatientBirthDate = "19010203"
    written.SamplesPerPixel = samples
    written.PhotometricInterpretation = "MONOCHROME2" if samples == 1 else "RGB"
    if samples > 1:
        written.PlanarConfiguration = 0
    written.Rows, written.Columns = pixels.shape[:2]
    written.BitsAllocated, written.BitsStored, written.HighBit = allocated, bits, bits - 1
    written.PixelRepresentation = int(is_signed)
    sign = "i" if is_signed else "u"
    is_big = written.file_meta.TransferSyntaxUID == uid.ExplicitVRBigEndian
    stored = pixels.astype(f"{'>' if is_big else '<'}{sign}{allocated // 8}").tobytes()
    written.PixelData = stored + bytes(len(stored) % 2)
    with config.disable_value_validation():
        for name, value in tags.items():
            set_tag(written, name, value)
    if "PixelData" in written:
        written["PixelData"].VR = "OB" if allocated == 8 else "OW"
    return saved(written)


def set_tag(written: dataset.Dataset, name: str, value: Any) -> None:
    """Sets a tag; a value of None leaves it out."""
    if value is None:
        delattr(written, name)
    else:
        setattr(written, name, value)


def saved(written: dataset.Dataset) -> bytes:
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, written, enforce_file_format=True)
    return buffer.getvalue()


def compressed(data: bytes, name: str) -> bytes:
    """The file with its pixels compressed as `SYNTAXES` says."""
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "a.dcm"
        path.write_bytes(data)
        reader = gdcm.ImageReader()
        reader.SetFileName(str(path))
        assert reader.Read()
        change = gdcm.ImageChangeTransferSyntax()
        change.SetTransferSyntax(gdcm.TransferSyntax(SYNTAXES[name]))
        change.SetInput(reader.GetImage())
        assert change.Change()
        writer = gdcm.ImageWriter()
        writer.SetFileName(str(path))
        writer.SetFile(reader.GetFile())
        writer.SetImage(change.GetOutput())
        assert writer.Write()
        return path.read_bytes()


def table(entries: np.ndarray, bits: int, first: int = 0, *, order: str = "<") -> dataset.Dataset:
    """An item of a sequence of lookup tables."""
    item = dataset.Dataset()
    item.add_new("LUTDescriptor", "US", [len(entries) % 65536, first & 0xFFFF, bits])
    item.add_new("LUTData", "OW", entries.astype(f"{order}u2").tobytes())
    return item


refusal = functools.partial(refusals.reason, dicom.load)
"""Why a file is not read; empty if it is."""


def scaled(levels: np.ndarray, low: float, high: float) -> np.ndarray:
    shares = np.clip((levels.astype(float) - low) / (high - low), 0, 1)
    return np.floor(shares * 255 + 0.5).astype(np.uint8)


def off(picture: Picture, expected: np.ndarray) -> int:
    """The largest difference in grey levels."""
    assert picture.pixels.shape == expected.shape
    assert picture.pixels.dtype == np.uint8
    return int(np.abs(picture.pixels.astype(int) - expected).max())
