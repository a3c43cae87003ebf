"""Turns a Matplotlib figure into SVG that is part of a page, in the page's font and colours.

Matplotlib draws; this module only rewrites what it wrote. Each colour becomes a variable of the
page's style sheet, so that one drawing serves light mode, dark mode and print. Styles become
attributes, because the page's policy allows no inline style. Numbers are rounded, and ids get a
prefix, so that several charts share a page, and equal figures give equal bytes.

    chart = svg.inline(figure, "roc", "ROC curve: area 0.996", titles={"trial-3": "0.97 after 4"})
"""

from __future__ import annotations

import io
import re
import warnings
import xml.etree.ElementTree as ET
from typing import TYPE_CHECKING

import markupsafe
import matplotlib.figure
import matplotlib.style

from trainer.system import text

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_SVG = "{http://www.w3.org/2000/svg}"
_LINK = "{http://www.w3.org/1999/xlink}href"
_STYLE = {
    "savefig.facecolor": "auto",
    "svg.fonttype": "none",
    "svg.hashsalt": "cxr-trainer",
    "path.simplify_threshold": 0.3,
}
COLOURS = {
    "#000000": "ink", "#ffffff": "paper", "#595959": "soft", "#b0b0b0": "rule", "#cccccc": "rule",
    "#0072b2": "blue", "#d55e00": "vermillion", "#009e73": "green", "#cc79a7": "purple",
    "#003f7f": "fifth0", "#1f6fb5": "fifth1", "#4f8fc7": "fifth2", "#7f97b3": "fifth3",
    "#9a9a9a": "fifth4", "#c24e00": "failed",
}  # fmt: skip
"""The colours that figures may use, and the variable of the style sheet for each."""
_HEX = re.compile(r"#[0-9a-f]{6}\b")
_NUMBER = re.compile(r"-?\d+\.\d+")
_REFERENCE = re.compile(r"url\(#([^)]+)\)")
_DROPPED = {"font-family", "stroke-linejoin", "stroke-miterlimit", "font", "white-space"}
_DEFAULTS = {("stroke-linecap", "butt"), ("text-anchor", "start"), ("font-weight", "400")}
_ATTRIBUTES = {"fill", "stroke"}


def inline(
    figure: matplotlib.figure.Figure,
    name: str,
    label: str,
    *,
    titles: Mapping[str, str] | None = None,
    with_box: bool = False,
) -> markupsafe.Markup:
    """Returns the figure as an `<svg>` element.

    Args:
      figure: made of `COLOURS` only; an artist's gid becomes the id of its element, with prefix.
      name: unique on the page, the prefix of the ids; letters, digits and hyphens.
      label: what the chart shows, with its numbers, for those who don't see it.
      titles: a tooltip for each artist of that gid.
      with_box: whether to write where the first panel's unit square is, for scripts: `data-box`
        is left, top, right and bottom in the chart's own units.

    Raises:
      ValueError: The figure has a colour that the style sheet does not know.
    """
    root = ET.fromstring(_written(figure))
    kept = {*(titles or {}), *_gids(figure)}
    _drop_frames(root)
    references = set(_references(root))
    for element in root.iter():
        element.tag = element.tag.removeprefix(_SVG)
        element.text = _text(element)
        element.tail = None
        _rewrite(element, name, references | kept)
    for gid, title in (titles or {}).items():
        _add_title(root, f"{name}-{gid}", title)
    width, height = root.get("viewBox", "").split()[2:]
    box = {"data-box": _box(figure, float(width), float(height))} if with_box else {}
    root.attrib = {
        "class": "chart",
        "viewBox": f"0 0 {_rounded(width)} {_rounded(height)}",
        "width": _rounded(width),
        "height": _rounded(height),
        "role": "img",
        "aria-label": text.printable(label),
        **box,
    }
    _unwrap(root)
    # Matplotlib's text and ours were escaped by ElementTree.
    return markupsafe.Markup(ET.tostring(root, encoding="unicode", short_empty_elements=True))


def _written(figure: matplotlib.figure.Figure) -> str:
    file = io.StringIO()
    with matplotlib.style.context(["default", _STYLE]), warnings.catch_warnings():
        # Of scripts that Matplotlib's font lacks. It only measures the text; a browser draws it.
        warnings.filterwarnings("ignore", "Glyph .* missing from font", UserWarning)
        figure.savefig(file, format="svg", metadata={"Date": None})
    written = file.getvalue()
    # Matplotlib writes control characters as they are, which no XML may have.
    return written if written.replace("\n", "").isprintable() else text.printable(written)


def _box(figure: matplotlib.figure.Figure, width: float, height: float) -> str:
    place = figure.axes[0].get_position()  # Of the layout that drawing has computed.
    sides = (place.x0 * width, (1 - place.y1) * height, place.x1 * width, (1 - place.y0) * height)
    return " ".join(_rounded(f"{side:.6f}") for side in sides)


def _gids(figure: matplotlib.figure.Figure) -> Iterator[str]:
    for artist in figure.findobj():
        gid = artist.get_gid()
        if gid:
            yield gid


def _drop_frames(root: ET.Element) -> None:
    """Removes metadata, what is unseen, and a style sheet that would apply to the whole page."""
    for parent in list(root.iter()):
        for child in list(parent):
            is_path = child.tag == f"{_SVG}path"
            is_unseen = is_path and child.get("style") == "fill: none"
            if is_unseen or child.tag in (f"{_SVG}metadata", f"{_SVG}style"):
                parent.remove(child)


def _references(root: ET.Element) -> Iterator[str]:
    for element in root.iter():
        for value in element.attrib.values():
            yield from _REFERENCE.findall(value)
        if _LINK in element.attrib:
            yield element.attrib[_LINK].removeprefix("#")


def _text(element: ET.Element) -> str | None:
    """Keeps the text of text alone; what stands between other elements is white space."""
    if element.tag != "text" and element.tag != "tspan":
        return None
    return text.visible(element.text or "")


def _rewrite(element: ET.Element, name: str, kept: set[str]) -> None:
    """Turns styles into attributes, colours into variables, and prefixes the ids in use."""
    attributes: dict[str, str] = {}
    for key, value in element.attrib.items():
        if key == "style":
            attributes |= _declarations(value)
        elif key == "id":
            if value in kept:
                attributes["id"] = f"{name}-{value}"
        elif key == _LINK:
            attributes["href"] = f"#{name}-{value.removeprefix('#')}"
        elif key == "transform" and value.startswith("rotate(-0 "):
            continue
        elif key in ("fill", "stroke"):
            attributes[key] = _variable(value)
        else:
            attributes[key] = _REFERENCE.sub(rf"url(#{name}-\1)", _rounded(value))
    for key in ("fill", "stroke"):
        if key in attributes:
            attributes[key] = _REFERENCE.sub(rf"url(#{name}-\1)", attributes[key])
    element.attrib = {key: " ".join(value.split()) for key, value in attributes.items()}


def _declarations(style: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for declaration in filter(None, style.split(";")):
        key, value = (part.strip() for part in declaration.split(":", 1))
        if key == "font-family" and "Mono" in value.split(",")[0]:
            found["class"] = "mono"
        if key in _DROPPED or (key, value) in _DEFAULTS:
            continue
        found[key] = _variable(value) if key in _ATTRIBUTES else _rounded(value)
    return found


def _variable(value: str) -> str:
    colour = value.lower()
    if not _HEX.fullmatch(colour):
        return value
    if colour not in COLOURS:
        raise ValueError(f"The style sheet has no variable for {colour}; use one of svg.COLOURS.")
    return f"var(--{COLOURS[colour]})"


def _rounded(value: str) -> str:
    """Rounds numbers to tenths of a CSS pixel, which nobody sees, and which halves the size."""
    return _NUMBER.sub(lambda number: f"{round(float(number[0]), 1) + 0.0:g}", value)


def _add_title(root: ET.Element, identity: str, title: str) -> None:
    for element in root.iter():
        if element.get("id") == identity:
            child = ET.Element("title")
            child.text = text.visible(title)
            element.insert(0, child)
            return


def _unwrap(parent: ET.Element) -> None:
    """Replaces groups without attributes by their children, and drops empty groups."""
    children: list[ET.Element] = []
    for child in parent:
        _unwrap(child)
        if child.tag in ("g", "defs") and not len(child):
            continue
        children.extend(child if child.tag == "g" and not child.attrib else [child])
    parent[:] = children
