"""All that happens periodically in training, as Keras callbacks.

driver.fit(..., callbacks=callbacks.build(directory, config.optimization, steps))
"""

from __future__ import annotations

import json
import math
import time
from typing import TYPE_CHECKING, Any

import keras

from trainer import console
from trainer.errors import RunError

if TYPE_CHECKING:
    import pathlib
    from collections.abc import Callable

    from trainer import config as config_lib
    from trainer.run_directory import RunDirectory


def build(
    directory: RunDirectory, config: config_lib.Optimization, steps_per_epoch: int
) -> list[keras.callbacks.Callback]:
    """Returns the callbacks of a training run; early stopping comes last, after every record."""
    return [
        StopAtDivergence(),
        Progress(config.max_epochs, steps_per_epoch),
        MetricsLog(directory.metrics),
        keras.callbacks.TensorBoard(str(directory.tensorboard), write_graph=False),
        keras.callbacks.LambdaCallback(on_epoch_end=lambda *_: directory.sync()),
        keras.callbacks.EarlyStopping(
            "val_loss", mode="min", patience=config.patience, restore_best_weights=True
        ),
    ]


class StopAtDivergence(keras.callbacks.Callback):
    """Ends the run when the training loss is no longer a number."""

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Raises RunError for a loss that is NaN or infinite."""
        loss = (logs or {})["loss"]
        if not math.isfinite(loss):
            rate = float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate))
            raise RunError(
                f"the loss is {loss} after epoch {epoch + 1} at learning rate {rate:g}; "
                "give a lower --learning_rate or --clip_norm=1."
            )


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


class MetricsLog(keras.callbacks.Callback):
    """Appends a JSON object per epoch (counted from 1) to a file."""

    def __init__(self, path: pathlib.Path) -> None:
        super().__init__()
        self._path = path

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Writes the epoch's logs, and its learning rate."""
        rate = float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate))
        row = {"epoch": epoch + 1, "learning_rate": rate, **(logs or {})}
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
