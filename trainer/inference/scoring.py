"""Runs a saved model on batches of images, on the devices of a strategy.

    scorer = scoring.for_batches(run.model, context.strategy, batch_size=32)
    found = scorer(images)                    # [n, S, S] uint8, n <= scorer.batch_size
    found.probabilities, found.features       # [n, K], [n, D]

The images come from `cxr_tfds.radiographs`, at the model's own size, so that nothing is to be
checked or stretched here.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf
from tensorflow.python.framework import convert_to_constants

from trainer.models import classifier
from trainer.training import outputs
from trainer.training.outputs import Outputs

if TYPE_CHECKING:
    from collections.abc import Callable

    import keras
    import numpy.typing as npt

    _Run = Callable[[npt.NDArray[np.uint8]], list[npt.NDArray[Any]]]
    """Maps a whole batch, [B, S, S, 1], to probabilities and features."""


def for_batches(model: keras.Model, strategy: tf.distribute.Strategy, batch_size: int) -> Scorer:
    """Returns what runs a model on `batch_size` images at a time, of all replicas together.

    One device works on two batches at once, of half the size: in the memory of one whole batch.
    """
    share = 2 if _is_default(strategy) else 1
    return Scorer(model, strategy, max(batch_size // share, 1))


class Scorer:
    """Probabilities and features of images; every batch is padded to one size, traced once.

    Several threads may call it: one device works on both batches, several take turns.

    Attributes:
      side: height and width of the images that it takes, in pixels.
      batch_size: most images in a batch, of all replicas together.
    """

    def __init__(
        self, model: keras.Model, strategy: tf.distribute.Strategy, batch_size: int
    ) -> None:
        """Builds the model from image to outputs.

        Args:
          model: of `trainer.models.saved.load`, loaded in the strategy's scope.
          strategy: runs it, on one host.
          batch_size: a multiple of the strategy's replicas.
        """
        self.side, self.batch_size = classifier.side_of(model), batch_size
        self._strategy = strategy
        with strategy.scope():
            core = classifier.without_check(model)
            both = outputs.with_features(core, classifier.parts_of(core)[1])
        is_alone = _is_default(strategy)
        self._run = _frozen(both, batch_size) if is_alone else self._on_replicas(both)

    def __call__(self, images: npt.NDArray[np.uint8]) -> Outputs:
        """Returns the outputs of images, [n, S, S] grey levels 0 to 255, in their order."""
        padded = np.zeros((self.batch_size, self.side, self.side, 1), np.uint8)
        padded[: len(images), ..., 0] = images
        probabilities, features = (array[: len(images)] for array in self._run(padded))
        return Outputs(probabilities, features)

    def _on_replicas(self, both: keras.Model) -> _Run:
        """Returns a function that gives each replica its share of a batch."""
        strategy = self._strategy
        size = self.batch_size // strategy.num_replicas_in_sync

        @tf.function
        def step(images: Any) -> Any:
            return strategy.run(lambda part: both(part, training=False), args=(images,))

        # Programs of several devices must start in the same order on all of them.
        turn = threading.Lock()

        def run(images: npt.NDArray[np.uint8]) -> list[npt.NDArray[Any]]:
            def part(context: tf.distribute.ValueContext) -> tf.Tensor:
                first = context.replica_id_in_sync_group * size
                return tf.constant(images[first : first + size])

            with turn:
                shares = strategy.experimental_distribute_values_from_function(part)
                joined: list[npt.NDArray[Any]] = tf.nest.map_structure(self._join, step(shares))
            return joined

        return run

    def _join(self, output: Any) -> npt.NDArray[Any]:
        parts = self._strategy.experimental_local_results(output)
        return np.concatenate([part.numpy() for part in parts])


def _is_default(strategy: tf.distribute.Strategy) -> bool:
    return strategy is tf.distribute.get_strategy()


def _frozen(both: keras.Model, batch_size: int) -> _Run:
    """Returns a function with the weights as constants: the same outputs, but for their rounding.

    TensorFlow then multiplies the scale of each batch norm into the convolution before it, which
    Keras computes apart: MobileNetV2 takes 7.0 instead of 9.4 ms of a CPU for an image, and that
    pays for half of the decoding.
    """
    spec = tf.TensorSpec((batch_size, *both.input.shape[1:]), tf.uint8)
    traced = tf.function(lambda images: both(images, training=False)).get_concrete_function(spec)
    frozen = convert_to_constants.convert_variables_to_constants_v2(traced)

    def run(images: npt.NDArray[np.uint8]) -> list[npt.NDArray[Any]]:
        return [part.numpy() for part in frozen(tf.constant(images))]

    return run
