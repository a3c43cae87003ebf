"""The ledger of a run: every look at a test split, in `looks.jsonl`.

Whoever looks at a test split again and again, and keeps the best, has made it a validation split.
Nobody can forbid it; but the report says how often it happened.

    look = looks.Look("train", config.evaluation, facts)
    rows = looks.record(directory, look, data)
"""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING, Any, TypedDict

import filelock

from trainer.storage import documents, files

if TYPE_CHECKING:
    from collections.abc import Mapping

    from trainer.data.pipeline import Data
    from trainer.options import EvaluationOptions
    from trainer.runs.run_directory import RunDirectory

LOOKS, _LOCK = "looks.jsonl", ".looks.lock"
_WAY_OUT = "restore it from a copy, or remove it: the run then forgets how often it was evaluated"


class LookRow(TypedDict):
    """A look at a test split: when, by which mode, at which data, and how it was evaluated."""

    date: str
    mode: documents.Name
    dataset: documents.Name
    fingerprint: documents.Name
    settings: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Look:
    """A look at a test split that is about to be recorded, with what it is evaluated by.

    Attributes:
      mode: of the command.
      options: how to evaluate.
      facts: for `report.json`: command, date, options, device, versions.
      shift: whether validation can stand for test, as JSON; None if that was not measured.
      is_chief: whether this host writes; others compute the same.
      localization: whether heat maps point at findings, as JSON; None where no mask tells.
    """

    mode: str
    options: EvaluationOptions
    facts: Mapping[str, Any]
    shift: Mapping[str, Any] | None = None
    is_chief: bool = True
    localization: Mapping[str, Any] | None = None


def record(directory: RunDirectory, look: Look, data: Data) -> list[LookRow]:
    """Appends a look; returns all looks of this run at the same data, this one at the end.

    Args:
      directory: of the run.
      look: this look.
      data: the data set whose test split is looked at.

    Raises:
      RunError: when the ledger can't be read.
    """
    row: LookRow = {
        "date": str(look.facts["date"]),
        "mode": look.mode,
        "dataset": data.name,
        "fingerprint": data.fingerprint,
        "settings": dataclasses.asdict(look.options),
    }
    if not look.is_chief:
        rows = [*load(directory), row]
    else:
        with filelock.FileLock(directory.path / _LOCK):  # Two evaluations may end at once.
            rows = [*load(directory), row]
            with files.replacing(directory.path / LOOKS) as partial:
                partial.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return [other for other in rows if other["fingerprint"] == row["fingerprint"]]


def load(directory: RunDirectory) -> list[LookRow]:
    """Returns every look of a run, the first one first; none of a run of an earlier version.

    Raises:
      RunError: when the ledger can't be read.
    """
    path = directory.path / LOOKS
    if not path.exists():
        return []
    found: list[LookRow] = documents.load_rows(path, LookRow, way_out=_WAY_OUT)
    return found
