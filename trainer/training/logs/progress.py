"""What a run prints while it trains: a line for each epoch, and a bar within it.

driver.fit(..., callbacks=[Progress(epochs, steps), ...])
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import keras

from trainer.system import console, text

if TYPE_CHECKING:
    from collections.abc import Callable


class Progress(keras.callbacks.Callback):
    """Prints one line per epoch, and on a terminal shows a progress bar within the epoch.

    Keras's ProgbarLogger belongs to `Model.fit` and does not print waiting time or time left.
    """

    def __init__(
        self,
        epochs: int,
        steps: int,
        *,
        head_epochs: int = 0,
        clock: Callable[[], float] = time.monotonic,
        say: Callable[[str], None] = console.say,
    ) -> None:
        """Starts before the first epoch.

        Args:
          epochs: upper limit.
          steps: of an epoch.
          head_epochs: the first epochs, which tell nothing about the time of those after them.
          clock: returns seconds.
          say: prints a line.
        """
        super().__init__()
        self._epochs, self._steps, self._head_epochs = epochs, steps, head_epochs
        self._clock, self._say = clock, say
        self._epoch_s: list[float] = []
        self._bar: Any = None

    def on_train_begin(self, logs: dict[str, float] | None = None) -> None:
        """Forgets the times of epochs before a divergence, and of the head alone."""
        del logs
        self._epoch_s = []

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Opens the progress bar, and starts the clock."""
        del logs
        self._first_step: int | None = None
        self._begun = self._trained = self._clock()
        self._bar = console.bar(self._steps, f"epoch {epoch + 1}/{self._epochs}", "step")

    def on_train_batch_begin(self, batch: int, logs: dict[str, float] | None = None) -> None:
        """Stores the first step (from 0): a run may resume within an epoch."""
        del logs
        if self._first_step is None:
            self._first_step = batch

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        """Moves the bar past step `batch` (from 0)."""
        del logs
        self._trained = self._clock()
        self._bar.update(batch + 1 - self._bar.n)

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Closes the bar and prints the epoch's line."""
        self._bar.close()
        # Of an epoch that was resumed in its middle, this process trained only a share.
        share = 1 - (self._first_step or 0) / self._steps
        train_s, validation_s = self._trained - self._begun, self._clock() - self._trained
        self._epoch_s.append((train_s / share if share else 0.0) + validation_s)
        is_told = epoch >= self._head_epochs or self._epochs <= self._head_epochs
        left_s = is_told * sum(self._epoch_s) / len(self._epoch_s) * (self._epochs - epoch - 1)
        self._say(format_epoch(epoch, self._epochs, logs or {}, left_s))


def format_epoch(epoch: int, epochs: int, logs: dict[str, float], left_s: float) -> str:
    """Returns the progress line of an epoch (from 0).

    Args:
      epoch: index of the epoch.
      epochs: upper limit of epochs.
      logs: the driver's logs of the epoch.
      left_s: estimated seconds until the upper limit is reached; 0: none, or not known.
    """
    train, validation = (
        "  ".join(
            f"{name} {text.decimal(logs[prefix + name], 4)}" for name in ("loss", "accuracy", "auc")
        )
        for prefix in ("", "val_")
    )
    minutes, seconds = divmod(round(left_s), 60)
    left = f"  at most {minutes}:{seconds:02d} left" if left_s else ""
    return (
        f"epoch {epoch + 1:{len(str(epochs))}}/{epochs}  train {train}  validation {validation}  "
        f"{logs['examples_per_s']:.0f} img/s  input wait {logs['input_wait']:.0%}{left}"
    )
