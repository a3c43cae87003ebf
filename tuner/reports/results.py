"""What a search found, as data: every trial with its values, curve, score and cause of failure.

A configuration is one choice of values. Hyperband trains it in several trials, one a rung, each
resuming where the one before ended; those trials share their `configuration` and their values.

    found = SearchResults(name="search", objective="val_auc", direction="max", ...)
    found.best.values                       # {"neurons": 320, "learning_rate": 0.0003, ...}
    [trial.reason for trial in found.failures]
"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import TYPE_CHECKING

from tuner import statuses

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from tuner.space import Dimension, Value


@dataclasses.dataclass(frozen=True)
class TrialResult:
    """One trial: a configuration, trained from one epoch to another.

    Attributes:
      trial_id: Tells it from all others, like "b2-r0-03".
      status: COMPLETED, FAILED or RUNNING.
      values: A value for each dimension of the search.
      bracket: Of Hyperband; None for an oracle without brackets.
      rung: Of the bracket; None for an oracle without rungs.
      first_epoch: Epochs that the configuration had been trained when this trial began.
      epochs: Epochs that it has when this trial ends, counted from the configuration's start.
      score: The objective's best value over all of the configuration's epochs so far.
      curve: A row per epoch: "epoch", counted from 1, and the figures of the history.
      seconds: What the trial took.
      ended_at: When it ended, in seconds since the search began.
      reason: Why it failed, like "diverged: ..."; else empty.
      configuration: Which one it trained, like "b2-03".
    """

    trial_id: str
    status: str
    values: Mapping[str, Value]
    bracket: int | None
    rung: int | None
    first_epoch: int
    epochs: int
    score: float | None
    curve: Sequence[Mapping[str, float]]
    seconds: float
    ended_at: float | None
    reason: str
    configuration: str

    @property
    def has_score(self) -> bool:
        """Whether it is completed, with a score that can be compared."""
        return (
            self.status == statuses.COMPLETED
            and self.score is not None
            and math.isfinite(self.score)
        )

    @property
    def epochs_done(self) -> int:
        """Epochs of the configuration at the last one that the curve has."""
        return max((int(row["epoch"]) for row in self.curve), default=self.first_epoch)

    def points(self, key: str) -> list[tuple[int, float]]:
        """Returns (epoch, value) wherever the curve has a finite value of this figure."""
        rows = ((int(row["epoch"]), row.get(key, math.nan)) for row in self.curve)
        return sorted((epoch, float(value)) for epoch, value in rows if math.isfinite(value))


@dataclasses.dataclass(frozen=True)
class SearchResults:
    """All trials of a search, and what was searched.

    Attributes:
      name: Of the search.
      objective: The figure that is optimized, under Keras's name: "val_auc" or "val_loss".
      direction: "max" or "min".
      dimensions: What was searched.
      trials: All that have been started, in any order.
      planned_trials: How many the whole search has.
      facts: Data, backbone, precision and whatever else a reader needs, by name.
    """

    name: str
    objective: str
    direction: str
    dimensions: Sequence[Dimension]
    trials: Sequence[TrialResult]
    planned_trials: int
    facts: Mapping[str, str]

    @functools.cached_property
    def ranked(self) -> Sequence[TrialResult]:
        """Completed trials, the best first; of equal ones the one with fewer epochs, then by id."""
        scored = [trial for trial in self.trials if trial.has_score]
        return sorted(
            scored, key=lambda trial: (self._badness(trial), trial.epochs, trial.trial_id)
        )

    @property
    def best(self) -> TrialResult | None:
        """The first of the ranked trials, if there is one."""
        return self.ranked[0] if self.ranked else None

    @functools.cached_property
    def failures(self) -> Sequence[TrialResult]:
        """Failed trials by id."""
        return _by_id(trial for trial in self.trials if trial.status == statuses.FAILED)

    @functools.cached_property
    def running(self) -> Sequence[TrialResult]:
        """Running trials by id."""
        return _by_id(trial for trial in self.trials if trial.status == statuses.RUNNING)

    @functools.cached_property
    def finished(self) -> Sequence[TrialResult]:
        """Completed and failed trials in the order of their ends."""
        done = [
            trial for trial in self.trials if trial.status in (statuses.COMPLETED, statuses.FAILED)
        ]
        return sorted(done, key=lambda trial: (trial.ended_at or 0.0, trial.trial_id))

    @functools.cached_property
    def configurations(self) -> Sequence[TrialResult]:
        """For each configuration its last trial, the best first, those without a score at the end.

        The last one is that with the most epochs: a completed one, unless there is none.
        """
        last: dict[str, TrialResult] = {}
        for trial in sorted(self.trials, key=lambda t: (t.has_score, t.epochs, t.trial_id)):
            last[trial.configuration] = trial
        scored = [trial for trial in self.ranked if last[trial.configuration] is trial]
        return [*scored, *_by_id(trial for trial in last.values() if not trial.has_score)]

    def is_better(self, score: float, other: float) -> bool:
        """Whether the first score beats the second."""
        return score > other if self.direction == "max" else score < other

    def _badness(self, trial: TrialResult) -> float:
        score = trial.score or 0.0
        return -score if self.direction == "max" else score


def _by_id(trials: Iterable[TrialResult]) -> list[TrialResult]:
    return sorted(trials, key=lambda trial: trial.trial_id)
