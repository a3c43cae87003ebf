"""Trains, evaluates and checks chest X-ray classifiers on frozen Keras backbones.

python -m trainer --manual_dir=FOLDER --backbone=vgg16
python -m trainer --recipe=quickstart      # without any data
"""

from __future__ import annotations

import pathlib
import sys
from typing import TYPE_CHECKING

if not __package__:  # `python trainer`: modules of ours would hide others of the same name.
    sys.path[0] = str(pathlib.Path(__file__).resolve().parents[1])

from trainer.system import environment

if __name__ == "__main__":
    environment.show_warnings()
    environment.prepare_home()  # TFDS takes its folder from the environment when it is imported.

with environment.required("trainer"):
    from absl import app, logging
    from absl import flags as absl_flags

    from trainer import flags, preflight
    from trainer.distribution import local_workers, peers
    from trainer.system import console, exits, memory, signals

if TYPE_CHECKING:
    from collections.abc import Sequence

NAME = "trainer"


def main(command: flags.TrainerCommand) -> int:
    """Runs the command and returns the process's exit code."""
    logging.set_verbosity(command.verbosity)
    return exits.code_of(
        NAME, lambda: _run(command), lambda: preflight.folders(command.config, command.mode.name)
    )


def _run(command: flags.TrainerCommand) -> int:
    count = command.config.runtime.local_workers
    if command.mode.name != "compare" and peers.starts_local_workers(count):
        memory.require_processes("local_workers", count)
        if line := environment.unused_backend():  # The workers find TensorFlow's name there.
            console.say(line)
        return local_workers.run(sys.argv[1:], count)
    with signals.watched(), peers.watched(command.config):
        preflight.check(command.mode.name, command.config)
        memory.require_address_space()
        console.say(preflight.first_line(command.mode.name, command.config))
        moved = preflight.moved_folders(command.config)
        for line in filter(None, (environment.unused_backend(), *command.notes, moved)):
            console.say(line)
        environment.quiet_tensorflow()
        outcome = command.mode.run(command.config)
    return exits.DO_NOT_USE if outcome is not None and outcome.guard_fired else exits.DONE


def _parse(argv: Sequence[str]) -> flags.TrainerCommand:
    return exits.parsed(NAME, lambda: flags.parse(argv))


if __name__ == "__main__":
    environment.prepare()
    console.share_terminal()
    flags.define()
    # Without this, --help of a module run by `python -m` lists nothing.
    absl_flags.adopt_module_key_flags(flags)
    app.run(signals.ignored_after(main), flags_parser=_parse)
