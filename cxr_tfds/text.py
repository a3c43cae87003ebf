r"""Names and messages from elsewhere, made harmless for a terminal, a log and a table.

A file in an archive may have any name. What reaches a reader has no control characters: not the
escape that recolours or clears a terminal, not the mark that turns the text around.

    text.visible("a\x1b[2J")         # "a\\x1b[2J": one line, for names
    text.printable("a\nb\x07")       # "a\nb\\x07": keeps lines, for messages
    text.cell("=1+1")                # "'=1+1": text for a spreadsheet; from_cell gives it back
"""

from __future__ import annotations

import itertools
import re
import shlex
import unicodedata
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

# What makes a spreadsheet read a cell as a formula (OWASP, "CSV Injection"); the last four are how
# East Asian keyboards write the first four.
_FORMULA: Final = ("=", "+", "-", "@", "\uff1d", "\uff0b", "\uff0d", "\uff20")
_ESCAPED = re.compile(r"\\(\\|[tnr]|x[0-9a-f]{2}|u[0-9a-f]{4}|U[0-9a-f]{8})")
_LETTERS: Final = {"\\": "\\", "t": "\t", "n": "\n", "r": "\r"}


def visible(text: str) -> str:
    """Escapes what doesn't print: control characters, line ends, surrogates, marks of direction."""
    return "".join(map(_visible, text))


def printable(text: str) -> str:
    """Escapes as `visible` does, but keeps line feeds and tabs."""
    return "".join(char if char in "\n\t" else _visible(char) for char in text)


def quoted(word: str) -> str:
    """Returns a word of a command as a shell takes it, for a command that a message suggests."""
    return shlex.quote(visible(word))


def cell(text: str) -> str:
    """Returns the text of a cell of a CSV file: visible, and never a formula.

    A formula's first character gets an apostrophe before it, and a backslash is doubled, so that
    `from_cell` is exact.
    """
    escaped = "".join("\\\\" if char == "\\" else _visible(char) for char in text)
    return f"'{escaped}" if _needs_apostrophe(escaped) else escaped


def from_cell(written: str) -> str:
    """Returns the text that `cell` wrote."""
    # An apostrophe that `cell` put there stands before what needs one.
    escaped = written[1:] if written[:1] == "'" and _needs_apostrophe(written[1:]) else written
    return _ESCAPED.sub(_character, escaped)


def some(names: Iterable[str], *, limit: int = 3) -> str:
    """Names the first few: "a, b, c and 46 more"."""
    iterator = iter(names)
    first = ", ".join(visible(name) for name in itertools.islice(iterator, limit))
    more = sum(1 for _ in iterator)
    return f"{first} and {more:,} more" if more else first


def counted(count: int, noun: str) -> str:
    """Returns "1 image" or "1,341 images"."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def _visible(char: str) -> str:
    # Zs: spaces of a fixed width, which print though `isprintable` doesn't count them.
    if char.isprintable() or unicodedata.category(char) == "Zs":
        return char
    return char.encode("unicode_escape").decode("ascii")


def _needs_apostrophe(escaped: str) -> bool:
    return escaped.lstrip("'").startswith(_FORMULA)


def _character(match: re.Match[str]) -> str:
    code = match[1]
    if code in _LETTERS:
        return _LETTERS[code]
    number = int(code[1:], 16)
    return chr(number) if number <= 0x10FFFF else match[0]
