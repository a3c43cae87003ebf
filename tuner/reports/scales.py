"""Axes of charts: map values to fractions of the axis, and choose the ticks.

scale = scales.of_dimension(Dimension("learning_rate", "float", 1e-5, 1e-2, log=True))
scale.fraction(1e-4)    # 0.333...
scale.ticks()           # [(0.0, "1e-05"), (0.333, "0.0001"), ...]
"""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Any, Protocol

import matplotlib.ticker
import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from tuner.space import Dimension, Value

Ticks = list[tuple[float, str]]


class Scale(Protocol):
    """An axis."""

    def fraction(self, value: Any) -> float:
        """Maps a value to [0, 1]; values beyond the axis to its end."""

    def ticks(self) -> Ticks:
        """Returns (fraction, text) of each tick."""


@dataclasses.dataclass(frozen=True)
class Linear:
    """A linear axis."""

    low: float
    high: float
    is_whole: bool = False

    def fraction(self, value: float) -> float:
        """Maps a value to [0, 1]."""
        return min(max((value - self.low) / (self.high - self.low), 0.0), 1.0)

    def ticks(self) -> Ticks:
        """Returns about five round values between the ends."""
        steps = {"integer": True, "min_n_ticks": 1} if self.is_whole else {}
        locator = matplotlib.ticker.MaxNLocator(nbins=5, steps=[1, 2, 5, 10], **steps)
        slack = 1e-9 * (self.high - self.low)
        values = [round(float(tick), 12) for tick in locator.tick_values(self.low, self.high)]
        inside = [tick for tick in values if self.low - slack <= tick <= self.high + slack]
        return [(self.fraction(tick), f"{tick:.6g}") for tick in inside]


@dataclasses.dataclass(frozen=True)
class Logarithmic:
    """A logarithmic axis."""

    low: float
    high: float

    def fraction(self, value: float) -> float:
        """Maps a value to [0, 1]."""
        return min(max(math.log(value / self.low) / math.log(self.high / self.low), 0.0), 1.0)

    def ticks(self) -> Ticks:
        """Returns the powers of ten; on less than two decades, also 2 and 5 times these."""
        exponents = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        factors = (1,) if self.high / self.low >= 100 else (1, 2, 5)
        values = [factor * 10.0**exponent for exponent in exponents for factor in factors]
        slack = 1 + 1e-9
        inside = [tick for tick in values if self.low / slack <= tick <= self.high * slack]
        return [(self.fraction(tick), f"{tick:.6g}") for tick in inside]


@dataclasses.dataclass(frozen=True)
class Categories:
    """A categorical axis: equal parts, with each choice in the middle of its part."""

    choices: Sequence[Value]

    def fraction(self, value: Value) -> float:
        """Maps a choice to [0, 1]."""
        return (self.choices.index(value) + 0.5) / len(self.choices)

    def ticks(self) -> Ticks:
        """Returns every choice."""
        return [(self.fraction(choice), str(choice)) for choice in self.choices]


def of_dimension(dimension: Dimension) -> Scale:
    """Returns the axis of a dimension, between its bounds."""
    if dimension.choices:
        return Categories(list(dimension.choices))
    if dimension.log and dimension.low < dimension.high:
        return Logarithmic(dimension.low, dimension.high)
    return _widened(dimension.low, dimension.high, is_whole=dimension.kind == "int")


def of_scores(scores: Iterable[float], direction: str) -> Linear:
    """Returns an axis for scores that a few very bad ones do not stretch.

    The axis may cut off the worst scores, which are then drawn at its end, but never the best.

    Args:
      scores: In any order; without scores, the axis is [0, 1].
      direction: "max" or "min".
    """
    found = np.array(list(scores), np.float64)
    if not found.size:
        return Linear(0.0, 1.0)
    low, high = float(found.min()), float(found.max())
    tenth, ninth = (float(q) for q in np.quantile(found, [0.1, 0.9]))
    if direction == "max":
        low = max(low, tenth - (high - tenth))
    else:
        high = min(high, ninth + (ninth - low))
    margin = 0.03 * (high - low)
    return _widened(low - margin, high + margin, is_whole=False)


def _widened(low: float, high: float, *, is_whole: bool) -> Linear:
    """Returns the axis from low to high, widened if they are equal."""
    if low < high:
        return Linear(low, high, is_whole)
    half = 0.5 if is_whole else 0.05 * abs(low) or 0.5
    return Linear(low - half, low + half, is_whole)
