"""What a run says to the person who started it: plain lines, and bars on a terminal.

Text goes to standard output, bars and library logs to standard error.
"""

from __future__ import annotations

import sys
from typing import Any

import tqdm

_muted = False


def mute() -> None:
    """Silences this process; of several that train together, one speaks."""
    global _muted  # noqa: PLW0603 -- Standard output is global too.
    _muted = True


def say(text: str = "") -> None:
    """Writes a line at once, also into a pipe."""
    if not _muted:
        sys.stdout.write(text + "\n")
        sys.stdout.flush()


def wants_colour() -> bool:
    """Whether a person reads the output on a terminal."""
    return sys.stdout.isatty()


def bar(total: int, label: str, unit: str) -> Any:
    """Returns a tqdm bar that leaves nothing behind and shows on a terminal only."""
    return tqdm.tqdm(
        total=total,
        desc=label,
        unit=unit,
        leave=False,
        dynamic_ncols=True,
        disable=_muted or not sys.stderr.isatty(),
    )
