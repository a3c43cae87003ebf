"""A training history: its curves, a summary of each curve, and the best epoch.

A history maps Keras's keys (loss, val_loss, accuracy, …) to one value per epoch. Those of
validation are exact: `trainer.evaluation.metrics` computes them, as the final metrics. Those of
training are approximate: they are averaged while the weights change, and `auc` has 400 thresholds.

    for title, lines in history.curves(logged).items():
        print(title, {side: history.span(values) for side, values in lines.items()})
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from trainer.storage import documents
from trainer.system import text

if TYPE_CHECKING:
    import pathlib
    from collections.abc import Mapping, Sequence

MEANINGS = {"val_loss": "lowest validation loss", "val_auc": "highest validation ROC-AUC"}
"""The criterion for the best epoch, by monitored metric."""
WAY_OUT = "restore it from a copy, or resume its run, which writes it again from its checkpoint"
"""What to do with a log that can't be read."""
_KEYS = {"log-loss": "loss", "accuracy": "accuracy", "ROC-AUC": "auc"}
_PREFIXES = {"training": "", "validation": "val_"}


def load_rows(path: pathlib.Path) -> list[dict[str, float]]:
    """Reads `metrics.jsonl`: a row for each epoch, which begins with `epoch`, counted from 1.

    Raises:
      RunError: when the file can't be read, or is not such a log.
    """
    read: list[dict[str, documents.Number]] = documents.load_rows(
        path, dict[str, documents.Number], way_out=WAY_OUT
    )
    try:
        return rows_of(read, "line")
    except ValueError as error:
        raise documents.refused(path, str(error), WAY_OUT) from error


def rows_of(read: Sequence[Mapping[str, documents.Number]], place: str) -> list[dict[str, float]]:
    """Returns rows as they were before they became JSON: NaN for null.

    Args:
      read: a row for each epoch, from the first.
      place: what a row is called in messages.

    Raises:
      ValueError: a clause that names a row of another epoch, or with other metrics.
    """
    rows = [{name: documents.finite(value) for name, value in row.items()} for row in read]
    for number, row in enumerate(rows, start=1):
        if row.get("epoch") != number or row.keys() != rows[0].keys():
            raise ValueError(
                f"{place} {number} is not the row of epoch {number}, or has other metrics"
            )
    return rows


def load(path: pathlib.Path) -> dict[str, list[float]]:
    """Reads `metrics.jsonl` as a history: a list of values per metric.

    Raises:
      RunError: when the file can't be read, or is not such a log.
    """
    rows = load_rows(path)
    names = [name for name in rows[0] if name != "epoch"] if rows else []
    return {name: [row[name] for row in rows] for name in names}


def curves(history: Mapping[str, Sequence[float]]) -> dict[str, dict[str, Sequence[float]]]:
    """Groups a Keras history into curves: {"log-loss": {"training": …, "validation": …}, …}.

    Missing and empty curves are left out, as are other entries of the history (learning rate,
    throughput).
    """
    groups = {
        title: {
            side: history[prefix + key]
            for side, prefix in _PREFIXES.items()
            if history.get(prefix + key)
        }
        for title, key in _KEYS.items()
    }
    return {title: lines for title, lines in groups.items() if lines}


def span(values: Sequence[float]) -> str:
    """Returns the paper's summary of a curve, `(min: 0.123, max: 0.456, cur: 0.234)`.

    NaN is neither minimum nor maximum; where all values are NaN, all three are undefined.
    """
    low, high = np.fmin.reduce(values), np.fmax.reduce(values)
    low, high, last = (text.decimal(value, 3) for value in (low, high, values[-1]))
    return f"(min: {low}, max: {high}, cur: {last})"


def is_better(monitor: str, value: float, than: float) -> bool:
    """Returns whether `value` is better than `than`: lower for a loss, else higher."""
    return value < than if monitor.endswith("loss") else value > than


def best_epoch(history: Mapping[str, Sequence[float]], monitor: str = "val_loss") -> int | None:
    """Returns the first best epoch by `monitor`, counted from 1; None without a finite value."""
    best: int | None = None
    values = history.get(monitor, ())
    for epoch, value in enumerate(values, start=1):
        if math.isfinite(value) and (best is None or is_better(monitor, value, values[best - 1])):
            best = epoch
    return best


def joins_after(config: Mapping[str, Any]) -> int | None:
    """Returns after how many epochs of the head alone unfrozen layers join; None if they don't.

    Args:
      config: the run's options.
    """
    head_epochs = config.get("head_epochs")
    unfrozen, weights = str(config.get("layers_to_unfreeze", "0")), config.get("weights")
    if not isinstance(head_epochs, int) or not head_epochs or unfrozen == "0" or weights == "none":
        return None
    return head_epochs
