"""Whether a backbone takes larger images than the records have; known before TensorFlow loads.

The model then enlarges them, which costs time and adds no detail: a run says so. It doesn't choose
`grouped_299` for `grouped` by itself, not even where nobody gave --dataset: data sets of another
size must be built from the archive, which may not be there, and a choice by what is built would
give one command other images, and so other results, on two machines.

    resolution.note(config.data, config.model)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cxr_tfds import configs

if TYPE_CHECKING:
    from trainer.options.data import DataOptions
    from trainer.options.model import ModelOptions


def note(data: DataOptions, model: ModelOptions) -> str:
    """Returns a sentence with the way out if images are enlarged; empty if not."""
    rows = {row.name: row for row in configs.ROWS}
    row, wanted = rows[data.dataset], model.backbone_image_size
    if row.image_size is None or row.image_size >= wanted:
        return ""
    # Records of the original size, which is larger than any of these, come last.
    larger = [
        other.name
        for other in rows.values()
        if other.protocol == row.protocol
        and other.is_phantom is row.is_phantom
        and (other.image_size is None or other.image_size >= wanted)
    ]
    way_out = f"--dataset={larger[0]} has larger ones" if larger else "none are larger"
    return (
        f"{data.dataset} has images of {row.image_size} px and {model.backbone} takes {wanted} px: "
        f"the model enlarges them, which adds no detail; {way_out}, --image_size={row.image_size} "
        "takes them as they are."
    )
