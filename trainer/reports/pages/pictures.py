"""Radiographs of a page: which errors to show, and images as `data:` addresses.

rows = pictures.worst_errors(table)
shown = pictures.Pictures(rows, data.images("test", rows))
"""

from __future__ import annotations

import base64
import dataclasses
import io
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import PIL.Image

from trainer.system import text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trainer.evaluation.predictions import Predictions

_LONGEST_SIDE = 256
_QUALITY = 82
NOTE_OF_HEAT = (
    "Beside each image, what in it speaks for the predicted class: yellow most, then orange and "
    "violet, grey not at all. It is coarse, and no outline of a finding."
)


@dataclasses.dataclass(frozen=True, eq=False)
class Heat:
    """Heat maps of some images: what in them speaks for the predicted class.

    Attributes:
      overlays: [M, H, W, 3] uint8, RGB, heat over the images.
      places: [M], where each is hottest, in words; empty where nothing speaks for the class.
    """

    overlays: npt.NDArray[np.uint8]
    places: Sequence[str]


@dataclasses.dataclass(frozen=True, eq=False)
class Pictures:
    """Images of some examples.

    Attributes:
      rows: [M] indices into the predictions.
      images: [M, H, W, 1] or [M, H, W] uint8, in [0, 255].
      heat: their heat maps; None: they have none.

    Raises:
      ValueError: The images have another dtype or shape, or their number differs from the rows.
    """

    rows: npt.NDArray[np.intp]
    images: npt.NDArray[np.uint8]
    heat: Heat | None = None

    def __post_init__(self) -> None:
        """Checks the images."""
        images = self.images
        is_grey = images.ndim == 3 or (images.ndim == 4 and images.shape[-1] == 1)
        if images.dtype != np.uint8 or not is_grey:
            raise ValueError(
                f"images are {images.dtype} {images.shape}, not uint8 [M, H, W, 1] or [M, H, W]."
            )
        if len(images) != len(self.rows):
            raise ValueError(f"{len(images)} images can't show {len(self.rows)} predictions.")
        if self.heat and not len(self.heat.overlays) == len(self.heat.places) == len(images):
            raise ValueError(
                f"{len(self.heat.overlays)} heat maps can't show {len(images)} images."
            )


def worst_errors(predictions: Predictions, *, count: int = 12) -> npt.NDArray[np.intp]:
    """Returns the rows of the wrong predictions that the model was surest of.

    Args:
      predictions: [N] examples.
      count: how many rows to return, at most.

    Returns:
      [M] indices into `predictions`, the surest first; equal ones in the order of file names.
    """
    wrong = np.flatnonzero(predictions.predicted != predictions.label)
    wrong = wrong[np.isfinite(predictions.score[wrong])]
    order = np.lexsort((predictions.file_name[wrong], -predictions.score[wrong]))
    return wrong[order][:count]


def describe(pictures: Pictures | None, predictions: Predictions) -> list[dict[str, Any]]:
    """Returns what a template shows of each image: address, size, classes, probability, names."""
    if pictures is None:
        return []
    names = predictions.class_names
    found = []
    for place, (row, image) in enumerate(zip(pictures.rows, pictures.images, strict=True)):
        predicted, true = int(predictions.predicted[row]), int(predictions.label[row])
        source, width, height = _address(image.reshape(image.shape[:2]))
        file_name = text.visible(str(predictions.file_name[row]))
        score = f"{predictions.score[row]:.3f}"
        found.append(
            {
                "source": source,
                "width": width,
                "height": height,
                "is_right": predicted == true,
                "predicted": names[predicted],
                "true": names[true],
                "score": score,
                "file_name": file_name,
                "alt": f"Chest X-ray {file_name}: predicted {names[predicted]} with probability "
                f"{score}, true class {names[true]}",
                "heat": _heat(pictures.heat, place, names[predicted]),
            }
        )
    return found


def _heat(heat: Heat | None, place: int, name: str) -> dict[str, str] | None:
    """Returns what a template shows of a heat map: address, and what it tells in words."""
    if heat is None:
        return None
    where = heat.places[place]
    said = f"most in the {where} of the image" if where else "nothing in the image does"
    source, *_ = _address(heat.overlays[place])
    return {"source": source, "alt": f"Heat map of what speaks for {name}: {said}"}


def _address(pixels: npt.NDArray[np.uint8]) -> tuple[str, int, int]:
    """Returns an image as a `data:` address, with its width and height in pixels."""
    image = PIL.Image.fromarray(np.ascontiguousarray(pixels))
    image.thumbnail((_LONGEST_SIDE, _LONGEST_SIDE), PIL.Image.Resampling.LANCZOS)
    file = io.BytesIO()
    image.save(file, "JPEG", quality=_QUALITY, optimize=True)
    encoded = base64.b64encode(file.getvalue()).decode()
    return f"data:image/jpeg;base64,{encoded}", *image.size
