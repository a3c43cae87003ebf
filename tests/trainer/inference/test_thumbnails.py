"""Small pictures of the most urgent files."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from tests.support import radiographs
from trainer.inference import sources, thumbnails
from trainer.inference.worklist import WorklistRow
from trainer.reports.pages import worklist_page


@pytest.fixture
def scans(tmp_path):
    for seed in range(3):
        (tmp_path / f"{seed}.png").write_bytes(radiographs.draw(seed, format="PNG"))
    return tmp_path


def rows_of(scans) -> list[WorklistRow]:
    return [WorklistRow(str(path), "", score=0.5) for path in sorted(scans.glob("*.png"))]


def test_each_row_has_a_picture_by_its_rank(scans):
    with sources.opened([str(scans)]) as found:
        pictures = thumbnails.read(rows_of(scans), found.by_name)
    assert sorted(pictures) == [1, 2, 3]
    assert {of.image.shape for of in pictures.values()} == {(thumbnails.SIDE, thumbnails.SIDE)}
    assert all(of.overlay is None for of in pictures.values())


def test_what_is_unreadable_or_has_vanished_has_none(scans):
    with sources.opened([str(scans)]) as found:
        first, second, third = rows_of(scans)
        (scans / "1.png").unlink()
        unread = WorklistRow(first.file, "", "unreadable")
        pictures = thumbnails.read([unread, second, third], found.by_name)
    assert sorted(pictures) == [3]


def test_a_heat_map_comes_along(scans):
    (scans / "maps").mkdir()
    Image.fromarray(np.full((32, 32, 3), 200, np.uint8)).save(scans / "maps" / "0.png")
    (row, *_) = rows_of(scans)
    with sources.opened([str(scans / "0.png")]) as found:
        mapped = WorklistRow(row.file, "", score=0.5, heatmap="maps/0.png")
        pictures = thumbnails.read([mapped], found.by_name)
    (picture,) = thumbnails.overlaid(pictures, [mapped], scans).values()
    assert picture.overlay.shape == (thumbnails.SIDE, thumbnails.SIDE, 3)
    assert (picture.overlay == 200).all()


def test_only_the_first_files_have_pictures(scans, monkeypatch):
    monkeypatch.setattr(thumbnails, "MAX_PICTURES", 2)
    assert worklist_page.MAX_PICTURES >= 100
    with sources.opened([str(scans)]) as found:
        pictures = thumbnails.read(rows_of(scans), found.by_name)
    assert sorted(pictures) == [1, 2]
