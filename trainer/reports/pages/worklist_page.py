"""The HTML page of a worklist, `worklist.html`: what a model said of files, most urgent first.

    summary = worklist_page.WorklistSummary(model_dir="runs/a", class_names=(...), ...)
    worklist_page.write(path, summary, rows, {1: worklist_page.Thumbnail(grey)})

The page has at most `MAX_ROWS` files and `MAX_PICTURES` images, and says so where there are more:
worklist.csv has all. Names of files and messages may hold anything; they stay text.
"""

from __future__ import annotations

import base64
import dataclasses
import io
import math
import posixpath
import re
from typing import TYPE_CHECKING, Any

import markupsafe
import numpy as np
import PIL.Image

from trainer.reports.pages import tables, templating
from trainer.reports.pages.worklist_flags import FLAGS, GRAVITIES, UNREADABLE
from trainer.system import text

if TYPE_CHECKING:
    import pathlib
    from collections.abc import Mapping, Sequence

    import numpy.typing as npt

MAX_ROWS = 1_000
"""Files that the page lists, of those read and of those unreadable."""
MAX_PICTURES = 200
"""Images on the page."""
METHODS = {"gradcam": "Grad-CAM", "hirescam": "HiResCAM"}
SCRIPTS = ("copy.js", "worklist.js")
_SHOWN_SIDE = 96
"""The longer side of an image on the page, in CSS pixels."""
_STORED_SIDE = 128
"""The longer side of an image in the file, in pixels, at most: more on a fine screen."""
_SHORTEST_SIDE = 8
_QUALITY = 75
_LONGEST_NAME, _LONGEST_NOTE, _LONGEST_CLASS = 200, 400, 60
_MAX_NOTES = 8
_TEMPLATE = ("trainer.reports", "worklist.html.j2")


@dataclasses.dataclass(frozen=True)
class ListedFile:
    """A file of a worklist.

    Attributes:
      rank: 1 is the most urgent; each rank occurs once among the files that were read.
      file: the name as the user gave it, `folder/a.dcm` or `images.zip/train/x.jpeg`.
      status: "read" or "unreadable".
      score: the model's probability of the positive class, in [0, 1]; None: it has none.
      calibrated_probability: the same after temperature scaling; None: no temperature.
      predicted: name of the class at the operating point; None: none.
      flags: keys of `worklist_flags.FLAGS`; others are shown as they are.
      notes: sentences; of an unreadable file, why.
      novelty: distance to the training data, as a multiple of the threshold: unlike them from 1
        on; None: not known.
      height: of the original image, in pixels; None: not known.
      width: of the original image, in pixels; None: not known.
    """

    rank: int
    file: str
    status: str = "read"
    score: float | None = None
    calibrated_probability: float | None = None
    predicted: str | None = None
    flags: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    novelty: float | None = None
    height: int | None = None
    width: int | None = None


@dataclasses.dataclass(frozen=True)
class WorklistSummary:
    """What a worklist was made with, and how many files it has.

    Attributes:
      model_dir: the run.
      class_names: in the order of the outputs.
      positive_class: the class whose probability orders the list; None: of more than two classes,
        none is.
      threshold: the operating point: the class is positive where the score is at least this; None:
        the most probable class is predicted.
      rule: which rule chose the threshold, `sensitivity=0.95`; None: none did.
      temperature: divides the logits before `calibrated_probability`; None: none fitted.
      files: how many files were given.
      read: how many of them could be read.
      unreadable: how many could not.
      positive: how many are predicted as the positive class.
      flagged: how many have each flag, by its key.
      command: the exact command.
      date: when it was made.
      fingerprint: of the data that the model was trained on.
      licence: of the model, if it has one.
      heatmap: how heat maps were computed, a key of `METHODS`; empty: there are none.
      warnings: why the model must not be used, if a guard fired.
      csv_name: name of the file beside the page that has all rows.
      jsonl_name: name of the same as JSON Lines.
    """

    model_dir: str
    class_names: Sequence[str]
    positive_class: str | None
    threshold: float | None
    rule: str | None
    temperature: float | None
    files: int
    read: int
    unreadable: int
    positive: int
    flagged: Mapping[str, int]
    command: str
    date: str
    fingerprint: str
    licence: str = ""
    heatmap: str = ""
    warnings: Sequence[str] = ()
    csv_name: str = "worklist.csv"
    jsonl_name: str = "worklist.jsonl"


@dataclasses.dataclass(frozen=True, eq=False)
class Thumbnail:
    """A small image of a file.

    Attributes:
      image: [H, W] uint8, in [0, 255]; stretched to a square, which the page undoes.
      overlay: [H, W, 3] uint8, heat for the predicted class over the image; None: there is none.

    Raises:
      ValueError: An image has another dtype or shape.
    """

    image: npt.NDArray[np.uint8]
    overlay: npt.NDArray[np.uint8] | None = None

    def __post_init__(self) -> None:
        """Checks the images."""
        if self.image.dtype != np.uint8 or self.image.ndim != 2 or not self.image.size:
            found = f"{self.image.dtype} {self.image.shape}"
            raise ValueError(f"a thumbnail is {found}, not uint8 [H, W].")
        over = self.overlay
        is_rgb = over is None or (over.ndim == 3 and over.shape[-1] == 3 and over.size > 0)
        if over is not None and (over.dtype != np.uint8 or not is_rgb):
            raise ValueError(f"an overlay is {over.dtype} {over.shape}, not uint8 [H, W, 3].")


def write(
    path: pathlib.Path,
    summary: WorklistSummary,
    rows: Sequence[ListedFile],
    pictures: Mapping[int, Thumbnail],
) -> None:
    """Writes the page; equal input gives equal bytes.

    Args:
      path: the HTML file.
      summary: of the whole worklist, of which `rows` may be a part.
      rows: in any order; the page has the most urgent ones.
      pictures: by rank; those of files that the page does not list are ignored.
    """
    read = sorted((row for row in rows if row.status == "read"), key=lambda row: row.rank)[
        :MAX_ROWS
    ]
    failed = [row for row in rows if row.status != "read"][:MAX_ROWS]
    seen = [row.rank for row in read if row.rank in pictures][:MAX_PICTURES]
    chosen = {rank: pictures[rank] for rank in seen}
    listed = [_describe(row, summary, chosen.get(row.rank)) for row in read]
    legend = _legend(summary)
    context = {
        "styles": ("worklist.css",),
        **_head(summary),
        "rows": listed,
        "caption": _extent(len(listed), summary.read, "", summary),
        "has": _columns(listed),
        "num_pictures": len(chosen),
        "choices": _choices(listed),
        "unread": [_describe(row, summary, None) for row in failed],
        "unread_caption": _extent(len(failed), summary.unreadable, "unreadable", summary),
        "flagged": [flag for flag in legend if flag["count"] and flag["key"] != UNREADABLE],
        "legend": legend,
        "facts_of": _facts(summary),
        "command": summary.command,
    }
    templating.write(path, templating.render(*_TEMPLATE, context, scripts=SCRIPTS))


def _head(summary: WorklistSummary) -> dict[str, Any]:
    run = posixpath.basename(summary.model_dir.rstrip("/")) or summary.model_dir
    positive = _short(summary.positive_class or "", _LONGEST_CLASS)
    # Of more than two classes, a temperature may change the order of the scores.
    is_calibrated = summary.temperature is not None and len(summary.class_names) == 2
    ordered_by = "calibrated probability" if is_calibrated else "score"
    return {
        "title": f"Worklist of {_short(run, _LONGEST_NAME)}",
        "subtitle": " · ".join(filter(None, (summary.date, _files(summary.files)))),
        "warnings": [_short(warning, _LONGEST_NOTE) for warning in summary.warnings],
        "nothing": _nothing(summary),
        "cards": _cards(summary, positive),
        "positive": positive,
        "harmless": _short(summary.class_names[0], _LONGEST_CLASS) if summary.class_names else "",
        "method": METHODS.get(summary.heatmap, ""),
        "order": f"the {ordered_by} of {positive or 'the positive class'}",
        "point": "" if summary.threshold is None else tables.number(summary.threshold),
        "csv_name": summary.csv_name,
        "jsonl_name": summary.jsonl_name,
    }


def _nothing(summary: WorklistSummary) -> str:
    """Returns why the list is empty; empty where it is not."""
    if not summary.files:
        return "No file was given."
    return "" if summary.read else "No file could be read: there is nothing to order by urgency."


def _cards(summary: WorklistSummary, positive: str) -> list[dict[str, str]]:
    """Returns the counts at the top of the page: name, value, share of the files read."""

    def card(name: str, value: int, whole: int = 0) -> dict[str, str]:
        share = tables.percent(value / whole) if whole else ""
        return {"name": name, "value": tables.count(value), "share": share}

    found = [card(name, getattr(summary, name)) for name in ("files", "read", "unreadable")]
    return found + (
        [card(f"predicted {positive}", summary.positive, summary.read)] if positive else []
    )


def _extent(shown: int, whole: int, kind: str, summary: WorklistSummary) -> str:
    """Returns how many of the files the page has, in words."""
    if shown >= whole:
        return _files(shown, kind)
    return f"The first {shown:,} of {_files(whole, kind)}; {summary.csv_name} has all"


def _files(number_of: int, kind: str = "") -> str:
    """Returns "1 file" or "1,341 unreadable files"."""
    return " ".join(filter(None, (f"{number_of:,}", kind, "file" if number_of == 1 else "files")))


def _columns(listed: Sequence[Mapping[str, Any]]) -> dict[str, bool]:
    """Returns which of the columns that may be empty have anything in them."""
    names = ("picture", "overlay", "remarks", "calibrated", "distance")
    return {name: any(row[name] for row in listed) for name in names}


def _describe(
    row: ListedFile, summary: WorklistSummary, thumbnail: Thumbnail | None
) -> dict[str, Any]:
    """Returns what the template shows of a file."""
    flags = [_flag(key) for key in dict.fromkeys(row.flags)]
    flags = [flag for flag in flags if flag["key"] != UNREADABLE or row.status == "read"]
    notes = [_short(note, _LONGEST_NOTE) for note in row.notes[:_MAX_NOTES]]
    calibrated, distance = row.calibrated_probability, row.novelty
    has_size = row.height is not None and row.width is not None
    return {
        "rank": tables.count(row.rank),
        "file": _breakable(_short(row.file, _LONGEST_NAME)),
        "size": f"{row.width} × {row.height} px" if has_size else "",
        "flags": flags,
        "names_of_flags": " ".join(flag["key"] for flag in flags),
        "gravity": min((flag["gravity"] for flag in flags), key=GRAVITIES.index, default=""),
        "notes": notes,
        "remarks": bool(flags or notes),
        "predicted": tables.DASH
        if row.predicted is None
        else _short(row.predicted, _LONGEST_CLASS),
        "is_positive": _is_positive(row, summary),
        "score": tables.number(row.score),
        "bar": _bar(row.score, summary.threshold),
        "calibrated": "" if calibrated is None else tables.percent(calibrated),
        "distance": "" if distance is None else tables.number(distance, 2),
        "picture": None if thumbnail is None else _image(thumbnail.image, row),
        "overlay": None
        if thumbnail is None or thumbnail.overlay is None
        else _image(thumbnail.overlay, row),
    }


def _is_positive(row: ListedFile, summary: WorklistSummary) -> bool:
    """Whether a file is predicted positive: of more than two classes, as any but the first."""
    if not summary.positive_class or row.predicted is None:
        return False
    if len(summary.class_names) > 2:
        return row.predicted != summary.class_names[0]
    return row.predicted == summary.positive_class


def _flag(key: str) -> dict[str, str]:
    known = FLAGS.get(key)
    return {
        # One word, as the page's script separates them by spaces.
        "key": key if known else "_".join(_short(key, _LONGEST_CLASS).split()) or "_",
        "label": known.label if known else _short(key, _LONGEST_CLASS),
        "gravity": known.gravity if known else "caution",
    }


def _bar(score: float | None, threshold: float | None) -> dict[str, str] | None:
    """Returns how far a bar of length 100 reaches, and where its mark is."""
    if score is None or not math.isfinite(score):
        return None
    has_mark = threshold is not None and math.isfinite(threshold)
    return {"end": _percentage(score), "mark": _percentage(threshold) if has_mark else ""}  # type: ignore[arg-type]


def _percentage(share: float) -> str:
    return f"{100 * min(max(share, 0.0), 1.0):.1f}".removesuffix(".0")


def _choices(listed: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Returns the flags that files of the page have, and how many have each."""
    found: dict[str, dict[str, Any]] = {}
    for flag in (flag for row in listed for flag in row["flags"]):
        found.setdefault(flag["key"], {**flag, "count": 0})["count"] += 1
    order = {key: place for place, key in enumerate(FLAGS)}
    return sorted(
        found.values(), key=lambda flag: (order.get(flag["key"], len(order)), flag["key"])
    )


def _legend(summary: WorklistSummary) -> list[dict[str, Any]]:
    counts = {UNREADABLE: summary.unreadable, **summary.flagged}
    return [
        {
            "key": key,
            "label": flag.label,
            "gravity": flag.gravity,
            "meaning": flag.meaning,
            "advice": flag.advice,
            "count": counts.get(key, 0),
            "files": _files(counts.get(key, 0)),
        }
        for key, flag in FLAGS.items()
    ]


def _facts(summary: WorklistSummary) -> dict[str, str]:
    """Returns the facts of the model."""
    point, temperature = summary.threshold, summary.temperature
    rule = f"{summary.rule}: " if summary.rule else ""
    facts = {
        "run": _short(summary.model_dir, _LONGEST_NOTE),
        "classes": ", ".join(_short(name, _LONGEST_CLASS) for name in summary.class_names),
        "positive class": _short(summary.positive_class or "", _LONGEST_CLASS) or tables.DASH,
        "operating point": "none: the most probable class is predicted"
        if point is None
        else f"{rule}{tables.number(point)}, chosen on validation",
        "temperature": "none fitted" if temperature is None else tables.number(temperature, 3),
        "fingerprint of its data": summary.fingerprint[:16] or tables.DASH,
        "intended use": "research on methods, with images like those it was trained on",
    }
    return facts | ({"licence": summary.licence} if summary.licence else {})


def _short(words: str, longest: int) -> str:
    """Returns visible text of a bounded length: the middle of a longer one is left out."""
    # Cut first: escaping a name of megabytes takes its time.
    if len(words) > longest:
        kept = (longest - 1) // 2
        words = f"{words[:kept]}…{words[-kept:]}"
    return text.visible(words)


def _breakable(name: str) -> markupsafe.Markup:
    """Returns a name, escaped, that a narrow column breaks where a reader would."""
    return markupsafe.Markup("<wbr>").join(re.split(r"(?<=[/_])(?=.)", name))


def _image(pixels: npt.NDArray[np.uint8], row: ListedFile) -> dict[str, Any]:
    """Returns an image in the shape of the original: address, width and height on the page."""
    stored = min(max(pixels.shape[:2]), _STORED_SIDE)
    image = PIL.Image.fromarray(np.ascontiguousarray(pixels))
    image = image.resize(_fitted(row, stored), PIL.Image.Resampling.LANCZOS)
    file = io.BytesIO()
    image.save(file, "JPEG", quality=_QUALITY, optimize=True)
    encoded = base64.b64encode(file.getvalue()).decode()
    width, height = _fitted(row, _SHOWN_SIDE)
    # Markup: nothing in Base64 needs to be escaped, and it is most of the page.
    source = markupsafe.Markup(f"data:image/jpeg;base64,{encoded}")
    return {"source": source, "width": width, "height": height}


def _fitted(row: ListedFile, side: int) -> tuple[int, int]:
    """Returns width and height in the original's shape, whose longer side is `side`."""
    height, width = row.height or 1, row.width or 1
    longer = max(height, width)
    shortest = min(side, _SHORTEST_SIDE)
    return max(round(side * width / longer), shortest), max(round(side * height / longer), shortest)
