"""Probabilities and pooled features of a split in one pass over its images or cached features.

    reader = outputs.of_feed(setup.feed, setup.network, data, context.strategy)
    reader = outputs.of_model(run.model, data, context.strategy)         # an opened best.keras
    found = reader.predict("test")
    found.probabilities, found.features      # [N, K], [N, D]: as `driver.predict`, bit for bit

Metrics need the probabilities, and what tells two splits apart (`trainer.evaluation.shifts`) needs
the features that the head works on. A model with two outputs has both: the layers are the model's
own, and nothing is computed twice.

Features that are flattened, not pooled, can be 25,088 or more numbers an image. They are averaged
over the positions here: shifts of exposure and texture show in a channel's mean, and the
features of 10,000 images take 20 MB instead of 1 GB. The last dense layer has few outputs as well,
but it learned to keep what tells the classes apart, and it need not exist.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from trainer.training.driver import Driver
from trainer.training.feeds import FeatureFeed, Feed

if TYPE_CHECKING:
    import tensorflow as tf

    from trainer.data.batches import Batches
    from trainer.data.pipeline import Data
    from trainer.models.classifier import Network


@dataclasses.dataclass(frozen=True, eq=False)  # `==` on arrays gives an array, not a bool.
class Outputs:
    """What a network says of N examples, in their order.

    Attributes:
      probabilities: [N, K] float32.
      features: [N, D] float32, what the head takes, averaged over the positions if it takes them
        all.
    """

    probabilities: np.ndarray
    features: np.ndarray


class OutputReader:
    """Predicts splits with one network; it traces a model once for all of them.

    reader = of_model(model, data, strategy)
    reader.predict("validation")
    """

    def __init__(
        self,
        whole: keras.Model,
        data: Data,
        strategy: tf.distribute.Strategy,
        feed: Feed | None = None,
    ) -> None:
        """Builds nothing yet.

        Args:
          whole: the network, or a saved model, from image to probabilities.
          data: the data set.
          strategy: the strategy that the model's variables belong to.
          feed: what has cached features; None: only images are read.
        """
        self._whole, self._data, self._strategy, self._feed = whole, data, strategy, feed
        self._trunk = trunk_of(whole)
        self._drivers: dict[int, Driver] = {}

    def predict(self, split: str, rows: np.ndarray | None = None) -> Outputs:
        """Returns outputs and features of a split; hosts that train together must all call it.

        Memory: 4 (K + D) bytes an example; give `rows` for a sample of a large split.

        Args:
          split: train, validation or test.
          rows: the examples, in order, [M]; None: the whole split.
        """
        model, batches = self._input(split, rows)
        blocks = list(self._driver(model).predict_blocks(batches))
        probabilities, features = (np.concatenate(parts) for parts in zip(*blocks, strict=True))
        return Outputs(probabilities, features)

    def _input(self, split: str, rows: np.ndarray | None) -> tuple[keras.Model, Batches]:
        """Returns a model, and what to feed it."""
        feed = self._feed
        if isinstance(feed, FeatureFeed) and feed.views(split) == (None,):
            return feed.model, feed.evaluation_batches(split, rows)
        # Also where training has augmented views: nobody has cached the images without
        # augmentation, and for a sample it doesn't pay.
        size = self._data.config.batch_size
        return self._whole, self._data.evaluation_batches(split, size, rows=rows)

    def _driver(self, model: keras.Model) -> Driver:
        if id(model) not in self._drivers:
            with self._strategy.scope():
                both = with_features(model, self._trunk)
            self._drivers[id(model)] = Driver(both, self._strategy)
        return self._drivers[id(model)]


def of_feed(
    feed: Feed, network: Network, data: Data, strategy: tf.distribute.Strategy
) -> OutputReader:
    """Returns a reader of a network in training, of cached features where there are any."""
    return OutputReader(network.whole, data, strategy, feed)


def of_model(model: keras.Model, data: Data, strategy: tf.distribute.Strategy) -> OutputReader:
    """Returns what reads the outputs of a saved model.

    Args:
      model: of `trainer.models.saved.load`, loaded in the strategy's scope.
      data: the data set, with images of the model's shape and a batch size for its config.
      strategy: runs the model.
    """
    return OutputReader(model, data, strategy)


def with_features(model: keras.Model, trunk: keras.Model) -> keras.Model:
    """Returns x -> [probabilities [B, K], features [B, D] float32] of a model that ends in a head.

    Args:
      model: a whole network, the suffix of one, or a saved model; it ends in the model `head`.
      trunk: the network's, whose last layer tells how features are pooled.
    """
    pooled = _input_of_head(model)
    last = trunk.layers[-1]
    if isinstance(last, keras.layers.Flatten):
        feature_map = keras.ops.reshape(pooled, (-1, *last.input.shape[1:]))
        positions = tuple(range(1, len(feature_map.shape) - 1))
        pooled = keras.ops.mean(keras.ops.cast(feature_map, "float32"), positions)
    features = keras.ops.cast(pooled, "float32")  # NumPy has no bfloat16.
    return keras.Model(model.input, [model.outputs[0], features], name="outputs")


def num_features(model: keras.Model) -> int:
    """Returns the number of features, D, that `OutputReader` gives of a saved model."""
    last = trunk_of(model).layers[-1]
    return int((last.input if isinstance(last, keras.layers.Flatten) else last.output).shape[-1])


def trunk_of(whole: keras.Model) -> keras.Model:
    """Returns the trunk of a whole network or a saved model."""
    names = [layer.name for layer in whole.layers]
    return whole.layers[names.index("preprocessing") + 1]  # Keras sorts them by their depth.


def _input_of_head(model: keras.Model) -> Any:
    """Returns the tensor that the model's head takes; a saved model multiplies its output."""
    tensor = model.outputs[0]
    while True:
        history = tensor._keras_history  # noqa: SLF001 -- Keras has no public accessor.
        node = history.operation._inbound_nodes[history.node_index]  # noqa: SLF001 -- As above.
        tensor = node.input_tensors[0]
        if history.operation.name == "head":
            return tensor
