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
    with (
        files.replacing(path) as partial,
        partial.open("w", encoding="utf-8", newline="") as file,
    ):
        writer = csv.writer(file, lineterminator="\n")
        for row in _rows(results):
            writer.writerow(map(_cell, row))


def _cell(value: object) -> object:
    """Returns what the CSV file holds for a value: one line, and never a formula."""
    return text.cell(" ".join(value.split())) if isinstance(value, str) else value


def _rows(results: SearchResults) -> Iterator[list[object]]:
    names = [dimension.name for dimension in results.dimensions]
    yield [*_BEFORE, *names, *_AFTER]
    yield from (_row(rank, trial, names) for rank, trial in _board(results))


def _board(results: SearchResults) -> Iterator[tuple[int | None, TrialResult]]:
    yield from enumerate(results.ranked, start=1)
    others = (trial for trial in results.trials if not trial.has_score)
    yield from ((None, trial) for trial in sorted(others, key=lambda trial: trial.trial_id))


def _row(rank: int | None, trial: TrialResult, names: list[str]) -> list[object]:
    return [
        rank,
        trial.trial_id,
        trial.configuration,
        trial.status,
        float(trial.score) if trial.has_score and trial.score is not None else None,
        trial.bracket,
        trial.rung,
        trial.epochs,
        f"{trial.seconds:.1f}",
        *(trial.values[name] for name in names),
        trial.reason,
    ]
