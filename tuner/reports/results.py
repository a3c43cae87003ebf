"""The results of a search as data: each trial with its values, curve, score or failure.

A configuration is one choice of values. Hyperband trains it in one trial per rung, each of which
resumes the one before; these trials have the same `configuration` and values.

    found = SearchResults(name="search", objective="val_auc", direction="max", ...)
    found.best.values                       # {"neurons": 320, "learning_rate": 0.0003, ...}
    [trial.reason for trial in found.failures]
"""

from __future__ import annotations

import dataclasses
import functools
from typing import TYPE_CHECKING

from tuner import records, statuses

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from tuner.space import Dimension, Value


@dataclasses.dataclass(frozen=True)
class TrialResult:
    """One trial: a configuration, trained from one epoch to another.

    Attributes:
      trial_id: Unique in the search, such as "b2-r0-03".
      status: COMPLETED, FAILED or RUNNING.
      values: A value for each dimension of the search.
      bracket: Number of the Hyperband bracket; None for an oracle without brackets.
      rung: Number of the rung in its bracket; None for an oracle without rungs.
      first_epoch: Epochs of the configuration before this trial.
      epochs: Epochs of the configuration at the end of this trial.
      score: The objective's best value over all epochs of the configuration so far.
      curve: One row per epoch: "epoch", counted from 1, and the metrics of the history.
      seconds: Duration of the trial.
      ended_at: Time of its end, in seconds since the search began; None while it runs.
      reason: Why it failed, such as "diverged: ..."; empty otherwise.
      configuration: Name of its configuration, such as "b2-03".
      warnings: What the guard says of its best epoch on the validation split; None if unknown.
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
    warnings: Sequence[str] | None = None

    @property
    def has_score(self) -> bool:
        """Whether the trial has completed, with a finite score."""
        return self.status == statuses.COMPLETED and records.is_defined(self.score)

    @property
    def epochs_done(self) -> int:
        """The last epoch in the curve: the progress of a running trial."""
        return max((int(row["epoch"]) for row in self.curve), default=self.first_epoch)

    def points(self, key: str) -> list[tuple[int, float]]:
        """Returns (epoch, value) for each epoch in which the metric is finite."""
        rows = ((int(row["epoch"]), row.get(key)) for row in self.curve)
        return sorted((epoch, float(value)) for epoch, value in rows if records.is_defined(value))


@dataclasses.dataclass(frozen=True)
class SearchResults:
    """All trials of a search, and its space.

    Attributes:
      name: Of the search.
      objective: The metric that is optimized, "val_auc" or "val_loss".
      direction: "max" or "min".
      dimensions: The dimensions of the search space.
      trials: The trials that have started, in any order.
      planned_trials: Number of trials of the whole search.
      facts: Options that identify the search for a reader, such as backbone, by name.
      class_counts: Number of validation examples of each class, by name; empty if unknown.
      refit_warnings: What the guard says of the runs of --refit_best, a sentence each.
    """

    name: str
    objective: str
    direction: str
    dimensions: Sequence[Dimension]
    trials: Sequence[TrialResult]
    planned_trials: int
    facts: Mapping[str, str]
    class_counts: Mapping[str, int] = dataclasses.field(default_factory=dict)
    refit_warnings: Sequence[str] = ()

    @functools.cached_property
    def ranked(self) -> Sequence[TrialResult]:
        """Trials with a score, the best first; ties are ordered by fewer epochs, then by id."""
        scored = [trial for trial in self.trials if trial.has_score]
        return sorted(
            scored, key=lambda trial: (self._badness(trial), trial.epochs, trial.trial_id)
        )

    @property
    def best(self) -> TrialResult | None:
        """The best trial; None if no trial has a score."""
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
        """Completed and failed trials, in the order in which they ended."""
        done = [
            trial for trial in self.trials if trial.status in (statuses.COMPLETED, statuses.FAILED)
        ]
        return sorted(done, key=lambda trial: (trial.ended_at or 0.0, trial.trial_id))

    @functools.cached_property
    def configurations(self) -> Sequence[TrialResult]:
        """The last trial of each configuration, the best first; those without a score at the end.

        The last trial is the completed one with the most epochs, or a failed or running one if
        none has completed.
        """
        last: dict[str, TrialResult] = {}
        for trial in sorted(self.trials, key=lambda t: (t.has_score, t.epochs, t.trial_id)):
            last[trial.configuration] = trial
        scored = [trial for trial in self.ranked if last[trial.configuration] is trial]
        return [*scored, *_by_id(trial for trial in last.values() if not trial.has_score)]

    def is_better(self, score: float, other: float) -> bool:
        """Whether `score` beats `other`."""
        return score > other if self.direction == "max" else score < other

    def _badness(self, trial: TrialResult) -> float:
        score = trial.score or 0.0
        return -score if self.direction == "max" else score


def _by_id(trials: Iterable[TrialResult]) -> list[TrialResult]:
    return sorted(trials, key=lambda trial: trial.trial_id)
