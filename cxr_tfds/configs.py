"""The configs of the data set: each protocol at each resolution, and the phantom. Imports nothing.

The builder makes its `BUILDER_CONFIGS` from this list, and the trainer the choices of `--dataset`.

    [row.name for row in configs.ROWS]      # ["grouped", "paper", ..., "phantom"]
"""

from __future__ import annotations

import dataclasses
from typing import Final

PHANTOM_SIDE: Final = 128
"""Side of a phantom in pixels; its anatomy is drawn for this size."""

VERSION: Final = "2.0.0"
"""Of the records of all configs; fingerprints of other versions are others."""

MASK: Final = "finding_mask"
"""The feature of `phantom` with the mask of what was drawn: PNG, 255 in the finding, else 0."""


@dataclasses.dataclass(frozen=True)
class ConfigRow:
    """One config.

    Attributes:
      name: `grouped` of `cxr_tfds/grouped`.
      description: one line for TFDS's catalog.
      protocol: a key of `protocols.PROTOCOLS`.
      image_size: side of the square image in pixels, or None for the original size.
      is_phantom: draw the images instead of reading an archive.
    """

    name: str
    description: str
    protocol: str
    image_size: int | None
    is_phantom: bool = False


_PROTOCOL_DESCRIPTIONS: Final = {
    "grouped": "25 % of each class is test, no patient on two sides",
    "paper": "25 % of each class is test, by image: patients are shared",
    "official": "Kaggle's test folder is test",
}
_RESOLUTIONS: Final = {"": 224, "_299": 299, "_raw": None}


def _build_rows() -> tuple[ConfigRow, ...]:
    of_archive = (
        ConfigRow(
            name=f"{protocol}{suffix}",
            description=f"{description}; {f'{side} x {side}' if side else 'original size'}",
            protocol=protocol,
            image_size=side,
        )
        for suffix, side in _RESOLUTIONS.items()
        for protocol, description in _PROTOCOL_DESCRIPTIONS.items()
    )
    drawn = ConfigRow(
        name="phantom",
        description="procedural radiographs, no download, split like grouped",
        protocol="grouped",
        image_size=PHANTOM_SIDE,
        is_phantom=True,
    )
    return (*of_archive, drawn)


ROWS: Final = _build_rows()
"""Every config; the first is TFDS's default."""
