"""A trial in a process of its own: what it breaks is its own, and its memory has a limit.

    record = isolation.run(task, "val_auc", result_folder, limit_bytes)

The child is this module as a program. It writes the record itself; where it dies without one, the
parent says how.
"""

from __future__ import annotations

import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

from trainer.config import Config
from trainer.errors import DiskError, Stopped
from trainer.storage import files
from trainer.system import console, processes, signals
from tuner import records
from tuner.trials import tasks

if TYPE_CHECKING:
    from collections.abc import Sequence

DISK_FAILED = 74
"""Exit code of a trial's process whose disk is full or gone, as sysexits.h has it."""
POLL_S = 0.1
GRACE_S = 30.0
SHARE = 0.8
"""Of the machine's free memory, that all trials may take together."""
TASK, LOG = "task.json", "process.log"


def run(
    task: tasks.Task, objective: str, result_folder: pathlib.Path, limit_bytes: int
) -> records.TrialRecord:
    """Runs a trial in a process of its own and returns how it went.

    Args:
      task: what to do.
      objective: what it is judged by.
      result_folder: where its record and its output go.
      limit_bytes: of memory of its own, mapped files apart; over it, it is ended.

    Raises:
      DiskError: when the disk fails, which is no trial's fault.
    """
    result_folder.mkdir(parents=True, exist_ok=True)
    (result_folder / records.RESULT).unlink(missing_ok=True)
    files.save_json(
        result_folder / TASK,
        {
            "config": task.config.to_flat(),
            "folder": str(task.folder),
            "epochs": task.epochs,
            "objective": objective,
        },
    )
    start = time.monotonic()
    with (result_folder / LOG).open("w", encoding="utf-8") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "tuner.trials.isolation", str(result_folder)],
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONPATH": processes.search_path()},
        )
        reason = _watch(process, limit_bytes)
    if process.returncode == DISK_FAILED:
        raise DiskError(_last_line(result_folder))
    if (result_folder / records.RESULT).exists():
        return records.load(result_folder)
    seconds = round(time.monotonic() - start, 3)
    return records.TrialRecord(
        reason=reason or _how_it_ended(process.returncode, result_folder), seconds=seconds
    )


def free_bytes() -> int:
    """Returns the memory that new processes can have."""
    try:
        text = pathlib.Path("/proc/meminfo").read_text("utf-8")
    except OSError:  # Not Linux.
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    found = re.search(r"^MemAvailable:\s+(\d+) kB$", text, re.MULTILINE)
    return int(found[1]) * 1024 if found else 0


def _watch(process: subprocess.Popen[bytes], limit_bytes: int) -> str:
    """Waits for the end; returns why the process was ended, if it was."""
    try:
        while process.poll() is None:
            used = processes.private_bytes(process.pid)
            if used > limit_bytes:
                process.kill()
                process.wait()
                return (
                    f"out of memory: {used / 2**30:.2f} GiB, over the limit of "
                    f"{limit_bytes / 2**30:.2f} GiB (--trial_memory_gb)"
                )
            time.sleep(POLL_S)
    except BaseException:  # A signal to us: the trial saves what it has.
        process.terminate()
        try:
            process.wait(GRACE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        raise
    return ""


def _how_it_ended(code: int, folder: pathlib.Path) -> str:
    if code == -signal.SIGKILL:
        return "killed: by SIGKILL, as the system does to a process when memory runs out"
    if code < 0:
        return f"crashed: by {signal.Signals(-code).name} (see {folder / LOG})"
    return f"crashed: exit code {code}: {_last_line(folder)}"


def _last_line(folder: pathlib.Path) -> str:
    lines = (folder / LOG).read_text("utf-8", errors="replace").strip().splitlines()
    return lines[-1] if lines else "no output"


def main(argv: Sequence[str]) -> int:
    """Runs the task in a folder: what a child process does."""
    folder = pathlib.Path(argv[1])
    found = json.loads((folder / TASK).read_text("utf-8"))
    config = Config.from_flat(found["config"])
    task = tasks.Task(config, pathlib.Path(found["folder"]), found["epochs"])
    try:
        with signals.watched(), console.muted(), tasks.owned(task.folder):
            workspace = tasks.Workspace(config)
            record = tasks.attempt(
                task.folder,
                task.epochs,
                found["objective"],
                lambda: tasks.train(task, workspace, workspace.build(config)),
            )
    except Stopped as stop:
        return stop.exit_code
    except (OSError, DiskError) as error:  # No trial's fault: the search ends, and can resume.
        sys.stderr.write(f"{error}\n")
        return DISK_FAILED
    records.save(folder, record)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
