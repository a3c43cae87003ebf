"""Cleans the text of libraries for our own messages, which are one line, and for any file.

What escapes names and cells is `cxr_tfds.text`, which the data set uses too.

text.first_line(error)         # "No such file or directory"
text.one_line("a    b")        # "a b"
text.nearest("vgg17", names)   # "; did you mean vgg16?"
"""

from __future__ import annotations

import difflib
import json
import os
from typing import TYPE_CHECKING

from cxr_tfds.text import cell, from_cell, printable, quoted, visible

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = [
    "cell",
    "first_line",
    "from_cell",
    "is_os_string",
    "nearest",
    "one_line",
    "printable",
    "quoted",
    "shown",
    "visible",
]

_LONGEST = 60
"""Characters of a value that a message shows."""
_SIMILAR = 0.65
"""Least similarity (difflib's ratio) of a name that is suggested."""


def first_line(error: BaseException | str) -> str:
    """Returns the first line of an error's message, without a trailing full stop.

    Args:
      error: an error or its message; libraries append stack traces and hints to theirs.

    Returns:
      The line; for an error without a message, the name of its class.
    """
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return printable(lines[0].rstrip("."))


def one_line(text: str) -> str:
    """Returns the visible text, with each run of white space replaced by one space."""
    return visible(" ".join(text.split()))


def is_os_string(text: str) -> bool:
    """Whether the system can be given the text: it has no null byte, and can be encoded.

    JSON can hold others, such as half a surrogate pair.
    """
    try:
        return b"\0" not in os.fsencode(text)
    except UnicodeEncodeError:
        return False


def nearest(word: str, known: Iterable[str]) -> str:
    """Returns a clause that names the known word nearest to a misspelt one; empty if none is."""
    by_letters = {_letters(name): name for name in known}
    found = difflib.get_close_matches(_letters(word), by_letters, n=1, cutoff=_SIMILAR)
    return f"; did you mean {by_letters[found[0]]}?" if found else ""


def _letters(word: str) -> str:
    """Returns what a misspelling keeps: vgg-16, VGG_16 and vgg16 are one name."""
    return word.casefold().replace("-", "").replace("_", "")


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
