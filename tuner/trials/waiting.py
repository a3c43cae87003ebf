"""What a process of a search on several hosts says while another one keeps it waiting.

A worker without a chief, and a chief without workers, would be silent until a scheduler ends them.

    with waiting.said(lambda waited: f"waiting for the chief for {waited}; start it."):
        oracle.create_trial(...)
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from typing import TYPE_CHECKING

from trainer.errors import ConfigError
from trainer.system import console

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

FIRST_S = 5.0
"""Time of a wait without a line: processes started together are not ready together."""
LONGEST_PAUSE_S = 300.0
_TICK_S = 1.0


class Reminder:
    """Says a line at intervals that double, as long as the wait goes on.

    The time is an argument: a smaller one than before is that of a new wait.
    """

    def __init__(self, line: Callable[[str], str]) -> None:
        """Creates a reminder of a wait that begins.

        Args:
          line: returns the line; its argument is the time waited, with its unit.
        """
        self._line = line
        self._due_s = FIRST_S

    def tick(self, waited_s: float) -> None:
        """Says the line if it is due, after `waited_s` seconds of waiting."""
        if waited_s < FIRST_S:
            self._due_s = FIRST_S
        elif waited_s >= self._due_s:
            self._due_s = min(2 * waited_s, waited_s + LONGEST_PAUSE_S)
            console.say(self._line(duration(waited_s)))


def address_of_chief() -> str:
    """Returns the address of the chief that the environment of a search on several hosts names.

    Raises:
      ConfigError: when the environment names no address.
    """
    host = os.environ.get("KERASTUNER_ORACLE_IP", "")
    port = os.environ.get("KERASTUNER_ORACLE_PORT", "")
    if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
        raise ConfigError(
            "with KERASTUNER_TUNER_ID, this is a process of a search on several hosts; "
            f"KERASTUNER_ORACLE_IP ({host or 'not set'}) and KERASTUNER_ORACLE_PORT "
            f"({port or 'not set'}) must name its chief. Unset all three to search on one host."
        )
    return f"{host}:{port}"


@contextlib.contextmanager
def said(line: Callable[[str], str]) -> Iterator[None]:
    """Says a line, from a thread, while the block waits."""
    reminder, began = Reminder(line), time.monotonic()
    with called_every(_TICK_S, lambda: reminder.tick(time.monotonic() - began)):
        yield


@contextlib.contextmanager
def called_every(seconds: float, work: Callable[[], None]) -> Iterator[None]:
    """Calls `work` again and again from a thread, while the block runs."""
    ended = threading.Event()

    def repeat() -> None:
        while not ended.wait(seconds):
            work()

    thread = threading.Thread(target=repeat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def duration(seconds: float) -> str:
    """Returns a time as text, in seconds or minutes."""
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"
