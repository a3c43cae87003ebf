"""Cleans the text of libraries for our own messages, which are one line, and for any file.

text.first_line(error)         # "No such file or directory"
text.one_line("a    b")        # "a b"
"""

from __future__ import annotations


def first_line(error: BaseException | str) -> str:
    """Returns the first line of an error's message, without a trailing full stop.

    Args:
      error: an error or its message; libraries append stack traces and hints to theirs.

    Returns:
      The line; for an error without a message, the name of its class.
    """
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].rstrip(".")


def printable(text: str) -> str:
    """Replaces control characters, and escapes surrogates, which UTF-8 can't encode.

    Libraries quote file names, in which Python represents undecodable bytes as surrogates.
    """
    encodable = text.encode("utf-8", "backslashreplace").decode("utf-8")
    visible = (char if char.isprintable() or char.isspace() else "\ufffd" for char in encodable)
    return "".join(visible)


def one_line(text: str) -> str:
    """Returns the printable text, with each run of white space replaced by one space."""
    return " ".join(printable(text).split())
