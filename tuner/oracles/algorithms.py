"""The oracles of a search's algorithms: a plan of brackets, or KerasTuner's Gaussian process.

oracle = algorithms.build(settings, space, plan)
trial = oracle.create_trial("tuner0")
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import keras_tuner
import numpy as np
import sklearn.exceptions

from tuner import statuses
from tuner.oracles import brackets
from tuner.oracles.durable import DurableOracle

if TYPE_CHECKING:
    from tuner.plan import Plan
    from tuner.settings import Settings
    from tuner.space import Space


class PlannedOracle(DurableOracle):
    """Hyperband, random search and grid search: a plan, and configurations by number."""

    def __init__(self, *, schedule: brackets.BracketSchedule, **options: Any) -> None:
        """Takes the schedule, and the options of DurableOracle."""
        super().__init__(**options)
        self._schedule = schedule

    def _next(self) -> tuple[str, dict[str, Any]] | str:
        outcomes = {
            trial.trial_id: brackets.TrialOutcome(trial.status, trial.score)
            for trial in self.trials.values()
        }
        slot = self._schedule.next(outcomes)
        if isinstance(slot, str):
            return slot
        marks = _marks(slot, *self._schedule.rung_epochs(slot))
        return slot.trial_id, {**self._schedule.values(slot), **marks}


class BayesianOracle(DurableOracle, keras_tuner.oracles.BayesianOptimizationOracle):
    """KerasTuner's Gaussian process; each draw is a function of the trials and their number."""

    def __init__(self, *, space: Space, epochs: int, **options: Any) -> None:
        """Takes the space, the epochs of a trial, and the options of DurableOracle."""
        super().__init__(**options)
        self._space, self._epochs = space, epochs

    def _next(self) -> tuple[str, dict[str, Any]] | str:
        number = len(self.trials)
        drawn = self._draw(number) if number < self.max_trials else None
        if drawn is None:
            return statuses.IDLE if self.ongoing_trials else statuses.STOPPED
        slot = brackets.Slot(0, 0, number)
        marks = _marks(slot, 0, self._epochs)
        return slot.trial_id, {**self._space.canonical(drawn), **marks}

    def _draw(self, number: int) -> dict[str, Any] | None:
        """Returns the values of a trial; None where the space has no more."""
        # KerasTuner's own random states are not part of what it saves.
        self._random_state = np.random.RandomState([self.seed % 2**32, number])
        self._seed_state = self.seed + 1000 * number
        self.gpr = self._make_gpr()
        with warnings.catch_warnings():
            # A few trials fix no length scale; the process says so, and draws all the same.
            warnings.simplefilter("ignore", sklearn.exceptions.ConvergenceWarning)
            return self.populate_space(f"{number:03d}")["values"]


def _marks(slot: brackets.Slot, first_epoch: int, last_epoch: int) -> dict[str, Any]:
    """Returns the entries beside a trial's values, named as KerasTuner's Hyperband names them."""
    return {
        "tuner/epochs": last_epoch,
        "tuner/initial_epoch": first_epoch,
        "tuner/bracket": slot.bracket,
        "tuner/round": slot.rung,
        "tuner/configuration": slot.configuration,
    }


def hyperparameters(space: Space) -> keras_tuner.HyperParameters:
    """Returns the space as KerasTuner has it."""
    found = keras_tuner.HyperParameters()
    for dimension in space.dimensions:
        if dimension.choices:
            ordered = not isinstance(dimension.choices[0], str)
            found.Choice(dimension.name, list(dimension.choices), ordered=ordered)
            continue
        declare = found.Int if dimension.kind == "int" else found.Float
        declare(
            dimension.name,
            dimension.low,
            dimension.high,
            step=dimension.step or None,
            sampling="log" if dimension.log else "linear",
        )
    return found


def build(settings: Settings, space: Space, plan: Plan) -> DurableOracle:
    """Returns the oracle of an algorithm."""
    direction = settings.direction
    options: dict[str, Any] = {
        "hyperparameters": hyperparameters(space),
        "max_consecutive_failed_trials": settings.max_consecutive_failed_trials,
        "worker_timeout_s": settings.trial_timeout_s,
        "objective": keras_tuner.Objective(settings.objective, direction),
        "seed": settings.search_seed + 1,  # KerasTuner takes 0 for none.
    }
    if settings.algorithm == "bayesian":
        rung = plan.brackets[0].rungs[0]
        return BayesianOracle(space=space, epochs=rung.epochs, max_trials=rung.trials, **options)
    is_grid = settings.algorithm == "grid"
    draws = (
        brackets.Draws.grid(space)
        if is_grid
        else brackets.Draws.random(space, settings.search_seed)
    )
    return PlannedOracle(schedule=brackets.BracketSchedule(plan, draws, direction), **options)
