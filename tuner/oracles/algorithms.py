"""The oracle of each algorithm: planned brackets, or KerasTuner's Bayesian optimization.

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
    """Hyperband, random search and grid search: follows a plan with numbered configurations."""

    def __init__(self, *, schedule: brackets.BracketSchedule, **options: Any) -> None:
        """Creates an oracle from a schedule and the options of DurableOracle."""
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
        entries = _tuner_entries(slot, *self._schedule.rung_epochs(slot))
        return slot.trial_id, {**self._schedule.values(slot), **entries}


class BayesianOracle(DurableOracle, keras_tuner.oracles.BayesianOptimizationOracle):
    """KerasTuner's Bayesian optimization; each draw depends only on the trials before it."""

    def __init__(self, *, space: Space, epochs: int, **options: Any) -> None:
        """Creates an oracle from the space, epochs per trial and the options of DurableOracle."""
        super().__init__(**options)
        self._space, self._epochs = space, epochs

    def _next(self) -> tuple[str, dict[str, Any]] | str:
        number = len(self.trials)
        drawn = self._draw(number) if number < self.max_trials else None
        if drawn is None:
            return statuses.IDLE if self.ongoing_trials else statuses.STOPPED
        slot = brackets.Slot(0, 0, number)
        entries = _tuner_entries(slot, 0, self._epochs)
        return slot.trial_id, {**self._space.canonical(drawn), **entries}

    def _draw(self, number: int) -> dict[str, Any] | None:
        """Returns the values of trial `number`; None when the space is exhausted."""
        # KerasTuner does not save its random states: reseeding by number makes a resumed search
        # draw what an uninterrupted one does.
        self._random_state = np.random.RandomState([self.seed % 2**32, number])
        self._seed_state = self.seed + 1000 * number
        self.gpr = self._make_gpr()
        with warnings.catch_warnings():
            # After few trials the Gaussian process warns of its length scales; the draw is valid.
            warnings.simplefilter("ignore", sklearn.exceptions.ConvergenceWarning)
            return self.populate_space(f"{number:03d}")["values"]


def _tuner_entries(slot: brackets.Slot, first_epoch: int, last_epoch: int) -> dict[str, Any]:
    """Returns the "tuner/" entries beside a trial's values, named as in KerasTuner's Hyperband."""
    return {
        "tuner/epochs": last_epoch,
        "tuner/initial_epoch": first_epoch,
        "tuner/bracket": slot.bracket,
        "tuner/round": slot.rung,
        "tuner/configuration": slot.configuration,
    }


def hyperparameters(space: Space) -> keras_tuner.HyperParameters:
    """Converts the space to KerasTuner's HyperParameters."""
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
    """Builds the oracle of the algorithm in the settings."""
    direction = settings.direction
    options: dict[str, Any] = {
        "hyperparameters": hyperparameters(space),
        "max_consecutive_failed_trials": settings.max_consecutive_failed_trials,
        "worker_timeout_s": settings.trial_timeout_s,
        "objective": keras_tuner.Objective(settings.objective, direction),
        "seed": settings.search_seed + 1,  # KerasTuner takes seed 0 for no seed.
    }
    if settings.algorithm == "bayesian":
        rung = plan.brackets[0].rungs[0]
        return BayesianOracle(space=space, epochs=rung.epochs, max_trials=rung.trials, **options)
    draws = (
        [brackets.Draws.grid(space)]
        if settings.algorithm == "grid"
        else brackets.Draws.of_iterations(space, settings.search_seed, plan)
    )
    return PlannedOracle(schedule=brackets.BracketSchedule(plan, draws, direction), **options)
