"""The command line of `python -m tuner`: the trainer's flags and those of the search.

app.run(main, flags_parser=flags.parse)      # main gets a TunerCommand
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from trainer import flags, usage
from tuner import settings as settings_lib

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trainer.config import Config


@dataclasses.dataclass(frozen=True)
class TunerCommand:
    """A parsed command line: the settings of the search, and the config that its trials vary."""

    base: Config
    settings: settings_lib.Settings
    verbosity: int


def define() -> None:
    """Defines the flags of `python -m tuner`."""
    usage.define_help("tuner")
    flags.define_options()
    for field in settings_lib.fields():
        flags.define_option(field.name, field.default, field.metadata["option"])


def parse(argv: Sequence[str]) -> TunerCommand:
    """Parses the command line.

    Raises:
      ConfigError: for an unknown flag, a value out of range or an unreadable file.
      RunError: when an options file in a bucket can't be read.
    """
    names = [field.name for field in settings_lib.fields()]
    base, values, verbosity = flags.parse_options(argv, names)
    settings = settings_lib.Settings(**values)
    settings.plan(
        settings.space_for(base), base.optimization.max_epochs
    )  # Raises before TensorFlow loads.
    return TunerCommand(base, settings, verbosity)
