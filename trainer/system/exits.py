"""How a command of this project ends: an exit code, and one line on standard error.

sys.exit(exits.code_of("trainer", lambda: run(command)))
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, TypeVar

from trainer import errors
from trainer.system import text

if TYPE_CHECKING:
    from collections.abc import Callable

DONE, FAILED, USAGE = 0, 1, 2
DO_NOT_USE = 3
"""Done, but a guard fired: the model must not be used."""
STOPPED, INTERRUPTED = 75, 130
"""After SIGTERM and SIGINT, with everything saved; 75 is EX_TEMPFAIL of sysexits.h."""
TRAINED = (DONE, DO_NOT_USE)
"""Exit codes of a finished run."""

_Parsed = TypeVar("_Parsed")


def code_of(name: str, work: Callable[[], int]) -> int:
    """Returns what `work` returns, or prints the error that ended it and returns its code."""
    try:
        return work()
    except errors.ConfigError as error:
        return _fail(name, error, USAGE)
    except (errors.RunError, OSError) as error:  # A full disk, a folder without permission.
        return _fail(name, error, FAILED)
    except errors.Stopped as stop:
        reason = f"{stop}; the same command resumes from what is saved."
        return _fail(name, reason, stop.exit_code)


def parsed(name: str, parse: Callable[[], _Parsed]) -> _Parsed:
    """Returns what `parse` returns; prints one line and exits on wrong usage."""
    try:
        return parse()
    except errors.ConfigError as error:
        sys.exit(_fail(name, error, USAGE))
    except errors.RunError as error:  # A --config_file in a bucket can't be read.
        sys.exit(_fail(name, error, FAILED))


def _fail(name: str, reason: object, code: int) -> int:
    sys.stderr.write(f"{name}: {text.printable(str(reason))}\n")
    return code
