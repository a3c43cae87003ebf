"""Text of libraries, made fit for one line of our own messages and for every file.

text.first_line(error)         # "No such file or directory"
text.one_line("a    b")        # "a b"
"""

from __future__ import annotations


def first_line(error: BaseException | str) -> str:
    """Returns the first line of an error's text, without a trailing full stop.

    Args:
      error: or the message of one; libraries append stack traces and hints to theirs.

    Returns:
      The name of the error's class where it has no text.
    """
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].rstrip(".")


def printable(text: str) -> str:
    """Returns a text without control characters, and only with such that every file can hold.

    Messages of libraries quote file names, in which Python keeps undecodable bytes as surrogates.
    """
    encodable = text.encode("utf-8", "backslashreplace").decode("utf-8")
    kept = (char if char.isprintable() or char.isspace() else "\ufffd" for char in encodable)
    return "".join(kept)


def one_line(text: str) -> str:
    """Returns a printable text with a single space wherever it had white space."""
    return " ".join(printable(text).split())
