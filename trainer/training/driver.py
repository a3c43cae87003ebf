"""The training and evaluation loop, the same under every strategy.

`Model.fit` fails under MultiWorkerMirroredStrategy (keras-team/keras#20585), and under
MirroredStrategy with several steps per execution. This loop keeps the parts of it that work
everywhere: the model's own `train_step`, its metrics, and Keras's callbacks. Only the driver loops
over batches, and everything periodic is a callback.

Training metrics are Keras's, summed while the weights change. Validation is exact: it is computed
from the outputs for all examples by `metrics.figures`, as the final evaluation.

    driver = Driver(model, strategy, steps_per_execution=8)
    history = driver.fit(batches_of_epoch, epochs=30, validation=batches, callbacks=[...])
    probabilities = driver.predict(batches)

Batches are (x, y, weight) with a static, global batch size. In evaluation the last one is padded
with examples of weight 0, so that each example counts once with any number of replicas.
"""

from __future__ import annotations

import dataclasses
import time
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import tensorflow as tf

from trainer.data.batches import Share
from trainer.evaluation import metrics

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from trainer.data.batches import Batches

Logs = dict[str, float]


@dataclasses.dataclass(frozen=True, order=True)
class Position:
    """How far a run has come: completed epochs, and steps of the epoch after them."""

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
        """Builds the loops; TensorFlow traces them at their first call.

        Args:
          model: built and compiled inside the strategy's scope, with all its variables created.
          strategy: the strategy that the steps run under.
          steps_per_execution: steps in one call of the compiled loop, as in `Model.compile`.
          clock: returns seconds, for throughput.
        """
        self.model = model
        self._strategy = strategy
        self._steps_per_execution = steps_per_execution
        self._clock = clock
        # Collective operations run inside a tf.function: outside, TensorFlow would trace a new one
        # at every call.
        self._spans_hosts = isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy)
        self._train_steps = self._build_train_loop()
        self._test_steps = self._build_test_loop()
        self._predict_step = self._build_predict_step()
        self._first_host = self._build_first_host()

    @property
    def num_replicas(self) -> int:
        """Number of replicas that divide a batch."""
        return int(self._strategy.num_replicas_in_sync)

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
          batches_of_epoch: returns the batches of an epoch (from 0), the same number in each.
          validation: batches that are evaluated after every epoch; their logs have the prefix
            `val_`.
          epochs: upper limit.
          callbacks: Keras callbacks. Batch hooks run once per execution, not once per step. If one
            sets `stop_training` in `on_train_begin`, no epoch runs.
          start: position to resume from; the variables must have been restored to it.

        Returns:
          A list of values per epoch for `loss`, each metric, their `val_` counterparts,
          `examples_per_s` and `input_wait` (the fraction of an epoch's time spent waiting for
          input).
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
            found = self.evaluate(validation, lambda step: hooks.on_test_batch_end(step - 1))
            logs |= {f"val_{name}": value for name, value in found.items()}
            hooks.on_epoch_end(epoch, logs)
        hooks.on_train_end(logs)
        return dict(self.model.history.history)

    def evaluate(
        self, batches: Batches, on_execution: Callable[[int], None] = lambda _: None
    ) -> Logs:
        """Returns exact `loss`, `accuracy` and `auc` over every example, counted once.

        The metrics of training keep their sums: a run that is stopped here saves them. The figures
        are `metrics.figures` of the outputs, NaN where undefined, and equal on every host.

        Args:
          batches: batches to evaluate.
          on_execution: called after each execution with the number of steps done so far.
        """
        iterator, blocks = iter(self._distribute(batches)), []
        for done, count in self._executions(0, batches.steps):
            blocks.append(self._test_steps(iterator, count))
            on_execution(done + int(count))
        rows = np.concatenate(blocks)
        rows = rows[rows[:, -1] > 0]  # Padding has weight 0.
        found = metrics.figures(rows[:, -2].astype(int), rows[:, :-2])
        values = np.array([found.log_loss, found.accuracy, found.roc_auc], float)  # None: NaN.
        loss, accuracy, auc = self._first_host(values).tolist()
        return {"loss": loss, "accuracy": accuracy, "auc": auc}

    def predict(self, batches: Batches) -> np.ndarray:
        """Returns the model's outputs, [N, …], one per example in the order of the data."""
        return np.concatenate(list(self.predict_blocks(batches)))

    def predict_blocks(self, batches: Batches) -> Iterator[Any]:
        """Yields the outputs batch by batch, without padding.

        A block is an array [n, …], or a list of arrays if the model has several outputs.
        """
        iterator, left = iter(self._distribute(batches)), batches.num_examples
        # One batch ahead: the device computes while the host copies the previous outputs.
        ahead = self._predict_step(iterator)
        for step in range(1, batches.steps + 1):
            output = ahead
            if step < batches.steps:
                ahead = self._predict_step(iterator)
            block = tf.nest.map_structure(lambda part, n=left: part.numpy()[:n], output)
            left -= len(tf.nest.flatten(block)[0])
            yield block

    def _train_epoch(
        self, batches: Batches, first_step: int, hooks: keras.callbacks.CallbackList
    ) -> Logs:
        if not first_step:  # A resumed epoch continues the sums that the checkpoint restored.
            self.model.reset_metrics()
        dataset = self._distribute(batches, first_step)
        start, waited_s = self._clock(), 0.0
        iterator = iter(dataset)
        for done, count in self._executions(first_step, batches.steps):
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
        """Returns this host's share of the batches; all shares together are the global batches."""

        # Not experimental_distribute_dataset: it would shard by files, which changes the order of
        # examples, or have every host decode all of them and drop those of other hosts.
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

    def _executions(self, first_step: int, steps: int) -> list[tuple[int, tf.Tensor]]:
        """Returns the executions of an epoch: (steps done before, number of its steps)."""
        # Tensors, because a tf.function is traced anew for each value of a Python number.
        return [
            (done, tf.constant(min(self._steps_per_execution, steps - done)))
            for done in range(first_step, steps, self._steps_per_execution)
        ]

    def _read_metrics(self) -> Logs:
        return {name: float(value) for name, value in self.model.get_metrics_result().items()}

    def _build_train_loop(self) -> Callable[[Any, tf.Tensor], tf.Tensor]:
        """Returns a compiled loop of `count` steps that returns the seconds it waited for input."""

        def replica_step(batch: Any) -> None:
            # Its logs are not returned, which would make the host wait for every step. They are
            # computed later from the metrics' variables.
            self.model.train_step(batch)

        seconds = _clock_op()

        @tf.function
        def run_steps(iterator: Any, count: tf.Tensor) -> tf.Tensor:
            # Measured inside the loop, because Python sees only the time of several steps together.
            # The control dependencies keep the batch between the two time stamps.
            waited_s = tf.constant(0.0, tf.float64)
            for _ in tf.range(count):
                start = seconds()
                with tf.control_dependencies([start]):
                    batch = next(iterator)
                with tf.control_dependencies(tf.nest.flatten(batch, expand_composites=True)):
                    waited_s += seconds() - start
                self._strategy.run(replica_step, args=(batch,))
            return waited_s

        return run_steps

    def _build_test_loop(self) -> Callable[[Any, tf.Tensor], tf.Tensor]:
        """Returns a compiled loop of `count` steps that returns a row per example, [N, K + 2].

        A row is the K outputs, the label and the weight: one array, so that each step gathers once.
        """

        def replica_step(batch: Any) -> tf.Tensor:
            x, *columns = batch
            outputs = tf.cast(self.model(x, training=False), tf.float32)
            columns = [tf.cast(column, tf.float32)[:, tf.newaxis] for column in columns]
            return tf.concat([outputs, *columns], axis=1)

        @tf.function
        def run_steps(iterator: Any, count: tf.Tensor) -> tf.Tensor:
            rows = tf.TensorArray(tf.float32, size=count)
            for step in tf.range(count):
                output = self._strategy.run(replica_step, args=(next(iterator),))
                rows = rows.write(step, self._join(output))
            return rows.concat()

        return run_steps

    def _build_predict_step(self) -> Callable[[Any], Any]:
        def replica_step(batch: Any) -> Any:
            return self.model(batch[0], training=False)

        @tf.function
        def predict_step(iterator: Any) -> Any:
            output = self._strategy.run(replica_step, args=(next(iterator),))
            return tf.nest.map_structure(self._join, output)

        return predict_step

    def _join(self, output: Any) -> tf.Tensor:
        """Joins the shares of a batch of all replicas and hosts, in the order it was split in."""
        if self._spans_hosts:
            return self._strategy.gather(output, axis=0)
        return tf.concat(self._strategy.experimental_local_results(output), axis=0)

    def _build_first_host(self) -> Callable[[np.ndarray], np.ndarray]:
        """Returns a function that replaces the values, [n] float64, of a host by the first host's.

        Hosts compute figures from the same outputs, but another CPU may round another way. They
        would then decide differently where two epochs are equal, and wait for each other for ever.
        """
        if not self._spans_hosts:
            return lambda values: values

        @tf.function
        def gather(values: tf.Tensor) -> tf.Tensor:
            rows = self._strategy.run(lambda own: own[tf.newaxis], args=(values,))
            return self._strategy.gather(rows, axis=0)[0]

        return lambda values: gather(tf.constant(values)).numpy()


def _clock_op() -> Callable[[], tf.Tensor]:
    """Returns a function that adds an op to a graph which reads a clock, in seconds.

    `tf.timestamp` costs less than a call of Python, but fails once op determinism is enabled: by
    `--deterministic`, or by a notebook itself.
    """
    try:
        tf.timestamp()
    except tf.errors.FailedPreconditionError:
        return _python_clock
    return tf.timestamp


def _python_clock() -> tf.Tensor:
    now = tf.numpy_function(lambda: np.float64(time.monotonic()), [], tf.float64)
    return tf.ensure_shape(now, [])
