"""What a saved model says of itself: how it is used, and where it comes from.

    facts = model_facts.describe(choice, data, side=224)
    saved.save(network, path, facts)
    archive.facts(path)["class_names"]

The facts are in the `metadata.json` of `best.keras`, and in every export. They are plain JSON: who
has only Python reads them.
"""

from __future__ import annotations

import importlib.metadata
from typing import TYPE_CHECKING, Any

import keras
import tensorflow as tf

if TYPE_CHECKING:
    from collections.abc import Mapping

    from trainer.data.pipeline import Data
    from trainer.models.archive import ModelFacts, Pixels

PIXELS = (
    "grey levels 0 to 255, [B, H, W, 1] of any H and W, 0 black; stretched to a square of `side` "
    "pixels with a bilinear, antialiasing filter; scaled inside. Where `record_side` is given, "
    "stretch an image to a square of that many pixels first, as training did"
)
INTENDED_USE = "Research. Not a medical device."


def describe(choice: Mapping[str, Any], data: Data, side: int) -> ModelFacts:
    """Returns the facts of a model that was trained on `data`.

    Args:
      choice: what validation decided: of `assessment.choice`.
      data: the data set.
      side: height and width of the images that the network takes, in pixels.
    """
    names = [str(name) for name in choice["class_names"]]
    return {
        "class_names": names,
        "positive_class": names[1] if len(names) == 2 else None,
        "rule": choice["rule"],
        "threshold": choice["threshold"],
        "temperature": choice["temperature"],
        "pixels": _pixels(data, side),
        "data": {"name": data.builder.info.full_name, "fingerprint": data.fingerprint},
        "versions": {
            "trainer": _own_version(),
            "keras": keras.__version__,
            "tensorflow": tf.__version__,
        },
        "license": _license(data),
        "intended_use": INTENDED_USE,
    }


def _pixels(data: Data, side: int) -> Pixels:
    record_side = data.builder.info.features["image"].shape[0]
    if record_side is None or record_side <= side:
        return {"side": side, "takes": PIXELS}
    return {"side": side, "takes": PIXELS, "record_side": record_side}


def sides(facts: ModelFacts, side: int) -> tuple[int, ...]:
    """Returns the sizes to which a file is stretched on its way into a model, in pixels.

    The records of a data set have a size. Where the model takes less, training has shrunk them, and
    a file has to go the same way: stretched at once, files of a run at 112 px scored 0.03 off.

    Args:
      facts: of the model; they lack `record_side` if no record was shrunk, or in earlier versions.
      side: height and width of the images that the model takes.
    """
    pixels = facts.get("pixels")
    record_side = pixels.get("record_side", side) if pixels else side
    return (record_side, side) if record_side > side else (side,)


def _license(data: Data) -> str:
    """Returns the licence of code and images; that of the backbone's weights is their authors'."""
    images = data.builder.info.redistribution_info.license or "not stated"
    if data.metadata.get("is_phantom"):
        images = "none needed, they are drawn"
    return f"code: Apache-2.0; training images: {images}; initial weights: their own"


def _own_version() -> str:
    try:
        return importlib.metadata.version("cxr-trainer")
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
