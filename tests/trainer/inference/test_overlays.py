"""Pictures of heat over a radiograph."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import PIL.Image
import pytest

from tests.support import radiographs
from trainer.inference import overlays

GREY = radiographs.noise(1, 32)[0]


def test_a_pixel_without_heat_is_the_radiographs_own():
    heat = np.zeros((4, 4))
    heat[0, 0] = 1
    rgb = overlays.blend(GREY, heat)
    assert rgb.shape == (32, 32, 3)
    np.testing.assert_array_equal(rgb[16:, 16:], np.repeat(GREY[16:, 16:], 3, axis=-1))
    assert (rgb[:4, :4] != np.repeat(GREY[:4, :4], 3, axis=-1)).any(-1).all()


def test_the_radiograph_can_be_read_below_the_hottest_place():
    dark, light = (
        overlays.blend(np.full((8, 8), of, np.uint8), np.ones((2, 2))) for of in (0, 255)
    )
    assert (light[0, 0].astype(int) - dark[0, 0] >= 100).all()


def test_more_heat_is_lighter_on_black():
    """Also for readers of any colour vision: the luminance grows with every step."""
    steps = np.linspace(0, 1, 64)
    rgb = [overlays.blend(np.zeros((1, 1), np.uint8), np.full((1, 1), of))[0, 0] for of in steps]
    luminance = np.array(rgb) @ (0.2126, 0.7152, 0.0722)
    assert (np.diff(luminance) > -0.5).all()
    assert luminance[-1] > 80


def test_heat_shows_to_readers_who_do_not_tell_red_from_green():
    """Blue differs from the other two channels, on any grey."""
    for grey in (0, 90, 180, 255):
        red, green, blue = overlays.blend(np.full((1, 1), grey, np.uint8), np.ones((1, 1)))[0, 0]
        assert min(red, green) - int(blue) > 40


def test_stretching_keeps_places_and_limits():
    maps = np.zeros((2, 4, 4), np.float32)
    maps[0, 1, 2], maps[1] = 1, 0.5
    found = overlays.stretch(maps, 64, 32)
    assert found.shape == (2, 64, 32)
    assert np.unravel_index(found[0].argmax(), (64, 32)) in {(23, 19), (23, 20), (24, 19), (24, 20)}
    assert 0.9 < found[0].max() <= 1
    np.testing.assert_allclose(found[1], 0.5)


def test_stretching_is_bilinear_between_the_centres_of_cells():
    found = overlays.stretch(np.array([[[0.0, 1.0]]]), 1, 4)[0, 0]
    np.testing.assert_allclose(found, [0, 0.25, 0.75, 1])


def test_pictures_are_png(tmp_path):
    rgb = overlays.blend(GREY, np.ones((2, 2)))
    overlays.save(tmp_path / "a.png", rgb)
    with PIL.Image.open(tmp_path / "a.png") as found:
        assert found.format == "PNG"
        np.testing.assert_array_equal(np.asarray(found), rgb)
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


@pytest.mark.parametrize(("grey", "heat"), [
    (GREY, np.full((2, 2), np.nan)),
    (GREY, np.full((2, 2), 1.1)),
    (GREY, np.full((2, 2), -0.1)),
    (GREY.astype(np.float32), np.ones((2, 2))),
    (np.repeat(GREY, 3, axis=-1), np.ones((2, 2))),
    (GREY, np.ones((2, 2, 1))),
])  # fmt: skip
def test_what_is_no_heat_or_no_image_is_refused(grey, heat):
    with pytest.raises(ValueError, match="must be"):
        overlays.blend(grey, heat)


def test_no_state_of_pyplot_is_touched():
    program = (
        "import sys; from trainer.inference import overlays; "
        "import numpy as np; overlays.blend(np.zeros((4, 4), 'u1'), np.ones((2, 2))); "
        "sys.exit('matplotlib.pyplot' in sys.modules or 'tensorflow' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
