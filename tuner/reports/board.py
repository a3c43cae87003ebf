"""What a person sees while a search runs: one table, drawn anew in place, or a line per trial.

board = Board(54, "val_auc", planned_epochs=226, planned_rungs={(2, 0): 12, (2, 1): 4, ...})
board.resume(found)      # Of an earlier process: what has ended before is not told again.
board.update(found)      # Whenever a trial has begun, gone on or ended.
"""

from __future__ import annotations

import collections
import dataclasses
import os
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
    """What the whole search has.

    Attributes:
      trials: How many.
      epochs: How many it trains; 0 where nobody knows.
      rungs: Trials by (bracket, rung).
      workers: Trials that run at the same time.
    """

    trials: int
    epochs: int = 0
    rungs: Mapping[tuple[int, int], int] = dataclasses.field(default_factory=dict)
    workers: int = 1


class Board:
    """Tells how a search goes: on a terminal in a table, elsewhere in plain lines."""

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
        """Starts with an empty board.

        Args:
          planned_trials: Of the whole search.
          objective: The figure that is optimized.
          planned_epochs: That the whole search trains; 0 where nobody knows, which leaves out the
            time left.
          planned_rungs: Trials by (bracket, rung).
          workers: Trials that run at the same time.
          is_terminal: Whether to draw in place; None asks the console.
          say: Writes a text and a line feed.
        """
        self._totals = Totals(planned_trials, planned_epochs, dict(planned_rungs or {}), workers)
        self._objective, self._say = objective, say
        in_place = console.wants_colour() and os.environ.get("TERM") != "dumb"
        self._in_place = in_place if is_terminal is None else is_terminal
        self._told: set[str] = set()
        self._drawn = ""

    def resume(self, results: SearchResults) -> None:
        """Takes what has ended so far as known."""
        self._told |= {trial.trial_id for trial in results.finished}

    def update(self, results: SearchResults) -> None:
        """Shows how the search stands now."""
        if self._in_place:
            self._draw(results)
        else:
            self._tell(results)

    def _draw(self, results: SearchResults) -> None:
        size = shutil.get_terminal_size()
        lines = format_table(results, self._totals, width=size.columns - 1).splitlines()
        table = "\n".join(lines[: size.lines - 1])  # The cursor can't go up beyond the first line.
        if table == self._drawn:
            return
        back = _UP_AND_CLEAR.format(self._drawn.count("\n") + 1) if self._drawn else ""
        self._say(back + table)
        self._drawn = table

    def _tell(self, results: SearchResults) -> None:
        news = [trial for trial in results.finished if trial.trial_id not in self._told]
        for trial in news:
            self._told.add(trial.trial_id)
            self._say(format_line(trial, self._objective))
        if news:
            self._say(f"  {_summary(results, self._totals)}")


def format_table(results: SearchResults, totals: Totals, *, width: int) -> str:
    """Returns the table: the best so far, progress by rung, running trials, and what is left.

    Args:
      results: How the search stands.
      totals: What it has in all.
      width: Of the terminal, in characters; the best's values are wrapped, other lines cut.
    """
    lines = [_summary(results, totals), *_best(results, width), *_rungs(results, totals)]
    lines += _running(results)
    return "\n".join(_cut(text.printable(line), width) for line in lines)


def format_line(trial: TrialResult, objective: str) -> str:
    """Returns what a log says of a finished trial."""
    took = formats.duration(trial.seconds)
    if trial.status == statuses.FAILED:
        reason = text.one_line(trial.reason) or "no reason was recorded"
        return f"trial {trial.trial_id} failed after {took}: {reason}"
    epochs = formats.counted(trial.epochs, "epoch")
    score = formats.score(trial.score)
    values = formats.values(trial.values)
    return f"trial {trial.trial_id}: {objective} {score} after {epochs}, took {took} ({values})"


def seconds_left(results: SearchResults, totals: Totals) -> float | None:
    """Returns how long the search still takes, from the mean time of an epoch so far.

    Epochs that failed trials have not trained count as if they were still to come, so it is rather
    too long than too short. None as long as no epoch has been trained, or none is planned.
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
        f"{len(results.finished)} of {formats.counted(totals.trials, 'trial')} finished",
        f"{len(results.failures)} failed",
        "time left unknown" if left is None else f"about {formats.duration(left)} left",
    ]
    if results.best is not None:
        parts.insert(1, f"best {results.objective} {formats.score(results.best.score)}")
    return ", ".join(parts)


def _best(results: SearchResults, width: int) -> Iterator[str]:
    best = results.best
    if best is not None:
        epochs = formats.counted(best.epochs, "epoch")
        line = f"best     {best.trial_id} after {epochs}: {formats.values(best.values)}"
        yield from textwrap.wrap(
            line, max(width, _NARROWEST), subsequent_indent=" " * 9, break_on_hyphens=False
        )


def _rungs(results: SearchResults, totals: Totals) -> Iterator[str]:
    """Yields a line for each bracket, in the order in which Hyperband goes through them."""
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
