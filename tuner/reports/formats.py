"""Formats values, scores and durations of a search as text.

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
    """Formats a dimension's value: a float in four significant digits, others unchanged."""
    return f"{of:.4g}" if isinstance(of, float) else str(of)


def values(of: Mapping[str, Value]) -> str:
    """Formats the values of a configuration in one line."""
    return ", ".join(f"{name}={value(of[name])}" for name in of)


def score(of: float | None) -> str:
    """Formats a score in four decimals; a missing, NaN or infinite one as a dash."""
    return NONE if of is None or not math.isfinite(of) else f"{of:.4f}"


def duration(seconds: float) -> str:
    """Formats a duration in its two largest units."""
    whole = max(round(seconds), 0)
    minutes, rest = divmod(whole, 60)
    hours, minutes_rest = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes_rest:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def place(of: int | None) -> str:
    """Formats the number of a bracket or rung; None as a dash."""
    return NONE if of is None else str(of)
