"""Requests to stop: SIGTERM from a scheduler, SIGINT from a person, SIGHUP from a closed terminal.

A request raises `Stopped` at once; only training first finishes its steps and saves them. A second
request ends the process immediately.

    with signals.watched():            # in the main thread, around a whole run
        ...
        with signals.deferred():       # in here, a request waits until somebody asks
            if signals.is_requested():
                signals.stop()
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from typing import TYPE_CHECKING, NoReturn, TypeVar

from trainer.errors import Stopped
from trainer.system import console, exits

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_Command = TypeVar("_Command")

EXIT_CODES = {
    signal.SIGTERM: exits.STOPPED,
    signal.SIGINT: exits.INTERRUPTED,
    signal.SIGHUP: exits.STOPPED,
}

_requests: list[signal.Signals] = []
_deferred = False
_stopping = False
"""Whether the process is already stopping because another worker was asked to stop."""


@contextlib.contextmanager
def watched() -> Iterator[None]:
    """Turns signals into `Stopped`; does nothing in other threads, where Python forbids it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    global _stopping  # noqa: PLW0603 -- Signal handlers are global too.
    before = {number: signal.signal(number, _on_signal) for number in heeded()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        _requests.clear()  # A request was to this block, not to what the process does next.
        _stopping = False


def heeded() -> list[signal.Signals]:
    """Returns the signals that are requests; not SIGHUP under `nohup`, which has it ignored."""
    is_kept = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    return [number for number in EXIT_CODES if not (is_kept and number == signal.SIGHUP)]


def ignored_after(main: Callable[[_Command], int]) -> Callable[[_Command], int]:
    """Returns a `main` after which signals are ignored, so that they don't change the exit code.

    TensorFlow takes a second to end, and by then everything is saved.
    """

    def run(command: _Command) -> int:
        code = main(command)
        for number in EXIT_CODES:
            signal.signal(number, signal.SIG_IGN)
        return code

    return run


@contextlib.contextmanager
def deferred(any_host: Callable[[bool], bool] = bool) -> Iterator[None]:
    """Defers a request until `stop`, or until the block ends.

    Args:
      any_host: returns whether its argument is true on any host of the run. Every host calls it at
        the end of the block, so that a request to one host stops all.
    """
    global _deferred  # noqa: PLW0603 -- Signal handlers are global too.
    _deferred = True
    try:
        yield
        is_wanted = any_host(is_requested())
    finally:
        _deferred = False
    if is_wanted or _requests:  # One may have come while the hosts agreed.
        stop()


def name_of(number: int) -> str:
    """Returns the name of a signal; one without a name, such as a real-time signal, by number."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def is_requested() -> bool:
    """Whether a stop has been requested."""
    return bool(_requests)


def stop() -> NoReturn:
    """Raises Stopped: for the request to this process, or else for one to another worker."""
    global _stopping  # noqa: PLW0603 -- Signal handlers are global too.
    if not _requests:
        _stopping = True
        raise Stopped("a request to another worker", EXIT_CODES[signal.SIGTERM])
    raise Stopped(_requests[0].name, EXIT_CODES[_requests[0]])


def _on_signal(number: int, frame: object) -> None:
    del frame
    if number == signal.SIGHUP:
        console.leave_terminal()
    if _requests:  # The second one: whoever sent it does not want to wait for a checkpoint.
        os._exit(EXIT_CODES[signal.Signals(number)])
    _requests.append(signal.Signals(number))
    if not _deferred and not _stopping:
        stop()
