"""Keeps what libraries warn of and log to themselves, in the calling thread alone.

pydicom warns and logs of every oddity of a file, in a scan of a folder thousands of times.
`warnings.catch_warnings` swaps the filters of the whole process, so that threads would restore one
another's. Here both filters stay in place for good, and ask whether their own thread is quiet.

    with quiet.libraries():
        dataset = pydicom.dcmread(file)
"""

from __future__ import annotations

import contextlib
import logging
import threading
import warnings
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

_LOGGERS: Final = (
    *("pydicom", "pydicom.pixels.decoders.base", "pydicom.pixels.utils"),
    *("PIL.Image", "PIL.TiffImagePlugin", "PIL.PngImagePlugin"),
)
"""A filter holds for the logger that is called, not for those below it."""


class _Nesting(threading.local):
    """How many `libraries` blocks the thread is inside of."""

    value = 0


_nesting = _Nesting()


class _WhereQuiet(logging.Filter):
    """Holds where the thread is quiet: a pattern of warnings, and a filter of log records."""

    def match(self, _: str) -> bool:
        """Called by `warnings` for the module that warns."""
        return _nesting.value > 0

    def filter(self, record: logging.LogRecord) -> bool:  # noqa: ARG002
        """Called by `logging`."""
        return _nesting.value == 0


_where_quiet = _WhereQuiet()
# A pattern of the module is whatever has a `match`; `warnings.filterwarnings` takes text alone.
_IGNORE: Final[Any] = ("ignore", None, Warning, _where_quiet, 0)


@contextlib.contextmanager
def libraries() -> Iterator[None]:
    """Drops warnings, and log records of pydicom and Pillow, while this thread is inside."""
    _put_in_front()
    _nesting.value += 1
    try:
        yield
    finally:
        _nesting.value -= 1


def _put_in_front() -> None:
    """Filters of others may have come since, or ours may have gone with theirs."""
    filters: Any = warnings.filters
    if not filters or filters[0] is not _IGNORE:
        filters.insert(0, _IGNORE)
    for name in _LOGGERS:
        logging.getLogger(name).addFilter(_where_quiet)
