"""`--mode=export`: where it writes, and which files it checks with."""

from __future__ import annotations

import numpy as np
import PIL.Image
import pytest

from cxr_tfds.radiographs import reading
from tests.support import radiographs
from trainer.commands import export
from trainer.errors import RunError
from trainer.inference import worklist
from trainer.inference.exporting import exports
from trainer.inference.exporting.results import Exports

SIDE = 32


@pytest.fixture
def scans(tmp_path):
    """20 images, each of its own grey; and a file that no radiograph is named as."""
    folder = tmp_path / "scans"
    folder.mkdir()
    for level in range(20):
        grey = np.full((64, 64), 10 * level, np.uint8)
        grey[:8] = 255  # What is of one grey is refused.
        PIL.Image.fromarray(grey).save(folder / f"{level:02}.png")
    (folder / "notes.txt").write_text("")
    return folder


def levels(images):
    return [round(float(np.median(image)) / 10) for image in images]


def test_images_to_check_with_are_spaced_evenly_over_all_files(scans):
    images, labels = export._of_files(str(scans), [SIDE], 4)
    assert labels is None
    assert levels(images) == [0, 5, 10, 15]


def test_others_take_the_place_of_those_that_cannot_be_read(scans):
    for name in ("05", "10"):
        (scans / f"{name}.png").write_bytes(b"")
    images, _ = export._of_files(str(scans), [SIDE], 4)
    assert len(images) == 4
    assert {0, 15} < set(levels(images))
    images, _ = export._of_files(str(scans), [SIDE], 100)
    assert levels(images) == [level for level in range(20) if level not in (5, 10)]


def test_names_are_printed_on_one_line_and_notes_too(scans, capsys):
    (scans / "\x1b[2J\n.png").write_bytes(b"")
    export._of_files(str(scans), [SIDE], 100)
    lines = capsys.readouterr().out.splitlines()
    assert all(line.isprintable() for line in lines)
    (unread,) = [line for line in lines if line.startswith("not used to check with: ")]
    assert "Empty" in unread or "empty" in unread
    assert any("no radiograph has such a name: 1 (1 .txt)" in line for line in lines)


def test_no_two_processes_write_into_a_folder(finished, tmp_path, monkeypatch):
    monkeypatch.setattr(exports, "export", lambda *_: pytest.fail("it was written"))
    with (
        worklist.claimed(tmp_path / "out"),
        pytest.raises(RunError, match="another process writes into"),
    ):
        export.export(finished, "savedmodel", tmp_path / "out")


def test_files_to_check_with_are_stretched_as_predictions_are(finished, tmp_path, monkeypatch):
    given = []
    monkeypatch.setattr(exports, "export", lambda *args: given.append(args[2]) or Exports(()))
    data = radiographs.draw(3, size=(301, 207))
    (tmp_path / "a.jpeg").write_bytes(data)
    export.export(finished, "onnx", tmp_path / "out", images=tmp_path / "a.jpeg")
    np.testing.assert_array_equal(given[0][0, ..., 0], reading.read(data, 224, SIDE).pixels)


def test_an_export_knows_which_model_it_is_of(finished, tmp_path, monkeypatch):
    told = []
    monkeypatch.setattr(exports, "export", lambda *args: told.append(args[-1]) or Exports(()))
    export.export(finished, "savedmodel", tmp_path / "out")
    assert [len(digest) for digest in told] == [64]
