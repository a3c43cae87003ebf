"""What every oracle here has in common: KerasTuner's, made to lose nothing and to resume.

State is a function of the trials on disk, each written whole or not at all: a search that was
interrupted anywhere has the same trials as one that was not. What comes next is a subclass's
`_next`; workers that went silent and failures in a row are handled here.

    class FirstThree(DurableOracle):
        def _next(self):
            number = len(self.trials)
            return (f"b0-r0-{number:02d}", values) if number < 3 else statuses.STOPPED
"""

from __future__ import annotations

import functools
import json
import math
import pathlib
import threading
import time
from typing import TYPE_CHECKING, Any, TypeVar, cast

import keras_tuner
from keras_tuner.engine import trial as trial_lib

from trainer.storage import files
from tuner import records, statuses

if TYPE_CHECKING:
    from collections.abc import Callable

_Method = TypeVar("_Method", bound="Callable[..., Any]")

MAX_HANDOUTS = 5
"""Times that a trial is begun; one whose process dies each time would hold up the search."""


def _synchronized(method: _Method) -> _Method:
    """Runs one call at a time; unlike KerasTuner's own, it lets go when a call raises."""

    @functools.wraps(method)
    def run(self: Any, *args: Any, **kwargs: Any) -> Any:
        with self._turn:
            return method(self, *args, **kwargs)

    return cast("_Method", run)


class DurableOracle(keras_tuner.Oracle):
    """A KerasTuner oracle whose search survives interruptions, lost workers and failing trials.

    Attributes:
      stopped_because: why the search ends before its plan does; empty while it goes on.
    """

    def __init__(
        self,
        *,
        max_consecutive_failed_trials: int,
        worker_timeout_s: float,
        clock: Callable[[], float] = time.monotonic,
        **options: Any,
    ) -> None:
        """Takes what decides.

        Args:
          max_consecutive_failed_trials: after so many with one and the same cause the search ends.
          worker_timeout_s: a trial whose worker is silent for longer is given to another.
          clock: seconds.
          **options: of KerasTuner's oracle, its hyperparameters among them.
        """
        super().__init__(allow_new_entries=False, tune_new_entries=False, **options)
        self.verbose = 0
        self._turn = threading.RLock()
        self.stopped_because = ""
        self._max_failures, self._worker_timeout_s = max_consecutive_failed_trials, worker_timeout_s
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
            self._end(trial, records.TrialRecord(reason=reason))
            return self.create_trial(tuner_id)
        self._save_trial(trial)
        self.save()
        return trial

    def _checkpoint_of(self, trial: trial_lib.Trial) -> str:
        """Returns the name of the newest checkpoint of a trial's configuration."""
        configuration = trial.hyperparameters.values["tuner/configuration"]
        folder = pathlib.Path(self._project_dir) / records.RUNS / configuration / "checkpoints"
        return max((path.name for path in folder.glob("[0-9]*-[0-9]*")), default="")

    def _end(self, trial: trial_lib.Trial, record: records.TrialRecord) -> None:
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


def _without_nan(state: Any) -> Any:
    """Returns a state as JSON can hold it."""
    if isinstance(state, dict):
        return {key: _without_nan(value) for key, value in state.items()}
    if isinstance(state, list | tuple):
        return [_without_nan(value) for value in state]
    return None if isinstance(state, float) and not math.isfinite(state) else state
