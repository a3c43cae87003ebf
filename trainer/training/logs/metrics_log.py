"""The history of a training run as a file, an entry per epoch.

log = MetricsLog(run_dir / "metrics.jsonl")
driver.fit(..., callbacks=[log, ...])
"""

from __future__ import annotations

import json
import math
import time
from typing import TYPE_CHECKING

import keras

from trainer.errors import RunError
from trainer.evaluation import history
from trainer.storage import documents, files
from trainer.system import console, text
from trainer.training.callbacks import StatefulCallback

if TYPE_CHECKING:
    import pathlib
    from collections.abc import Callable


class MetricsLog(keras.callbacks.Callback, StatefulCallback):
    """Writes one JSON object per epoch (counted from 1) to a file; an undefined metric is null.

    Unlike Keras's CSVLogger, it drops rows of epochs after the checkpoint that a run resumes from.
    """

    shape = list[dict[str, documents.Number]]

    def __init__(self, path: pathlib.Path, *, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._path, self._clock = path, clock
        self._rows: list[dict[str, float | None]] = []
        self._start = 0.0

    def state(self) -> list[dict[str, float | None]]:
        """Returns the rows so far."""
        return self._rows

    def restore(self, state: list[dict[str, float | None]]) -> None:
        """Restores the rows and rewrites the file, which may have a row of an epoch not saved.

        The checkpoint's rows count. Where the file has others of the same epochs, a line says so.
        """
        self._rows = list(state)
        problem = self._difference() if self._path.exists() else ""
        if problem:
            console.say(f"{self._path} is written again from the checkpoint: {problem}.")
        self._write()

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Starts the clock."""
        del epoch, logs
        self._start = self._clock()

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Writes the epoch's logs, its learning rate and its time, validation included."""
        rate = float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate))
        row = {"epoch": epoch + 1, "learning_rate": rate, **(logs or {})}
        row["epoch_s"] = round(self._clock() - self._start, 3)
        # An undefined metric is null: JSON, also that of checkpoints, has no NaN.
        self._rows.append({k: v if math.isfinite(v) else None for k, v in row.items()})
        self._write()

    def _difference(self) -> str:
        """Returns why the file isn't what the checkpoint knows, as a clause; empty if it is."""
        try:
            found = history.load_rows(self._path)
        except RunError as error:
            return text.one_line(str(error)).partition("; ")[0]
        saved = [{k: documents.finite(v) for k, v in row.items()} for row in self._rows]
        if len(found) < len(saved):
            return f"it had {len(found)} of {len(saved)} epochs"
        other = [i for i, (a, b) in enumerate(zip(found, saved, strict=False), 1) if _differ(a, b)]
        return f"its row of epoch {other[0]} was another" if other else ""

    def _write(self) -> None:
        with files.replacing(self._path, makes_folder=False) as partial:
            lines = (json.dumps(row, allow_nan=False) + "\n" for row in self._rows)
            partial.write_text("".join(lines), "utf-8")


def _differ(row: dict[str, float], other: dict[str, float]) -> bool:
    # As JSON, where NaN is like NaN.
    return json.dumps(row, sort_keys=True) != json.dumps(other, sort_keys=True)
