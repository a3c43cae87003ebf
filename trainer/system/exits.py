"""How a command of this project ends: an exit code, and one line on standard error.

sys.exit(exits.code_of("trainer", lambda: run(command)))
"""

from __future__ import annotations

import contextlib
import sys
import types
from typing import TYPE_CHECKING, TypeVar

from trainer import errors
from trainer.system import console, faults, text

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

DONE, FAILED, USAGE = 0, 1, 2
DO_NOT_USE = 3
"""Done, but a guard fired: the model must not be used."""
STOPPED, INTERRUPTED = 75, 130
"""After SIGTERM and SIGINT, with everything saved; 75 is EX_TEMPFAIL of sysexits.h."""
OUTPUT_CLOSED = 141
"""What a shell shows for a program that SIGPIPE ends; here with everything saved."""
TRAINED = (DONE, DO_NOT_USE)
"""Exit codes of a finished run."""

_Parsed = TypeVar("_Parsed")


def code_of(
    name: str, work: Callable[[], int], folders: Callable[[], Mapping[str, str]] = dict
) -> int:
    """Returns what `work` returns, or prints the error that ended it and returns its code.

    Where the reader of the output has gone, as after `| head -1`, there is nothing to print to.
    Other errors are our own mistakes: they keep their traceback.

    Args:
      name: of the command.
      work: does it, and returns the code.
      folders: returns the folder of each option that names one, by the option's name. It is called
        after an error: to look for a folder may fail for the same reason.
    """
    try:
        code = work()
    except errors.Stopped as stop:
        code = stop.exit_code
        if not console.is_closed():
            _fail(name, f"{stop}; the same command resumes from what is saved.", code)
    except Exception as error:
        is_ours = isinstance(error, errors.ConfigError | errors.RunError)
        reason = str(error) if is_ours else explain(error, _known(folders))
        if not reason:
            raise
        code = _fail(name, reason, USAGE if isinstance(error, errors.ConfigError) else FAILED)
    return OUTPUT_CLOSED if console.is_closed() and code not in (FAILED, USAGE) else code


def _known(folders: Callable[[], Mapping[str, str]]) -> Mapping[str, str]:
    with contextlib.suppress(OSError):
        return folders()
    return {}


def explain(error: Exception, folders: Mapping[str, str] = types.MappingProxyType({})) -> str:
    """Returns a sentence for an error of the system: a disk, permissions, memory; else nothing."""
    of_system = error if isinstance(error, OSError) else faults.of_library(error)
    if of_system is not None:
        return faults.explain(of_system, folders)
    if isinstance(error, MemoryError) or type(error).__name__ == "ResourceExhaustedError":
        return (
            f"out of memory ({text.first_line(error)}); give a smaller --batch_size, or free "
            "memory of the device."
        )
    if isinstance(error, RuntimeError) and str(error).startswith("Could not determine home"):
        return "the home directory is not known; set HOME, or give full paths."
    if isinstance(error, UnicodeError):
        return f"a file or a name is not UTF-8 ({text.first_line(error)})."
    return ""


def parsed(name: str, parse: Callable[[], _Parsed]) -> _Parsed:
    """Returns what `parse` returns; prints one line and exits on wrong usage."""
    try:
        return parse()
    except errors.ConfigError as error:
        sys.exit(_fail(name, error, USAGE))
    except (errors.RunError, OSError) as error:  # A --config_file in a bucket can't be read.
        sys.exit(_fail(name, explain(error) or error, FAILED))
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


def _fail(name: str, reason: object, code: int) -> int:
    with contextlib.suppress(OSError):  # The reader may be gone, or the terminal closed.
        sys.stderr.write(f"{name}: {text.printable(str(reason))}\n")
    return code
