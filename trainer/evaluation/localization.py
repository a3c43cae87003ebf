"""Whether heat maps point at the finding, where masks tell where it was drawn.

    figures = localization.measure(heat, masks)     # [N, H, W] in [0, 1], [N, H, W] bool
    figures.pointing, figures.share

| figure | of an image, and then the mean over the images |
|---|---|
| pointing | whether its hottest pixel is inside the mask (Zhang et al., ECCV 2016, no tolerance) |
| share | the part of all its heat that is inside |
| top_heat | the part inside, of the hottest pixels that carry a tenth of the heat |
| top_area | the part inside, of the heat of the hottest tenth of its pixels |
| reachable | the part of that tenth that the mask can fill: below 1 where the finding is smaller |
| chance | the part of the image that is the mask: `pointing` and `share` of heat that is anywhere |

`top_heat` asks whether the heat that stands out is on the finding. `top_area` also asks for heat of
the right extent: a finding of 7 % of an image can't fill the hottest 10 %.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    from trainer.evaluation.predictions import Predictions

TOP: Final = 0.1
MAX_IMAGES: Final = 200
"""Over so many images, at most, the figures are means."""
HEAD: Final = "inside the drawn finding"
NAMES: Final = {
    "pointing": "hottest point",
    "top_heat": "hottest tenth of the heat",
    "top_area": "hottest tenth of the pixels",
    "share": "all heat",
    "reachable": "tenth of the pixels, at most",
    "chance": "all pixels (chance)",
}


@dataclasses.dataclass(frozen=True)
class Localization:
    """How well heat maps point at findings; each figure is a share in [0, 1].

    Attributes:
      images: over how many images the figures are means.
      without_heat: how many of them have no heat at all; they count as misses.
      pointing: see the module.
      share: see the module.
      top_heat: see the module.
      top_area: see the module.
      reachable: see the module.
      chance: see the module.
    """

    images: int
    without_heat: int
    pointing: float
    share: float
    top_heat: float
    top_area: float
    reachable: float
    chance: float

    def to_json(self) -> dict[str, Any]:
        """Returns the figures as `report.json` has them."""
        return dataclasses.asdict(self)


def choose(
    predictions: Predictions, has_finding: npt.NDArray[np.bool_], *, most: int = MAX_IMAGES
) -> npt.NDArray[np.intp]:
    """Returns the examples whose heat maps are measured: with a finding, and rightly predicted.

    Args:
      predictions: [N] examples.
      has_finding: [N], whether an example has a mask that is not empty.
      most: how many to return, at most.

    Returns:
      [M] indices in ascending order, evenly spaced among those that qualify.
    """
    rows = np.flatnonzero(has_finding & (predictions.predicted == predictions.label))
    if len(rows) <= most:
        return rows
    return rows[np.linspace(0, len(rows) - 1, most).round().astype(int)]


def measure(
    heat: npt.NDArray[np.floating[Any]], masks: npt.NDArray[np.bool_]
) -> Localization | None:
    """Returns the figures of heat maps; None of no image.

    Args:
      heat: [N, H, W], finite and not negative, at the size of the masks.
      masks: [N, H, W], none of them empty.

    Raises:
      ValueError: when shapes differ, heat is negative or not finite, or a mask is empty.
    """
    count = len(heat)
    if heat.shape != masks.shape or heat.ndim != 3:
        raise ValueError(f"heat {heat.shape} and masks {masks.shape} must be equal [N, H, W].")
    if not count:
        return None
    flat, inside = heat.reshape(count, -1).astype(np.float64), masks.reshape(count, -1)
    if not np.isfinite(flat).all() or flat.min() < 0:
        raise ValueError("Heat must be finite and not negative.")
    if not inside.any(axis=1).all():
        raise ValueError("A mask is empty: there is no finding to point at.")
    order = np.argsort(-flat, axis=1, kind="stable")
    hottest, hits = np.take_along_axis(flat, order, 1), np.take_along_axis(inside, order, 1)
    total = hottest.sum(axis=1)
    before = np.cumsum(hottest, axis=1) - hottest
    top = int(np.ceil(TOP * flat.shape[1]))
    covered = inside.mean(axis=1)
    has_heat = total > 0
    return Localization(
        images=count,
        without_heat=int((~has_heat).sum()),
        pointing=float((hits[:, 0] & has_heat).mean()),
        share=_share(hottest, hits),
        top_heat=_share(hottest * (before < TOP * total[:, None]), hits),
        top_area=_share(hottest[:, :top], hits[:, :top]),
        reachable=float(np.minimum(1, covered * flat.shape[1] / top).mean()),
        chance=float(covered.mean()),
    )


def _share(heat: npt.NDArray[np.float64], hits: npt.NDArray[np.bool_]) -> float:
    """Returns the mean over images of the part of the heat that hits; without heat it is 0."""
    total = heat.sum(axis=1)
    found = np.divide((heat * hits).sum(axis=1), total, out=np.zeros_like(total), where=total > 0)
    return float(found.mean())
