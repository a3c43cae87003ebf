"""The errors that a user reads: one sentence with the value and the remedy.

The command line prints the sentence without a traceback; the Python API raises the error.
"""

from __future__ import annotations


class ConfigError(ValueError):
    """An option's value is invalid; the message names the option and what it accepts.

    try:
        config = trainer.Config.from_flat(options)
    except trainer.ConfigError as error:
        print(error)      # max_epochs (0) must be at least 1.
    """


class TooLargeError(ConfigError):
    """What an option asks for does not fit into the memory of this machine."""


class RunError(Exception):
    """A file, device, host or download failed; the message says what to do.

    try:
        run = trainer.open_run("runs/a")
    except trainer.RunError as error:
        print(error)      # there is no run at runs/a; train one, or give the directory of one.
    """


class DiskError(RunError):
    """A disk is full or gone, or a file on it is damaged; a search stops, and blames no trial."""


class DivergedError(RunError):
    """The training loss is NaN or infinite."""


class Stopped(BaseException):
    """The run was asked to stop.

    A BaseException, like KeyboardInterrupt, so that no `except Exception` swallows it.
    """

    def __init__(self, signal_name: str, exit_code: int) -> None:
        super().__init__(f"stopped by {signal_name}")
        self.exit_code = exit_code
