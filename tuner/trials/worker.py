"""A KerasTuner tuner that runs trials with the trainer, alone or as one of several workers.

    worker = TrialWorker(oracle, hypermodel, settings)
    worker.search()

With KERASTUNER_ORACLE_IP in the environment, trials come from that chief. Results are written to
the search's folder, which chief and workers share.
"""

from __future__ import annotations

import contextlib
import threading
import time
from typing import TYPE_CHECKING, Any

import grpc
import keras_tuner
from absl import logging
from keras_tuner.src.distribute import oracle_client

from trainer.errors import ConfigError, RunError
from trainer.system import memory, processes, text
from tuner import records, statuses
from tuner.trials import isolation, tasks, waiting

if TYPE_CHECKING:
    from collections.abc import Iterator

    from keras_tuner.engine import trial as trial_lib

    from tuner.oracles.durable import DurableOracle
    from tuner.settings import Settings
    from tuner.trials.hypermodel import FineTuning

IDLE_S = 1.0
"""Pause between requests while no trial can start; KerasTuner's own loop does not pause."""
HEARTBEAT_S = 5.0
CHIEF_TIMEOUT_S = 600.0
"""How long a worker waits for an absent chief; KerasTuner waits an hour."""
PARENT = "CXR_TUNER_PARENT"
"""Environment variable with the process id of the chief, which a worker must not outlive."""


class TrialWorker(keras_tuner.Tuner):
    """Runs trials of its oracle until none is left."""

    def __init__(
        self,
        oracle: DurableOracle,
        hypermodel: FineTuning,
        settings: Settings,
    ) -> None:
        """Creates a tuner.

        Args:
          oracle: chooses the trials; with a chief, KerasTuner replaces it by a client.
          hypermodel: builds and trains models.
          settings: of the search.
        """
        self._settings = settings
        super().__init__(
            oracle=oracle,
            hypermodel=hypermodel,
            directory=str(settings.parent),
            project_name=settings.project_name,
        )
        self._is_remote = self.oracle is not oracle
        oracle_client.TIMEOUT = CHIEF_TIMEOUT_S

    def search(self) -> None:
        """Runs trials until the oracle has no more.

        Raises:
          RunError: when the chief does not answer for CHIEF_TIMEOUT_S.
        """
        try:
            self._search()
        except grpc.RpcError as error:
            raise _absent(waiting.address_of_chief(), "does not answer") from error

    def _search(self) -> None:
        while True:
            with self._waiting():
                trial = self.oracle.create_trial(self.tuner_id)
            if trial.status == statuses.STOPPED:
                return
            if trial.status == statuses.IDLE:
                time.sleep(IDLE_S)
                continue
            with self._heartbeat(trial.trial_id):
                self.run_trial(trial)
            with self._waiting():
                self.oracle.end_trial(trial)

    def _waiting(self) -> contextlib.AbstractContextManager[None]:
        """Says while a remote chief does not answer."""
        return _said(waiting.address_of_chief()) if self._is_remote else contextlib.nullcontext()

    def run_trial(self, trial: trial_lib.Trial) -> records.TrialRecord:
        """Trains a trial to the end of its rung, and saves its record."""
        values = trial.hyperparameters.values
        folder = self._settings.folder / records.RUNS / values["tuner/configuration"]
        epochs = int(values["tuner/epochs"])
        result_folder = self._settings.folder / f"trial_{trial.trial_id}"
        if self._settings.isolate_trials:
            record = self._run_isolated(trial, folder, epochs)
        else:
            record = self._run_in_process(trial, folder, epochs)
        if record.reason:
            logging.info("Trial %s: %s", trial.trial_id, record.reason)
        records.save(result_folder, record)
        return record

    def _run_in_process(
        self, trial: trial_lib.Trial, folder: Any, epochs: int
    ) -> records.TrialRecord:
        hp = trial.hyperparameters

        def work() -> tasks.TrainedTrial:
            with tasks.locked(folder):
                model = self.hypermodel.build(hp)
                return self.hypermodel.fit(hp, model, folder=folder, epochs=epochs)

        return tasks.attempt(folder, epochs, self._settings.objective, work)

    def _run_isolated(
        self, trial: trial_lib.Trial, folder: Any, epochs: int
    ) -> records.TrialRecord:
        result_folder = self._settings.folder / f"trial_{trial.trial_id}"
        try:
            config = self.hypermodel.config_of(trial.hyperparameters)
        except ConfigError as error:  # Each value is valid, their combination is not.
            return records.TrialRecord(reason=f"impossible: {text.first_line(error)}")
        task = tasks.Task(config, folder, epochs)
        return isolation.run(task, self._settings.objective, result_folder, self._limit)

    @property
    def _limit(self) -> int:
        gigabytes = self._settings.trial_memory_gb
        if gigabytes:
            return int(gigabytes * 2**30)
        return int(memory.free_bytes() * isolation.SHARE / self._settings.workers)

    @contextlib.contextmanager
    def _heartbeat(self, trial_id: str) -> Iterator[None]:
        """Sends heartbeats to a remote chief while a trial runs."""
        if not self._is_remote:
            yield
            return
        ended = threading.Event()

        def beat() -> None:
            while not ended.wait(HEARTBEAT_S):
                with contextlib.suppress(Exception):  # An absent chief may come back.
                    self.oracle.get_trial(trial_id)

        threading.Thread(target=beat, daemon=True).start()
        try:
            yield
        finally:
            ended.set()

    def _populate_initial_space(self) -> None:
        """Does nothing: the space is declared; KerasTuner would build models to discover it."""

    def save(self) -> None:
        """Does nothing: a tuner has no state, and the oracle saves its own."""


def await_chief() -> None:
    """Waits until the chief that the environment names can be reached.

    Raises:
      ConfigError: when the environment names no address.
      RunError: when no chief comes within CHIEF_TIMEOUT_S.
    """
    address = waiting.address_of_chief()
    # By default, the pauses between attempts to connect grow to two minutes.
    options = [("grpc.max_reconnect_backoff_ms", 5000)]
    with _said(address), grpc.insecure_channel(address, options) as channel:
        try:
            grpc.channel_ready_future(channel).result(CHIEF_TIMEOUT_S)
        except grpc.FutureTimeoutError as error:
            waited = waiting.duration(CHIEF_TIMEOUT_S)
            raise _absent(address, f"has not answered for {waited}") from error


def _said(address: str) -> contextlib.AbstractContextManager[None]:
    until = waiting.duration(CHIEF_TIMEOUT_S)
    return waiting.said(
        lambda waited: (
            f"waiting for the chief at {address} for {waited}, {until} at most: start it there, "
            "with KERASTUNER_TUNER_ID=chief and the same options, or unset KERASTUNER_* to search "
            "alone."
        )
    )


def _absent(address: str, problem: str) -> RunError:
    return RunError(
        f"the chief at {address} {problem}; start it again, unless the search is over, or unset "
        "KERASTUNER_* to search alone."
    )


def end_with_parent() -> None:
    """Ends this process when the chief that started it has died, even by SIGKILL."""
    processes.end_with_parent(PARENT)
