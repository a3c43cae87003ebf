"""What ends the decoder, or takes too long, costs one image."""

from __future__ import annotations

import queue
from typing import TYPE_CHECKING

from cxr_tfds.radiographs import dicom, isolated
from tests.support.scans import dicom_files
from tests.support.scans.dicom_files import off, refusal

if TYPE_CHECKING:
    import pathlib

    import pytest


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
