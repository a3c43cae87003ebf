"""The progress of a running search: a table redrawn in place, or a log line per trial.

board = Board(54, "val_auc", planned_epochs=226, planned_rungs={(2, 0): 12, (2, 1): 4, ...})
board.resume(found)      # Trials that an earlier process has finished are not logged again.
board.update(found)      # As often as wanted: prints only what is new.
"""

from __future__ import annotations

import collections
import dataclasses
import shutil
import textwrap
from typing import TYPE_CHECKING

from trainer.system import console, text
from tuner import statuses
from tuner.reports import formats

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from tuner.reports.results import SearchResults, TrialResult

_MAX_RUNNING = 8
_NARROWEST = 20
_UP_AND_CLEAR = "\x1b[{}A\r\x1b[J"


@dataclasses.dataclass(frozen=True)
class Totals:
    """Planned totals of the whole search.

    Attributes:
      trials: Number of trials.
      epochs: Total epochs of all trials; 0 if unknown.
      rungs: Number of trials by (bracket, rung).
      workers: Number of trials that run in parallel.
    """

    trials: int
    epochs: int = 0
    rungs: Mapping[tuple[int, int], int] = dataclasses.field(default_factory=dict)
    workers: int = 1


class Board:
    """Shows the progress of a search: as a table on a terminal, else as plain lines."""

    def __init__(
        self,
        planned_trials: int,
        objective: str,
        *,
        planned_epochs: int = 0,
        planned_rungs: Mapping[tuple[int, int], int] | None = None,
        workers: int = 1,
        is_terminal: bool | None = None,
        say: Callable[[str], None] = console.say,
    ) -> None:
        """Creates a board without printing anything.

        Args:
          planned_trials: Number of trials of the whole search.
          objective: The metric that is optimized.
          planned_epochs: Total epochs of the whole search; 0 if unknown, then the time left is
            unknown too.
          planned_rungs: Number of trials by (bracket, rung).
          workers: Number of trials that run in parallel.
          is_terminal: Whether to redraw in place; None asks the console.
          say: Prints a text and a line feed.
        """
        self._totals = Totals(planned_trials, planned_epochs, dict(planned_rungs or {}), workers)
        self._objective, self._say = objective, say
        self._in_place = console.is_terminal() if is_terminal is None else is_terminal
        self._logged: set[str] = set()
        self._drawn = ""

    def resume(self, results: SearchResults) -> None:
        """Marks the trials that have finished as logged."""
        self._logged |= {trial.trial_id for trial in results.finished}

    def update(self, results: SearchResults) -> None:
        """Redraws the table, or logs the trials that have finished since the last call."""
        if self._in_place:
            self._draw(results)
        else:
            self._log(results)

    def _draw(self, results: SearchResults) -> None:
        size = shutil.get_terminal_size()
        lines = format_table(results, self._totals, width=size.columns - 1).splitlines()
        table = "\n".join(lines[: size.lines - 1])  # The cursor can't move above the screen.
        if table == self._drawn:
            return
        back = _UP_AND_CLEAR.format(self._drawn.count("\n") + 1) if self._drawn else ""
        self._say(back + table)
        self._drawn = table

    def _log(self, results: SearchResults) -> None:
        news = [trial for trial in results.finished if trial.trial_id not in self._logged]
        for trial in news:
            self._logged.add(trial.trial_id)
            self._say(format_line(trial, self._objective))
        if news:
            self._say(f"  {_summary(results, self._totals)}")


def format_table(results: SearchResults, totals: Totals, *, width: int) -> str:
    """Returns the table: summary, best trial, progress by rung, and running trials.

    Args:
      results: The results so far.
      totals: Planned totals of the search.
      width: Of the terminal, in characters; the best trial's values are wrapped, other lines cut.
    """
    lines = [_summary(results, totals), *_best(results, width), *_rungs(results, totals)]
    lines += _running(results)
    return "\n".join(_cut(text.printable(line), width) for line in lines)


def format_line(trial: TrialResult, objective: str) -> str:
    """Returns the log line of a finished trial."""
    took = formats.duration(trial.seconds)
    if trial.status == statuses.FAILED:
        reason = " ".join(trial.reason.split()) or "no reason was recorded"
        return text.one_line(f"trial {trial.trial_id} failed after {took}: {reason}")
    epochs = text.counted(trial.epochs, "epoch")
    score = formats.score(trial.score)
    values = formats.values(trial.values)
    return text.one_line(
        f"trial {trial.trial_id}: {objective} {score} after {epochs}, took {took} ({values})"
    )


def seconds_left(results: SearchResults, totals: Totals) -> float | None:
    """Estimates the remaining seconds of the search from the mean time of an epoch so far.

    It tends to overestimate: the epochs that a failed trial did not train count as remaining. None
    until a trial completes, or if the total of epochs is unknown.
    """
    if len(results.finished) >= totals.trials:
        return 0.0
    timed = [trial for trial in results.finished if trial.status == statuses.COMPLETED]
    epochs = sum(trial.epochs - trial.first_epoch for trial in timed)
    if not totals.epochs or not epochs:
        return None
    begun = sum(trial.epochs_done - trial.first_epoch for trial in results.running)
    left = max(totals.epochs - epochs - begun, 0)
    return left * sum(trial.seconds for trial in timed) / epochs / max(totals.workers, 1)


def _summary(results: SearchResults, totals: Totals) -> str:
    left = seconds_left(results, totals)
    parts = [
        f"{len(results.finished)} of {text.counted(totals.trials, 'trial')} finished",
        f"{len(results.failures)} failed",
    ]
    if left != 0:
        parts.append(
            "time left unknown" if left is None else f"about {formats.duration(left)} left"
        )
    if results.best is not None:
        parts.insert(1, f"best {results.objective} {formats.score(results.best.score)}")
    return ", ".join(parts)


def _best(results: SearchResults, width: int) -> Iterator[str]:
    best = results.best
    if best is not None:
        epochs = text.counted(best.epochs, "epoch")
        line = f"best     {best.trial_id} after {epochs}: {formats.values(best.values)}"
        yield from textwrap.wrap(
            line, max(width, _NARROWEST), subsequent_indent=" " * 9, break_on_hyphens=False
        )


def _rungs(results: SearchResults, totals: Totals) -> Iterator[str]:
    """Yields a line per bracket, the highest number first, with the progress of its rungs."""
    done = collections.Counter((trial.bracket, trial.rung) for trial in results.finished)
    brackets: dict[int, list[str]] = {}
    for bracket, rung in sorted(totals.rungs, key=lambda key: (-key[0], key[1])):
        progress = f"rung {rung}: {done[bracket, rung]}/{totals.rungs[bracket, rung]}"
        brackets.setdefault(bracket, []).append(progress)
    for bracket, rungs in brackets.items():
        yield f"bracket  {bracket}  {'  '.join(rungs)}"


def _running(results: SearchResults) -> Iterator[str]:
    for trial in results.running[:_MAX_RUNNING]:
        progress = f"epoch {trial.epochs_done} of {trial.epochs}"
        yield f"running  {trial.trial_id}  {progress}: {formats.values(trial.values)}"
    if len(results.running) > _MAX_RUNNING:
        yield f"running  and {len(results.running) - _MAX_RUNNING} more"


def _cut(line: str, width: int) -> str:
    return line if len(line) <= width else f"{line[: max(width - 1, 0)]}…"
