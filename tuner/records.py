"""What a trial leaves on disk when it has ended, written whole by whoever ran it.

<search>/trial_b0-r1-03/result.json    score, curve, seconds, or why there is no score
<search>/trial_b0-r1-03/trial.json     KerasTuner's own: its values and status
<search>/runs/b0-03/                   checkpoints and history of the configuration, over its rungs
"""

from __future__ import annotations

import dataclasses
import json
import math
import time
from typing import TYPE_CHECKING, Any

from trainer.evaluation import history
from trainer.storage import files

if TYPE_CHECKING:
    import pathlib
    from collections.abc import Mapping, Sequence

RESULT = "result.json"
RUNS = "runs"


@dataclasses.dataclass(frozen=True)
class TrialRecord:
    """How a trial went.

    Attributes:
      score: best value of the objective over all epochs of the configuration; None of a failure.
      best_epoch: which had it, from 1.
      epochs: trained so far, over all rungs.
      seconds: that this trial took.
      reason: of a failure: its cause, a colon, and more.
      curve: a row for each epoch.
      ended: when, in seconds since 1970.
    """

    score: float | None = None
    best_epoch: int = 0
    epochs: int = 0
    seconds: float = 0.0
    reason: str = ""
    curve: Sequence[Mapping[str, float]] = ()
    ended: float = dataclasses.field(default_factory=time.time)


def of_curve(
    curve: Sequence[Mapping[str, float]], epochs: int, objective: str, seconds: float
) -> TrialRecord:
    """Returns the record of a trial that was trained to the end.

    Args:
      curve: a row for each epoch, as `metrics.jsonl` has it.
      epochs: to which it trained; later rows are of a later rung.
      objective: its column.
      seconds: that it took.
    """
    rows = list(curve[:epochs])
    if len(rows) < epochs:
        raise ValueError(f"a trial of {epochs} epochs has a history of {len(rows)}.")
    values = {name: [row[name] for row in rows] for name in (objective,)}
    best = history.best_epoch(values, objective)
    if best is None:
        return TrialRecord(reason=f"diverged: {objective} is never a number", seconds=seconds)
    score = float(rows[best - 1][objective])
    return TrialRecord(score, best, epochs, round(seconds, 3), "", rows)


def save(folder: pathlib.Path, record: TrialRecord) -> None:
    """Writes a record, whole or not at all; a value that is no number becomes null."""
    document = dataclasses.asdict(record)
    document["curve"] = [
        {name: value if math.isfinite(value) else None for name, value in row.items()}
        for row in record.curve
    ]
    files.save_json(folder / RESULT, document)


def load(folder: pathlib.Path) -> TrialRecord:
    """Reads a record; what can't be read is a failure like another."""
    try:
        found: dict[str, Any] = json.loads((folder / RESULT).read_text("utf-8"))
        names = {field.name for field in dataclasses.fields(TrialRecord)}
        return TrialRecord(**{name: value for name, value in found.items() if name in names})
    except (OSError, ValueError, TypeError) as error:
        return TrialRecord(reason=f"no result: {folder / RESULT} can't be read ({error})")


def cause_of(reason: str) -> str:
    """Returns the part of a reason that failures of one kind share."""
    return reason.partition(":")[0]
