"""Keras callbacks for what is periodic in training: divergence, early stopping, checkpoints.

stopping = EarlyStopping(weights, monitor="val_loss", patience=5)
log = metrics_log.MetricsLog(run_dir / "metrics.jsonl")
saving = Checkpointing(checkpoints, weights, [stopping, log], config.checkpoints)
driver.fit(..., callbacks=[StopAtDivergence(), log, stopping, saving])
"""

from __future__ import annotations

import abc
import contextlib
import math
import time
from typing import TYPE_CHECKING, Any, ClassVar, TypedDict

import keras
import numpy as np
import tensorflow as tf

from trainer.errors import DivergedError
from trainer.evaluation import history
from trainer.storage import documents
from trainer.system import signals, text
from trainer.training.driver import Position

if TYPE_CHECKING:
    import pathlib
    from collections.abc import Callable, Sequence

    from trainer.options import CheckpointOptions
    from trainer.training.checkpoint import Checkpoint, Checkpoints


class StatefulCallback(abc.ABC):
    """A callback whose state is saved in checkpoints.

    Attributes:
      variables: the part of the state that consists of tensors.
      shape: of the rest, a type as `trainer.storage.documents` takes it.
    """

    variables: Sequence[Any] = ()
    shape: ClassVar[Any]

    @abc.abstractmethod
    def state(self) -> Any:
        """Returns the rest of the state as a JSON value."""

    @abc.abstractmethod
    def restore(self, state: Any) -> None:
        """Restores a state that `state` returned; called before training resumes."""


class StopAtDivergence(keras.callbacks.Callback):
    """Raises when a loss is NaN or infinite, before a checkpoint of such a model is saved.

    Keras's TerminateOnNaN reads the loss from the logs of each batch, which the driver does not
    compute, and ignores the validation loss.
    """

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Stores the epoch for the error message."""
        del logs
        self._epoch = epoch

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        """Raises DivergedError for a loss that is NaN or infinite."""
        del logs
        loss = float(_reported_loss(self.model).result())
        if not math.isfinite(loss):
            rate = float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate))
            raise DivergedError(
                f"the loss is {loss} in epoch {self._epoch + 1} at step {batch + 1}, "
                f"at learning rate {rate:g}"
            )

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Raises DivergedError for a validation loss that is NaN or infinite."""
        if not math.isfinite((logs or {})["val_loss"]):
            raise DivergedError(f"the validation loss is NaN or infinite after epoch {epoch + 1}")


def _reported_loss(model: keras.Model) -> keras.metrics.Metric:
    """Returns the metric that the logs call `loss`; Keras's own of that name counts padding."""
    return [metric for metric in model.metrics if metric.name == "loss"][-1]


class _Stopping(TypedDict):
    """The state of EarlyStopping."""

    best: float | None
    wait: documents.Count


class EarlyStopping(keras.callbacks.Callback, StatefulCallback):
    """Stops after `patience` epochs without improvement, and restores the best epoch's weights.

    Keras's own EarlyStopping copies every weight of the model, the frozen ones included, and loses
    its state when the process ends.
    """

    shape = _Stopping

    def __init__(
        self, weights: Sequence[Any], *, monitor: str, patience: int, first_epoch: int = 0
    ) -> None:
        """Starts before the first epoch.

        Args:
          weights: the variables to restore: all that training changes in the model.
          monitor: name in the logs of the value to improve.
          patience: epochs without improvement.
          first_epoch: epochs before this one (from 0) don't count as without improvement.
        """
        super().__init__()
        self._monitor, self._patience, self._first_epoch = monitor, patience, first_epoch
        self._best: float | None = None
        self._wait = 0
        self._weights = list(weights)
        with tf.device("CPU:0"):  # The copies need no memory of an accelerator.
            self.variables = [
                tf.Variable(keras.ops.convert_to_numpy(weight), trainable=False)
                for weight in self._weights
            ]

    def state(self) -> dict[str, Any]:
        """Returns the best value and the number of epochs since."""
        return {"best": self._best, "wait": self._wait}

    def restore(self, state: dict[str, Any]) -> None:
        """Restores the best value and the number of epochs since."""
        self._best, self._wait = state["best"], state["wait"]

    def on_train_begin(self, logs: dict[str, float] | None = None) -> None:
        """Stops at once if the run's patience was exhausted before it was interrupted."""
        del logs
        self._stop_if_due()

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Copies the weights if the epoch is the best so far; stops if patience is exhausted."""
        value = (logs or {})[self._monitor]
        self._wait += epoch >= self._first_epoch
        if math.isfinite(value) and (
            self._best is None or history.is_better(self._monitor, value, self._best)
        ):
            self._best, self._wait = value, 0
            for best, weight in zip(self.variables, self._weights, strict=True):
                best.assign(keras.ops.convert_to_numpy(weight))
        self._stop_if_due()

    def restore_best(self) -> None:
        """Restores the weights of the best epoch; call it when training has ended."""
        if self._best is not None:
            for best, weight in zip(self.variables, self._weights, strict=True):
                weight.assign(best.numpy())

    @property
    def reason(self) -> str:
        """Why training stops here, as a clause; empty if it doesn't."""
        if not _is_exhausted(self._wait, self._patience):
            return ""
        return (
            f"{text.counted(self._wait, 'epoch')} without a better {self._monitor} (patience "
            f"{self._patience}; with a larger one it continues)"
        )

    def _stop_if_due(self) -> None:
        if self.reason:
            self.model.stop_training = True


def _is_exhausted(wait: int, patience: int) -> bool:
    return 0 < wait >= patience


def is_exhausted(found: Checkpoint, patience: int) -> bool:
    """Whether training had stopped early when a checkpoint was saved.

    Raises:
      RunError: when the checkpoint does not say.
    """
    name = EarlyStopping.__name__
    return _is_exhausted(found.states({name: EarlyStopping.shape})[name]["wait"], patience)


class Recoveries(keras.callbacks.Callback, StatefulCallback):
    """Counts recoveries from divergence; each one halves the learning rate."""

    shape = documents.Count

    def __init__(self, learning_rate_factor: Any) -> None:
        """Starts at 0; `learning_rate_factor` is a variable that multiplies the learning rate."""
        super().__init__()
        self.count = 0
        self._factor = learning_rate_factor

    def state(self) -> int:
        """Returns the number of recoveries."""
        return self.count

    def restore(self, state: int) -> None:
        """Restores a number of recoveries, and the learning rate that follows from it."""
        self.count = state
        self._factor.assign(self.factor)

    @property
    def factor(self) -> float:
        """The factor that multiplies the learning rate."""
        return 0.5**self.count


class Checkpointing(keras.callbacks.Callback):
    """Saves checkpoints periodically, after every epoch, and when a signal asks the run to stop.

    Keras's BackupAndRestore restarts an epoch that was interrupted, even with weights from its
    middle, and loses the history.
    """

    def __init__(
        self,
        checkpoints: Checkpoints,
        weights: Sequence[Any],
        stateful: Sequence[StatefulCallback],
        config: CheckpointOptions,
        *,
        any_host: Callable[[bool], bool] = bool,
        on_saved: Callable[[pathlib.Path], None] = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Must be the last callback, so that a checkpoint contains the others' state of the epoch.

        Args:
          checkpoints: where to save.
          weights: the trainable weights, and the state of the optimizer, in which sums of gradients
            wait for their update; nothing is saved if one of them is NaN or infinite.
          stateful: the callbacks whose state is saved, at most one of each class.
          config: how often to save.
          any_host: returns whether its argument is true on any host. Hosts have different clocks
            and receive different signals, but must save and stop at the same step.
          on_saved: called with the manifest of each new checkpoint.
          clock: returns seconds.
        """
        super().__init__()
        self._checkpoints, self._config, self._clock = checkpoints, config, clock
        self._any_host, self._on_saved = any_host, on_saved
        self._weights = weights
        self._steps, self._is_validating = 0, False
        self._stateful = {type(callback).__name__: callback for callback in stateful}

    def restore(self) -> Position | None:
        """Restores the newest checkpoint and returns its position; None if there is none."""
        found = self._checkpoints.restore()
        if found is None:
            return None
        shapes = {name: callback.shape for name, callback in self._stateful.items()}
        for name, state in found.states(shapes).items():
            self._stateful[name].restore(state)
        self._steps = found.position.step
        return found.position

    def save_first(self) -> Position:
        """Saves the initial state, to recover from an early divergence; returns its position."""
        self._save(Position())
        return Position()

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Resets the steps and the time since the last checkpoint."""
        del logs
        self._epoch, self._saved_step, self._saved_s = epoch, 0, self._clock()
        self._is_validating = False

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        """Saves a checkpoint if one is due or a signal asks the run to stop."""
        del logs
        self._steps = batch + 1
        if self._any_host(signals.is_requested() or self._is_due(batch + 1)):
            self._save(Position(self._epoch, batch + 1))
            self._saved_step, self._saved_s = batch + 1, self._clock()
            self._stop_if_requested()

    def on_test_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        """Stops validation if a signal asks the run to stop; `save_stopped` must be called next."""
        del batch, logs
        self._is_validating = True
        self._stop_if_requested()

    def save_stopped(self) -> None:
        """Saves the training steps of an epoch whose validation was stopped.

        Does nothing if training was stopped instead, which has saved a checkpoint already, or if
        weights have diverged: the run then resumes from the previous checkpoint and recovers.
        """
        if self._is_validating:
            with contextlib.suppress(DivergedError):
                self._save(Position(self._epoch, self._steps))

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Saves a checkpoint of the finished epoch."""
        del logs
        self._is_validating = False
        self._save(Position(epoch + 1))
        self._stop_if_requested()

    def _stop_if_requested(self) -> None:
        if self._any_host(signals.is_requested()):
            signals.stop()

    def _is_due(self, step: int) -> bool:
        every_s, every_steps = self._config.checkpoint_every_s, self._config.checkpoint_every_steps
        return bool(
            (every_steps and step - self._saved_step >= every_steps)
            or (every_s and self._clock() - self._saved_s >= every_s)
        )

    def _save(self, position: Position) -> None:
        # A finite loss is not enough: the loss of a step is computed before its update.
        if not all(np.isfinite(w).all() for w in map(keras.ops.convert_to_numpy, self._weights)):
            raise DivergedError(
                f"a weight or gradient is NaN or infinite after epoch {position.epoch}, "
                f"step {position.step}"
            )
        states = {name: callback.state() for name, callback in self._stateful.items()}
        self._on_saved(self._checkpoints.save(position, states))
