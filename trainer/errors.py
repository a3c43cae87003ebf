"""The errors that a user reads: one sentence with the value and the way out, no traceback."""

from __future__ import annotations


class ConfigError(ValueError):
    """An option has a value that it cannot have; the message says which, and what it may be."""


class RunError(Exception):
    """The run cannot go on, for a reason outside the code; the message says what to do."""


class DiskError(RunError):
    """A disk is full or gone, or what is on it damaged; no configuration is to blame for it."""


class DivergedError(RunError):
    """The training loss is no longer a number."""


class Stopped(BaseException):
    """The run was asked to stop; like KeyboardInterrupt, nothing else should catch it."""

    def __init__(self, signal_name: str, exit_code: int) -> None:
        super().__init__(f"stopped by {signal_name}")
        self.exit_code = exit_code
