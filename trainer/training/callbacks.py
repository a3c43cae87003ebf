"""All that happens periodically in training, as Keras callbacks.

stopping = EarlyStopping(model, monitor="val_loss", patience=5)
log = MetricsLog(run_dir / "metrics.jsonl")
saving = Checkpointing(checkpoints, weights, [stopping, log], config.checkpoints)
driver.fit(..., callbacks=[StopAtDivergence(), Progress(epochs, steps), log, stopping, saving])
"""

from __future__ import annotations

import abc
import contextlib
import json
import math
import time
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import tensorflow as tf

from trainer.errors import DivergedError
from trainer.evaluation import history
from trainer.storage import files
from trainer.system import console, signals
from trainer.training.driver import Position

if TYPE_CHECKING:
    import pathlib
    from collections.abc import Callable, Sequence

    from trainer.option_groups import CheckpointOptions
    from trainer.training.checkpoint import Checkpoints


class StatefulCallback(abc.ABC):
    """A callback whose state is saved in checkpoints.

    Attributes:
      variables: the part of the state that is made of tensors.
    """

    variables: Sequence[Any] = ()

    @abc.abstractmethod
    def state(self) -> Any:
        """Returns the rest of the state, as JSON has it."""

    @abc.abstractmethod
    def restore(self, state: Any) -> None:
        """Takes back what `state` returned, before training resumes."""


class StopAtDivergence(keras.callbacks.Callback):
    """Ends training when the loss is no longer a number, before anything is saved of it."""

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Notes which epoch it is."""
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
            raise DivergedError(f"the validation loss is no number after epoch {epoch + 1}")


def _reported_loss(model: keras.Model) -> keras.metrics.Metric:
    """Returns the metric `loss` that the logs have; Keras's own of that name counts padding."""
    return [metric for metric in model.metrics if metric.name == "loss"][-1]


class EarlyStopping(keras.callbacks.Callback, StatefulCallback):
    """Stops after `patience` epochs without a better one; keeps the weights of the best.

    Keras's own keeps every weight of the model, frozen ones too, and nothing of it outlives the
    process.
    """

    def __init__(self, model: keras.Model, *, monitor: str, patience: int) -> None:
        super().__init__()
        self._monitor, self._patience = monitor, patience
        self._best: float | None = None
        self._wait = 0
        self._weights = list(model.trainable_variables)
        with tf.device("CPU:0"):
            self.variables = [
                tf.Variable(keras.ops.convert_to_numpy(weight), trainable=False)
                for weight in self._weights
            ]

    def state(self) -> dict[str, Any]:
        """Returns the best value, and how many epochs ago it was."""
        return {"best": self._best, "wait": self._wait}

    def restore(self, state: dict[str, Any]) -> None:
        """Goes on waiting."""
        self._best, self._wait = state["best"], state["wait"]

    def on_train_begin(self, logs: dict[str, float] | None = None) -> None:
        """Stops a run that had waited long enough when it was interrupted."""
        del logs
        self._stop_if_due()

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Keeps the weights of a better epoch, or waits."""
        del epoch
        value = (logs or {})[self._monitor]
        self._wait += 1
        if math.isfinite(value) and (
            self._best is None or history.is_better(self._monitor, value, self._best)
        ):
            self._best, self._wait = value, 0
            for best, weight in zip(self.variables, self._weights, strict=True):
                best.assign(keras.ops.convert_to_numpy(weight))
        self._stop_if_due()

    def on_train_end(self, logs: dict[str, float] | None = None) -> None:
        """Puts the best weights back."""
        del logs
        if self._best is not None:
            for best, weight in zip(self.variables, self._weights, strict=True):
                weight.assign(best.numpy())

    def _stop_if_due(self) -> None:
        if self._wait and self._wait >= self._patience:
            self.model.stop_training = True


class Recoveries(keras.callbacks.Callback, StatefulCallback):
    """Counts how often a run went back after a divergence; each time halves the learning rate."""

    def __init__(self, learning_rate_factor: Any) -> None:
        """Takes the variable that the learning rate is multiplied by."""
        super().__init__()
        self.count = 0
        self._factor = learning_rate_factor

    def state(self) -> int:
        """Returns the count."""
        return self.count

    def restore(self, state: int) -> None:
        """Takes back a count, with its learning rate."""
        self.count = state
        self._factor.assign(self.factor)

    @property
    def factor(self) -> float:
        """What the learning rate is multiplied by."""
        return 0.5**self.count


class Checkpointing(keras.callbacks.Callback):
    """Saves the run now and then, at the end of every epoch, and when it is asked to stop."""

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
        """Comes after all other callbacks, so that an epoch is saved with what they made of it.

        Args:
          checkpoints: where to save.
          weights: what trains; it is saved only while all of it is finite.
          stateful: the callbacks whose state is saved, one of a class.
          config: how often.
          any_host: whether this is true on one of the hosts that train together. Each has a clock
            and gets signals of its own, and they have to save and to stop at the same step.
          on_saved: is told of the file of a checkpoint that names the others.
          clock: seconds.
        """
        super().__init__()
        self._checkpoints, self._config, self._clock = checkpoints, config, clock
        self._any_host, self._on_saved = any_host, on_saved
        self._weights = weights
        self._steps, self._is_validating = 0, False
        self._stateful = {type(callback).__name__: callback for callback in stateful}

    def restore(self) -> Position | None:
        """Takes the newest checkpoint; returns where training goes on, or None: there is none."""
        found = self._checkpoints.restore()
        if found is None:
            return None
        for name, callback in self._stateful.items():
            callback.restore(found.callback_states[name])
        self._steps = found.position.step
        return found.position

    def save_first(self) -> Position:
        """Saves the start, for a loss that diverges before anything else is saved; returns it."""
        self._save(Position())
        return Position()

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Starts to count."""
        del logs
        self._epoch, self._saved_step, self._saved_s = epoch, 0, self._clock()
        self._is_validating = False

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        """Saves the steps up to `batch`, if it is time or the run was asked to stop."""
        del logs
        self._steps = batch + 1
        if self._any_host(signals.is_requested() or self._is_due(batch + 1)):
            self._save(Position(self._epoch, batch + 1))
            self._saved_step, self._saved_s = batch + 1, self._clock()
            self._stop_if_requested()

    def on_test_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        """Ends the validation, if the run was asked to stop; `save_stopped` is next."""
        del batch, logs
        self._is_validating = True
        self._stop_if_requested()

    def save_stopped(self) -> None:
        """Saves the steps of an epoch whose validation was stopped; what is earlier is saved.

        Not of one that has diverged: the run goes on before it, and recovers then.
        """
        if self._is_validating:
            with contextlib.suppress(DivergedError):
                self._save(Position(self._epoch, self._steps))

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Saves the epoch."""
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
        # The loss of a step was computed before its update.
        if not all(np.isfinite(w).all() for w in map(keras.ops.convert_to_numpy, self._weights)):
            raise DivergedError(
                f"a weight is no number after {position.epoch} epochs and {position.step} steps"
            )
        states = {name: callback.state() for name, callback in self._stateful.items()}
        self._on_saved(self._checkpoints.save(position, states))


class Progress(keras.callbacks.Callback):
    """Says one line per epoch; shows a bar inside an epoch on a terminal."""

    def __init__(
        self,
        epochs: int,
        steps: int,
        *,
        clock: Callable[[], float] = time.monotonic,
        say: Callable[[str], None] = console.say,
    ) -> None:
        super().__init__()
        self._epochs, self._steps = epochs, steps
        self._clock, self._say = clock, say
        self._start = 0.0
        self._bar: Any = None

    def on_train_begin(self, logs: dict[str, float] | None = None) -> None:
        """Starts the clock."""
        del logs
        self._start = self._clock()

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Opens the bar."""
        del logs
        self._bar = console.bar(self._steps, f"epoch {epoch + 1}/{self._epochs}", "step")

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        """Moves the bar to step `batch` (from 0)."""
        del logs
        self._bar.update(batch + 1 - self._bar.n)

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Says how the epoch went."""
        self._bar.close()
        elapsed_s = self._clock() - self._start
        left_s = elapsed_s / (epoch + 1) * (self._epochs - epoch - 1)
        self._say(format_epoch(epoch, self._epochs, logs or {}, left_s))


def format_epoch(epoch: int, epochs: int, logs: dict[str, float], left_s: float) -> str:
    """Returns the progress line of an epoch (from 0).

    Args:
      epoch: which one.
      epochs: upper limit.
      logs: of the driver.
      left_s: seconds until the upper limit is reached.
    """
    train, validation = (
        "  ".join(f"{name} {logs[prefix + name]:.4f}" for name in ("loss", "accuracy", "auc"))
        for prefix in ("", "val_")
    )
    minutes, seconds = divmod(round(left_s), 60)
    return (
        f"epoch {epoch + 1:{len(str(epochs))}}/{epochs}  train {train}  validation {validation}  "
        f"{logs['examples_per_s']:.0f} img/s  input wait {logs['input_wait']:.0%}  "
        f"at most {minutes}:{seconds:02d} left"
    )


class MetricsLog(keras.callbacks.Callback, StatefulCallback):
    """Writes a JSON object per epoch (counted from 1) to a file."""

    def __init__(self, path: pathlib.Path, *, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._path, self._clock = path, clock
        self._rows: list[dict[str, float]] = []
        self._start = 0.0

    def state(self) -> list[dict[str, float]]:
        """Returns all rows."""
        return self._rows

    def restore(self, state: list[dict[str, float]]) -> None:
        """Makes the file what it was: an epoch that was logged may not have been saved."""
        self._rows = list(state)
        self._write()

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Starts the clock."""
        del epoch, logs
        self._start = self._clock()

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Writes the epoch's logs, its learning rate and its seconds, validation included."""
        rate = float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate))
        row = {"epoch": epoch + 1, "learning_rate": rate, **(logs or {})}
        row["epoch_s"] = round(self._clock() - self._start, 3)
        self._rows.append(row)
        self._write()

    def _write(self) -> None:
        with files.replacing(self._path, makes_folder=False) as partial:
            partial.write_text("".join(json.dumps(row) + "\n" for row in self._rows), "utf-8")
