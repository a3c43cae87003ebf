"""The rows of a worklist: what is said of each file, in which order, and the files they go to.

    with worklist.claimed(folder):
        journal = worklist.Journal.open(folder / worklist.JOURNAL, model_digest, class_names)
        journal.append(rows)                    # survives a kill
        worklist.write(folder, worklist.by_urgency(worklist.marked(rows)))

`worklist.csv` and `worklist.jsonl` have a row per file, most urgent first. The journal has the rows
of all files that were ever scored into this folder, in the order of work: a run that is killed goes
on from it.
"""

from __future__ import annotations

import collections
import contextlib
import csv
import dataclasses
import json
import os
import stat
import types
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO, NotRequired, Self, TypedDict

import filelock

from trainer.errors import RunError
from trainer.reports.pages import worklist_flags
from trainer.reports.pages.worklist_page import ListedFile
from trainer.storage import documents, files
from trainer.system import text

if TYPE_CHECKING:
    import pathlib
    from collections.abc import Iterable, Iterator, Mapping, Sequence

JOURNAL, CSV, JSONL = "journal.jsonl", "worklist.csv", "worklist.jsonl"
PAGE = "worklist.html"
READ, UNREADABLE = "read", "unreadable"
COLUMNS = (
    "rank", "file", "status", "predicted", "score", "calibrated_probability", "flags", "notes",
    "novelty", "height", "width", "heatmap",
)  # fmt: skip
"""Columns of the worklist."""
_WAY_OUT = "remove it, and its files are scored again"
_LOCK = ".lock"
_MAX_JOURNAL_BYTES, _MAX_LINE_BYTES = 1 << 30, 1 << 20
_Share = Annotated[float, documents.within(0, 1)] | None
_Pixels = Annotated[int, documents.at_least(1)] | None


@dataclasses.dataclass(frozen=True, slots=True)
class WorklistRow:
    """What is said of a file.

    Attributes:
      file: its name, as the user gave it.
      stamp: changes with the file.
      status: `read` or `unreadable`.
      score: probability of the positive class; of more than two classes, of all but the first.
      calibrated_probability: the same after temperature scaling; None without a temperature.
      predicted: the class at the operating point; of more than two classes the most probable one.
      flags: of `trainer.reports.pages.worklist_flags.FLAGS`.
      notes: a sentence each: why it is unreadable, what was taken for granted.
      novelty: distance from the training data; 1 and more is unlike.
      height: of the upright original, in pixels; `width` likewise.
      width: see there.
      heatmap: path of its heat map, from the worklist's folder; empty without one.
      digest: of the pixels that the model saw; empty if there are none.
    """

    file: str
    stamp: str
    status: str = READ
    score: float | None = None
    calibrated_probability: float | None = None
    predicted: str | None = None
    flags: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    novelty: float | None = None
    height: int | None = None
    width: int | None = None
    heatmap: str = ""
    digest: str = ""

    @property
    def is_read(self) -> bool:
        """Whether the file was read and scored."""
        return self.status == READ

    def listed(self, rank: int) -> ListedFile:
        """Returns what the page shows."""
        shown = {name: getattr(self, name) for name in COLUMNS[1:] if name != "heatmap"}
        return ListedFile(rank=rank, **shown)

    def to_json(self, rank: int) -> dict[str, Any]:
        """Returns the columns of the worklist."""
        return {"rank": rank, **{name: getattr(self, name) for name in COLUMNS[1:]}}


class _Stored(TypedDict):
    """A row of the journal."""

    file: str
    stamp: str
    status: Annotated[str, documents.one_of(READ, UNREADABLE)]
    score: _Share
    calibrated_probability: _Share
    predicted: str | None
    flags: list[str]
    notes: list[str]
    novelty: Annotated[float, documents.at_least(0)] | None
    height: _Pixels
    width: _Pixels
    digest: str


class _Header(TypedDict):
    """The first line of the journal."""

    model: str
    software: NotRequired[dict[str, str]]


def marked(rows: Iterable[WorklistRow]) -> list[WorklistRow]:
    """Returns rows in their order; those with the same image as one before them are duplicates."""
    originals: dict[str, str] = {}
    found = []
    for row in rows:
        original = originals.setdefault(row.digest, row.file) if row.digest else row.file
        if original != row.file:
            note = f"The same image as {original}."
            row = dataclasses.replace(  # noqa: PLW2901 -- The row, with what was found of it.
                row, flags=(*row.flags, "duplicate"), notes=(*row.notes, note)
            )
        found.append(row)
    return found


def by_urgency(rows: Iterable[WorklistRow]) -> list[WorklistRow]:
    """Returns rows, most urgent first: by probability, originals, name; unreadable ones last.

    Of two classes, the calibrated probability has the same order as the score: temperature scaling
    keeps it.
    """
    return sorted(
        rows,
        key=lambda row: (not row.is_read, -(row.score or 0.0), "duplicate" in row.flags, row.file),
    )


def write(
    folder: pathlib.Path,
    rows: Sequence[WorklistRow],
    columns: Mapping[str, dict[str, str]] | None = None,
) -> None:
    """Writes the worklist as CSV and as JSON Lines, [N] rows in their order.

    Behind their own columns stand those of `Worklist.columns`. A text that a spreadsheet would take
    for a formula gets an apostrophe before it in the CSV.
    """
    others = columns or {}
    table = [row.to_json(rank) | others.get(row.file, {}) for rank, row in enumerate(rows, 1)]
    with (
        files.replacing(folder / CSV) as partial,
        partial.open("w", encoding="utf-8", newline="") as file,
    ):
        writer = csv.writer(file)
        writer.writerow(map(_cell, table[0] if table else COLUMNS))
        writer.writerows(map(_cell, line.values()) for line in table)
    with files.replacing(folder / JSONL) as partial:
        partial.write_text("".join(json.dumps(line) + "\n" for line in table), "utf-8")


def _cell(value: Any) -> Any:
    if isinstance(value, tuple):
        value = "; ".join(value)
    return text.cell(value) if isinstance(value, str) else value


class Journal:
    """The rows that are done, on disk; a line that a kill has cut off is dropped.

    journal = Journal.open(path, model_digest, class_names)
    journal.rows["a.png"]
    journal.append([row])

    One process at a time writes it: see `claimed`.
    """

    def __init__(self, path: pathlib.Path, rows: dict[str, WorklistRow], size: int) -> None:
        """Continues a file at `size` bytes; use `open`."""
        self._path, self._size = path, size
        self.folder, self.rows = path.parent, rows

    @classmethod
    def open(
        cls,
        path: pathlib.Path,
        model: str,
        class_names: Sequence[str],
        software: Mapping[str, str] = types.MappingProxyType({}),
    ) -> Self:
        """Reads the journal, or begins one.

        Args:
          path: the file.
          model: a digest of the model and of what else decides a row.
          class_names: of the model; a row of another class is none of its.
          software: versions of what reads and scores files.

        Raises:
          RunError: when it is of another model or other software, or damaged.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            with files.replacing(path) as partial:
                header = {"model": model, "software": dict(software)}
                partial.write_text(json.dumps(header) + "\n", "utf-8")
            return cls(path, {}, path.stat().st_size)
        rows: dict[str, WorklistRow] = {}
        with _opened(path) as file:
            first = _line(file, 1, path)
            _check_header(first, model, software, path)
            size = len(first)
            number = 2
            while (line := _line(file, number, path)).endswith(b"\n"):
                row = _parse(line, f"line {number}", path, class_names)
                rows[row.file] = row
                size += len(line)
                number += 1
        return cls(path, rows, size)

    def has(self, file: str, stamp: str) -> bool:
        """Whether a file is done, and has not changed since.

        One that could not be read is tried again, which takes no time: its permissions may have
        changed, or what reads DICOM may have been installed.
        """
        row = self.rows.get(file)
        return row is not None and row.is_read and row.stamp == stamp

    def append(self, rows: Sequence[WorklistRow]) -> None:
        """Adds rows, which survive the end of this process; those that it has are left out."""
        rows = [row for row in rows if self.rows.get(row.file) != row]
        names = _Stored.__annotations__
        lines = (json.dumps({name: getattr(row, name) for name in names}) + "\n" for row in rows)
        content = "".join(lines).encode()
        with self._path.open("r+b") as file:
            file.truncate(self._size)  # Of a line that was cut off.
            file.seek(self._size)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        self._size += len(content)
        self.rows |= {row.file: row for row in rows}


def _check_header(line: bytes, model: str, software: Mapping[str, str], path: pathlib.Path) -> None:
    try:
        found: _Header = documents.fit(documents.parse(line), _Header)
    except ValueError as error:
        raise documents.refused(path, text.clause(error), _WAY_OUT) from error
    if found["model"] != model:
        raise RunError(
            f"{path.parent} holds the predictions of another model, or of another operating point; "
            "name another --output_dir, or remove that one."
        )
    known = found.get("software", {})
    for name, version in software.items():
        if known.get(name, version) != version:
            raise RunError(
                f"the files in {path.parent} were scored with {name} "
                f"{text.visible(known[name])[:40]}, and this is {version}: name another "
                f"--output_dir, or remove {path.name} there to score all files again."
            )


@contextlib.contextmanager
def claimed(folder: pathlib.Path) -> Iterator[None]:
    """Keeps other processes from writing a worklist into a folder, which is made if need be.

    Raises:
      RunError: when another one does, or the lock is a link.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / _LOCK
    if path.is_symlink():
        raise RunError(f"{path} is a link, and nothing is written through it; remove it.")
    try:
        with filelock.FileLock(path, timeout=0):
            yield
    except filelock.Timeout as error:
        raise RunError(
            f"another process writes into {folder}: wait until it has ended, or name another "
            "--output_dir."
        ) from error


@contextlib.contextmanager
def _opened(path: pathlib.Path) -> Iterator[BinaryIO]:
    """Opens a journal to read; raises RunError for what is none by its kind or size."""
    found = path.lstat()  # Whoever opens a pipe to read waits for a writer.
    if not stat.S_ISREG(found.st_mode):
        raise documents.refused(path, "it is a link, or not a regular file", _WAY_OUT)
    if found.st_size > _MAX_JOURNAL_BYTES:
        raise documents.refused(path, "it is larger than any journal", _WAY_OUT)
    with path.open("rb") as file:
        yield file


def _line(file: BinaryIO, number: int, path: pathlib.Path) -> bytes:
    line = file.readline(_MAX_LINE_BYTES + 1)
    if len(line) > _MAX_LINE_BYTES:
        raise documents.refused(path, f"line {number} is longer than any row", _WAY_OUT)
    return line


def _parse(line: bytes, where: str, path: pathlib.Path, class_names: Sequence[str]) -> WorklistRow:
    try:
        found: dict[str, Any] = dict(documents.fit(documents.parse(line), _Stored))
        row = WorklistRow(**found | {name: tuple(found[name]) for name in ("flags", "notes")})
        _check(row, class_names)
    except (ValueError, TypeError) as error:
        raise documents.refused(path, f"{where}: {text.clause(error)}", _WAY_OUT) from error
    return row


def _check(row: WorklistRow, class_names: Sequence[str]) -> None:
    """Raises ValueError unless a row has what goes with its status."""
    if not row.is_read:
        return
    if row.predicted not in class_names:
        raise ValueError(f"no class of the model is {text.shown(row.predicted)}")
    if None in (row.score, row.height, row.width):
        raise ValueError("it has no score or no size")


@dataclasses.dataclass(frozen=True, eq=False)
class Worklist:
    """The files that a model was asked about, most urgent first.

        worklist = trainer.predict("runs/a", images=["scans/"])
        worklist.rows[0].file, worklist.rows[0].score

    Attributes:
      folder: holds worklist.csv, worklist.jsonl and worklist.html.
      rows: in the order of urgency; unreadable files are last.
      notes: a sentence for everything that was left out.
      warnings: the reasons not to use the model, one sentence each.
      columns: of each file, those of the list that named it; the same names for all files.
    """

    folder: pathlib.Path
    rows: tuple[WorklistRow, ...]
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    columns: Mapping[str, dict[str, str]] = dataclasses.field(default_factory=dict)

    guard_fired = False
    """The worklist is done: whether its model must not be used, `warnings` says."""

    @property
    def num_read(self) -> int:
        """How many files were read and scored."""
        return sum(row.is_read for row in self.rows)

    def flagged(self) -> dict[str, int]:
        """Returns how many rows have each flag."""
        return dict(collections.Counter(flag for row in self.rows for flag in row.flags))

    def predicted(self) -> dict[str, int]:
        """Returns how many files were predicted as each class."""
        return dict(collections.Counter(row.predicted for row in self.rows if row.predicted))

    def headline(self) -> str:
        """Returns a summary in one line."""
        classes = ", ".join(f"{count:,} {name}" for name, count in self.predicted().items())
        return (
            f"{text.counted(len(self.rows), 'file')}: {self.num_read:,} read ({classes or 'none'})"
        )

    def __repr__(self) -> str:
        """Names the folder and the headline."""
        return f"<Worklist {self.folder}: {self.headline()}>"

    def __str__(self) -> str:
        """Returns the summary that the command prints."""
        flags = self.flagged()
        counts = ", ".join(f"{flags[of]:,} {of}" for of in worklist_flags.FLAGS if of in flags)
        lines = [
            *(f"DO NOT USE THIS MODEL: {warning}" for warning in self.warnings),
            f"{self.headline()}.",
            f"flagged:     {counts or 'none'}",
            *self.notes,
            f"worklist:    {self.folder / CSV}",
            f"page:        {self.folder / PAGE}",
            f"also there:  {JSONL}",
        ]
        return "\n".join(lines)
