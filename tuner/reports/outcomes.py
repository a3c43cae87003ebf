"""Reads the trials of a search from disk into `results.SearchResults`.

read = outcomes.Reader(space, settings, plan, facts, began, class_counts)
read(oracle.trials.values()).best
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trainer.errors import RunError
from trainer.runs import run_directory
from tuner import records, statuses
from tuner.reports import results

if TYPE_CHECKING:
    import pathlib
    from collections.abc import Iterable, Mapping

    from tuner.plan import Plan
    from tuner.settings import Settings
    from tuner.space import Space


class Reader:
    """Reads the results of a search; a finished trial is read only once."""

    def __init__(
        self,
        space: Space,
        settings: Settings,
        plan: Plan,
        facts: Mapping[str, str],
        began: float,
        class_counts: Mapping[str, int],
    ) -> None:
        """Creates a reader for a search.

        Args:
          space: the search space.
          settings: of the search.
          plan: of the search.
          facts: about data and model, by name, for the report.
          began: start of the search, in seconds since 1970.
          class_counts: number of validation examples of each class, by name.
        """
        self._space, self._settings, self._plan = space, settings, plan
        self._facts, self._began, self._class_counts = facts, began, class_counts
        self._ended: dict[str, results.TrialResult] = {}

    def __call__(self, trials: Iterable[Any]) -> results.SearchResults:
        """Returns the results so far, of KerasTuner's trials."""
        found = [self._read(trial) for trial in sorted(trials, key=lambda trial: trial.trial_id)]
        return results.SearchResults(
            name=self._settings.project_name,
            objective=self._settings.objective,
            direction=self._settings.direction,
            dimensions=self._space.dimensions,
            trials=found,
            planned_trials=self._plan.num_trials,
            facts=self._facts,
            class_counts=self._class_counts,
        )

    def _read(self, trial: Any) -> results.TrialResult:
        if trial.trial_id in self._ended:
            return self._ended[trial.trial_id]
        folder = self._settings.folder
        values = trial.hyperparameters.values
        record = records.TrialRecord(reason=trial.message or "")
        if trial.status != statuses.RUNNING:
            record = records.load(folder / f"trial_{trial.trial_id}")
        configuration = values["tuner/configuration"]
        is_running = trial.status == statuses.RUNNING
        curve = _history(folder / records.RUNS / configuration) if is_running else record.curve
        result = results.TrialResult(
            trial_id=trial.trial_id,
            status=trial.status,
            values=self._space.canonical(values),
            bracket=int(values["tuner/bracket"]),
            rung=int(values["tuner/round"]),
            first_epoch=int(values["tuner/initial_epoch"]),
            epochs=int(values["tuner/epochs"]),
            score=record.score,
            curve=curve,
            seconds=record.seconds,
            ended_at=None if is_running else record.ended - self._began,
            reason=trial.message or record.reason,
            configuration=configuration,
            warnings=record.warnings,
        )
        if not is_running:
            self._ended[trial.trial_id] = result
        return result


def _history(folder: pathlib.Path) -> list[dict[str, float]]:
    """Reads the metrics so far of a running configuration, one row per epoch."""
    try:
        return run_directory.RunDirectory(folder).load_rows()
    except RunError:  # The file is being replaced, or is damaged.
        return []
