"""The command line of `python -m tuner`: the trainer's flags and those of the search.

app.run(main, flags_parser=flags.parse)      # main gets a TunerCommand
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from trainer import config as config_lib
from trainer import flags
from tuner import settings as settings_lib

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trainer.config import Config
    from tuner.space import Space


@dataclasses.dataclass(frozen=True)
class TunerCommand:
    """A parsed command line: the settings of the search, and the config that its trials vary."""

    base: Config
    settings: settings_lib.Settings
    verbosity: int


def define() -> None:
    """Defines the flags of `python -m tuner`."""
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
    # Both raise before TensorFlow loads.
    space = settings.space_for(base)
    settings.plan(space, base.optimization.max_epochs)
    for unfrozen in _searched_layers(base, space):
        model = dataclasses.replace(base.model, layers_to_unfreeze=unfrozen)
        config_lib.check_before_training(model)
    return TunerCommand(base, settings, verbosity)


def _searched_layers(base: Config, space: Space) -> list[str]:
    """Returns the values of `layers_to_unfreeze` that trials may have."""
    for dimension in space.dimensions:
        if dimension.name == "layers_to_unfreeze":
            return [str(value) for value in dimension.choices]
    return [base.model.layers_to_unfreeze]
