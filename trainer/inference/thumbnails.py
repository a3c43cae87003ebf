"""Small pictures of the most urgent files, for the page of a worklist.

They are read again from the files: kept for all files, they would fill the memory.

    found = thumbnails.read(rows, candidates)              # by rank
    found = thumbnails.overlaid(found, explained, folder)  # the same with heat maps
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from cxr_tfds import images
from cxr_tfds.file_formats import ImageError
from cxr_tfds.radiographs import reading
from trainer.reports.pages.worklist_page import MAX_PICTURES, Thumbnail

if TYPE_CHECKING:
    import pathlib
    from collections.abc import Mapping, Sequence

    import numpy.typing as npt

    from trainer.inference.sources import ImageFile
    from trainer.inference.worklist import WorklistRow

SIDE = 96
"""Height and width in pixels: enough to see what the file is."""


def read(rows: Sequence[WorklistRow], candidates: Mapping[str, ImageFile]) -> dict[int, Thumbnail]:
    """Returns thumbnails of the first MAX_PICTURES rows that were read, by rank.

    A file that has vanished since it was scored has none.

    Args:
      rows: of the worklist, in its order.
      candidates: the files, by name.
    """
    chosen = [(rank, row) for rank, row in enumerate(rows, start=1) if row.is_read][:MAX_PICTURES]

    def load(item: tuple[int, WorklistRow]) -> npt.NDArray[np.uint8] | None:
        try:
            return reading.read(candidates[item[1].file].read(), SIDE).pixels
        except ImageError:
            return None

    found = images.parallel_map(load, chosen)
    return {rank: Thumbnail(pixels) for (rank, _), pixels in found if pixels is not None}


def overlaid(
    pictures: Mapping[int, Thumbnail], rows: Sequence[WorklistRow], folder: pathlib.Path
) -> dict[int, Thumbnail]:
    """Returns thumbnails with the heat maps of their rows, where there are any.

    Args:
      pictures: by rank.
      rows: of the worklist, in its order.
      folder: of the worklist, from which the paths of heat maps start.
    """
    paths = {rank: rows[rank - 1].heatmap for rank in pictures}
    return {
        rank: Thumbnail(picture.image, _overlay(folder / paths[rank]) if paths[rank] else None)
        for rank, picture in pictures.items()
    }


def _overlay(path: pathlib.Path) -> npt.NDArray[np.uint8]:
    """Returns a heat map over its image, [SIDE, SIDE, 3]."""
    with Image.open(path, formats=("PNG",)) as image:
        return np.asarray(image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BILINEAR))
