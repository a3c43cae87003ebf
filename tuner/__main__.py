"""Hyperparameter search over runs of `python -m trainer`: python -m tuner --dataset=... [flags].

Every flag of the trainer sets that option of all trials, unless --search names it.
"""

from __future__ import annotations

import importlib
import pathlib
import sys
from typing import TYPE_CHECKING

if not __package__:  # `python tuner`: modules of ours would hide others of the same name.
    sys.path[0] = str(pathlib.Path(__file__).resolve().parents[1])

from trainer.system import environment

if __name__ == "__main__":
    environment.show_warnings()
    environment.prepare_home()  # TFDS takes its folder from the environment when it is imported.

with environment.required("tuner"):
    from absl import app, logging
    from absl import flags as absl_flags

    from trainer import flags as trainer_flags
    from trainer import preflight
    from trainer.distribution import peers
    from trainer.system import console, exits, memory, signals
    from tuner import flags, identity

if TYPE_CHECKING:
    from collections.abc import Sequence

NAME = "tuner"


def main(command: flags.TunerCommand) -> int:
    """Runs the search and returns the process's exit code."""
    logging.set_verbosity(command.verbosity)
    return exits.code_of(NAME, lambda: _run(command), lambda: _folders(command))


def _folders(command: flags.TunerCommand) -> dict[str, str]:
    folders = preflight.folders(command.base) | {"directory": command.settings.directory}
    folders.pop("model_dir", None)  # Trials are in the search's directory.
    return folders


def _run(command: flags.TunerCommand) -> int:
    if command.settings.workers > 1:
        memory.require_processes("workers", command.settings.workers)
    with signals.watched(), peers.watched(command.base):
        preflight.check("search", command.base)
        command.settings.require_free_folder()
        identity.require_same_options(command.base, command.settings)
        memory.require_address_space()
        console.say(
            f"search: {command.settings.algorithm}, {preflight.subject(command.base)}, into "
            f"{command.settings.folder}; {preflight.LOADING}"
        )
        moved = preflight.moved_folders(command.base)
        for line in filter(None, (environment.unused_backend(), *command.notes, moved)):
            console.say(line)
        environment.quiet_tensorflow()
        # TensorFlow takes seconds to import: --help and usage errors must not wait for it.
        search = importlib.import_module("tuner.search")
        reasons = search.run(command.base, command.settings, sys.argv[1:])
    return exits.DO_NOT_USE if reasons else exits.DONE


def parse(argv: Sequence[str]) -> flags.TunerCommand:
    """Parses the command line; a usage error exits with one line on stderr."""
    return exits.parsed(NAME, lambda: flags.parse(argv))


if __name__ == "__main__":
    environment.prepare()
    console.share_terminal()
    flags.define()
    # absl's --help lists only the flags of the main module, and `__main__` defines none.
    absl_flags.adopt_module_key_flags(trainer_flags)
    app.run(signals.ignored_after(main), flags_parser=parse)
