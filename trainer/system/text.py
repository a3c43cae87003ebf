"""Text for messages and files: cleans that of libraries, which becomes one line; formats numbers.

What escapes names and cells is `cxr_tfds.text`, which the data set uses too.

text.first_line(error)         # "No such file or directory"
text.one_line("a    b")        # "a b"
text.plain(4294967296.0)       # "4294967296"
text.percent(0.944)            # "94.40 %"
"""

from __future__ import annotations

import json
import math
import os
import re

from cxr_tfds.text import cell, from_cell, printable, quoted, visible

__all__ = [
    "bare",
    "cell",
    "clause",
    "counted",
    "decimal",
    "first_line",
    "from_cell",
    "is_os_string",
    "one_line",
    "percent",
    "plain",
    "printable",
    "quoted",
    "shown",
    "visible",
]

UNDEFINED = "undefined"
_NODE = re.compile(r"\{\{[^{}]*\}\} ?| ?\[Op:\w*\]")
_LONGEST = 60
"""Characters of a value that a message shows."""
_LONGEST_LINE = 1000
"""Characters of what a library says that a message quotes."""
_MAX_WHOLE = 1e15
"""Floats from here on may skip whole numbers, and are shown with an exponent."""


def first_line(error: BaseException | str) -> str:
    """Returns the first line of an error's message, without a trailing full stop.

    TensorFlow's names of the operation, `{{node …}}` and `[Op:…]`, tell a user nothing.

    Args:
      error: an error or its message; libraries append stack traces and hints to theirs.

    Returns:
      The line, of at most `_LONGEST_LINE` characters: some libraries quote a whole damaged file.
      For an error without a message, the name of its class.
    """
    message = _NODE.sub("", str(error)).strip()
    lines = message.splitlines() or [type(error).__name__]
    line = lines[0].rstrip(".")
    return printable(line if len(line) <= _LONGEST_LINE else f"{line[:_LONGEST_LINE]}…")


def bare(text: str) -> str:
    """Returns a value as it is; as JSON has it, in quotes, if one would not see what it is."""
    return text if text == one_line(text) else shown(text)


def clause(error: BaseException | str) -> str:
    """Returns a message on one line, without a full stop: it can stand within a sentence."""
    return one_line(str(error)).rstrip(".")


def one_line(text: str) -> str:
    """Returns the visible text, with each run of white space replaced by one space."""
    return visible(" ".join(text.split()))


def counted(count: int, noun: str) -> str:
    """Returns a count with its noun, in the plural unless the count is 1."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def decimal(value: float | None, digits: int) -> str:
    """Formats a metric; one that is None or NaN is undefined."""
    return UNDEFINED if value is None or math.isnan(value) else f"{value:.{digits}f}"


def percent(share: float) -> str:
    """Formats a share as the paper does: `94.40 %`."""
    return f"{100 * share:.2f} %"


def is_os_string(text: str) -> bool:
    """Whether the system can be given the text: it has no null byte, and can be encoded.

    JSON can hold others, such as half a surrogate pair.
    """
    try:
        return b"\0" not in os.fsencode(text)
    except UnicodeEncodeError:
        return False


def plain(number: float) -> str:
    """Returns a number as users type it: 4294967296, 0.001 or 1e-5, not 4.29497e+09 or 1e-05."""
    if isinstance(number, float) and number.is_integer() and abs(number) < _MAX_WHOLE:
        return str(int(number))
    return re.sub(r"e([+-])0*", lambda sign: "e" + sign[1].strip("+"), shown(number))


def shown(value: object) -> str:
    """Returns a value as JSON has it, for a message: on one line, and not too long.

    Of a value that JSON can't hold, its type is named.
    """
    try:
        line = printable(json.dumps(value, ensure_ascii=False))
    except (RecursionError, TypeError, ValueError):
        kind = type(value).__name__
        line = f"{'an' if kind[:1].lower() in tuple('aeiou') else 'a'} {kind}"
    return line if len(line) <= _LONGEST else f"{line[: _LONGEST - 1]}…"
