"""Runs a saved model on batches of images, on the devices of a strategy.

    scorer = scoring.Scorer(run.model, context.strategy, batch_size=32)
    found = scorer(images)                    # [n, S, S] uint8, n <= batch_size
    found.probabilities, found.features       # [n, K], [n, D]

The images come from `cxr_tfds.radiographs`, at the model's own size, so that nothing is to be
checked or stretched here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import tensorflow as tf

from trainer.models import classifier
from trainer.training import outputs
from trainer.training.outputs import Outputs

if TYPE_CHECKING:
    import numpy.typing as npt


class Scorer:
    """Probabilities and features of images; every batch is padded to one size, traced once.

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

        @tf.function(jit_compile=False)
        def step(images: Any) -> Any:
            return strategy.run(lambda part: both(part, training=False), args=(images,))

        self._step = step

    def __call__(self, images: npt.NDArray[np.uint8]) -> Outputs:
        """Returns the outputs of images, [n, S, S] grey levels 0 to 255, in their order."""
        padded = np.zeros((self.batch_size, self.side, self.side, 1), np.uint8)
        padded[: len(images), ..., 0] = images
        size = self.batch_size // self._strategy.num_replicas_in_sync

        def part(context: tf.distribute.ValueContext) -> tf.Tensor:
            first = context.replica_id_in_sync_group * size
            return tf.constant(padded[first : first + size])

        shares = self._strategy.experimental_distribute_values_from_function(part)
        joined = tf.nest.map_structure(self._join, self._step(shares))
        probabilities, features = (array[: len(images)] for array in joined)
        return Outputs(probabilities, features)

    def _join(self, output: Any) -> npt.NDArray[Any]:
        parts = self._strategy.experimental_local_results(output)
        return np.concatenate([part.numpy() for part in parts])
