"""What a training history says: its curves, a summary of each, and the best epoch.

A history is a value per epoch under Keras's keys (loss, val_loss, accuracy, …). What Keras logs
while it trains (averages under moving weights, an AUC from 200 thresholds) steers the training and
is plotted; the final figures are those of `trainer.evaluation.metrics`.

    for title, lines in history.curves(logged).items():
        print(title, {side: history.span(values) for side, values in lines.items()})
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

MEANINGS = {"val_loss": "lowest validation loss", "val_auc": "highest validation ROC-AUC"}
"""What the best epoch of a monitored metric is."""
_KEYS = {"log-loss": "loss", "accuracy": "accuracy", "ROC-AUC": "auc"}
_PREFIXES = {"training": "", "validation": "val_"}


def curves(history: Mapping[str, Sequence[float]]) -> dict[str, dict[str, Sequence[float]]]:
    """Sorts a Keras history into curves: {"log-loss": {"training": …, "validation": …}, …}.

    What is not there, or has no epoch, is left out; so are the other entries of a history
    (learning rate, throughput).
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
    """The paper's summary of a curve, `(min: 0.123, max: 0.456, cur: 0.234)`; NaN is no extreme."""
    low, high = np.fmin.reduce(values), np.fmax.reduce(values)
    return f"(min: {low:.3f}, max: {high:.3f}, cur: {values[-1]:.3f})"


def is_better(monitor: str, value: float, than: float) -> bool:
    """Whether a value of the monitored metric beats another; losses fall, the others rise."""
    return value < than if monitor.endswith("loss") else value > than


def best_epoch(history: Mapping[str, Sequence[float]], monitor: str = "val_loss") -> int | None:
    """The first epoch that is best by `monitor`, counted from 1; None if there is no such value."""
    best: int | None = None
    values = history.get(monitor, ())
    for epoch, value in enumerate(values, start=1):
        if math.isfinite(value) and (best is None or is_better(monitor, value, values[best - 1])):
            best = epoch
    return best
