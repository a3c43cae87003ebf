"""The command line of `python -m tuner`: the trainer's flags and those of the search.

app.run(main, flags_parser=flags.parse)      # main gets a TunerCommand
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from trainer import flags, usage
from trainer.errors import ConfigError
from trainer.options import initial_weights
from tuner import settings as settings_lib

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trainer.config import Config
    from tuner.space import Space


ELSEWHERE = {
    "model_dir": "a search has --directory (parent folder) and --project_name (its name)",
    "mode": "a search has no modes; --dry_run prints its plan",
    "iterations": "Hyperband's are --hyperband_iterations",
}
"""Names that users try, of the trainer or of other tools, and what to give instead."""


@dataclasses.dataclass(frozen=True)
class TunerCommand:
    """A parsed command line: the settings of the search, and the config that its trials vary."""

    base: Config
    settings: settings_lib.Settings
    verbosity: int
    notes: tuple[str, ...] = ()


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
    _check_names(argv)
    names = [field.name for field in settings_lib.fields()]
    parsed = flags.parse_options(argv, names)
    base = parsed.config
    settings = settings_lib.Settings(**parsed.others)
    # Both raise before TensorFlow loads.
    space = settings.space_for(base)
    settings.plan(space, base.optimization.max_epochs)
    for unfrozen in _searched_layers(base, space):
        model = dataclasses.replace(base.model, layers_to_unfreeze=unfrozen)
        initial_weights.check(model)
    searched = [dimension.name for dimension in space.dimensions]
    notes = flags.check_effects(parsed.given, base, "search", searched)
    return TunerCommand(base, settings, parsed.verbosity, (*parsed.notes, *notes))


def _check_names(argv: Sequence[str]) -> None:
    """Raises ConfigError for a flag of another command: absl would suggest one of its own."""
    for argument in argv[1:]:
        name = argument.lstrip("-").partition("=")[0]
        if argument.startswith("-") and name in ELSEWHERE:
            raise ConfigError(f"--{name} is not an option of a search: {ELSEWHERE[name]}.")


def _searched_layers(base: Config, space: Space) -> list[str]:
    """Returns the values of `layers_to_unfreeze` that trials may have."""
    for dimension in space.dimensions:
        if dimension.name == "layers_to_unfreeze":
            return [str(value) for value in dimension.choices]
    return [base.model.layers_to_unfreeze]
