"""Which trial comes next: KerasTuner's oracles, made to lose nothing and to depend on no timing.

A trial's name says all: `b0-r1-03` is the fourth configuration of bracket 0 in its second rung.
Configurations are drawn by number, and a rung is promoted when it is complete, so a search has the
same trials whichever worker ends first and wherever it was interrupted. State is a function of the
trials on disk; each is written whole or not at all.

    oracle = durable.build(settings, space, plan)
    trial = oracle.create_trial("tuner0")
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
import math
import pathlib
import re
import threading
import time
import warnings
from typing import TYPE_CHECKING, Any, TypeVar, cast

import keras_tuner
import numpy as np
import sklearn.exceptions
from keras_tuner.engine import trial as trial_lib

from trainer.storage import files
from tuner import records, statuses

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from tuner.plan import Plan
    from tuner.settings import Settings
    from tuner.space import Space

_Method = TypeVar("_Method", bound="Callable[..., Any]")

MAX_COLLISIONS = 10_000
"""Draws in a row that gave nothing new, after which a space counts as exhausted."""
MAX_HANDOUTS = 5
"""Times that a trial is begun; one whose process dies each time would hold up the search."""


@dataclasses.dataclass(frozen=True, order=True)
class Slot:
    """A place in the plan: which rung, and which of its bracket's configurations (from 0)."""

    bracket: int
    rung: int
    index: int

    @property
    def trial_id(self) -> str:
        """The trial's name."""
        return f"b{self.bracket}-r{self.rung}-{self.index:02d}"

    @property
    def configuration(self) -> str:
        """The configuration's name, the same in every rung."""
        return f"b{self.bracket}-{self.index:02d}"

    @classmethod
    def of(cls, trial_id: str) -> Slot:
        """Returns the slot of a trial by its name."""
        match = re.fullmatch(r"b(\d+)-r(\d+)-(\d+)", trial_id)
        if match is None:
            raise ValueError(f"{trial_id!r} is no trial of this search.")
        return cls(*map(int, match.groups()))


class Draws:
    """The configurations of a search by number, each different from those before it."""

    def __init__(self, source: Iterator[dict[str, Any]]) -> None:
        self._source = source
        self._drawn: list[dict[str, Any]] = []

    @classmethod
    def random(cls, space: Space, seed: int) -> Draws:
        """Draws at random, by seed."""
        return cls(_distinct(space, seed))

    @classmethod
    def grid(cls, space: Space) -> Draws:
        """Goes through a finite space."""
        return cls(space.grid())

    def get(self, number: int) -> dict[str, Any] | None:
        """Returns configuration `number` (from 0); None where the space has no more."""
        self._drawn += itertools.islice(self._source, max(0, number + 1 - len(self._drawn)))
        return self._drawn[number] if number < len(self._drawn) else None


def _distinct(space: Space, seed: int) -> Iterator[dict[str, Any]]:
    generator = np.random.default_rng(seed)
    seen: set[tuple[Any, ...]] = set()
    collisions = 0
    while collisions < MAX_COLLISIONS and len(seen) < space.size:
        values = space.values_at(generator.uniform(size=len(space.dimensions)).tolist())
        key = tuple(values.values())
        collisions = collisions + 1 if key in seen else 0
        if not collisions:
            seen.add(key)
            yield values


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a plan needs to know of a trial: its status, and its score once it has one."""

    status: str
    score: float | None = None


class Ladder:
    """Goes through a plan: which slot is next, given how the trials so far went."""

    def __init__(self, plan: Plan, draws: Draws, direction: str) -> None:
        """Takes what decides.

        Args:
          plan: brackets and rungs.
          draws: the configurations.
          direction: of the score, max or min.
        """
        self._plan, self._draws, self._sign = plan, draws, -1 if direction == "max" else 1

    def next(self, outcomes: Mapping[str, Outcome]) -> Slot | str:
        """Returns the next slot, or IDLE while a rung has to be waited for, or STOPPED."""
        has_running = False
        for number, bracket in enumerate(self._plan.brackets):
            for level in range(len(bracket.rungs)):
                free, is_complete = self._look(number, level, outcomes)
                if free is not None:
                    return free
                if not is_complete:
                    has_running = True
                    break  # The rungs above wait for it; other brackets don't.
        return statuses.IDLE if has_running else statuses.STOPPED

    def values(self, slot: Slot) -> dict[str, Any]:
        """Returns the configuration of a slot."""
        values = self._draws.get(self._number(slot.bracket, slot.index))
        if values is None:
            raise ValueError(f"{slot.trial_id} is beyond the search space.")
        return values

    def rung_epochs(self, slot: Slot) -> tuple[int, int]:
        """Returns (first epoch, last epoch) of a slot's trial."""
        rungs = self._plan.brackets[slot.bracket].rungs
        return rungs[slot.rung - 1].epochs if slot.rung else 0, rungs[slot.rung].epochs

    def _look(
        self, bracket: int, level: int, outcomes: Mapping[str, Outcome]
    ) -> tuple[Slot | None, bool]:
        """Returns (the first free slot of a rung, whether all its trials have ended)."""
        wanted = self._plan.brackets[bracket].rungs[level].trials
        is_complete = True
        for slot in self._candidates(bracket, level, outcomes):
            if not wanted:
                break
            outcome = outcomes.get(slot.trial_id)
            if outcome is None:
                return slot, False
            if outcome.status == statuses.FAILED:
                continue  # The next candidate takes its place.
            wanted -= 1
            is_complete &= outcome.status == statuses.COMPLETED
        return None, is_complete

    def _candidates(
        self, bracket: int, level: int, outcomes: Mapping[str, Outcome]
    ) -> Iterator[Slot]:
        """Yields who may be in a rung: new draws in the first, then the best of the one below."""
        if level == 0:
            for index in itertools.count():
                if self._draws.get(self._number(bracket, index)) is None:
                    return
                yield Slot(bracket, 0, index)
        below = [
            (self._sign * outcome.score, Slot.of(trial_id).index)
            for trial_id, outcome in outcomes.items()
            if outcome.status == statuses.COMPLETED
            and outcome.score is not None
            and (slot := Slot.of(trial_id)).bracket == bracket
            and slot.rung == level - 1
        ]
        for _, index in sorted(below):
            yield Slot(bracket, level, index)

    def _number(self, bracket: int, index: int) -> int:
        """Numbers the draws: first those that are planned, then replacements by turns."""
        planned = self._plan.brackets[bracket].rungs[0].trials
        if index < planned:
            return self._plan.first_draw(bracket) + index
        turn = (index - planned) * len(self._plan.brackets)
        return self._plan.num_configurations + turn + bracket


def _synchronized(method: _Method) -> _Method:
    """Runs one call at a time; unlike KerasTuner's own, it lets go when a call raises."""

    @functools.wraps(method)
    def run(self: Any, *args: Any, **kwargs: Any) -> Any:
        with self._turn:
            return method(self, *args, **kwargs)

    return cast("_Method", run)


class Durable(keras_tuner.Oracle):
    """What every oracle here has in common: whole files, lost workers, counted failures.

    Attributes:
      stopped_because: why the search ends before its plan does; empty while it goes on.
    """

    def __init__(
        self,
        *,
        space: Space,
        max_consecutive_failures: int,
        worker_timeout_s: float,
        clock: Callable[[], float] = time.monotonic,
        **options: Any,
    ) -> None:
        """Takes what decides.

        Args:
          space: what is searched.
          max_consecutive_failures: after so many with one and the same cause the search ends.
          worker_timeout_s: a trial whose worker is silent for longer is given to another.
          clock: seconds.
          **options: of KerasTuner's oracle.
        """
        super().__init__(
            hyperparameters=hyperparameters(space),
            allow_new_entries=False,
            tune_new_entries=False,
            **options,
        )
        self.verbose = 0
        self._turn = threading.RLock()
        self.space = space
        self.stopped_because = ""
        self._max_failures, self._worker_timeout_s = max_consecutive_failures, worker_timeout_s
        self._clock = clock
        self._heard_s: dict[str, float] = {}
        self._reached: dict[str, str] = {}
        self.ongoing_trials: dict[str, trial_lib.Trial] = {}
        self.end_order: list[str] = []

    @_synchronized
    def create_trial(self, tuner_id: str) -> trial_lib.Trial:
        """Returns the trial that a worker has to run: its own, a lost one, or the next."""
        self.tuner_ids.add(tuner_id)
        trial = self.ongoing_trials.get(tuner_id) or self._take_over(tuner_id)
        if trial is None and not self.stopped_because:
            trial = self._begin(tuner_id)
        if trial is not None:
            self._heard_s[trial.trial_id] = self._clock()
            return self._hand_out(tuner_id, trial)
        status = (
            statuses.IDLE if self.ongoing_trials and not self.stopped_because else statuses.STOPPED
        )
        if status == statuses.STOPPED:
            self.tuner_ids.discard(tuner_id)
        return trial_lib.Trial(self.get_space(), trial_id="none", status=status)

    @_synchronized
    def end_trial(self, trial: trial_lib.Trial) -> None:
        """Notes how a trial ended, as its worker has written it to disk."""
        mine = self.trials[trial.trial_id]
        if mine.status != statuses.RUNNING:  # Two workers had it, one of them taken for lost.
            return
        record = records.load(self.trial_folder(mine.trial_id))
        self._end(mine, record)

    @_synchronized
    def get_trial(self, trial_id: str) -> trial_lib.Trial:
        """Returns a trial; asking for a running one tells that its worker is alive."""
        self._heard_s[trial_id] = self._clock()
        return self.trials[trial_id]

    @property
    def is_over(self) -> bool:
        """Whether no trial runs and none will."""
        return not self.ongoing_trials and (
            bool(self.stopped_because) or self._next() == statuses.STOPPED
        )

    def trial_folder(self, trial_id: str) -> pathlib.Path:
        """Returns the folder of a trial's records."""
        return pathlib.Path(self._get_trial_dir(trial_id))

    def save(self) -> None:
        """Writes the state, whole or not at all."""
        state = {**self.get_state(), "reached": self._reached}
        files.save_json(pathlib.Path(self._get_oracle_fname()), state)

    def reload(self) -> None:
        """Takes the trials from disk; those that ran still belong to their workers."""
        folder = pathlib.Path(self._project_dir)
        for path in sorted(folder.glob("trial_*/trial.json")):
            trial = trial_lib.Trial.from_state(json.loads(path.read_text("utf-8")))
            self.trials[trial.trial_id] = trial
        path = pathlib.Path(self._get_oracle_fname())
        if path.exists():
            state = json.loads(path.read_text("utf-8"))
            known = {w: t for w, t in state["ongoing_trials"].items() if t in self.trials}
            self.set_state({**state, "ongoing_trials": known})
            self._reached = dict(state["reached"])
        self.ongoing_trials = {
            worker: trial
            for worker, trial in self.ongoing_trials.items()
            if trial.status == statuses.RUNNING
        }
        ended = [t for t in self.end_order if self.trials[t].status != statuses.RUNNING]
        missing = sorted(
            t.trial_id
            for t in self.trials.values()
            if t.status != statuses.RUNNING and t.trial_id not in ended
        )
        self.end_order = [*ended, *missing]
        self._heard_s = dict.fromkeys(self.trials, self._clock())

    def _save_trial(self, trial: trial_lib.Trial) -> None:
        folder = self.trial_folder(trial.trial_id)
        files.save_json(folder / "trial.json", _without_nan(trial.get_state()))

    def _begin(self, tuner_id: str) -> trial_lib.Trial | None:
        """Begins the next trial, if one can begin now."""
        found = self._next()
        if isinstance(found, str):
            return None
        trial_id, values = found
        space = self.get_space()
        space.values = values
        trial = trial_lib.Trial(space, trial_id=trial_id, status=statuses.RUNNING)
        self.trials[trial_id] = trial
        self.start_order.append(trial_id)
        self.ongoing_trials[tuner_id] = trial
        self._record_values(trial)
        return trial

    def _next(self) -> tuple[str, dict[str, Any]] | str:
        """Returns (name, values) of the next trial, IDLE or STOPPED."""
        raise NotImplementedError

    def _take_over(self, tuner_id: str) -> trial_lib.Trial | None:
        """Gives a worker the trial of one that has been silent for too long, or has gone."""
        held = {trial.trial_id: worker for worker, trial in self.ongoing_trials.items()}
        for trial_id, trial in sorted(self.trials.items()):
            silent_s = self._clock() - self._heard_s.get(trial_id, 0.0)
            is_lost = trial_id not in held or silent_s > self._worker_timeout_s
            if trial.status == statuses.RUNNING and is_lost:
                self.ongoing_trials.pop(held.get(trial_id, ""), None)
                self.ongoing_trials[tuner_id] = trial
                return trial
        return None

    def _hand_out(self, tuner_id: str, trial: trial_lib.Trial) -> trial_lib.Trial:
        """Notes that a trial is begun; one that ends its process every time is given up."""
        reached = self._checkpoint_of(trial)
        if reached != self._reached.get(trial.trial_id):
            self._run_times[trial.trial_id] = 0  # It has come further since.
        self._reached[trial.trial_id] = reached
        self._run_times[trial.trial_id] += 1
        if self._run_times[trial.trial_id] > MAX_HANDOUTS:
            reason = f"process died {MAX_HANDOUTS} times: its output says why"
            self._end(trial, records.Record(reason=reason))
            return self.create_trial(tuner_id)
        self._save_trial(trial)
        self.save()
        return trial

    def _checkpoint_of(self, trial: trial_lib.Trial) -> str:
        """Returns the name of the newest checkpoint of a trial's configuration."""
        configuration = trial.hyperparameters.values["tuner/configuration"]
        folder = pathlib.Path(self._project_dir) / records.RUNS / configuration / "checkpoints"
        return max((path.name for path in folder.glob("[0-9]*-[0-9]*")), default="")

    def _end(self, trial: trial_lib.Trial, record: records.Record) -> None:
        trial.status = statuses.COMPLETED if record.score is not None else statuses.FAILED
        trial.score, trial.message = record.score, record.reason or None
        trial.best_step = record.best_epoch
        self.end_order.append(trial.trial_id)
        self._stop_at_failures()
        self.ongoing_trials = {
            worker: other
            for worker, other in self.ongoing_trials.items()
            if other.trial_id != trial.trial_id
        }
        self._save_trial(trial)
        self.save()

    def _stop_at_failures(self) -> None:
        """Ends a search whose last trials all failed for one and the same reason."""
        last = [self.trials[trial_id] for trial_id in self.end_order[-self._max_failures :]]
        causes = {records.cause_of(trial.message or "") for trial in last}
        has_failed = all(trial.status == statuses.FAILED for trial in last)
        if len(last) == self._max_failures and has_failed and len(causes) == 1:
            self.stopped_because = (
                f"{len(last)} trials in a row failed for one reason ({last[-1].message})"
            )


class Rungs(Durable):
    """Hyperband, random search and grid search: a plan, and configurations by number."""

    def __init__(self, *, ladder: Ladder, **options: Any) -> None:
        """Takes the ladder, and the options of Durable."""
        super().__init__(**options)
        self._ladder = ladder

    def _next(self) -> tuple[str, dict[str, Any]] | str:
        outcomes = {t.trial_id: Outcome(t.status, t.score) for t in self.trials.values()}
        slot = self._ladder.next(outcomes)
        if isinstance(slot, str):
            return slot
        first, last = self._ladder.rung_epochs(slot)
        marks = {
            "tuner/epochs": last,
            "tuner/initial_epoch": first,
            "tuner/bracket": slot.bracket,
            "tuner/round": slot.rung,
            "tuner/configuration": slot.configuration,
        }
        return slot.trial_id, {**self._ladder.values(slot), **marks}


class Bayesian(Durable, keras_tuner.oracles.BayesianOptimizationOracle):
    """KerasTuner's Gaussian process; each draw is a function of the trials and their number."""

    def __init__(self, *, epochs: int, **options: Any) -> None:
        """Takes the epochs of a trial, and the options of Durable and KerasTuner."""
        super().__init__(**options)
        self._epochs = epochs

    def _next(self) -> tuple[str, dict[str, Any]] | str:
        number = len(self.trials)
        if number >= self.max_trials:
            return statuses.IDLE if self.ongoing_trials else statuses.STOPPED
        # KerasTuner's own random states are not part of what it saves.
        self._random_state = np.random.RandomState([self.seed % 2**32, number])
        self._seed_state = self.seed + 1000 * number
        self.gpr = self._make_gpr()
        with warnings.catch_warnings():
            # A few trials fix no length scale; the process says so, and draws all the same.
            warnings.simplefilter("ignore", sklearn.exceptions.ConvergenceWarning)
            drawn = self.populate_space(f"{number:03d}")["values"]
        if drawn is None:
            return statuses.IDLE if self.ongoing_trials else statuses.STOPPED
        slot = Slot(0, 0, number)
        marks = {
            "tuner/epochs": self._epochs,
            "tuner/initial_epoch": 0,
            "tuner/bracket": 0,
            "tuner/round": 0,
            "tuner/configuration": slot.configuration,
        }
        return slot.trial_id, {**self.space.canonical(drawn), **marks}


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


def build(settings: Settings, space: Space, plan: Plan) -> Durable:
    """Returns the oracle of an algorithm."""
    direction = settings.direction
    options: dict[str, Any] = {
        "space": space,
        "max_consecutive_failures": settings.max_consecutive_failures,
        "worker_timeout_s": settings.trial_timeout_s,
        "objective": keras_tuner.Objective(settings.objective, direction),
        "seed": settings.search_seed + 1,  # KerasTuner takes 0 for none.
    }
    if settings.algorithm == "bayesian":
        rung = plan.brackets[0].rungs[0]
        return Bayesian(epochs=rung.epochs, max_trials=rung.trials, **options)
    is_grid = settings.algorithm == "grid"
    draws = Draws.grid(space) if is_grid else Draws.random(space, settings.search_seed)
    return Rungs(ladder=Ladder(plan, draws, direction), **options)


def _without_nan(state: Any) -> Any:
    """Returns a state as JSON can hold it."""
    if isinstance(state, dict):
        return {key: _without_nan(value) for key, value in state.items()}
    if isinstance(state, list | tuple):
        return [_without_nan(value) for value in state]
    return None if isinstance(state, float) and not math.isfinite(state) else state
