"""What a run prints for its user: plain lines, and progress bars on a terminal.

Text goes to standard output, bars and library logs to standard error.
"""

from __future__ import annotations

import contextlib
import sys
import time
from typing import TYPE_CHECKING, Any, Self

import tqdm

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

LINE_EVERY_S = 60

_muted = False


def mute() -> None:
    """Silences this process; of several workers, only the chief prints."""
    global _muted  # noqa: PLW0603 -- Standard output is global too.
    _muted = True


@contextlib.contextmanager
def muted() -> Iterator[None]:
    """Silences this process within the block."""
    global _muted  # noqa: PLW0603 -- See above.
    before, _muted = _muted, True
    try:
        yield
    finally:
        _muted = before


def say(text: str = "") -> None:
    """Prints a line and flushes it, so that the reader of a pipe has it at once."""
    if not _muted:
        say_always(text)


def say_always(text: str = "") -> None:
    """Prints a line even while this process is silenced."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def wants_colour() -> bool:
    """Whether standard output is a terminal."""
    return sys.stdout.isatty()


def bar(total: int, label: str, unit: str) -> Any:
    """Returns a tqdm bar on a terminal, and elsewhere a line every LINE_EVERY_S seconds."""
    if _muted or sys.stderr.isatty():
        return tqdm.tqdm(
            total=total, desc=label, unit=unit, leave=False, dynamic_ncols=True, disable=_muted
        )
    return Lines(total, label, unit)


class Lines:
    """Progress as plain lines, for a log file; used like a tqdm bar."""

    def __init__(
        self,
        total: int,
        label: str,
        unit: str,
        *,
        clock: Callable[[], float] = time.monotonic,
        say: Callable[[str], None] = say,
    ) -> None:
        self.n = 0
        self._total, self._label, self._unit = total, label, unit
        self._clock, self._say = clock, say
        self._start = self._last = clock()

    def update(self, count: int) -> None:
        """Advances by `count`."""
        self.n += count
        now = self._clock()
        if now - self._last < LINE_EVERY_S or not self.n:
            return
        self._last = now
        rate = self.n / (now - self._start)
        minutes, seconds = divmod(round((self._total - self.n) / rate), 60)
        self._say(
            f"{self._label}: {self.n:,} of {self._total:,} {self._unit}, "
            f"{rate:.1f} {self._unit}/s, {minutes}:{seconds:02d} left"
        )

    def close(self) -> None:
        """Does nothing; a tqdm bar would close."""

    def __enter__(self) -> Self:
        """Returns itself."""
        return self

    def __exit__(self, *exception: object) -> None:
        """Closes it."""
        self.close()
