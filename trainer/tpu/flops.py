"""Counts the floating-point operations of a training step from its layers.

This is an independent check of the number that a compiler reports: the two agree only if the whole
step was compiled, and nothing else.

A multiply-add counts as two operations. At the border of an image, only the kernel taps inside the
image count, because compilers omit the others.

    flops.training(network.whole, batch_size=32)
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import keras

if TYPE_CHECKING:
    from collections.abc import Iterator

PER_ELEMENT = {keras.layers.BatchNormalization: 2, keras.layers.LayerNormalization: 8}
"""Operations per element of a layer's output, if not 1."""
_FREE = (
    keras.layers.InputLayer, keras.layers.Dropout, keras.layers.Flatten, keras.layers.Reshape,
    keras.layers.Concatenate, keras.layers.ZeroPadding2D,
)  # fmt: skip


def training(model: keras.Model, batch_size: int) -> float:
    """Returns the operations of one step: forward, and backward to the lowest trainable layer.

    The backward pass of a layer costs as much as its forward pass, once for the gradient of its
    weights (if trainable) and once for that of its input (if a layer below is trainable).
    """
    total, trains_below = 0.0, False
    for layer in _layers(model):
        trains = bool(layer.trainable_weights)
        total += forward(layer) * (1 + trains + trains_below)
        trains_below |= trains
    return batch_size * total


def _layers(model: keras.Model) -> Iterator[keras.layers.Layer]:
    """Yields the layers of a model and of the models nested in it, starting at the input."""
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from _layers(layer)
        else:
            yield layer


def forward(layer: keras.layers.Layer) -> float:
    """Returns the operations of a layer for one example."""
    if isinstance(layer, keras.layers.SeparableConv2D):
        depthwise = _taps(layer) * layer.input.shape[-1] * layer.depth_multiplier
        pointwise = math.prod(layer.pointwise_kernel.shape) * _positions(layer.output)
        return 2 * (depthwise + pointwise)
    if isinstance(layer, keras.layers.DepthwiseConv2D):
        return 2 * _taps(layer) * layer.input.shape[-1] * layer.depth_multiplier
    if isinstance(layer, keras.layers.Conv2D):
        return 2 * _taps(layer) * layer.input.shape[-1] // layer.groups * layer.filters
    if isinstance(layer, keras.layers.Dense):
        return 2 * math.prod(layer.kernel.shape) * _positions(layer.output)
    return _elementwise(layer)


def _positions(tensor: Any) -> int:
    return math.prod(tensor.shape[1:-1])


def _taps(layer: Any) -> int:
    """Counts (output position, kernel tap) pairs whose tap falls inside the image."""
    return math.prod(
        taps_inside(*axis, padding=layer.padding)
        for axis in zip(
            layer.input.shape[1:3],
            layer.kernel_size,
            layer.strides,
            layer.dilation_rate,
            strict=True,
        )
    )


def taps_inside(side: int, kernel: int, stride: int, dilation: int, *, padding: str) -> int:
    """Counts the (output position, kernel tap) pairs along one axis that fall inside [0, side)."""
    reach = (kernel - 1) * dilation + 1
    outputs = -(-side // stride) if padding == "same" else (side - reach) // stride + 1
    missing = max((outputs - 1) * stride + reach - side, 0) if padding == "same" else 0
    return sum(
        0 <= output * stride + tap * dilation - missing // 2 < side
        for output in range(outputs)
        for tap in range(kernel)
    )


def _elementwise(layer: Any) -> float:
    """Counts a layer without a kernel: the elements of its output or, for pooling, of its input."""
    if isinstance(layer, _FREE):
        return 0.0
    pools = "Pool" in type(layer).__name__
    elements = math.prod((layer.input if pools else layer.output).shape[1:])
    return elements * PER_ELEMENT.get(type(layer), 1)
