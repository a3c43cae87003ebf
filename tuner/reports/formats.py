"""How values, scores and times of a search are written for people.

formats.value(0.00031622)   # "0.0003162"
formats.duration(3725)      # "1 h 02 min"
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tuner.space import Value

NONE = "–"


def value(of: Value) -> str:
    """Writes a dimension's value: a number in four significant digits, a text as it is."""
    return f"{of:.4g}" if isinstance(of, float) else str(of)


def values(of: Mapping[str, Value]) -> str:
    """Writes all values of a configuration in a line."""
    return ", ".join(f"{name}={value(of[name])}" for name in of)


def score(of: float | None) -> str:
    """Writes a score in four decimals; a dash for one that is missing or no number."""
    return NONE if of is None or not math.isfinite(of) else f"{of:.4f}"


def duration(seconds: float) -> str:
    """Writes a time in its two largest units."""
    whole = max(round(seconds), 0)
    minutes, rest = divmod(whole, 60)
    hours, minutes_rest = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes_rest:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def place(of: int | None) -> str:
    """Writes the number of a bracket or rung; a dash where the oracle has none."""
    return NONE if of is None else str(of)


def counted(count: int, noun: str) -> str:
    """Writes a number with its noun, which takes an s unless there is one."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
