"""Runs a trial in its own process, with a memory limit: a crash fails only that trial.

    record = isolation.run(task, "val_auc", result_folder, limit_bytes)

The child process runs this module and saves the trial's record. If it dies before that, the parent
derives a record from its exit code.
"""

from __future__ import annotations

import os
import pathlib
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any, TypedDict

from trainer.config import Config
from trainer.errors import DiskError, Stopped
from trainer.storage import documents, files
from trainer.system import console, processes, signals, text
from tuner import records
from tuner.trials import tasks

if TYPE_CHECKING:
    from collections.abc import Sequence

DISK_FAILED = 74
"""Exit code of a trial's process whose disk is full or gone: EX_IOERR of sysexits.h."""
POLL_S = 0.1
GRACE_S = 30.0
SHARE = 0.8
"""Fraction of the free memory that all trials together may use by default."""
TASK, LOG = "task.json", "process.log"


class _TaskFile(TypedDict):
    """What the child process reads of its task."""

    config: dict[str, Any]
    folder: str
    epochs: documents.Count
    objective: str


def run(
    task: tasks.Task, objective: str, result_folder: pathlib.Path, limit_bytes: int
) -> records.TrialRecord:
    """Runs a trial in its own process and returns its record.

    Args:
      task: the trial to run.
      objective: name of the metric that is the score.
      result_folder: folder for its record and its output.
      limit_bytes: memory limit, without memory-mapped files; beyond it, the process is killed.

    Raises:
      DiskError: when the disk fails, which is not the trial's fault.
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
            start_new_session=True,  # A request to stop reaches it once, through `_watch`.
        )
        reason = _watch(process, limit_bytes)
    if process.returncode == DISK_FAILED:
        raise DiskError(_last_line(result_folder))
    if (result_folder / records.RESULT).exists():
        return records.load(result_folder)
    seconds = round(time.monotonic() - start, 3)
    return records.TrialRecord(
        reason=reason or _exit_reason(process.returncode, result_folder), seconds=seconds
    )


def _watch(process: subprocess.Popen[bytes], limit_bytes: int) -> str:
    """Waits for the process; returns the reason if it exceeded its limit, else an empty text."""
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
    except BaseException:  # Also Stopped, by a signal: SIGTERM lets the trial save a checkpoint.
        processes.end(process, GRACE_S)
        raise
    return ""


def _exit_reason(code: int, folder: pathlib.Path) -> str:
    if code == -signal.SIGKILL:
        return "killed: by SIGKILL, perhaps by the system because memory ran out"
    if code < 0:
        return f"crashed: by {signals.name_of(-code)} (see {folder / LOG})"
    return f"crashed: exit code {code}: {_last_line(folder)}"


def _last_line(folder: pathlib.Path) -> str:
    lines = files.tail(folder / LOG).strip().splitlines()
    return text.one_line(lines[-1]) if lines else "no output"


def main(argv: Sequence[str]) -> int:
    """Runs the task in the folder that argv names, in the child process."""
    folder = pathlib.Path(argv[1])
    found: _TaskFile = documents.load(folder / TASK, _TaskFile, way_out="run the search again")
    config = Config.from_flat(found["config"])
    task = tasks.Task(config, pathlib.Path(found["folder"]), found["epochs"])
    try:
        with signals.watched(), console.muted(), tasks.locked(task.folder):
            workspace = tasks.Workspace(config)
            record = tasks.attempt(
                task.folder,
                task.epochs,
                found["objective"],
                lambda: tasks.train(task, workspace, workspace.build(config)),
            )
    except Stopped as stop:
        return stop.exit_code
    except (
        OSError,
        DiskError,
    ) as error:  # Not the trial's fault: the search stops, and can resume.
        sys.stderr.write(f"{error}\n")
        return DISK_FAILED
    records.save(folder, record)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
