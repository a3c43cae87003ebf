"""Figures of heat maps against masks, worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from tests.support.tables import predictions_of
from trainer.evaluation import localization


def ramp(*, mask):
    """Heat 0 to 99 in 100 pixels, of which `mask` are the finding."""
    masks = np.zeros((1, 10, 10), bool)
    masks.flat[mask] = True
    return localization.measure(np.arange(100.0).reshape(1, 10, 10) / 99, masks)


def test_the_figures_of_a_ramp():
    """The whole heat is 4950, the hottest tenth of it 99 + 98 + ... + 95 = 485 < 495 <= 579."""
    found = ramp(mask=[99, 94, 0])
    assert found.images == 1
    assert found.pointing == 1
    assert found.share == pytest.approx((99 + 94) / 4950)
    assert found.top_heat == pytest.approx((99 + 94) / 579)
    assert found.top_area == pytest.approx((99 + 94) / sum(range(90, 100)))
    assert found.reachable == pytest.approx(0.3)
    assert found.chance == pytest.approx(0.03)


def test_a_point_beside_the_finding_is_a_miss():
    assert ramp(mask=[98]).pointing == 0


def test_heat_on_the_finding_alone_reaches_every_figure():
    masks = np.zeros((1, 8, 8), bool)
    masks[0, 2:4, 2:4] = True
    found = localization.measure(masks.astype(float), masks)
    assert (found.pointing, found.share, found.top_heat, found.top_area) == (1, 1, 1, 1)
    assert found.reachable == pytest.approx(4 / 7)


def test_an_image_without_heat_is_counted_and_a_miss():
    masks = np.ones((2, 4, 4), bool)
    heat = np.zeros((2, 4, 4))
    heat[0, 0, 0] = 1
    found = localization.measure(heat, masks)
    assert found.without_heat == 1
    assert (found.pointing, found.share, found.top_heat, found.top_area) == (0.5, 0.5, 0.5, 0.5)


def test_scale_does_not_matter():
    heat, masks = np.random.default_rng(0).random((3, 9, 9)), np.zeros((3, 9, 9), bool)
    masks[:, 2:6, 3:5] = True
    scaled = localization.measure(heat * 0.01, masks)
    assert scaled.top_heat == pytest.approx(localization.measure(heat, masks).top_heat)


def test_heat_anywhere_hits_by_chance():
    rng = np.random.default_rng(0)
    masks = np.zeros((500, 16, 16), bool)
    masks[:, 4:12, 4:12] = True
    found = localization.measure(rng.random(masks.shape), masks)
    assert found.chance == 0.25
    for name in ("pointing", "share", "top_heat", "top_area"):
        assert getattr(found, name) == pytest.approx(0.25, abs=0.05)


def test_no_image_has_no_figures():
    assert localization.measure(np.zeros((0, 4, 4)), np.zeros((0, 4, 4), bool)) is None


@pytest.mark.parametrize(("heat", "masks", "said"), [
    (np.ones((1, 4, 4)), np.ones((1, 5, 5), bool), "must be equal"),
    (np.full((1, 4, 4), np.nan), np.ones((1, 4, 4), bool), "finite and not negative"),
    (-np.ones((1, 4, 4)), np.ones((1, 4, 4), bool), "finite and not negative"),
    (np.ones((1, 4, 4)), np.zeros((1, 4, 4), bool), "A mask is empty"),
])  # fmt: skip
def test_what_has_no_figures_is_refused(heat, masks, said):
    with pytest.raises(ValueError, match=said):
        localization.measure(heat, masks)


def test_right_predictions_with_a_finding_are_chosen():
    table = predictions_of([0, 1, 1, 1], [0.1, 0.9, 0.2, 0.8], ["normal"] + ["virus"] * 3)
    assert localization.choose(table, np.array([0, 1, 1, 1], bool)).tolist() == [1, 3]


def test_the_chosen_are_evenly_spaced():
    table = predictions_of(np.ones(101), np.full(101, 0.9), ["virus"] * 101)
    assert localization.choose(table, np.ones(101, bool), most=5).tolist() == [0, 25, 50, 75, 100]


def test_every_figure_has_a_name():
    names = [field for field in ramp(mask=[1]).to_json() if field not in ("images", "without_heat")]
    assert sorted(localization.NAMES) == sorted(names)
