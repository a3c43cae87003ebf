"""What runs trials: KerasTuner's tuner around the trainer, alone or as one of several workers.

    worker = TrialWorker(oracle, hypermodel, settings)
    worker.search()

Where KERASTUNER_ORACLE_IP names a chief, trials come from there; what a trial leaves is written to
the search's folder, which chief and workers share.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from typing import TYPE_CHECKING, Any

import grpc
import keras_tuner
from absl import logging
from keras_tuner.src.distribute import oracle_client

from trainer.errors import ConfigError, RunError
from trainer.system import text
from tuner import records, statuses
from tuner.trials import isolation, tasks

if TYPE_CHECKING:
    from collections.abc import Iterator

    from keras_tuner.engine import trial as trial_lib

    from tuner.oracles.durable import DurableOracle
    from tuner.settings import Settings
    from tuner.trials.hypermodel import FineTuning

IDLE_S = 1.0
"""Between two questions for a trial while none can begin; KerasTuner's own loop asks at once."""
HEARTBEAT_S = 5.0
CHIEF_TIMEOUT_S = 600.0
"""For a chief to come back; KerasTuner waits an hour for an answer."""
PARENT = "CXR_TUNER_PARENT"
"""Environment variable with the process that a worker must not outlive."""


class TrialWorker(keras_tuner.Tuner):
    """Runs the trials that its oracle gives it, until there are no more."""

    def __init__(
        self,
        oracle: DurableOracle,
        hypermodel: FineTuning,
        settings: Settings,
    ) -> None:
        """Takes what decides.

        Args:
          oracle: says which trial is next; where there is a chief, its place is taken by a client.
          hypermodel: builds and trains.
          settings: of the search.
        """
        self._settings = settings
        super().__init__(
            oracle=oracle,
            hypermodel=hypermodel,
            directory=settings.directory,
            project_name=settings.project_name,
        )
        self._is_remote = self.oracle is not oracle
        oracle_client.TIMEOUT = CHIEF_TIMEOUT_S

    def search(self) -> None:
        """Runs trials until the oracle has no more.

        Raises:
          RunError: when the chief is away for longer than CHIEF_TIMEOUT_S.
        """
        try:
            self._search()
        except grpc.RpcError as error:
            address = f"{os.environ['KERASTUNER_ORACLE_IP']}:{os.environ['KERASTUNER_ORACLE_PORT']}"
            raise RunError(
                f"the chief at {address} does not answer; the search is over, or it has to be "
                "started again."
            ) from error

    def _search(self) -> None:
        while True:
            trial = self.oracle.create_trial(self.tuner_id)
            if trial.status == statuses.STOPPED:
                return
            if trial.status == statuses.IDLE:
                time.sleep(IDLE_S)
                continue
            with self._heard_of(trial.trial_id):
                self.run_trial(trial)
            self.oracle.end_trial(trial)

    def run_trial(self, trial: trial_lib.Trial) -> records.TrialRecord:
        """Trains a trial to the end of its rung, and writes how it went."""
        marks = trial.hyperparameters.values
        folder = self._settings.folder / records.RUNS / marks["tuner/configuration"]
        epochs = int(marks["tuner/epochs"])
        result_folder = self._settings.folder / f"trial_{trial.trial_id}"
        if self._settings.isolate_trials:
            record = self._run_isolated(trial, folder, epochs)
        else:
            record = self._run_here(trial, folder, epochs)
        if record.reason:
            logging.info("Trial %s: %s", trial.trial_id, record.reason)
        records.save(result_folder, record)
        return record

    def _run_here(self, trial: trial_lib.Trial, folder: Any, epochs: int) -> records.TrialRecord:
        hp = trial.hyperparameters

        def work() -> list[dict[str, Any]]:
            with tasks.owned(folder):
                model = self.hypermodel.build(hp)
                return self.hypermodel.fit(hp, model, folder=folder, epochs=epochs)

        return tasks.attempt(folder, epochs, self._settings.objective, work)

    def _run_isolated(
        self, trial: trial_lib.Trial, folder: Any, epochs: int
    ) -> records.TrialRecord:
        result_folder = self._settings.folder / f"trial_{trial.trial_id}"
        try:
            config = self.hypermodel.config_of(trial.hyperparameters)
        except ConfigError as error:  # Options that are possible each, but not together.
            return records.TrialRecord(reason=f"impossible: {text.first_line(error)}")
        task = tasks.Task(config, folder, epochs)
        return isolation.run(task, self._settings.objective, result_folder, self._limit)

    @property
    def _limit(self) -> int:
        gigabytes = self._settings.trial_memory_gb
        if gigabytes:
            return int(gigabytes * 2**30)
        return int(isolation.free_bytes() * isolation.SHARE / self._settings.workers)

    @contextlib.contextmanager
    def _heard_of(self, trial_id: str) -> Iterator[None]:
        """Lets the chief know that this worker is alive, as long as it runs a trial."""
        if not self._is_remote:
            yield
            return
        ended = threading.Event()

        def beat() -> None:
            while not ended.wait(HEARTBEAT_S):
                with contextlib.suppress(Exception):  # A chief that is away may come back.
                    self.oracle.get_trial(trial_id)

        threading.Thread(target=beat, daemon=True).start()
        try:
            yield
        finally:
            ended.set()

    def _populate_initial_space(self) -> None:
        """Does nothing: the oracle has the space; KerasTuner would build models to find it."""

    def save(self) -> None:
        """Does nothing: the oracle saves all there is."""


def end_with_parent() -> None:
    """Ends this process when the one that started it is gone, however that ended."""
    parent = int(os.environ.get(PARENT, "0"))
    if not parent:
        return

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(IDLE_S)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
