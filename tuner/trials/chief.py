"""The chief of a parallel search: serves the oracle to workers over KerasTuner's gRPC protocol.

    with chief.serving(oracle, "127.0.0.1:0") as address:      # all workers on this host
        chief.supervise(oracle, argv, settings, address, show_progress, environments)

For workers on other hosts, the process whose KERASTUNER_TUNER_ID contains "chief" calls
`chief.serve`. A chief trains no trials itself.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import grpc
from keras_tuner.src import protos
from keras_tuner.src.distribute import oracle_chief

from trainer.errors import RunError
from trainer.storage import files
from trainer.system import console, processes, signals, text
from tuner.trials import waiting, worker

if TYPE_CHECKING:
    import pathlib
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from tuner.oracles.durable import DurableOracle
    from tuner.settings import Settings

POLL_S = 0.5
GRACE_S = 30.0
FAREWELL_S = 5.0
"""Time that the chief stays up after the last trial, to answer STOPPED to workers that ask."""
MAX_DEATHS = 3
"""Times that a worker may die while no trial ends."""


@contextlib.contextmanager
def serving(oracle: DurableOracle, address: str) -> Iterator[str]:
    """Serves the oracle at an address; port 0 takes a free port. Yields the address.

    Raises:
      RunError: when the address can't be bound.
    """
    # KerasTuner's own start_server never returns if a worker was killed.
    # Without the option, a second chief would share the port, and answer half of the workers.
    server = grpc.server(
        concurrent.futures.ThreadPoolExecutor(1), options=[("grpc.so_reuseport", 0)]
    )
    servicer = oracle_chief.OracleServicer(oracle)
    protos.get_service_grpc().add_OracleServicer_to_server(servicer, server)
    host = address.rpartition(":")[0]
    try:
        port = server.add_insecure_port(address)
    except RuntimeError as error:
        raise RunError(
            f"the chief can't listen at {address}: the port is in use, or the address is not of "
            "this machine; set KERASTUNER_ORACLE_IP and KERASTUNER_ORACLE_PORT."
        ) from error
    server.start()
    try:
        yield f"{host}:{port}"
    finally:
        server.stop(grace=None).wait()


def serve(oracle: DurableOracle, show_progress: Callable[[], None]) -> None:
    """Serves the oracle until the search is over; workers may join and leave at any time."""
    address = waiting.address_of_chief()
    with serving(oracle, address):
        console.say(
            f"the chief listens at {address}, without authentication: run it in a private network."
        )
        reminder = waiting.Reminder(
            lambda waited: (
                f"no worker has asked for a trial at {address} for {waited}; start some with "
                "KERASTUNER_TUNER_ID=worker-0 and so on. They compute features before they ask."
            )
        )
        while not oracle.is_over:
            show_progress()
            reminder.tick(oracle.silent_s)
            time.sleep(POLL_S)
        deadline = time.monotonic() + FAREWELL_S
        while oracle.tuner_ids and time.monotonic() < deadline:
            time.sleep(POLL_S)
    show_progress()


class WorkerProcess:
    """A worker process on this machine."""

    def __init__(
        self,
        index: int,
        argv: Sequence[str],
        address: str,
        folder: pathlib.Path,
        own: Mapping[str, str],
    ) -> None:
        self._index, self._argv = index, argv
        host, _, port = address.rpartition(":")
        self._environment = {
            **os.environ,
            "PYTHONPATH": processes.search_path(),
            "KERASTUNER_TUNER_ID": f"worker-{index}",
            "KERASTUNER_ORACLE_IP": host,
            "KERASTUNER_ORACLE_PORT": port,
            worker.PARENT: str(os.getpid()),
            **own,
        }
        self._log = folder / f"worker-{index}.log"
        self.deaths = 0
        self.start()

    def start(self) -> None:
        """Starts or restarts the process; its output is appended to its own log."""
        with self._log.open("a", encoding="utf-8") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tuner", *self._argv],
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self._environment,
                start_new_session=True,  # Ctrl-C must reach it once, through `stop`.
            )

    @property
    def code(self) -> int | None:
        """The exit code; None while the process runs."""
        return self._process.poll()

    def stop(self, seconds: float) -> None:
        """Terminates the process; kills it unless it ends within `seconds`."""
        self._process.terminate()
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def explain(self) -> str:
        """Returns the last line of the worker's log, and where the log is."""
        lines = files.tail(self._log).strip().splitlines()
        last = text.one_line(lines[-1]) if lines else "no output"
        return f"worker {self._index}: {last} (see {self._log})"


def environments(workers: int, gpus: Sequence[str]) -> list[dict[str, str]]:
    """Returns the variables of each worker's own: one GPU, in turn, if there are any.

    Without them each worker would take all GPUs, and memory of each.
    """
    if not gpus:
        return [{} for _ in range(workers)]
    return [{"CUDA_VISIBLE_DEVICES": gpus[index % len(gpus)]} for index in range(workers)]


def supervise(
    oracle: DurableOracle,
    argv: Sequence[str],
    settings: Settings,
    address: str,
    show_progress: Callable[[], None],
    environments: Sequence[Mapping[str, str]],
) -> None:
    """Runs workers on this machine until the search is over; restarts a worker that dies.

    Args:
      oracle: the one that `serving` serves.
      argv: arguments of `python -m tuner`, for every worker.
      settings: of the search.
      address: of the oracle.
      show_progress: called every POLL_S seconds.
      environments: variables of each worker's own; one worker for each.

    Raises:
      RunError: when a worker ends with an error, or dies repeatedly while no trial ends.
    """
    workers = [
        WorkerProcess(index, argv, address, settings.folder, own)
        for index, own in enumerate(environments)
    ]
    ended = len(oracle.end_order)
    try:
        while not oracle.is_over:
            show_progress()
            time.sleep(POLL_S)
            if len(oracle.end_order) > ended:
                ended = len(oracle.end_order)
                for process in workers:
                    process.deaths = 0
            for process in workers:
                _restart(process)
        show_progress()
        _wait(workers, GRACE_S)
    finally:
        for process in workers:
            process.stop(GRACE_S)


def _restart(process: WorkerProcess) -> None:
    code = process.code
    if code in (None, 0):  # It is running, or has ended because no trial is left.
        return
    process.deaths += 1
    # Exit codes 1 and 2 are errors with a message, which a restart would only repeat.
    if code in (1, 2) or process.deaths > MAX_DEATHS:
        raise RunError(process.explain())
    name = signals.name_of(-code) if code < 0 else f"exit code {code}"
    console.say(f"a worker ended with {name}; restarting it.")
    process.start()


def _wait(workers: Sequence[WorkerProcess], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while any(w.code is None for w in workers) and time.monotonic() < deadline:
        time.sleep(POLL_S)
