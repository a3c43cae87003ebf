"""Heat maps: which parts of an image speak for a class, from a saved model alone.

    explainer = gradcam.of_model(saved.load(run_dir / "best.keras"))
    maps = explainer(images, classes)        # [B, S, S, 1] uint8, [B] int -> [B, h, w] float32
    overlays.stretch(maps, 224, 224)         # the same at the image's size

A backbone turns an image into a feature map A [h, w, C], which is then pooled: of VGG16 and
small_cnn that of the last convolution, before the maximum over 2 x 2 places. With the gradient
G [h, w, C] of the class's logit by A:

    gradcam    relu(sum_c mean_hw(G)_c A_c)      Selvaraju et al., ICCV 2017
    hirescam   relu(sum_c G_c A_c)               Draelos and Carin, arXiv:2011.08891, 2020

The logit, not the probability: where a model is sure, the gradient of its probability is 0. Only
pooling and head are differentiated, so a map costs little more than a prediction.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import keras
import numpy as np
import tensorflow as tf

from trainer.errors import ConfigError
from trainer.models import classifier, inputs
from trainer.system import text

if TYPE_CHECKING:
    from collections.abc import Sequence

GRADCAM, HIRESCAM = "gradcam", "hirescam"
METHODS: Final = (GRADCAM, HIRESCAM)
BATCH_SIZE: Final = 8
"""Of the compiled function; a smaller rest is filled up."""


class Explainer:
    """Draws heat maps with one model; it traces the model once.

        explainer = gradcam.of_model(model, method="hirescam")
        explainer(images, [1, 0])

    Under average pooling alone both methods give the same maps: the gradient of a mean is equal at
    every position, so it is its own mean. They differ after maxima, whose gradient is that of the
    largest value, for `flatten`, where a channel speaks for the class at one position and against
    it at another, and Grad-CAM mixes both, and for `avgmax`.

    Attributes:
      method: gradcam or hirescam.
      image_shape: (S, S, 1) of the images that it takes.
      map_shape: (h, w) of its maps.
      num_classes: K.
      batch_size: images at a time.
    """

    def __init__(
        self,
        preprocessing: keras.Model,
        trunk: keras.Model,
        head: keras.Model,
        *,
        method: str = GRADCAM,
        batch_size: int = BATCH_SIZE,
    ) -> None:
        """Traces nothing yet.

        Args:
          preprocessing: grey images of its own size -> what the trunk takes.
          trunk: ... -> pooled features [B, D]; its last layer is the pooling.
          head: pooled features -> probabilities [B, K]; its last layer is a softmax.
          method: gradcam or hirescam.
          batch_size: images at a time; memory is that of a prediction of so many.

        Raises:
          ConfigError: for another method.
        """
        if method not in METHODS:
            raise ConfigError(
                f"method ({text.shown(method)}) draws no heat maps; give {' or '.join(METHODS)}."
            )
        self.method, self.batch_size = method, batch_size
        self._pooling = classifier.POOLINGS[trunk.layers[-1].name]
        feature_map, self._max_pooling = _feature_map_of(trunk)
        self._features = keras.Model(trunk.input, feature_map, name="feature_map")
        self._preprocessing = preprocessing
        *_, last = head.layers
        self._hidden = keras.Model(head.input, last.input, name="before_logits")
        self._last = last
        self.image_shape: tuple[int, int, int] = tuple(preprocessing.input.shape[1:])
        self.map_shape: tuple[int, int] = tuple(feature_map.shape[1:3])
        self.num_classes = int(last.units)
        # Float32, as the first layer would cast integers itself, and a tf.function of one signature
        # is never traced again.
        self._maps = tf.function(
            self._batch_of_maps,
            input_signature=[
                tf.TensorSpec((batch_size, *self.image_shape), tf.float32),
                tf.TensorSpec((batch_size,), tf.int32),
            ],
        )

    def __call__(self, images: Any, classes: Sequence[int] | np.ndarray) -> np.ndarray:
        """Returns a heat map for each image.

        Args:
          images: [B, S, S, 1], grey levels 0 to 255, of the model's own size.
          classes: [B], the class to explain in each, an index.

        Returns:
          [B, h, w] float32 in [0, 1]; the hottest place of each is 1. All zeros where nothing in
          the image speaks for the class, or where the model has no finite output.

        Raises:
          ConfigError: when the images are no such array, or a class is none of the model's.
        """
        classes = self._checked(classes, len(images))
        if not len(images):
            return np.zeros((0, *self.map_shape), np.float32)
        array = inputs.images(images, self.image_shape[:2])
        size = self.batch_size
        blocks = []
        for start in range(0, len(array), size):
            part, named = array[start : start + size], classes[start : start + size]
            missing = size - len(part)
            filled = np.pad(part.astype(np.float32), [(0, missing), (0, 0), (0, 0), (0, 0)])
            found = self._maps(filled, np.pad(named, (0, missing)))
            blocks.append(found.numpy()[: len(part)])
        return np.concatenate(blocks)

    def _checked(self, classes: Sequence[int] | np.ndarray, count: int) -> np.ndarray:
        array = np.asarray(classes)
        if array.shape != (count,) or (count and array.dtype.kind not in "iu"):
            raise ConfigError(
                f"classes (of shape {array.shape} and type {array.dtype}) must be {count} whole "
                "numbers, one for each image."
            )
        wrong = array[(array < 0) | (array >= self.num_classes)]
        if wrong.size:
            raise ConfigError(
                f"class {wrong[0]} is none of the model's; it has 0 to {self.num_classes - 1}."
            )
        return array.astype(np.int32)

    def _batch_of_maps(self, images: tf.Tensor, classes: tf.Tensor) -> tf.Tensor:
        # Float32 from here on under every policy: in 16 bits, small gradients would vanish.
        prepared = self._preprocessing(images, training=False)
        features = tf.cast(self._features(prepared, training=False), tf.float32)
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(features)
            logits = self._logits(features)
            logit = tf.reduce_sum(logits * tf.one_hot(classes, self.num_classes), -1)
        gradients = tape.gradient(logit, features)
        if self.method == GRADCAM:
            gradients = tf.reduce_mean(gradients, (1, 2), keepdims=True)
        heat = tf.nn.relu(tf.reduce_sum(gradients * features, -1))
        # Of a model whose outputs are NaN, which the report warns of, there is nothing to show.
        heat = tf.where(tf.reduce_all(tf.math.is_finite(heat), (1, 2), keepdims=True), heat, 0.0)
        return tf.math.divide_no_nan(heat, tf.reduce_max(heat, (1, 2), keepdims=True))

    def _logits(self, features: tf.Tensor) -> tf.Tensor:
        """Returns what the softmax takes, [B, K]: pools as the trunk does, and runs the head."""
        if (pool := self._max_pooling) is not None:  # The layer itself might cast to 16 bits.
            features = tf.nn.max_pool2d(
                features, pool.pool_size, pool.strides, pool.padding.upper()
            )
        if self._pooling == "flatten":
            pooled = tf.reshape(features, (features.shape[0], -1))
        else:
            pooled = tf.reduce_mean(features, (1, 2))
        if self._pooling == "avgmax":
            pooled = tf.concat([pooled, tf.reduce_max(features, (1, 2))], -1)
        hidden = self._hidden(pooled, training=False)
        return tf.matmul(hidden, self._last.kernel) + self._last.bias


def of_model(
    model: keras.Model, *, method: str = GRADCAM, batch_size: int = BATCH_SIZE
) -> Explainer:
    """Returns what draws heat maps with a model: a saved one, or the whole of a network.

    Args:
      model: of `trainer.models.saved.load`, or `Network.whole`.
      method: gradcam or hirescam.
      batch_size: images at a time.

    Raises:
      ConfigError: for another method.
      ValueError: when the model is not one of the trainer's, see `saved.require_built_by`.
    """
    return Explainer(
        *classifier.parts_of(model),
        method=method,
        batch_size=batch_size,
    )


def _feature_map_of(trunk: keras.Model) -> tuple[Any, keras.layers.MaxPooling2D | None]:
    """Returns the tensor that a trunk pools, and the maximum that it takes first, if it does.

    Grad-CAM was defined on the last convolution. Its maps have twice the places of those after the
    maximum in each direction, and lie better on what was drawn (`docs/explaining.md`).
    """
    last = trunk.layers[-1]
    # `avgmax` has two layers that take it.
    pooled = (trunk.get_layer("average_pool") if last.name == "average_max_pool" else last).input
    source = next(layer for layer in trunk.layers if layer.output is pooled)
    if isinstance(source, keras.layers.MaxPooling2D):
        return source.input, source
    return pooled, None
