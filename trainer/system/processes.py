"""Runs modules of this package as processes, and measures their time and memory.

process = processes.run(["trainer", "--recipe=quickstart"], log=folder / "run.log")
process.seconds, process.private_bytes, process.last_line
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
import re
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING

from trainer.errors import RunError

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

POLL_S = 0.2
PARENT_POLL_S = 0.5


def num_cores() -> int:
    """Returns the number of CPU cores that this process may use: fewer than all in a container."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def crowding(option: str, count: int) -> str:
    """Returns a line if an option starts more processes than there are cores; else nothing."""
    cores = num_cores()
    if count <= cores:
        return ""
    noun = "core" if cores == 1 else "cores"
    return (
        f"{option} ({count}) exceeds the {cores} CPU {noun} of this machine: they share them, and "
        "each is slower."
    )


@dataclasses.dataclass(frozen=True)
class ProcessResult:
    """A process that has ended.

    Attributes:
      seconds: from its start to its end.
      private_bytes: peak of its private memory, without mapped files; 0 where the system does not
        report it.
      last_line: the last line of its output.
    """

    seconds: float
    private_bytes: int
    last_line: str


def run(
    command: Sequence[str], log: pathlib.Path, accepted: Collection[int] = (0,)
) -> ProcessResult:
    """Runs `python -m command` to its end, with its output in a file.

    Raises:
      RunError: when its exit code is not one of those accepted.
    """
    start, peak = time.perf_counter(), 0
    with log.open("w", encoding="utf-8") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", *command],
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONPATH": search_path()},
        )
        try:
            while process.poll() is None:
                peak = max(peak, private_bytes(process.pid))
                time.sleep(POLL_S)
        finally:
            process.kill()  # If we are interrupted; does nothing to a process that has ended.
    seconds = time.perf_counter() - start
    lines = log.read_text("utf-8").splitlines() or [""]
    if process.returncode not in accepted:
        raise RunError(
            f"{command[0]} ended with code {process.returncode}: {lines[-1]} (see {log})"
        )
    return ProcessResult(seconds, peak, lines[-1])


def end_with_parent(variable: str) -> None:
    """Ends this process when the one that started it has died, even by SIGKILL.

    Args:
      variable: of the environment: the process ID of that process; unset, nothing is done.
    """
    parent = int(os.environ.get(variable, "0"))
    if not parent:
        return

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(PARENT_POLL_S)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def search_path() -> str:
    """Returns a PYTHONPATH that starts with this package's folder: it need not be installed."""
    source = pathlib.Path(__file__).resolve().parents[2]
    return os.pathsep.join(filter(None, [str(source), os.environ.get("PYTHONPATH", "")]))


def private_bytes(pid: int) -> int:
    """Returns a process's resident memory without mapped files; 0 if unknown."""
    try:
        status = pathlib.Path(f"/proc/{pid}/status").read_text("utf-8")
    except OSError:  # Not Linux, or the process has just ended.
        return 0
    found = re.search(r"^RssAnon:\s+(\d+) kB$", status, re.MULTILINE)
    return int(found[1]) * 1024 if found else 0


def end(process: subprocess.Popen[bytes], grace_s: float) -> None:
    """Asks a process to end, by SIGTERM, and kills it if it has not done so in time.

    Args:
      process: the process.
      grace_s: seconds that it gets, to save what it has.
    """
    process.terminate()
    try:
        process.wait(grace_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
