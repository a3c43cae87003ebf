"""One training run in a process of its own, for a command that trains several.

    outcome = isolated_run.start(config, folder / ".task")
    outcome.code, outcome.reason

A process gives all its memory back, on a GPU too, and a crash ends one run alone. Two processes of
one machine can't share a TPU or its GPUs: the one that starts the runs uses no device itself. Its
child prints to the same terminal, and ends when it does.
"""

from __future__ import annotations

import dataclasses
import importlib
import os
import pathlib
import shutil
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any, TypedDict

from trainer.config import Config
from trainer.errors import Stopped
from trainer.storage import documents, files
from trainer.system import console, environment, exits, memory, processes, signals, text

if TYPE_CHECKING:
    from collections.abc import Sequence

PARENT = "CXR_TRAINER_PARENT"
"""Variable with the process ID of the command, which its runs must not outlive."""
GRACE_S = 60.0
"""How long a run may take to save itself when the command is asked to stop."""
_TASK, _FAILURE = "task.json", "failure.json"


class _Failure(TypedDict):
    """Why a run has failed."""

    reason: str


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a run has ended.

    Attributes:
      code: of `exits`, or the negative number of the signal that has killed it.
      reason: why it has failed; empty if it has not.
    """

    code: int
    reason: str


def start(config: Config, place: pathlib.Path) -> Outcome:
    """Trains a run in a process of its own, and waits for its end.

    Args:
      config: of the run.
      place: a folder for messages to the process, and from it; it is removed at the end.

    Raises:
      Stopped: when this process is asked to stop; the run has then saved itself.
    """
    shutil.rmtree(place, ignore_errors=True)  # Of a command that was killed.
    try:
        files.save_json(place / _TASK, config.to_flat())
        process = subprocess.Popen(
            [sys.executable, "-m", "trainer.commands.isolated_run", str(place)],
            env={
                **os.environ,
                "PYTHONPATH": processes.search_path(),
                PARENT: str(os.getpid()),
            },
            start_new_session=True,  # A request to stop reaches it once: from here.
        )
        code = _wait(process)
        return Outcome(code, "" if code in exits.TRAINED else _reason(code, place))
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _wait(process: subprocess.Popen[bytes]) -> int:
    try:
        return process.wait()
    except BaseException:  # Also Stopped, by a signal.
        processes.end(process, GRACE_S)
        raise


def _reason(code: int, place: pathlib.Path) -> str:
    if (place / _FAILURE).exists():
        found: _Failure = documents.load(place / _FAILURE, _Failure, way_out="run it again")
        return found["reason"]
    if code == -signal.SIGKILL:
        return "killed by SIGKILL, perhaps by the system because memory ran out"
    if code < 0:
        return f"killed by {signals.name_of(-code)}"
    return f"ended with code {code}; its output says why"


def main(argv: Sequence[str]) -> int:
    """Trains the run whose options are in the folder that argv names, in the child process."""
    place = pathlib.Path(argv[1])
    values: dict[str, Any] = documents.load(
        place / _TASK, dict[str, Any], way_out="run the command again"
    )
    config = Config.from_flat(values)
    return exits.code_of("trainer", lambda: _train(config, place))


def _train(config: Config, place: pathlib.Path) -> int:
    """Trains a run, prints its headline, and returns the exit code; writes why it has failed."""
    memory.require_address_space()
    environment.quiet_tensorflow()
    try:
        with signals.watched():
            # Imported only here: it imports TensorFlow, which the parent does without.
            train = importlib.import_module("trainer.commands.train").train
            evaluation = train(config).evaluation
        console.say(evaluation.headline())
    except Stopped as stop:  # The command that started the run says so.
        return stop.exit_code
    except Exception as error:
        reason = exits.explain(error) or text.one_line(str(error)) or type(error).__name__
        files.save_json(place / _FAILURE, {"reason": reason})
        raise
    return exits.DO_NOT_USE if evaluation.guard_fired else exits.DONE


if __name__ == "__main__":
    processes.end_with_parent(PARENT)
    environment.prepare()
    environment.choose_backend()
    console.share_terminal()
    sys.exit(signals.ignored_after(main)(sys.argv))
