"""Predicts on the devices of one host, at its own pace, where several hosts train together.

Hosts that divide a pass compute other sections of a split, at other times. An iterator of
MultiWorkerMirroredStrategy makes them wait for one another at every batch, to agree whether there
is one. A second, mirrored strategy over the host's devices can't read the variables: those of the
first have as many copies as it has replicas here. So this places each batch on a device itself. A
variable is read from its copy there.

    predictor = HostPredictor(model, strategy, strategy.extended.worker_devices)
    for block in predictor.predict_blocks(batches): ...      # [n, …], n <= predictor.batch_size
"""

from __future__ import annotations

import collections
import concurrent.futures
from typing import TYPE_CHECKING, Any

import tensorflow as tf

from trainer.data.batches import Share

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import keras

    from trainer.data.batches import Batches


class HostPredictor:
    """Runs a model over batches, whose parts go to the devices of this host in turn."""

    def __init__(
        self, model: keras.Model, strategy: tf.distribute.Strategy, devices: Sequence[str]
    ) -> None:
        """Refers to the model, which was built inside the strategy's scope."""
        self._strategy, self._devices = strategy, tuple(devices)
        self._step = tf.function(lambda images: model(images, training=False))

    @property
    def num_replicas(self) -> int:
        """Number of devices; a batch is divided equally among them."""
        return len(self._devices)

    def predict_blocks(self, batches: Batches) -> Iterator[Any]:
        """Yields the outputs of one device's part of a batch after another, without padding.

        A block is an array [n, …], or a list of arrays if the model has several outputs.
        """
        left = batches.num_examples
        for outputs in self._outputs(batches):
            block = tf.nest.map_structure(lambda part, n=left: part[:n], outputs)
            left -= len(tf.nest.flatten(block)[0])
            yield block
            if not left:  # The rest is padding.
                return

    def _outputs(self, batches: Batches) -> Iterator[Any]:
        """Yields the outputs of each device's part of each batch, in the order of the data."""
        pending: collections.deque[concurrent.futures.Future[Any]] = collections.deque()
        # A thread for each device: a call ends only when its outputs are there.
        with concurrent.futures.ThreadPoolExecutor(self.num_replicas) as pool:
            for index, (images, *_) in enumerate(
                batches.read(Share(num_replicas=self.num_replicas))
            ):
                device = self._devices[index % self.num_replicas]
                pending.append(pool.submit(self._predict, images, device))
                # One part more than devices, so that none waits for the host to take its outputs.
                if len(pending) > self.num_replicas:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()

    def _predict(self, images: tf.Tensor, device: str) -> Any:
        # In the strategy's scope, a variable is read on the current device; outside it, always on
        # the first.
        with self._strategy.scope(), tf.device(device):
            return tf.nest.map_structure(lambda part: part.numpy(), self._step(images))
