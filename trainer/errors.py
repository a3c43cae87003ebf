"""The errors that a user reads: one sentence with the value and the way out.

The command line prints the sentence without a traceback; in Python they are raised.
"""

from __future__ import annotations


class ConfigError(ValueError):
    """An option has a value that it cannot have; the message says which, and what it may be.

    try:
        config = trainer.Config.from_flat(options)
    except trainer.ConfigError as error:
        print(error)      # batch_size (0) must be at least 1.
    """


class RunError(Exception):
    """Something outside the code is missing or broken; the message says what to do.

    try:
        run = trainer.open_run("runs/a")
    except trainer.RunError as error:
        print(error)      # there is no run at runs/a; train one, or name its --model_dir.
    """


class DiskError(RunError):
    """A disk is full or gone, or what is on it damaged; no configuration is to blame for it."""


class DivergedError(RunError):
    """The training loss is no longer a number."""


class Stopped(BaseException):
    """The run was asked to stop; like KeyboardInterrupt, nothing else should catch it."""

    def __init__(self, signal_name: str, exit_code: int) -> None:
        super().__init__(f"stopped by {signal_name}")
        self.exit_code = exit_code
