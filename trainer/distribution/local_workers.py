"""Several workers on this machine, to try `--strategy=multi_worker` with one command.

    exit_code = local_workers.run(["--recipe=quickstart", "--local_workers=2"], count=2)

Each worker is a process with its own TF_CONFIG, as on a cluster, and its share of the GPUs. The
chief's output is passed on; other workers' errors are shown with their index. The first worker that
fails stops all. Nothing but this machine reaches their servers (`loopback`).
"""

from __future__ import annotations

import collections
import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING

from trainer.distribution import accelerators, cluster, peers
from trainer.system import console, exits, loopback, processes, signals, sockets

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

ENDED = (*exits.TRAINED, exits.STOPPED, exits.OUTPUT_CLOSED)
"""Exit codes of a worker that did not fail."""
GRACE_S = 30
"""Time for workers to save and end by themselves, before they are killed."""
POLL_S = 0.1
LINES = 20
"""How many lines from the end of a failed worker's error output are shown."""
OPEN = (
    "TensorFlow's servers of the local workers listen on all interfaces, without authentication, "
    "{how_long}: {reason}. Run it where nobody else reaches this machine."
)


class LocalWorker:
    """One worker of the cluster; only the chief (0) prints."""

    def __init__(
        self, index: int, addresses: Sequence[str], argv: Sequence[str], gpus: Sequence[str] = ()
    ) -> None:
        task = {"cluster": {"worker": list(addresses)}, "task": {"type": "worker", "index": index}}
        self.index = index
        self.process = subprocess.Popen(
            [sys.executable, "-m", "trainer", *argv],
            env={
                "NCCL_SOCKET_IFNAME": "lo",  # NCCL would listen at this machine's own address.
                **os.environ,
                **accelerators.share_of_gpus(index, len(addresses), gpus),
                cluster.VARIABLE: json.dumps(task),
                peers.LAUNCHER: str(os.getpid()),
            },
            stdout=None if index == 0 else subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,  # Else Ctrl-C reaches it twice: also from here.
        )
        self._last: collections.deque[str] = collections.deque(maxlen=LINES)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        for line in self.process.stderr or ():
            self._last.append(line)
            if self.index == 0:
                sys.stderr.write(line)
                sys.stderr.flush()

    def errors(self) -> str:
        """Returns the last lines of a worker's standard error; the chief's are shown already."""
        self._reader.join(timeout=1)
        return "" if self.index == 0 else "".join(f"worker {self.index}: {x}" for x in self._last)


def run(argv: Sequence[str], count: int) -> int:
    """Runs the command in `count` workers and returns the exit code of the first that failed.

    A worker that was killed counts as failed with 1. One that ended because a signal stopped this
    process counts as failed with 128 plus the signal's number, as in a shell.
    """
    if crowded := processes.crowding("local_workers", count):
        console.say(crowded)
    ports = sockets.free_ports(count)
    addresses = [f"127.0.0.1:{port}" for port in ports]
    gpus = accelerators.nvidia_gpus()
    if uneven := accelerators.note_on_shares(count, gpus):
        console.say(uneven)
    workers = [LocalWorker(index, addresses, argv, gpus) for index in range(count)]
    pids = [worker.process.pid for worker in workers]
    _warn_if_open(pids[0])
    confining = loopback.confining(dict(zip(pids, ports, strict=True)))
    with _forwarded_signals(workers) as received, confining:
        while _are_running(workers) and not received:
            time.sleep(POLL_S)
        failed = _first_failed(workers)
        if failed and not received:
            _print_failure(failed)
        if failed:
            _send_all(workers, signal.SIGTERM)
        _wait_or_kill(workers)
        code = next((c for w in (failed, *workers) if w and (c := w.process.returncode)), 0)
    return _exit_code(code, was_stopped=bool(received))


def _warn_if_open(pid: int) -> None:
    """Says so in one line where the network can reach the workers."""
    if not loopback.is_possible():
        reason = "this system can't bind a socket to the loopback interface (Linux 5.7 can)"
        sys.stderr.write(f"trainer: {OPEN.format(how_long='while they run', reason=reason)}\n")
    elif not loopback.reaches(pid):
        reason = "this system lets no process restrict another's sockets (pidfd_getfd)"
        how_long = "for the moment in which they meet"
        sys.stderr.write(f"trainer: {OPEN.format(how_long=how_long, reason=reason)}\n")


def _are_running(workers: Sequence[LocalWorker]) -> bool:
    """Whether the cluster still trains: no worker has failed, and at least one is running."""
    codes = [worker.process.poll() for worker in workers]
    return None in codes and all(code in (None, *ENDED) for code in codes)


def _first_failed(workers: Sequence[LocalWorker]) -> LocalWorker | None:
    codes = {worker: worker.process.returncode for worker in workers}
    return next((w for w, code in codes.items() if code not in (None, *ENDED)), None)


def _exit_code(code: int, *, was_stopped: bool) -> int:
    if code >= 0:
        return code
    return 128 - code if was_stopped else 1


def _print_failure(worker: LocalWorker) -> None:
    code = worker.process.returncode
    how = f"was killed by {signals.name_of(-code)}" if code < 0 else f"failed with {code}"
    sys.stderr.write(worker.errors())
    sys.stderr.write(f"trainer: worker {worker.index} {how}; the other workers are stopped.\n")


def _send_all(workers: Sequence[LocalWorker], number: int) -> None:
    for worker in workers:
        with contextlib.suppress(ProcessLookupError):
            worker.process.send_signal(number)


def _wait_or_kill(workers: Sequence[LocalWorker]) -> None:
    """Waits for GRACE_S, then kills: a worker that waits for a lost one reacts only to SIGKILL."""
    deadline = time.monotonic() + GRACE_S
    for worker in workers:
        try:
            worker.process.wait(max(deadline - time.monotonic(), 0))
        except subprocess.TimeoutExpired:
            worker.process.kill()
            worker.process.wait()


@contextlib.contextmanager
def _forwarded_signals(workers: Sequence[LocalWorker]) -> Iterator[list[int]]:
    """Forwards requests to stop to every worker; yields the list of received signals."""
    received: list[int] = []

    def forward(number: int, _: object) -> None:
        received.append(number)
        if number == signal.SIGHUP:
            console.leave_terminal()
        _send_all(workers, number)

    before = {number: signal.signal(number, forward) for number in signals.heeded()}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
