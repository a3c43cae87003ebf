"""Cleans the text of libraries for our own messages, which are one line, and for any file.

What escapes names and cells is `cxr_tfds.text`, which the data set uses too.

text.first_line(error)         # "No such file or directory"
text.one_line("a    b")        # "a b"
"""

from __future__ import annotations

from cxr_tfds.text import cell, from_cell, printable, visible

__all__ = ["cell", "first_line", "from_cell", "one_line", "printable", "visible"]


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
