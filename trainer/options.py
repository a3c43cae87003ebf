"""An option of a command: its default, its help text, and the values that it refuses.

Options are fields of frozen dataclasses that derive from `Group`; the command line, `config.json`
and the checks follow from the fields.

    @dataclasses.dataclass(frozen=True)
    class SearchOptions(options.Group):
        max_trials: int = options.option(30, "upper limit of trials", minimum=1)

    SearchOptions(max_trials=0)      # ConfigError: max_trials (0) must be at least 1.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from trainer.errors import ConfigError


@dataclasses.dataclass(frozen=True)
class Option:
    """What the command line tells of a field, and what it refuses."""

    help: str
    choices: tuple[str, ...] = ()
    minimum: float | None = None
    below: float | None = None
    of_result: bool = True
    """Whether runs that differ in it may differ in their results; a resumed run may not."""

    def check(self, name: str, value: Any, default: Any) -> None:
        """Raises ConfigError unless `value` has the type of `default` and lies in the limits."""
        kind = type(default)
        if not isinstance(value, kind) or isinstance(value, bool) is not (kind is bool):
            raise ConfigError(f"{name} must be of type {kind.__name__}, not {value!r}.")
        if self.choices and value not in self.choices:
            raise ConfigError(f"{name} ({value}) must be one of {', '.join(self.choices)}.")
        if isinstance(value, float) and not math.isfinite(value):
            raise ConfigError(f"{name} ({value}) must be finite.")
        if self.minimum is not None and value < self.minimum:
            raise ConfigError(f"{name} ({value}) must be at least {self.minimum:g}.")
        if self.below is not None and value >= self.below:
            raise ConfigError(f"{name} ({value}) must be less than {self.below:g}.")


def option(default: Any, help_text: str, **limits: Any) -> Any:
    """Declares a field of a group."""
    return dataclasses.field(default=default, metadata={"option": Option(help_text, **limits)})


class Group:
    """A group of options, checked when it is made."""

    def __post_init__(self) -> None:
        """Raises ConfigError for the first option that is out of its limits."""
        for field in dataclasses.fields(self):  # type: ignore[arg-type]
            value = getattr(self, field.name)
            if isinstance(field.default, float) and type(value) is int:
                value = float(value)  # JSON and people write 1 for 1.0.
                object.__setattr__(self, field.name, value)
            field.metadata["option"].check(field.name, value, field.default)
