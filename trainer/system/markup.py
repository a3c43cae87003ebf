"""HTML and SVG in which no text can become markup: plain strings are escaped, elements are not.

    markup.element("p", "a < b", class_="note")    # <p class="note">a &lt; b</p>

In attribute names, "_" becomes "-"; a trailing "_" avoids Python's keywords and is dropped.
"""

from __future__ import annotations

import html
from typing import TYPE_CHECKING

from trainer.system import text

if TYPE_CHECKING:
    from collections.abc import Iterable

_VOID = frozenset({"meta", "br"})


class Markup(str):
    """Text that is markup already."""

    __slots__ = ()


def element(name: str, /, *children: str, **attributes: str | float) -> Markup:
    """Returns an element; children that are not Markup are escaped, as all attributes are."""
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{_escaped(_text(value))}"'
        for key, value in attributes.items()
    )
    if name in _VOID:
        return Markup(f"<{name}{written}>")
    return Markup(f"<{name}{written}>{join(children)}</{name}>")


def join(children: Iterable[str]) -> Markup:
    """Concatenates the children; escapes those that are not Markup."""
    return Markup(
        "".join(child if isinstance(child, Markup) else _escaped(child) for child in children)
    )


def _escaped(plain: str) -> str:
    return html.escape(text.printable(plain))


def _text(value: str | float) -> str:
    """Rounds a coordinate to tenths: exact enough to draw, and the same on every machine."""
    # Adding 0.0 turns -0.0 into 0.0, which prints without the sign.
    return f"{round(value, 1) + 0.0:g}" if isinstance(value, float) else str(value)
