"""A saved model taken apart: its pixels, its layers, and the same model in float32.

model = parts.in_float32(saved.load(path))
parts.side(model)                             # 224
parts.classify(model, images)                 # without the check of the input
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import keras
import tensorflow as tf

from trainer.models import saved

if TYPE_CHECKING:
    from collections.abc import Iterator


def side(model: keras.Model) -> int:
    """Returns height and width of the pixels that the preprocessing takes."""
    return int(model.get_layer("preprocessing").input.shape[1])


def features(model: keras.Model, images: Any) -> Any:
    """Returns the pooled features [B, D] of [B, S, S, 1] float32, which nothing has checked.

    Args:
      model: a saved model, which would check them, and may stretch them.
      images: grey levels 0 to 255, S as `side`.
    """
    names = [layer.name for layer in model.layers]
    trunk = model.layers[names.index("preprocessing") + 1]  # Keras sorts them by their depth.
    return trunk(model.get_layer("preprocessing")(images, training=False), training=False)


def classify(model: keras.Model, pooled: Any) -> Any:
    """Returns the probabilities [B, K] of pooled features [B, D]."""
    return model.get_layer("head")(pooled, training=False)


def first_dense(model: keras.Model) -> keras.layers.Layer:
    """Returns the layer that takes the pooled features."""
    layers = model.get_layer("head").layers
    return next(layer for layer in layers if isinstance(layer, keras.layers.Dense))


@contextlib.contextmanager
def without_xla() -> Iterator[None]:
    """Within the block, Keras calls TensorFlow's grouped convolution instead of compiling it.

    ConvNeXt has such. Compiled by XLA, they stay functions that tf2onnx does not convert, a server
    without XLA can't run the model, and a CPU takes 5 times as long.
    """
    before = tf.config.functions_run_eagerly()
    tf.config.run_functions_eagerly(True)  # noqa: FBT003 -- Of TensorFlow.
    try:
        yield
    finally:
        tf.config.run_functions_eagerly(before)


def in_float32(model: keras.Model) -> keras.Model:
    """Returns the model itself if it computes in float32, or else one with the same weights.

    The variables of a mixed policy are float32 already. Converters don't take 16-bit layers, and
    most runtimes would be slower with them.
    """
    if saved.precision_of(model) == "float32":
        return model
    config = _without_policies(keras.saving.serialize_keras_object(model))
    before = keras.mixed_precision.dtype_policy()
    keras.mixed_precision.set_dtype_policy("float32")  # Operations have no policy of their own.
    try:
        rebuilt = keras.saving.deserialize_keras_object(config, safe_mode=True)
    finally:
        keras.mixed_precision.set_dtype_policy(before)
    rebuilt.set_weights(model.get_weights())
    return rebuilt


def _without_policies(value: Any) -> Any:
    if isinstance(value, dict):
        if value.get("class_name") == "DTypePolicy":
            return {**value, "config": {"name": "float32"}}
        return {name: _without_policies(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(_without_policies, value))
    return value
