"""The train and evaluation loop, the same on every strategy.

`Model.fit` fails under MultiWorkerMirroredStrategy, and under MirroredStrategy with several steps
per call. This loop takes the parts of it that work everywhere: the model's own `train_step` and
`test_step`, its metrics, and Keras's callbacks. It owns the steps; callbacks own all that is
periodic; nobody else loops over batches.

    driver = Driver(model, strategy, steps_per_execution=8)
    history = driver.fit(batches_of_epoch, epochs=30, validation=batches, callbacks=[...])
    probabilities = driver.predict(batches)

Batches are (x, y, weight) with a static, global batch size. In evaluation the last one is padded
with examples of weight 0, so that each example counts once at every number of replicas.
"""

from __future__ import annotations

import dataclasses
import time
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import tensorflow as tf

from trainer.data.batches import Share

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from trainer.data.batches import Batches

Logs = dict[str, float]


@dataclasses.dataclass(frozen=True, order=True)
class Position:
    """How far a run has come: so many whole epochs, and so many steps of the next."""

    epoch: int = 0
    step: int = 0


class Driver:
    """Runs a compiled model over batches under a strategy."""

    def __init__(
        self,
        model: keras.Model,
        strategy: tf.distribute.Strategy,
        *,
        steps_per_execution: int = 1,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Makes the compiled loops; they are traced at their first call.

        Args:
          model: built and compiled inside the strategy's scope, all its variables made.
          strategy: where the steps run.
          steps_per_execution: steps between two returns to Python.
          clock: seconds, for throughput.
        """
        self.model = model
        self._strategy = strategy
        self._steps_per_execution = steps_per_execution
        self._clock = clock
        self._train_steps = self._build_loop(model.train_step)
        self._test_steps = self._build_loop(model.test_step)
        self._predict_step = self._build_predict_step()

    def fit(
        self,
        batches_of_epoch: Callable[[int], Batches],
        *,
        validation: Batches,
        epochs: int,
        callbacks: Sequence[keras.callbacks.Callback] = (),
        start: Position = Position(),
    ) -> dict[str, list[float]]:
        """Trains until `epochs`, or until a callback sets `model.stop_training`.

        Args:
          batches_of_epoch: what an epoch (from 0) trains on; all epochs have the same steps.
          validation: evaluated after every epoch; its logs get the prefix `val_`.
          epochs: upper limit.
          callbacks: Keras callbacks. Batch hooks run once a call of the loop; one that sets
            `stop_training` when training begins finds that there is nothing left to do.
          start: where to go on; the variables have to be what they were there.

        Returns:
          A list of values per epoch that was run for `loss`, each metric, their `val_` twins,
          `examples_per_s` and `input_wait` (the share of an epoch's time spent waiting for input).
        """
        hooks = keras.callbacks.CallbackList(
            list(callbacks), add_history=True, model=self.model, epochs=epochs
        )
        self.model.stop_training = False
        logs: Logs = {}
        hooks.on_train_begin()
        for epoch in range(start.epoch, epochs):
            if self.model.stop_training:
                break
            hooks.on_epoch_begin(epoch)
            first_step = start.step if epoch == start.epoch else 0
            logs = self._train_epoch(batches_of_epoch(epoch), first_step, hooks)
            found = self._validate(validation, hooks)
            logs |= {f"val_{name}": value for name, value in found.items()}
            hooks.on_epoch_end(epoch, logs)
        hooks.on_train_end(logs)
        return dict(self.model.history.history)

    def evaluate(self, batches: Batches, on_call: Callable[[int], None] = lambda _: None) -> Logs:
        """Returns loss and metrics over every example once.

        Args:
          batches: what is judged.
          on_call: is told how many steps are done, after every call of the loop.
        """
        self.model.reset_metrics()
        iterator = iter(self._distribute(batches))
        for done, count in self._calls(0, batches.steps):
            self._test_steps(iterator, count)
            on_call(done + int(count))
        return self._read_metrics()

    def _validate(self, batches: Batches, hooks: keras.callbacks.CallbackList) -> Logs:
        """Evaluates; a callback that ends it by an error finds the metrics of the epoch again."""
        variables = [v for metric in self.model.metrics for v in metric.variables]
        of_training = [keras.ops.convert_to_numpy(variable) for variable in variables]
        try:
            return self.evaluate(batches, lambda step: hooks.on_test_batch_end(step - 1))
        except BaseException:
            for variable, value in zip(variables, of_training, strict=True):
                variable.assign(value)
            raise

    def predict(self, batches: Batches) -> np.ndarray:
        """Returns the model's output for every example once, [N, …], in the order of the data."""
        return np.concatenate(list(self.predict_blocks(batches)))

    def predict_blocks(self, batches: Batches) -> Iterator[Any]:
        """Yields the output batch by batch, the last one without its padding.

        An array [n, …], or a list of them for a model of several outputs.
        """
        iterator, left = iter(self._distribute(batches)), batches.num_examples
        # One batch ahead, so that a device computes while the host copies what it gave.
        ahead = self._predict_step(iterator)
        for step in range(1, batches.steps + 1):
            output = ahead
            if step < batches.steps:
                ahead = self._predict_step(iterator)
            block = tf.nest.map_structure(lambda part, n=left: self._collect(part)[:n], output)
            left -= len(tf.nest.flatten(block)[0])
            yield block

    def _collect(self, output: Any) -> np.ndarray:
        """Joins the replicas' shares of a batch, in the order in which it was split."""
        shares = self._strategy.experimental_local_results(output)
        return np.concatenate([share.numpy() for share in shares])

    def _train_epoch(
        self, batches: Batches, first_step: int, hooks: keras.callbacks.CallbackList
    ) -> Logs:
        if not first_step:  # Else they are in the middle of their sums.
            self.model.reset_metrics()
        dataset = self._distribute(batches, first_step)
        start, waited_s = self._clock(), 0.0
        iterator = iter(dataset)
        for done, count in self._calls(first_step, batches.steps):
            hooks.on_train_batch_begin(done)
            waited_s += float(self._train_steps(iterator, count))
            hooks.on_train_batch_end(done + int(count) - 1)
        logs = self._read_metrics()
        elapsed_s = max(self._clock() - start, 1e-9)
        share = 1 - first_step / batches.steps
        logs["examples_per_s"] = batches.num_examples * share / elapsed_s
        logs["input_wait"] = min(waited_s / elapsed_s, 1.0)
        return logs

    def _distribute(self, batches: Batches, first_step: int = 0) -> Any:
        """Reads this host's share; all shares together are the global batches, in order."""

        def read(host: tf.distribute.InputContext) -> tf.data.Dataset:
            return batches.read(
                Share(
                    host.input_pipeline_id,
                    host.num_input_pipelines,
                    host.num_replicas_in_sync,
                    first_step,
                )
            )

        return self._strategy.distribute_datasets_from_function(read)

    def _calls(self, first_step: int, steps: int) -> list[tuple[int, tf.Tensor]]:
        """Cuts the steps from the first one on into calls: (steps done before, steps of it)."""
        return [
            (done, tf.constant(min(self._steps_per_execution, steps - done)))
            for done in range(first_step, steps, self._steps_per_execution)
        ]

    def _read_metrics(self) -> Logs:
        return {name: float(value) for name, value in self.model.get_metrics_result().items()}

    def _build_loop(self, step: Callable[[Any], Any]) -> Callable[[Any, tf.Tensor], tf.Tensor]:
        """Compiles `count` steps into one call, which returns the seconds it waited for input."""

        def replica_step(batch: Any) -> None:
            step(batch)  # Its results stay in the metrics' variables: no host sync in the loop.

        @tf.function
        def run_steps(iterator: Any, count: tf.Tensor) -> tf.Tensor:
            waited_s = tf.constant(0.0, tf.float64)
            for _ in tf.range(count):
                start = tf.timestamp()
                with tf.control_dependencies([start]):
                    batch = next(iterator)
                with tf.control_dependencies(tf.nest.flatten(batch, expand_composites=True)):
                    waited_s += tf.timestamp() - start
                self._strategy.run(replica_step, args=(batch,))
            return waited_s

        return run_steps

    def _build_predict_step(self) -> Callable[[Any], Any]:
        def replica_step(batch: Any) -> Any:
            return self.model(batch[0], training=False)

        # Other hosts' shares have to be fetched; inside of the function, or it would trace anew for
        # every batch.
        spans_hosts = isinstance(self._strategy, tf.distribute.MultiWorkerMirroredStrategy)

        @tf.function
        def predict_step(iterator: Any) -> Any:
            output = self._strategy.run(replica_step, args=(next(iterator),))
            if not spans_hosts:
                return output
            return tf.nest.map_structure(lambda part: self._strategy.gather(part, axis=0), output)

        return predict_step
