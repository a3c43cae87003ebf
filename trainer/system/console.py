"""What a run prints for its user: plain lines, and progress bars on a terminal.

Text goes to standard output, bars and library logs to standard error. Where both are one terminal,
each line is written above the bars, which are then drawn again: also the lines of libraries, once
`share_terminal` was called.
"""

from __future__ import annotations

import _thread
import contextlib
import errno
import os
import signal
import sys
import termios
import time
from typing import TYPE_CHECKING, Any, Self

import tqdm
from absl import logging

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import TextIO

LINE_EVERY_S = 60

_muted = False
_closed = False
_terminal: TextIO | None = None
"""Where bars are drawn, if `share_terminal` has put `_AboveBars` in its place."""

_is_logged = False
"""Whether a command found no terminal for bars: standard error is a log file or a pipe."""


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
    """Prints a line even while this process is silenced.

    If the reader of a pipe is gone, as after `| head -1`, the run is asked to stop, as by SIGTERM:
    it saves what it has. `is_closed` then says why, and nothing more is printed.
    """
    try:
        with _above_bars():
            sys.stdout.write(text + "\n")
            sys.stdout.flush()
    except BrokenPipeError:
        close(sys.stdout)
        _thread.interrupt_main(signal.SIGTERM)  # This may be another thread.
    except OSError as error:
        _require_hung_up(error)


def close(stream: TextIO) -> None:
    """Sends what is still written to a stream to the null device: its reader is gone."""
    global _closed  # noqa: PLW0603 -- Standard output is global too.
    _closed = True
    _discard(stream)


def leave_terminal() -> bool:
    """Sends what is still written to a terminal that was closed to the null device.

    A write would fail, and end the run before it is saved.

    Returns:
      Whether one was closed.
    """
    was_closed = False
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):  # A notebook's has no descriptor.
            if _is_hung_up(stream.fileno()):
                _discard(stream)
                was_closed = True
    return was_closed


def _require_hung_up(error: OSError) -> None:
    """Raises a failed write's error again, unless the terminal was closed: SIGHUP is on its way."""
    if error.errno != errno.EIO or not leave_terminal():
        raise error


def _is_hung_up(descriptor: int) -> bool:
    """Whether a descriptor is of a terminal that was closed; `isatty` then says no."""
    try:
        termios.tcgetattr(descriptor)
    except termios.error as error:
        return error.args[0] == errno.EIO
    return False


def _discard(stream: TextIO) -> None:
    with contextlib.suppress(OSError, ValueError), open(os.devnull, "wb") as null:  # noqa: PTH123
        os.dup2(null.fileno(), stream.fileno())


def is_closed() -> bool:
    """Whether the reader of the output has gone."""
    return _closed


@contextlib.contextmanager
def _above_bars() -> Iterator[None]:
    """Removes the bars from the terminal within the block."""
    with (
        tqdm.tqdm.get_lock(),  # Also released by an exception, which tqdm's own block is not.
        tqdm.tqdm.external_write_mode(file=_terminal or sys.stderr, nolock=True),
    ):
        yield


class _AboveBars:
    """Standard error, for warnings and library logs: writes above the bars on a terminal.

    After the terminal was closed, nothing is written; bars themselves end then, as tqdm sees to it.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        try:
            with _above_bars():
                return self._stream.write(text)
        except OSError as error:
            _require_hung_up(error)
            return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError as error:
            _require_hung_up(error)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def share_terminal() -> None:
    """From here on, what Python code writes to standard error leaves bars whole."""
    global _terminal, _is_logged  # noqa: PLW0603 -- Standard error is global too.
    _is_logged = _terminal is None and not _is_terminal(sys.stderr)
    if _terminal is None and not _is_logged:
        _terminal = sys.stderr
        sys.stderr = _AboveBars(_terminal)
        logging.get_absl_handler().python_handler.setStream(sys.stderr)


def is_logged() -> bool:
    """Whether bars of libraries would fill a log file, and glue the next line to their last."""
    return _is_logged


def _is_terminal(stream: Any) -> bool:
    """Whether a stream is a terminal that can move its cursor; a notebook's stream is not."""
    is_terminal = getattr(stream, "isatty", bool)()
    return bool(is_terminal) and os.environ.get("TERM") != "dumb"


def is_terminal() -> bool:
    """Whether standard output is a terminal, on which lines can be redrawn."""
    return _is_terminal(sys.stdout)


def wants_colour() -> bool:
    """Whether to print in colour: on a terminal, unless NO_COLOR is set (https://no-color.org)."""
    return is_terminal() and not os.environ.get("NO_COLOR")


def bar(total: int, label: str, unit: str) -> Any:
    """Returns a tqdm bar on a terminal, and elsewhere a line every LINE_EVERY_S seconds."""
    stream = _terminal or sys.stderr
    if _muted or _is_terminal(stream):
        return tqdm.tqdm(
            total=total,
            desc=label,
            unit=unit,
            leave=False,
            dynamic_ncols=True,
            disable=_muted,
            file=stream,
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
