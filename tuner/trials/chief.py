"""The chief of a parallel search: gives out trials over KerasTuner's own protocol, computes none.

    with chief.serving(oracle, "127.0.0.1:0") as address:      # on one host, beside its workers
        chief.supervise(oracle, argv, settings, address, on_turn)

Across hosts it is `chief.serve`, in the process whose KERASTUNER_TUNER_ID begins with "chief".
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import grpc
from keras_tuner.src import protos
from keras_tuner.src.distribute import oracle_chief

from trainer.errors import RunError
from trainer.system import console, processes
from tuner.trials import worker

if TYPE_CHECKING:
    import pathlib
    from collections.abc import Callable, Iterator, Sequence

    from tuner.oracles.durable import DurableOracle
    from tuner.settings import Settings

TURN_S = 0.5
GRACE_S = 30.0
FAREWELL_S = 5.0
"""After the last trial, so that workers of other hosts hear that there are no more."""
QUICK_DEATHS = 3
"""Times in a row that a worker may die before its first trial."""


@contextlib.contextmanager
def serving(oracle: DurableOracle, address: str) -> Iterator[str]:
    """Answers workers at an address (port 0: any); yields it.

    Raises:
      RunError: when the address can't be had.
    """
    # KerasTuner's own start_server waits for ever for a worker that was killed.
    server = grpc.server(concurrent.futures.ThreadPoolExecutor(1))
    servicer = oracle_chief.OracleServicer(oracle)
    protos.get_service_grpc().add_OracleServicer_to_server(servicer, server)
    host = address.rpartition(":")[0]
    try:
        port = server.add_insecure_port(address)
    except RuntimeError as error:
        raise RunError(
            f"the chief can't listen at {address}: it is in use, or no address of this machine."
        ) from error
    server.start()
    try:
        yield f"{host}:{port}"
    finally:
        server.stop(grace=None).wait()


def serve(oracle: DurableOracle, on_turn: Callable[[], None]) -> None:
    """Answers until the search is over; workers start and end as they like."""
    address = f"{os.environ['KERASTUNER_ORACLE_IP']}:{os.environ['KERASTUNER_ORACLE_PORT']}"
    with serving(oracle, address):
        console.say(f"the chief answers at {address}.")
        while not oracle.is_over:
            on_turn()
            time.sleep(TURN_S)
        deadline = time.monotonic() + FAREWELL_S
        while oracle.tuner_ids and time.monotonic() < deadline:
            time.sleep(TURN_S)
    on_turn()


class WorkerProcess:
    """A worker on this machine, begun again when it dies."""

    def __init__(self, index: int, argv: Sequence[str], address: str, folder: pathlib.Path) -> None:
        self._index, self._argv = index, argv
        host, _, port = address.rpartition(":")
        self._environment = {
            **os.environ,
            "PYTHONPATH": processes.search_path(),
            "KERASTUNER_TUNER_ID": f"worker-{index}",
            "KERASTUNER_ORACLE_IP": host,
            "KERASTUNER_ORACLE_PORT": port,
            worker.PARENT: str(os.getpid()),
        }
        self._log = folder / f"worker-{index}.log"
        self.deaths = 0
        self.start()

    def start(self) -> None:
        """Starts it, once more if need be; its output goes to a log of its own."""
        with self._log.open("a", encoding="utf-8") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tuner", *self._argv],
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self._environment,
                start_new_session=True,  # Ctrl-C reaches it once, from here.
            )

    @property
    def code(self) -> int | None:
        """Its exit code; None while it runs."""
        return self._process.poll()

    def stop(self, seconds: float) -> None:
        """Lets it save what it has, and ends it."""
        self._process.terminate()
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def explain(self) -> str:
        """Returns what it said last."""
        lines = self._log.read_text("utf-8", errors="replace").strip().splitlines()
        return f"worker {self._index}: {lines[-1] if lines else 'no output'} (see {self._log})"


def supervise(
    oracle: DurableOracle,
    argv: Sequence[str],
    settings: Settings,
    address: str,
    on_turn: Callable[[], None],
) -> None:
    """Runs workers on this machine until the search is over; one that dies is begun again.

    Args:
      oracle: that `serving` answers for.
      argv: of `python -m tuner`, for every worker.
      settings: of the search.
      address: of the oracle.
      on_turn: is called now and then.

    Raises:
      RunError: when a worker gives up, or dies again and again without running a trial.
    """
    workers = [WorkerProcess(i, argv, address, settings.folder) for i in range(settings.workers)]
    ended = len(oracle.end_order)
    try:
        while not oracle.is_over:
            on_turn()
            time.sleep(TURN_S)
            if len(oracle.end_order) > ended:
                ended = len(oracle.end_order)
                for process in workers:
                    process.deaths = 0
            for process in workers:
                _restart(process)
        on_turn()
        _wait(workers, GRACE_S)
    finally:
        for process in workers:
            process.stop(GRACE_S)


def _restart(process: WorkerProcess) -> None:
    code = process.code
    if code in (None, 0):  # It runs, or has heard that there is nothing left for it.
        return
    process.deaths += 1
    # 1 and 2 are ends of its own choice, with a message: the next one would end alike.
    if code in (1, 2) or process.deaths > QUICK_DEATHS:
        raise RunError(process.explain())
    name = signal.Signals(-code).name if code < 0 else f"code {code}"
    console.say(f"a worker ended with {name}; it is started again.")
    process.start()


def _wait(workers: Sequence[WorkerProcess], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while any(w.code is None for w in workers) and time.monotonic() < deadline:
        time.sleep(TURN_S)
