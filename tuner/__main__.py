"""The command `python -m tuner`: parses, searches, and turns the outcome into an exit code."""

from __future__ import annotations

import importlib
import os
import sys
from typing import TYPE_CHECKING

from absl import app, logging
from absl import flags as absl_flags

from trainer import flags as trainer_flags
from trainer.distribution import peers
from trainer.system import exits, signals
from tuner import flags

if TYPE_CHECKING:
    from collections.abc import Sequence

NAME = "tuner"


def main(command: flags.TunerCommand) -> int:
    """Runs the search and returns the process's exit code."""
    logging.set_verbosity(command.verbosity)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    return exits.code_of(NAME, lambda: _run(command))


def _run(command: flags.TunerCommand) -> int:
    with signals.watched(), peers.watched(command.base):
        # TensorFlow is imported only now, so that --help and typing errors answer at once.
        search = importlib.import_module("tuner.search")
        search.run(command.base, command.settings, sys.argv[1:])
    return exits.DONE


def parse(argv: Sequence[str]) -> flags.TunerCommand:
    """Parses the command line; wrong usage ends the process with one line."""
    return exits.parsed(NAME, lambda: flags.parse(argv))


if __name__ == "__main__":
    flags.define()
    # Without this, --help of a module run by `python -m` lists nothing.
    absl_flags.adopt_module_key_flags(trainer_flags)
    app.run(signals.ignored_after(main), flags_parser=parse)
