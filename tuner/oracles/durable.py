"""The base class of our oracles: a KerasTuner oracle that resumes exactly.

Its state is a function of the trials on disk, each written atomically: a search that was
interrupted at any point ends with the same trials as an uninterrupted one. A subclass's `_next`
chooses the next trial; this class handles lost workers and consecutive failures.

    class FirstThree(DurableOracle):
        def _next(self):
            number = len(self.trials)
            return (f"b0-r0-{number:02d}", values) if number < 3 else statuses.STOPPED
"""

from __future__ import annotations

import functools
import math
import pathlib
import threading
import time
from typing import TYPE_CHECKING, Any, TypeVar, cast

import keras_tuner
from keras_tuner.engine import trial as trial_lib

from trainer.storage import files
from tuner import records, statuses
from tuner.oracles import saved

if TYPE_CHECKING:
    from collections.abc import Callable

_Method = TypeVar("_Method", bound="Callable[..., Any]")

MAX_HANDOUTS = 5
"""Times that a trial may start without a new checkpoint; after that, it counts as failed."""


def _synchronized(method: _Method) -> _Method:
    """Runs one call at a time; KerasTuner's own decorator keeps its lock when a call raises."""

    @functools.wraps(method)
    def run(self: Any, *args: Any, **kwargs: Any) -> Any:
        with self._call_lock:
            return method(self, *args, **kwargs)

    return cast("_Method", run)


class DurableOracle(keras_tuner.Oracle):
    """A KerasTuner oracle whose search survives interruptions, lost workers and failing trials.

    Attributes:
      stopped_because: why the search ends early; empty otherwise.
    """

    def __init__(
        self,
        *,
        max_consecutive_failed_trials: int,
        worker_timeout_s: float,
        clock: Callable[[], float] = time.monotonic,
        **options: Any,
    ) -> None:
        """Creates an oracle without trials.

        Args:
          max_consecutive_failed_trials: number of trials in a row that must fail for the same
            reason to end the search.
          worker_timeout_s: time without a heartbeat after which a worker loses its trial.
          clock: returns monotonic seconds.
          **options: of `keras_tuner.Oracle`, such as objective and hyperparameters.
        """
        super().__init__(allow_new_entries=False, tune_new_entries=False, **options)
        self.verbose = 0
        self._call_lock = threading.RLock()
        self.stopped_because = ""
        self._max_failures, self._worker_timeout_s = max_consecutive_failed_trials, worker_timeout_s
        self._clock = clock
        self._heard_s = clock()
        self._last_heartbeat_s: dict[str, float] = {}
        self._last_checkpoint: dict[str, str] = {}
        self.ongoing_trials: dict[str, trial_lib.Trial] = {}
        self.end_order: list[str] = []

    @_synchronized
    def create_trial(self, tuner_id: str) -> trial_lib.Trial:
        """Returns a trial to run: the worker's unfinished one, a lost worker's, or the next."""
        self.tuner_ids.add(tuner_id)
        self._heard_s = self._clock()
        trial = self.ongoing_trials.get(tuner_id) or self._take_over(tuner_id)
        if trial is None and not self.stopped_because:
            trial = self._begin(tuner_id)
        if trial is not None:
            self._last_heartbeat_s[trial.trial_id] = self._clock()
            return self._hand_out(tuner_id, trial)
        status = (
            statuses.IDLE if self.ongoing_trials and not self.stopped_because else statuses.STOPPED
        )
        if status == statuses.STOPPED:
            self.tuner_ids.discard(tuner_id)
        return trial_lib.Trial(self.get_space(), trial_id="none", status=status)

    @_synchronized
    def end_trial(self, trial: trial_lib.Trial) -> None:
        """Ends a trial with the record that its worker has saved.

        KerasTuner's oracle takes the outcome from `trial`; a file also survives a lost chief.
        """
        mine = self.trials[trial.trial_id]
        if mine.status != statuses.RUNNING:  # Another worker took it over and has ended it.
            return
        record = records.load(self.trial_folder(mine.trial_id))
        self._end(mine, record)

    @_synchronized
    def get_trial(self, trial_id: str) -> trial_lib.Trial:
        """Returns a trial; the call is also the heartbeat of the trial's worker."""
        self._heard_s = self._last_heartbeat_s[trial_id] = self._clock()
        return self.trials[trial_id]

    @property
    def is_over(self) -> bool:
        """Whether no trial is running and none is left."""
        return not self.ongoing_trials and (
            bool(self.stopped_because) or self._next() == statuses.STOPPED
        )

    @property
    def silent_s(self) -> float:
        """Seconds since a worker was heard, or since the oracle was built."""
        return self._clock() - self._heard_s

    def trial_folder(self, trial_id: str) -> pathlib.Path:
        """Returns the folder of a trial's files."""
        return pathlib.Path(self._get_trial_dir(trial_id))

    def save(self) -> None:
        """Writes the state atomically."""
        state = {**self.get_state(), "reached": self._last_checkpoint}
        files.save_json(pathlib.Path(self._get_oracle_fname()), state)

    def reload(self) -> None:
        """Loads the trials from disk; running ones still belong to their workers.

        Raises:
          RunError: when a file is damaged.
        """
        folder = pathlib.Path(self._project_dir)
        saved.require_no_links(folder)
        # A kill may fall between the two writes: the trials' own files decide, not oracle.json.
        for path in sorted(folder.glob("trial_*/trial.json")):
            trial = saved.load_trial(path, self.get_space())
            if trial.status == statuses.COMPLETED and not records.is_defined(trial.score):
                trial.status, trial.message = statuses.FAILED, _undefined(trial.score)
            self.trials[trial.trial_id] = trial
        path = pathlib.Path(self._get_oracle_fname())
        if path.exists():
            state = saved.load_oracle(path, self.trials)
            # What the search itself determines is not taken from the file.
            self.set_state({**self.get_state(), **state})
            self._last_checkpoint = dict(state["reached"])
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
        self._last_heartbeat_s = dict.fromkeys(self.trials, self._clock())

    def _save_trial(self, trial: trial_lib.Trial) -> None:
        folder = self.trial_folder(trial.trial_id)
        files.save_json(folder / "trial.json", _without_nan(trial.get_state()))

    def _begin(self, tuner_id: str) -> trial_lib.Trial | None:
        """Starts the next trial; None if none can start now."""
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
        """Returns (trial id, values) of the next trial, or IDLE or STOPPED."""
        raise NotImplementedError

    def _take_over(self, tuner_id: str) -> trial_lib.Trial | None:
        """Gives a worker the running trial of a lost worker, if there is one."""
        held = {trial.trial_id: worker for worker, trial in self.ongoing_trials.items()}
        for trial_id, trial in sorted(self.trials.items()):
            silent_s = self._clock() - self._last_heartbeat_s.get(trial_id, 0.0)
            is_lost = trial_id not in held or silent_s > self._worker_timeout_s
            if trial.status == statuses.RUNNING and is_lost:
                self.ongoing_trials.pop(held.get(trial_id, ""), None)
                self.ongoing_trials[tuner_id] = trial
                return trial
        return None

    def _hand_out(self, tuner_id: str, trial: trial_lib.Trial) -> trial_lib.Trial:
        """Saves that a trial starts; fails a trial whose process has died MAX_HANDOUTS times."""
        newest = self._checkpoint_of(trial)
        if newest != self._last_checkpoint.get(trial.trial_id):
            self._run_times[trial.trial_id] = 0  # It has made progress since its last start.
        self._last_checkpoint[trial.trial_id] = newest
        self._run_times[trial.trial_id] += 1
        if self._run_times[trial.trial_id] > MAX_HANDOUTS:
            reason = f"process died {MAX_HANDOUTS} times: see its output for the cause"
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
        is_defined = records.is_defined(record.score)
        trial.status = statuses.COMPLETED if is_defined else statuses.FAILED
        trial.score = record.score if is_defined else None
        trial.message = record.reason or (None if is_defined else _undefined(record.score))
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
        """Stops the search if its last trials all failed for the same reason."""
        last = [self.trials[trial_id] for trial_id in self.end_order[-self._max_failures :]]
        causes = {records.cause_of(trial.message or "") for trial in last}
        has_failed = all(trial.status == statuses.FAILED for trial in last)
        if len(last) == self._max_failures and has_failed and len(causes) == 1:
            self.stopped_because = (
                f"{len(last)} trials in a row failed for the same reason ({last[-1].message})"
            )


def _undefined(score: object) -> str:
    """Returns the reason of a trial that ended without an error, and without a score."""
    return f"undefined: its score is {score}"


def _without_nan(state: Any) -> Any:
    """Replaces NaN and infinite values by None: JSON has neither."""
    if isinstance(state, dict):
        return {key: _without_nan(value) for key, value in state.items()}
    if isinstance(state, list | tuple):
        return [_without_nan(value) for value in state]
    return None if isinstance(state, float) and not math.isfinite(state) else state
