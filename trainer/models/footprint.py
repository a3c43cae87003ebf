"""Refuses what can't fit into memory, by the least that it takes, before the system ends the run.

    footprint.require_batch(model, "batch_size", 100_000, step=replicas)    # TooLargeError
    footprint.require_head(width=512, neurons=100_000, dense_layers=3)

The figures are lower bounds: what is refused can't fit, and what isn't may still not fit. They hold
for the memory of the CPU; a GPU's ends in TensorFlow's own error, which is one line too.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import keras
import tensorflow as tf

from trainer.errors import TooLargeError
from trainer.system import memory

if TYPE_CHECKING:
    from collections.abc import Iterator

_COPIES = 2
"""Of each weight of the head: its value and its gradient. Most optimizers add more."""
_FLOAT_BYTES = 4


def require_batch(
    model: keras.Model,
    option: str,
    batch_size: int,
    *,
    step: int = 1,
    is_trained: bool = True,
    avoids: str = "",
) -> None:
    """Refuses a batch whose activations alone exceed the memory that is free.

    Args:
      model: the model that takes the batch.
      option: whose value is named, or what the batch is for.
      batch_size: of this host.
      step: the batch size is a multiple of it.
      is_trained: whether gradients are computed.
      avoids: the flag that avoids a batch of a fixed size; empty: the batch is the user's.

    Raises:
      TooLargeError: with what is needed, what is free, and the largest batch that fits.
    """
    each, free = bytes_per_example(model, is_trained=is_trained), memory.obtainable_bytes()
    if batch_size * each <= free:
        return
    largest = free // each // step * step
    way_out = f"give at most {largest}" if largest else "give a smaller --image_size"
    if avoids:
        way_out = f"give {avoids}, or a smaller --image_size"
    raise TooLargeError(
        f"{option} ({batch_size}) needs at least {memory.shown(batch_size * each)} of memory for "
        f"the activations, {memory.shown(each)} an image, and {memory.shown(free)} are free; "
        f"{way_out}."
    )


def bytes_per_example(model: keras.Model, *, is_trained: bool) -> int:
    """Returns the least memory in bytes that an example's activations take in a model.

    What a layer returns is freed once it is used, so the largest output counts. But the gradient of
    a weight needs what its layer was given: these inputs are kept, all at once. Frozen layers need
    none: counting them would refuse batches that fit.
    """
    layers = list(_leaves(model))
    largest = max((_bytes_of(layer, "output") for layer in layers), default=0)
    # One tensor may be the input of several layers.
    kept = {
        id(layer.input): _bytes_of(layer, "input")
        for layer in layers
        if is_trained and layer.trainable_weights and _bytes_of(layer, "input")
    }
    return max(largest, sum(kept.values()), 1)


def require_head(width: int, neurons: int, dense_layers: int) -> None:
    """Refuses a head whose weights alone exceed the memory that is free.

    Args:
      width: number of features.
      neurons: in each dense layer.
      dense_layers: their number.

    Raises:
      TooLargeError: with what is needed, what is free, and how many neurons fit.
    """
    if any(tf.config.list_logical_devices(kind) for kind in ("GPU", "TPU")):
        return
    free = memory.obtainable_bytes()

    def needed(count: int) -> int:
        return (width + (dense_layers - 1) * count) * count * _FLOAT_BYTES * _COPIES

    if not dense_layers or needed(neurons) <= free:
        return
    low, high = 0, neurons
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if needed(middle) <= free else (low, middle)
    raise TooLargeError(
        f"neurons ({neurons}) with dense_layers ({dense_layers}) on {width:,} features needs at "
        f"least {memory.shown(needed(neurons))} of memory for weights and gradients, "
        f"and {memory.shown(free)} are free; give at most {low}."
    )


def _leaves(layer: Any) -> Iterator[Any]:
    if isinstance(layer, keras.Model):
        for inner in layer.layers:
            yield from _leaves(inner)
    else:
        yield layer


def _bytes_of(layer: Any, side: str) -> int:
    """Returns the size of a layer's input or output, whichever `side` names."""
    try:
        tensors = keras.tree.flatten(getattr(layer, side))
    except (AttributeError, ValueError):  # It was never called, or more than once.
        return 0
    sizes = (math.prod(length or 1 for length in tensor.shape[1:]) for tensor in tensors)
    return sum(sizes) * (2 if "16" in str(layer.compute_dtype) else _FLOAT_BYTES)
