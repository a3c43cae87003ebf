"""Small pictures of the most urgent files, for the page of a worklist.

They are read again from the files: kept for all files, they would fill the memory.

    found = thumbnails.read(rows, candidates)          # by rank
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cxr_tfds import images
from cxr_tfds.file_formats import ImageError
from cxr_tfds.radiographs import reading
from trainer.reports.pages.worklist_page import MAX_PICTURES, Thumbnail

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np
    import numpy.typing as npt

    from trainer.inference.sources import Candidate
    from trainer.inference.worklist import Row

SIDE = 96
"""Height and width in pixels: enough to see what the file is."""


def read(
    rows: Sequence[Row],
    candidates: Mapping[str, Candidate],
    overlays: Mapping[str, npt.NDArray[np.uint8]],
) -> dict[int, Thumbnail]:
    """Returns thumbnails of the first MAX_PICTURES rows that were read, by rank.

    A file that has vanished since it was scored has none.

    Args:
      rows: of the worklist, in its order.
      candidates: the files, by name.
      overlays: small heat maps over images, by name of the file, [H, W, 3].
    """
    chosen = [(rank, row) for rank, row in enumerate(rows, start=1) if row.is_read][:MAX_PICTURES]

    def load(item: tuple[int, Row]) -> npt.NDArray[np.uint8] | None:
        try:
            return reading.read(candidates[item[1].file].read(), SIDE).pixels
        except ImageError:
            return None

    found = images.parallel_map(load, chosen)
    return {
        rank: Thumbnail(pixels, overlays.get(row.file))
        for (rank, row), pixels in found
        if pixels is not None
    }
