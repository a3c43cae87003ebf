"""A DICOM file scores as the PNG of what a viewer shows of it, computed here by the standard."""

from __future__ import annotations

import dataclasses
import io

import numpy as np
import pydicom
import pytest
from PIL import Image

import trainer
from cxr_tfds import phantoms
from tests.support.scans import dicom_files
from tests.support.scans.dicom_files import scaled

KINDS = (".dcm", ".png")


@dataclasses.dataclass(frozen=True)
class Twins:
    """Bytes of a DICOM file, and the pixels of its PNG, (H, W) uint8."""

    dicom: bytes
    pixels: np.ndarray


def stored(number: int, bits: int) -> np.ndarray:
    """A phantom radiograph that uses all levels of so many bits, (H, W) uint16."""
    grey = phantoms.render(phantoms.records()[number]).astype(float)
    jitter = np.random.default_rng(number).uniform(-0.5, 0.5, grey.shape)
    levels = np.clip((grey + jitter) / 255, 0, 1) * ((1 << bits) - 1)
    return np.rint(levels).astype(np.uint16)


def plain(number: int, bits: int) -> Twins:
    levels, top = stored(number, bits), (1 << bits) - 1
    return Twins(dicom_files.file(levels, bits), scaled(levels, 0, top))


def inverted(number: int, bits: int) -> Twins:
    levels, top = stored(number, bits), (1 << bits) - 1
    data = dicom_files.file(top - levels, bits, PhotometricInterpretation="MONOCHROME1")
    return Twins(data, scaled(levels, 0, top))


def windowed(number: int, bits: int) -> Twins:
    levels, width = stored(number, bits), (1 << bits) * 3 // 4 + 1
    data = dicom_files.file(levels, bits, WindowCenter=1 << (bits - 1), WindowWidth=width)
    middle = (1 << (bits - 1)) - 0.5
    return Twins(data, scaled(levels, middle - (width - 1) / 2, middle + (width - 1) / 2))


def looked_up(number: int, bits: int) -> Twins:
    levels, top = stored(number, bits), (1 << bits) - 1
    table = np.rint((np.arange(top + 1) / top) ** 2 * 4095)
    data = dicom_files.file(levels, bits, VOILUTSequence=[dicom_files.table(table, 12)])
    return Twins(data, scaled(table[levels], 0, 4095))


def rescaled(number: int, bits: int) -> Twins:
    levels, width = stored(number, bits), (1 << bits) + 1
    tags = {"RescaleSlope": "2", "RescaleIntercept": "-1000"}
    data = dicom_files.file(levels, bits, WindowCenter=width - 1000, WindowWidth=width, **tags)
    low = width - 1000 - 0.5 - (width - 1) / 2
    return Twins(data, scaled(levels * 2.0 - 1000, low, low + width - 1))


def compressed(number: int, bits: int, name: str) -> Twins:
    twins = plain(number, bits)
    return dataclasses.replace(twins, dicom=dicom_files.compressed(twins.dicom, name))


def every_kind() -> dict[str, Twins]:
    """Each kind at 8, 12 and 16 bits, of another phantom each; half of them have a finding."""
    kinds = (plain, inverted, windowed, looked_up, rescaled)
    cases = [(kind, bits) for bits in (8, 12, 16) for kind in kinds]
    made = {
        f"{kind.__name__} {bits}": kind(97 * place % 2000, bits)
        for place, (kind, bits) in enumerate(cases)
    }
    lossless = sorted({*dicom_files.SYNTAXES} - {"JPEG baseline"})
    return made | {
        f"{name} {bits}": compressed(89 * (place + bits) % 2000, bits, name)
        for place, name in enumerate(lossless)
        for bits in (8, 12, 16)
    }


def test_dicom_files_score_as_their_twins(finished, tmp_path):
    cases = every_kind()
    for name, twins in cases.items():
        (tmp_path / "scans").mkdir(exist_ok=True)
        (tmp_path / "scans" / f"{name}.dcm").write_bytes(twins.dicom)
        Image.fromarray(twins.pixels).save(tmp_path / "scans" / f"{name}.png")
    found = trainer.predict(finished, tmp_path / "scans", tmp_path / "out", batch_size=4)
    scores = {row.file.rsplit("/", 1)[-1]: row.score for row in found.rows}
    assert len(scores) == 2 * len(cases) == 54
    twins = np.array([[scores[f"{name}.dcm"], scores[f"{name}.png"]] for name in cases])
    np.testing.assert_allclose(*twins.T, atol=1e-3)
    assert np.ptp(twins) > 0.2, "scores that are all alike would hide a difference"


@pytest.mark.parametrize("kind", [inverted, windowed, looked_up])
def test_pixels_without_the_tags_score_otherwise(finished, tmp_path, kind):
    """So that equal scores prove that the tags were used."""
    for number in range(0, 2000, 250):
        data = pydicom.dcmread(io.BytesIO(kind(number, 12).dicom))
        bare = scaled(data.pixel_array, 0, 4095)
        (tmp_path / f"{number:04}.dcm").write_bytes(kind(number, 12).dicom)
        Image.fromarray(bare).save(tmp_path / f"{number:04}.png")
    found = trainer.predict(finished, tmp_path, tmp_path / "out", batch_size=4)
    scores = {row.file: row.score for row in found.rows}
    ours, theirs = ([scores[name] for name in sorted(scores) if name.endswith(of)] for of in KINDS)
    assert np.abs(np.subtract(ours, theirs)).max() > 0.01
