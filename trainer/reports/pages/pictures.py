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
    from trainer.evaluation.predictions import Predictions

_LONGEST_SIDE = 256
_QUALITY = 82


@dataclasses.dataclass(frozen=True, eq=False)
class Pictures:
    """Images of some examples.

    Attributes:
      rows: [M] indices into the predictions.
      images: [M, H, W, 1] or [M, H, W] uint8, in [0, 255].

    Raises:
      ValueError: The images have another dtype or shape, or their number differs from the rows.
    """

    rows: npt.NDArray[np.intp]
    images: npt.NDArray[np.uint8]

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
    for row, image in zip(pictures.rows, pictures.images, strict=True):
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
            }
        )
    return found


def _address(grey: npt.NDArray[np.uint8]) -> tuple[str, int, int]:
    """Returns an image as a `data:` address, with its width and height in pixels."""
    image = PIL.Image.fromarray(np.ascontiguousarray(grey))
    image.thumbnail((_LONGEST_SIDE, _LONGEST_SIDE), PIL.Image.Resampling.LANCZOS)
    file = io.BytesIO()
    image.save(file, "JPEG", quality=_QUALITY, optimize=True)
    encoded = base64.b64encode(file.getvalue()).decode()
    return f"data:image/jpeg;base64,{encoded}", *image.size
