"""The record of a finished trial, which the worker that ran it writes atomically.

<search>/trial_b0-r1-03/result.json    score, curve and seconds, or the reason of the failure
<search>/trial_b0-r1-03/trial.json     KerasTuner's file: hyperparameter values and status
<search>/runs/b0-03/                   checkpoints and history of the configuration, of all rungs
"""

from __future__ import annotations

import dataclasses
import math
import time
from typing import TYPE_CHECKING, NotRequired, TypedDict, TypeGuard

from trainer.errors import RunError
from trainer.evaluation import history
from trainer.storage import documents, files

if TYPE_CHECKING:
    import pathlib
    from collections.abc import Mapping, Sequence

RESULT = "result.json"
RUNS = "runs"


@dataclasses.dataclass(frozen=True)
class TrialRecord:
    """The outcome of a trial.

    Attributes:
      score: best value of the objective over all epochs of the configuration; None if it failed.
      best_epoch: epoch of the score, counted from 1.
      epochs: epochs of the configuration so far, in all rungs.
      seconds: duration of this trial.
      reason: of a failure, as "cause: details"; empty for a success.
      curve: one row of metrics per epoch.
      ended: time at which the trial ended, in seconds since 1970.
      warnings: what the guard says of the best epoch on the validation split, one sentence each;
        None if it failed, or is of an earlier version.
    """

    score: float | None = None
    best_epoch: int = 0
    epochs: int = 0
    seconds: float = 0.0
    reason: str = ""
    curve: Sequence[Mapping[str, float]] = ()
    ended: float = dataclasses.field(default_factory=time.time)
    warnings: Sequence[str] | None = None


class _SavedRecord(TypedDict):
    """A TrialRecord on disk."""

    score: float | None
    best_epoch: documents.Count
    epochs: documents.Count
    seconds: documents.Seconds
    reason: str
    curve: list[dict[str, documents.Number]]
    ended: documents.Seconds
    warnings: NotRequired[list[str] | None]


def of_curve(
    curve: Sequence[Mapping[str, float]], epochs: int, objective: str, seconds: float
) -> TrialRecord:
    """Returns the record of a trial that trained all its epochs.

    Args:
      curve: one row of metrics per epoch, as in `metrics.jsonl`.
      epochs: last epoch of the trial; rows after it belong to a later rung.
      objective: name of the metric that is the score; missing, null, NaN and infinite values are
        undefined, and never the best.
      seconds: duration of the trial.
    """
    rows = list(curve[:epochs])
    if len(rows) < epochs:
        raise ValueError(f"a trial of {epochs} epochs has a history of only {len(rows)} epochs.")
    values = {objective: [_number(row, objective) for row in rows]}
    best = history.best_epoch(values, objective)
    if best is None:
        return TrialRecord(reason=_why_undefined(rows, objective), seconds=seconds, curve=rows)
    return TrialRecord(values[objective][best - 1], best, epochs, round(seconds, 3), "", rows)


def is_defined(score: object) -> TypeGuard[float]:
    """Whether a score is a finite number: only then a trial has completed, and can be the best."""
    return isinstance(score, int | float) and math.isfinite(score)


def _number(row: Mapping[str, float | None], name: str) -> float:
    """Returns a metric of an epoch; NaN if it is missing or null, as an undefined metric may be."""
    value = row.get(name)
    return math.nan if value is None else float(value)


def _why_undefined(rows: Sequence[Mapping[str, float]], objective: str) -> str:
    """Returns the reason of a trial whose objective has no finite value in any epoch."""
    if not any(objective in row for row in rows):
        return f"undefined: {objective} is not among the metrics of any epoch"
    if any(math.isfinite(_number(row, "val_loss")) for row in rows):
        return f"undefined: {objective} has no value in any epoch, but val_loss has"
    return f"diverged: {objective} is NaN or infinite in every epoch"


def save(folder: pathlib.Path, record: TrialRecord) -> None:
    """Writes a record atomically; NaN and infinite values become null."""
    document = dataclasses.asdict(record)
    document["score"] = record.score if is_defined(record.score) else None
    document["curve"] = [
        {name: value if is_defined(value) else None for name, value in row.items()}
        for row in record.curve
    ]
    files.save_json(folder / RESULT, document)


def load(folder: pathlib.Path) -> TrialRecord:
    """Reads a record; an unreadable one counts as a failed trial."""
    limit, way_out = documents.LARGE_BYTES, "it counts as failed"
    try:
        found: _SavedRecord = documents.load(
            folder / RESULT, _SavedRecord, way_out=way_out, max_bytes=limit
        )
        curve = history.rows_of(found["curve"], "row")
    except (RunError, ValueError) as error:
        return TrialRecord(reason=f"no result: {str(error).rstrip('.')}")
    return TrialRecord(
        found["score"], found["best_epoch"], found["epochs"], found["seconds"], found["reason"],
        curve, found["ended"], found.get("warnings"),
    )  # fmt: skip


def cause_of(reason: str) -> str:
    """Returns the cause in a reason: the part before the colon, such as "diverged"."""
    return reason.partition(":")[0]
