"""Says in one sentence why a saved model can't classify images, before Keras says it in fifty.

Where only plain Keras is at hand, the model refuses the same images; `classifier` describes how.

    inputs.require_images(images, height=224, width=224)
"""

from __future__ import annotations

from typing import Any

import numpy as np

from trainer.errors import ConfigError

_CHANNELS = (3, 4)


def require_images(images: Any, height: int, width: int) -> None:
    """Raises ConfigError unless an array holds images as the trainer's models take them.

    Args:
      images: [B, height, width, 1] or [B, height, width], grey levels 0 to 255 of any dtype.
      height: of each image, in pixels.
      width: of each image, in pixels.
    """
    remedy = _remedy(images, (height, width))
    if remedy:
        raise ConfigError(
            f"images ({_described(images)}) must be grey, [B, {height}, {width}, 1], with levels 0 "
            f"to 255: {remedy}."
        )


def _described(images: Any) -> str:
    if not isinstance(images, np.ndarray):
        return f"of type {type(images).__name__}"
    said = f"of shape {images.shape} and type {images.dtype}"
    if images.dtype.kind in "fiu" and images.size:
        said += f", from {images.min():g} to {images.max():g}"
    return said


def _remedy(images: Any, size: tuple[int, int]) -> str:
    """Returns how to convert an array, a clause; empty if it is right."""
    if not isinstance(images, np.ndarray) or images.dtype.kind not in "fiub":
        return "give an array of numbers; cxr_tfds.images.decode reads a file into one"
    shape = images.shape
    if shape in (size, (*size, 1)):
        return "this is one image, give images[None]"
    if len(shape) == 4 and shape[-1] in _CHANNELS:
        return "make colours grey, as PIL.Image.convert('L') does, or take one of equal channels"
    if shape[1:] not in (size, (*size, 1)):
        return f"resize each, as cxr_tfds.images.decode(file_content, {size[0]}) does"
    return _remedy_of_levels(images)


def _remedy_of_levels(images: np.ndarray) -> str:
    if not images.size:
        return ""
    # Python's numbers: NumPy's 8-bit ones overflow in the sum, with a warning.
    low, high = images.min().item(), images.max().item()
    if not np.isfinite(low + high):
        return "replace what is not finite"
    if low < 0:
        return "undo the standardisation; the model scales images itself"
    if high > 255:
        return "scale the levels, dividing 12 bits by 16 and 16 bits by 256"
    if images.dtype.kind == "f" and _has_divided(images):
        return "multiply by 255; the model scales images itself"
    return ""


def _has_divided(images: np.ndarray) -> bool:
    """As the model itself: divided by 255, an image has fractions and no level above 1."""
    axes = tuple(range(1, images.ndim))
    has_fractions = (images != np.round(images)).any(axes)
    return bool((has_fractions & (images.max(axes) <= 1)).any())
