"""Trains, evaluates and checks chest X-ray classifiers on frozen Keras backbones.

python -m trainer --manual_dir=FOLDER --backbone=vgg16
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from absl import app, logging
from absl import flags as absl_flags

from trainer import flags
from trainer.distribution import local_workers, peers
from trainer.system import exits, signals

if TYPE_CHECKING:
    from collections.abc import Sequence

NAME = "trainer"


def main(command: flags.TrainerCommand) -> int:
    """Runs the command and returns the process's exit code."""
    logging.set_verbosity(command.verbosity)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    return exits.code_of(NAME, lambda: _run(command))


def _run(command: flags.TrainerCommand) -> int:
    count = command.config.runtime.local_workers
    if peers.starts_local_workers(count):
        return local_workers.run(sys.argv[1:], count)
    with signals.watched(), peers.watched(command.config):
        outcome = command.mode.run(command.config)
    return exits.DO_NOT_USE if outcome is not None and outcome.guard_fired else exits.DONE


def _parse(argv: Sequence[str]) -> flags.TrainerCommand:
    return exits.parsed(NAME, lambda: flags.parse(argv))


if __name__ == "__main__":
    flags.define()
    # Without this, --help of a module run by `python -m` lists nothing.
    absl_flags.adopt_module_key_flags(flags)
    app.run(signals.ignored_after(main), flags_parser=_parse)
