"""The leaderboard of a search: `leaderboard.csv`, one row per trial, the best first.

leaderboard.write(found, search_dir / "leaderboard.csv")
"""

from __future__ import annotations

import csv
from typing import TYPE_CHECKING

from trainer.storage import files
from trainer.system import text

if TYPE_CHECKING:
    import pathlib
    from collections.abc import Iterator

    from tuner.reports.results import SearchResults, TrialResult
    from tuner.space import Value

_BEFORE = (
    "rank", "trial", "configuration", "status", "score", "bracket", "rung", "epochs", "seconds",
)  # fmt: skip
_AFTER = ("reason",)


def write(results: SearchResults, path: pathlib.Path) -> None:
    """Writes the ranked trials, then the others by id, without a rank.

    Args:
      results: The results so far.
      path: The CSV file: UTF-8, lines end with a line feed, scores in full precision.
    """
    names = [dimension.name for dimension in results.dimensions]
    with (
        files.replacing(path) as partial,
        partial.open("w", encoding="utf-8", newline="") as file,
    ):
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([*_BEFORE, *names, *_AFTER])
        for rank, trial in _board(results):
            writer.writerow(_row(rank, trial, names))


def _board(results: SearchResults) -> Iterator[tuple[int | None, TrialResult]]:
    yield from enumerate(results.ranked, start=1)
    others = (trial for trial in results.trials if not trial.has_score)
    yield from ((None, trial) for trial in sorted(others, key=lambda trial: trial.trial_id))


def _row(rank: int | None, trial: TrialResult, names: list[str]) -> list[object]:
    return [
        rank,
        text.cell(trial.trial_id),
        text.cell(trial.configuration),
        trial.status,
        float(trial.score) if trial.has_score and trial.score is not None else None,
        trial.bracket,
        trial.rung,
        trial.epochs,
        f"{trial.seconds:.1f}",
        *(_cell(trial.values[name]) for name in names),
        text.cell(" ".join(trial.reason.split())),
    ]


def _cell(value: Value) -> Value:
    """Returns a number as it is; a text so that no spreadsheet takes it for a formula."""
    return text.cell(value) if isinstance(value, str) else value
