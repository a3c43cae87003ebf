"""An option of a command: its default, its help text, and its valid values.

Options are fields of frozen dataclasses that derive from `Group`. The command line, `config.json`
and the checks are generated from these fields.

    @dataclasses.dataclass(frozen=True)
    class SearchOptions(option_groups.Group):
        max_trials: int = option_groups.option(30, "upper limit of trials", minimum=1)

    SearchOptions(max_trials=0)      # ConfigError: max_trials (0) must be at least 1.
"""

from __future__ import annotations

import dataclasses
import math
import os
import sys
from typing import Any, Self

from trainer.errors import ConfigError
from trainer.system import hints, text

KINDS = {
    str: "text",
    bool: "true or false",
    int: "a whole number",
    float: "a number",
}
"""What a value of each type is called in messages."""

_LONGEST = 4096
"""Characters of a text: what the system allows for a path."""
_MAX_EXACT = 2**63
"""Integers are below it: a file of options with a larger one isn't read."""


@dataclasses.dataclass(frozen=True)
class Option:
    """The help text and the limits of one field.

    Attributes:
      help: the text that --help prints.
      choices: the valid values; empty: any.
      minimum: the smallest valid number.
      below: numbers must be less than this.
      of_result: whether the option affects results. A resumed run must not change one that does.
    """

    help: str
    choices: tuple[str, ...] = ()
    minimum: float | None = None
    below: float | None = None
    of_result: bool = True

    def full_help(self, default: Any) -> str:
        """Returns the help text with the range of a number, as --help prints it."""
        if self.minimum is None or (self.minimum == 0 and self.below is None):
            return self.help  # Nobody expects a negative number.
        least = text.plain(self.minimum)
        if self.below is None:
            return f"{self.help}; at least {least}"
        if isinstance(default, float):
            return f"{self.help}; from {least} to less than {text.plain(self.below)}"
        return f"{self.help}; from {least} to {text.plain(self.below - 1)}"

    def check(self, name: str, value: Any, default: Any) -> None:
        """Raises ConfigError unless `value` has the type of `default` and is within the limits."""
        kind = type(default)
        # bool is a subclass of int: without the second half, True would pass for a batch size.
        if not isinstance(value, kind) or isinstance(value, bool) is not (kind is bool):
            raise ConfigError(f"{name} ({text.shown(value)}) must be {KINDS[kind]}.")
        if isinstance(value, str) and not text.is_os_string(value):
            raise ConfigError(f"{name} ({text.shown(value)}) has characters that no path can have.")
        if isinstance(value, str) and len(value) > _LONGEST:
            raise ConfigError(
                f"{name} ({text.shown(value)}) has {len(value):,} characters, over the limit of "
                f"{_LONGEST:,}."
            )
        if self.choices and value not in self.choices:
            raise ConfigError(
                f"{name} ({text.bare(value):.80}) {hints.choice(name, value, self.choices)}"
            )
        if isinstance(value, float) and not math.isfinite(value):
            raise ConfigError(f"{name} ({value}) must be finite.")
        shown = text.plain(value) if isinstance(value, int | float) else ""
        if self.minimum is not None and value < self.minimum:
            raise ConfigError(f"{name} ({shown}) must be at least {text.plain(self.minimum)}.")
        below = _MAX_EXACT if kind is int and self.below is None else self.below
        if below is not None and value >= below:
            is_percentage = below == 1 < value < 100
            meant = f"; did you mean {text.plain(value / 100)}?" if is_percentage else "."
            raise ConfigError(f"{name} ({shown}) must be less than {text.plain(below)}{meant}")


def option(default: Any, help_text: str, **limits: Any) -> Any:
    """Declares a field of a group."""
    return dataclasses.field(default=default, metadata={"option": Option(help_text, **limits)})


class Named:
    """A dataclass that names the nearest field where one is unknown, as in Config(models=...)."""

    def __new__(cls, *args: Any, **named: Any) -> Self:
        """Raises ConfigError for an unknown field; `__init__` of the dataclass does the rest."""
        del args
        known = [field.name for field in dataclasses.fields(cls)]  # type: ignore[arg-type]
        for name in named:
            if name not in known:
                shown, hint = text.one_line(name), cls._hint_for(name)
                raise ConfigError(f"{cls.__name__} has no field {shown:.80}{hint}")
        return super().__new__(cls)

    @classmethod
    def _hint_for(cls, name: str) -> str:
        """Returns the end of the sentence about an unknown field."""
        known = [field.name for field in dataclasses.fields(cls)]  # type: ignore[arg-type]
        return hints.clause(name, known) or f"; its fields are {', '.join(known):.200}."


class Group(Named):
    """A group of options, converted and checked when it is created."""

    def __post_init__(self) -> None:
        """Raises ConfigError for the first option with an invalid value."""
        for field in dataclasses.fields(self):  # type: ignore[arg-type]
            value = plain(getattr(self, field.name))
            if isinstance(field.default, float) and type(value) is int:
                # JSON writers and users write 1 for 1.0. A larger one would overflow.
                value = float(value) if abs(value) < _MAX_EXACT else math.inf
            object.__setattr__(self, field.name, value)
            field.metadata["option"].check(field.name, value, field.default)


def plain(value: Any) -> Any:
    """Returns a path as text, and a NumPy scalar as Python's number: what JSON can hold.

    A 16- or 32-bit float becomes the decimal that it prints: np.float32(1e-3) is 0.001, as on the
    command line, and not 0.0010000000474974513. Anything else is returned as it is.
    """
    if isinstance(value, os.PathLike):
        return os.fsdecode(value)
    numpy = sys.modules.get("numpy")  # Without it, no value is NumPy's.
    if numpy is not None and isinstance(value, numpy.generic):
        value = float(str(value)) if isinstance(value, numpy.floating) else value.item()
    # Members of an enumeration are texts or numbers, too.
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, int):
        return value if isinstance(value, bool) else int(value)
    return float(value) if isinstance(value, float) else value


def require(name: str, value: Any, kind: type | tuple[type, ...], wanted: str) -> None:
    """Raises ConfigError unless an argument of the Python API has the type that it needs.

    Args:
      name: of the argument.
      value: what was given.
      kind: the type.
      wanted: what the type is called, and how to get one, a clause.
    """
    if not isinstance(value, kind):
        raise ConfigError(f"{name} ({text.shown(value)}) must be {wanted}.")
