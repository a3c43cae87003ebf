"""Radiographs of a page with their heat maps, without a browser."""

from __future__ import annotations

import base64
import io
import re

import numpy as np
import PIL.Image
import pytest

from tests.support.pages import reports
from trainer.evaluation import localization, predictions
from trainer.reports.pages import page, pictures

TABLE = reports.table()
ROWS = predictions.choose_samples(TABLE)
FIGURES = dict.fromkeys(localization.NAMES, 0.8442) | {
    "method": "gradcam", "images": 200, "without_heat": 3,
}  # fmt: skip


def shown(rows=ROWS, side=224, places=None):
    """Smooth images, as radiographs are, with heat over their upper left."""
    axis = np.linspace(0, 3, side)
    grey = np.uint8(120 + 80 * np.sin(axis)[:, None] * np.cos(axis))[..., None]
    grey = np.repeat(grey[None], len(rows), axis=0)
    overlays = np.repeat(grey, 3, axis=-1)
    overlays[:, : side // 3, : side // 3, 2] = 0
    heat = pictures.Heat(overlays, places or ["upper left"] * len(rows))
    return pictures.Pictures(rows, grey, heat)


def written(folder, **changes):
    errors = shown(pictures.worst_errors(TABLE))
    document = reports.document(TABLE, **{"localization": FIGURES} | changes)
    page.write(folder / "report.html", document, TABLE, samples=shown(), errors=errors)
    return (folder / "report.html").read_text("utf-8")


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    return written(tmp_path_factory.mktemp("page"))


def test_each_image_has_its_heat_map_beside_it(good):
    pairs = re.findall(r'<div class="pair">\n<img [^>]*>\n<img [^>]*>\n</div>', good)
    assert len(pairs) == len(ROWS) + len(pictures.worst_errors(TABLE))
    assert good.count('class="films paired"') == 2


def test_a_heat_map_is_told_in_words(good):
    name = TABLE.class_names[TABLE.predicted[ROWS[0]]]
    said = f'alt="Heat map of what speaks for {name}: most in the upper left of the image"'
    assert said in good


def test_no_heat_is_told_in_words():
    (first, *_) = pictures.describe(shown(places=[""] * len(ROWS)), TABLE)
    assert first["heat"]["alt"].endswith(": nothing in the image does")


def test_heat_maps_are_small_coloured_jpegs():
    (first, *_) = pictures.describe(shown(side=600), TABLE)
    _, _, encoded = first["heat"]["source"].partition("base64,")
    with PIL.Image.open(io.BytesIO(base64.b64decode(encoded))) as image:
        assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (256, 256))


def test_the_colours_are_explained_where_there_is_heat(good, tmp_path):
    assert good.count("yellow most, then orange and violet, grey not at all") == 2
    plain = pictures.Pictures(ROWS, shown().images)
    page.write(tmp_path / "a.html", reports.document(TABLE), TABLE, samples=plain)
    without = (tmp_path / "a.html").read_text("utf-8")
    assert "speaks for" not in without
    assert 'class="pair"' not in without
    assert "paired" not in without.partition("<main>")[2]


def test_the_figures_against_masks_have_a_table(good):
    section = good.partition('<section id="localization"')[2].partition("</section>")[0]
    assert "Heat maps and drawn findings, 200 images" in section
    for said in localization.NAMES.values():
        assert f'<th scope="row">{said}</th><td>84.42 %</td>' in section


def test_without_masks_there_is_no_such_section(tmp_path):
    assert 'id="localization"' not in written(tmp_path, localization=None)


@pytest.mark.parametrize(("overlays", "places"), [(0, 1), (1, 0)])
def test_heat_of_other_images_is_refused(overlays, places):
    heat = pictures.Heat(np.zeros((overlays, 8, 8, 3), np.uint8), ["middle"] * places)
    with pytest.raises(ValueError, match="heat maps can't show 1 images"):
        pictures.Pictures(ROWS[:1], np.zeros((1, 8, 8), np.uint8), heat)
