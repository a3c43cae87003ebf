"""The command `python -m trainer`: parses, runs, and turns the outcome into an exit code."""

from __future__ import annotations

import importlib
import os
import sys
from typing import TYPE_CHECKING

from absl import app, logging
from absl import flags as absl_flags

from trainer import errors, flags, local_workers, peers, signals

if TYPE_CHECKING:
    from collections.abc import Sequence

DONE, FAILED, USAGE, DO_NOT_USE = 0, 1, 2, 3


def main(command: flags.Command) -> int:
    """Runs the command and returns the process's exit code."""
    logging.set_verbosity(command.verbosity)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    count = command.config.runtime.local_workers
    if count and peers.CLUSTER not in os.environ:  # Where it is set, this is a worker.
        return local_workers.run(sys.argv[1:], count)
    try:
        with signals.watched(), peers.watched(command.config.runtime):
            # TensorFlow is imported only now, so that --help and typing errors answer at once.
            outcome = importlib.import_module(f"trainer.{command.mode}").run(command.config)
    except errors.ConfigError as error:
        return _fail(error, USAGE)
    except (errors.RunError, OSError) as error:  # A full disk, a folder without permission.
        return _fail(error, FAILED)
    except errors.Stopped as stop:
        return _fail(f"{stop}; the same command goes on with what is saved.", stop.exit_code)
    return DO_NOT_USE if outcome is not None and outcome.guard_fired else DONE


def _parse(argv: Sequence[str]) -> flags.Command:
    try:
        return flags.parse(argv)
    except errors.ConfigError as error:
        sys.exit(_fail(error, USAGE))
    except errors.RunError as error:  # Options are in a bucket that can't be read.
        sys.exit(_fail(error, FAILED))


def _fail(reason: object, code: int) -> int:
    sys.stderr.write(f"trainer: {reason}\n")
    return code


if __name__ == "__main__":
    flags.define()
    # Without this, --help of a module run by `python -m` lists nothing.
    absl_flags.adopt_module_key_flags(flags)
    app.run(main, flags_parser=_parse)
