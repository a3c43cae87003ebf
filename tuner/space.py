"""The search space: the options that a search varies, each with its range.

    space = Space.parse("neurons=64:512:64,learning_rate=1e-5:1e-2:log,layers_to_unfreeze=0|4|8")
    space.values_at([0.5, 0.2, 0.9])   # {"neurons": 320, "learning_rate": 3.981e-05, ...}

A dimension is the name of a trainer option, with `=low:high`, `=low:high:step`, `=low:high:log` or
`=a|b|c`; a name alone takes its range from DEFAULTS.
"""

from __future__ import annotations

import dataclasses
import math
import re
from typing import TYPE_CHECKING, Any

from trainer import config as config_lib
from trainer import effects, option_groups
from trainer.errors import ConfigError
from trainer.options import unfreezing
from trainer.storage import documents
from trainer.system import hints
from trainer.system import text as text_lib

if TYPE_CHECKING:
    import pathlib
    from collections.abc import Iterator, Mapping, Sequence

Value = int | float | str
_Range = str | int | float | list[int | float | str]
"""How a file names the values of an option."""

DEFAULTS = {
    "neurons": "64:512:64",
    "learning_rate": "1e-5:1e-2:log",
    "backbone_learning_rate": "1e-6:1e-4:log",
    "layers_to_unfreeze": "0|4|8",
    "dense_layers": "1:3",
    "dropout": "0:0.6:0.1",
    "batch_size": "16|32|64",
    "augmentation": "none|light|strong",
    "label_smoothing": "0:0.2:0.05",
}
"""Every option that can be searched, with its default range."""
SEARCHED = ("neurons", "learning_rate", "layers_to_unfreeze")
"""The three hyperparameters of the paper: the default search space."""
SIGNIFICANT_DIGITS = 4
"""Of a sampled float, so that it survives the 32-bit floats of KerasTuner's protocol buffers."""


@dataclasses.dataclass(frozen=True)
class Dimension:
    """An option and the values that it may take.

    Attributes:
      name: of the option.
      kind: "int", "float" or "choice".
      low: smallest value of a range.
      high: largest value of a range.
      step: distance between values; 0: every value of the range.
      log: whether the logarithm is sampled uniformly.
      choices: all values of a choice; empty for a range.
    """

    name: str
    kind: str
    low: float = 0
    high: float = 0
    step: float = 0
    log: bool = False
    choices: tuple[Value, ...] = ()

    @property
    def size(self) -> float:
        """Number of values; infinite for a continuous dimension."""
        if self.choices:
            return len(self.choices)
        if self.kind == "float" and not self.step:
            return math.inf
        # 1e-9: 0.6 / 0.1 is 5.999… in floating point.
        return math.floor((self.high - self.low) / (self.step or 1) + 1e-9) + 1

    def values(self) -> list[Value]:
        """Returns every value of a dimension that is not continuous, in order."""
        if self.choices:
            return list(self.choices)
        step = self.step or 1
        return [self.canonical(self.low + step * i) for i in range(int(self.size))]

    def value_at(self, fraction: float) -> Value:
        """Maps a fraction in [0, 1) to a value: uniform over values, or over the logarithm."""
        if self.choices:
            return self.choices[int(fraction * len(self.choices))]
        if self.log:
            value = self.low * (self.high / self.low) ** fraction
        elif self.size < math.inf:
            value = self.low + (self.step or 1) * int(fraction * self.size)
        else:
            value = self.low + (self.high - self.low) * fraction
        return self.canonical(value)

    def canonical(self, value: Any) -> Value:
        """Rounds a sampled or transported value: protocol buffers return 0.1 as 0.10000000149."""
        if self.kind == "choice":
            if isinstance(value, str):
                return value
            return min(self.choices, key=lambda choice: abs(float(choice) - value))
        if self.kind == "int":
            return round(value)
        return float(f"{value:.{SIGNIFICANT_DIGITS}g}")

    def __str__(self) -> str:
        """Returns the dimension as --search spells it."""
        if self.choices:
            return f"{self.name}={'|'.join(map(str, self.choices))}"
        end = ":log" if self.log else f":{self.step:g}" if self.step else ""
        return f"{self.name}={self.low:g}:{self.high:g}{end}"


@dataclasses.dataclass(frozen=True)
class Space:
    """The dimensions of a search."""

    dimensions: tuple[Dimension, ...]

    @classmethod
    def parse(cls, text: str) -> Space:
        """Parses `name=range,…`; an empty text is the paper's three dimensions.

        Raises:
          ConfigError: for an unknown option or an invalid range.
        """
        parts = _parts(text)
        meant = _in_our_spelling(text)
        space = cls._of((*_split(part),) for part in meant or SEARCHED)
        if meant != parts:
            raise ConfigError(
                f"search ({text_lib.one_line(text):.80}) must separate the values of an option by "
                "|, and give each option as name=values: write "
                f"--search={text_lib.quoted(','.join(meant))}."
            )
        return space

    @classmethod
    def load(cls, path: pathlib.Path) -> Space:
        """Reads a JSON object of ranges by name, each a text or a list of choices.

        Raises:
          ConfigError: when the file is missing, or does not hold a valid space.
        """
        way_out = "give a JSON object of ranges by option name"
        try:
            found: dict[str, _Range] = documents.load(
                path.expanduser(), dict[str, _Range], way_out=way_out
            )
        except documents.DocumentError as error:
            raise ConfigError(f"search_file: {error}") from error
        if not found:
            raise ConfigError(f"search_file ({path}) names no option; {way_out}.")
        return cls._of(
            (name, "|".join(map(str, value)) if isinstance(value, list) else str(value))
            for name, value in found.items()
        )

    @classmethod
    def _of(cls, parts: Iterator[Sequence[str]]) -> Space:
        dimensions = tuple(_parse_dimension(name, bounds) for name, bounds in parts)
        names = [dimension.name for dimension in dimensions]
        for name in names:
            if names.count(name) > 1:
                raise ConfigError(f"search names {name} twice.")
        return cls(dimensions)

    @property
    def size(self) -> float:
        """Number of configurations; infinite if a dimension is continuous."""
        return math.prod(dimension.size for dimension in self.dimensions)

    def values_at(self, fractions: Sequence[float]) -> dict[str, Value]:
        """Maps a fraction in [0, 1) per dimension to a configuration."""
        places = zip(self.dimensions, fractions, strict=True)
        return {dimension.name: dimension.value_at(place) for dimension, place in places}

    def canonical(self, values: Mapping[str, Any]) -> dict[str, Value]:
        """Rounds transported values to a configuration; drops entries of other names."""
        return {d.name: d.canonical(values[d.name]) for d in self.dimensions}

    def grid(self) -> Iterator[dict[str, Value]]:
        """Yields every configuration of a finite space; the last dimension varies fastest.

        Raises:
          ConfigError: for a continuous space.
        """
        for dimension in self.dimensions:
            if dimension.size == math.inf:
                raise ConfigError(
                    f"a grid needs a step or choices in every dimension; {dimension} has neither."
                )
        sizes = [int(dimension.size) for dimension in self.dimensions]
        for index in range(math.prod(sizes)):
            places, rest = [], index
            for size in reversed(sizes):
                rest, place = divmod(rest, size)
                places.append((place + 0.5) / size)
            yield self.values_at(places[::-1])

    def check(self, base: config_lib.Config) -> None:
        """Raises ConfigError unless the trainer accepts the ends, or choices, of each range."""
        for dimension in self.dimensions:
            for value in dimension.choices or (dimension.low, dimension.high):
                with_value(base, {dimension.name: dimension.canonical(value)})
        self._check_effect(base)
        self._check_layers(base)
        self._check_automatic()

    def _check_effect(self, base: config_lib.Config) -> None:
        """Raises ConfigError for a dimension that changes no trial, because of other options."""
        names = {dimension.name for dimension in self.dimensions}
        values = base.to_flat()
        for name in sorted(names & set(effects.NEEDS)):
            need = effects.NEEDS[name]
            if not names & set(need.others) and not need.is_met(values):
                raise ConfigError(
                    f"search ({name}) changes nothing without {need.what}; give that, search "
                    f"{need.others[0]} too, or leave {name} out."
                )

    def _check_layers(self, base: config_lib.Config) -> None:
        """Raises ConfigError for numbers of layers that the backbone lacks, or without weights."""
        own = (base.model.layers_to_unfreeze,)
        found = [d.choices for d in self.dimensions if d.name == "layers_to_unfreeze"]
        for unfrozen in found[0] if found else own:
            model = dataclasses.replace(base.model, layers_to_unfreeze=str(unfrozen))
            unfreezing.check(model)

    def _check_automatic(self) -> None:
        """Raises ConfigError for batches of 0, which a trial would take for another size."""
        for dimension in self.dimensions:
            if dimension.name == "batch_size" and 0 in (dimension.choices or (dimension.low,)):
                raise ConfigError(
                    f"search ({dimension}) has a batch_size of 0, which stands for an automatic "
                    "one; give sizes of 1 or more."
                )

    def __str__(self) -> str:
        """Returns the space as --search spells it."""
        return ",".join(map(str, self.dimensions))


def with_value(base: config_lib.Config, values: Mapping[str, Any]) -> config_lib.Config:
    """Returns a config with the values of some options replaced."""
    return config_lib.Config.from_flat({**base.to_flat(), **values})


def _parts(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _in_our_spelling(text: str) -> list[str]:
    """Returns the parts of a search space that may have been written as in Python, JSON or YAML.

    Without this, a comma within a list would cut it, and the halves would be complained about.
    """
    bare = re.sub(r"[\"']", "", text).strip()
    if bare.startswith("{") and bare.endswith("}"):
        bare = bare[1:-1]
    bare = re.sub(r"[\[({]([^][(){}]*)[\])}]", lambda found: "|".join(_parts(found[1])), bare)
    meant: list[str] = []
    for part in _parts(bare):
        name, colon, values = part.partition(":")
        if colon and name.strip() in DEFAULTS:
            meant.append(f"{name.strip()}={values.strip()}")
        elif meant and _is_value(part, _split(meant[-1])[0]):
            meant[-1] += f"{'|' if '=' in meant[-1] else '='}{part}"
        else:
            meant.append(part)
    return meant


def _is_value(part: str, name: str) -> bool:
    """Whether a part between commas is a value of the option before it, not another option."""
    choices = next(
        (f.metadata["option"].choices for _, f in config_lib.fields() if f.name == name), ()
    )
    if part in (choices or ()) or part == "all":
        return True
    try:
        float(part)
    except ValueError:
        return False
    return True


def _split(part: str) -> tuple[str, str]:
    name, _, bounds = part.partition("=")
    return name.strip(), bounds.strip()


def _parse_dimension(name: str, bounds: str) -> Dimension:
    if name not in DEFAULTS:
        raise ConfigError(_not_searched(name))
    text = bounds or DEFAULTS[name]
    kind = next(type(f.default) for _, f in config_lib.fields() if f.name == name)
    try:
        if "|" in text or ":" not in text:
            return _parse_choices(name, text, kind)
        return _parse_range(name, text, kind)
    except ValueError as error:  # ConfigError is a ValueError too.
        if isinstance(error, ConfigError):
            raise
        problem = "must be low:high, low:high:step, low:high:log or a|b|c, of which each is"
        raise _refused(name, text, f"{problem} {option_groups.KINDS[kind]}") from error


def _refused(name: str, text: str, problem: str) -> ConfigError:
    """Returns the error about the values of an option."""
    return ConfigError(f"search ({text_lib.bare(f'{name}={text}'):.200}) {problem}.")


def _not_searched(name: str) -> str:
    """Returns the message for a name that can't be searched: an option of a run, or none."""
    shown, listed = text_lib.one_line(name), ", ".join(DEFAULTS)
    options = [field.name for _, field in config_lib.fields()]
    if name in options and name not in hints.options(name, DEFAULTS):
        return (
            f"search ({shown}) can't be searched: --{shown}=VALUE sets it for all trials; searched "
            f"can be {listed}."
        )
    return f"search ({shown:.80}) {hints.choice('search', name, list(DEFAULTS))}"


def _parse_choices(name: str, text: str, kind: type) -> Dimension:
    choices = tuple(kind(part.strip()) for part in text.split("|"))
    if len(set(choices)) < len(choices):
        raise _refused(name, text, "names a choice twice")
    return Dimension(name, "choice", choices=choices)


def _parse_range(name: str, text: str, kind: type) -> Dimension:
    if kind is str:
        raise _refused(name, text, "must list its choices, as a|b|c")
    low_text, high_text, *rest = text.split(":")
    low, high = kind(low_text), kind(high_text)
    log = rest == ["log"]
    step = kind(rest[0]) if rest and not log else kind(0)
    if len(rest) > 1 or (rest and not log and step <= 0):
        raise ValueError(text)
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise _refused(name, text, "must have finite bounds, the lower one first")
    if log and low <= 0:
        raise _refused(name, text, "must have a positive lower bound, for its logarithm")
    return Dimension(name, kind.__name__, low, high, step, log)
