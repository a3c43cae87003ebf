"""Says in one sentence why a saved model can't classify images, before Keras says it in fifty.

Where only plain Keras is at hand, the model refuses the same images; `classifier` describes how.

    inputs.images(x)                            # an array, or ConfigError
"""

from __future__ import annotations

from typing import Any

import numpy as np

from cxr_tfds import file_formats
from trainer.errors import ConfigError
from trainer.system import text

_CHANNELS = (3, 4)
_MAKE_GREY = "make colours grey, as PIL.Image.convert('L') does, or take one of equal channels"
_READ = "cxr_tfds.images.decode reads a file into one"


def is_batch(x: Any) -> bool:
    """Whether `x` is one batch: an array, a tensor, or what is none but was meant to be one.

    Anything else that Keras takes is read in batches: a tf.data.Dataset, PyDataset or generator.
    """
    return isinstance(x, str | bytes | list | tuple | dict) or _is_array(x)


def images(x: Any, size: tuple[int, int] | None = None) -> np.ndarray:
    """Returns a batch of images as the trainer's models take them.

    Args:
      x: [B, H, W, 1] or [B, H, W], grey levels 0 to 255 of any dtype: an array or tensor, alone in
        a list, or in a dict by the name of the model's input.
      size: the only height and width that the model takes, in pixels, as one of an earlier version
        did; None: any, of 32 pixels or more.

    Returns:
      [B, H, W, 1], of the dtype of `x`.

    Raises:
      ConfigError: when it holds something else; the message says how to convert it.
    """
    members = list(x.values()) if isinstance(x, dict) else x
    is_packed = isinstance(members, list | tuple) and len(members) == 1
    batch = members[0] if is_packed else x
    array = np.asarray(batch) if _is_array(batch) else None
    remedy = _remedy_of_type(batch) if array is None else _remedy(array, size)
    if remedy or array is None:
        raise ConfigError(
            f"images ({_described(batch, array)}) must be grey, {shape_of(size)}, with levels 0 to "
            f"255: {remedy}."
        )
    # Keras adds the axis only to the first batch that it is given.
    return array if array.ndim == 4 else array[..., None]


def shape_of(size: tuple[int, int] | None) -> str:
    """Returns the shape that a model takes, as text."""
    return f"[B, {size[0]}, {size[1]}, 1]" if size else "[B, H, W, 1]"


def _is_array(x: Any) -> bool:
    """Whether NumPy reads it: an array, a tensor, a data frame, an image of Pillow."""
    return hasattr(x, "__array__") or hasattr(x, "__array_interface__")


def _described(batch: Any, array: np.ndarray | None) -> str:
    if array is None:
        return f"{text.shown(batch)}, of type {type(batch).__name__}"
    said = f"of shape {array.shape} and type {array.dtype}"
    if array.dtype.kind in "fiu" and array.size:
        said += f", from {array.min():g} to {array.max():g}"
    return said


def _remedy_of_type(batch: Any) -> str:
    if isinstance(batch, list | tuple) and all(map(_is_array, batch)):
        return "give one array, np.stack(images)"
    return f"give an array of numbers; {_READ}"


def _remedy(array: np.ndarray, size: tuple[int, int] | None) -> str:
    """Returns how to convert an array, a clause; empty if it is right."""
    if array.dtype.kind not in "fiub":
        return f"give an array of numbers; {_READ}"
    if remedy := _remedy_of_shape(array.shape, size):
        return remedy
    if not array.size:
        return "there is no image in it"
    return _remedy_of_levels(array)


def _remedy_of_shape(shape: tuple[int, ...], size: tuple[int, int] | None) -> str:
    """Returns how to get [B, H, W, 1] or [B, H, W], a clause; empty if it is one of them."""
    sides = shape[1:3]
    if len(shape) == 2 or (len(shape) == 3 and shape[-1] == 1):
        return "this is one image, give images[None]"
    if len(shape) == 3 and shape[-1] in _CHANNELS:
        return _MAKE_GREY
    if len(shape) == 4 and shape[-1] != 1:
        return _remedy_of_channels(shape)
    if len(shape) not in (3, 4):
        return _READ
    if size and sides != size:
        return f"resize each, as cxr_tfds.images.decode(file_content, {size[0]}) does"
    is_small = min(sides) < file_formats.MIN_SIDE
    return f"those of {sides[0]} x {sides[1]} pixels are too small to show a lung" * is_small


def _remedy_of_channels(shape: tuple[int, ...]) -> str:
    if shape[1] not in (1, *_CHANNELS):
        return _MAKE_GREY
    turn = "give np.moveaxis(images, 1, -1), with the channels last"
    return turn if shape[1] == 1 else f"{turn}, and {_MAKE_GREY}"


def _remedy_of_levels(array: np.ndarray) -> str:
    # Python's numbers: NumPy's 8-bit ones overflow in the sum, with a warning.
    low, high = array.min().item(), array.max().item()
    if not np.isfinite(low + high):
        return "replace what is not finite"
    if low < 0:
        return "undo the standardisation; the model scales images itself"
    if high > 255:
        return "scale the levels, dividing 12 bits by 16 and 16 bits by 256"
    highest = array.max(tuple(range(1, array.ndim)))
    if ((highest > 0) & (highest <= 1)).any():  # As the model itself; a black image is right.
        if array.dtype.kind == "f":
            return "multiply by 255; the model scales images itself"
        return "one of 0 and 1 alone is a mask, or was divided by 255 and rounded; give the image"
    return ""
