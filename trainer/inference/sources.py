"""Which files `--images` names: files, folders, globs, zips and CSV lists. No TensorFlow.

    with sources.opened(["scans/", "more.zip", "list.csv"]) as found:
        for candidate in found.candidates:          # in a fixed order, each file once
            candidate.name, candidate.read()

A folder gives the images below it, a zip those inside; whatever is named itself is tried, whatever
its suffix. Nothing is extracted: a name in a zip never becomes a path of this machine.
"""

from __future__ import annotations

import collections
import contextlib
import csv
import dataclasses
import functools
import glob
import io
import pathlib
import zipfile
import zlib
from typing import TYPE_CHECKING

from etils import epath

from cxr_tfds.archives import listing
from cxr_tfds.file_formats import ImageError
from cxr_tfds.radiographs import reading
from trainer.errors import ConfigError, RunError
from trainer.storage import locations
from trainer.system import text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

FILE_COLUMNS = ("file", "path", "image", "file_name", "filename")
"""Names of the column of a CSV list that holds the files; the first that is there counts."""
_MAX_LIST_BYTES = 1 << 28
# What reading a file, or a member of a zip, raises.
_UNREADABLE = (
    OSError,
    EOFError,
    zipfile.BadZipFile,
    zlib.error,
    RuntimeError,  # An encrypted member.
    NotImplementedError,  # A compression method that zipfile lacks.
)


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Candidate:
    """A file that may be a radiograph.

    Attributes:
      name: as the user named it; of a member of a zip, the zip's name, a slash and the member's.
      stamp: changes with the file: its size and time, or its size and checksum in a zip.
      problem: why it can't be read, a predicate; None if it may be.
      columns: of a CSV list, the other columns of its row.
    """

    name: str
    stamp: str
    problem: str | None
    columns: dict[str, str]
    _read: Callable[[], bytes]

    def read(self) -> bytes:
        """Returns the bytes of the file.

        Raises:
          ImageError: when it can't be read.
        """
        if self.problem:
            raise ImageError(self.problem)
        try:
            return self._read()
        except _UNREADABLE as error:
            raise ImageError(f"can't be read ({text.clause(error)})") from error


@dataclasses.dataclass(frozen=True)
class Found:
    """The files that were named.

    Attributes:
      candidates: each file once, in the order in which they were named.
      notes: a sentence for everything that was left out.
    """

    candidates: tuple[Candidate, ...]
    notes: tuple[str, ...]

    @functools.cached_property
    def by_name(self) -> dict[str, Candidate]:
        """The files by name."""
        return {candidate.name: candidate for candidate in self.candidates}


def split(named: str) -> list[str]:
    """Returns the paths in the value of `--images`; one that exists may contain commas.

    Raises:
      ConfigError: when it is empty, has an empty name, or names a bucket.
    """
    whole = named.strip()
    is_one = bool(whole) and pathlib.Path(whole).expanduser().exists()
    paths = [whole] if is_one else [part.strip() for part in whole.split(",")]
    if not all(paths):
        said = "has an empty name" if whole else "is empty"
        raise ConfigError(
            f"images ({text.shown(named)}) {said}: give files, folders, globs, zips or CSV lists, "
            "separated by commas."
        )
    for path in paths:
        if locations.is_remote(path):
            raise ConfigError(
                f"images ({text.one_line(path):.200}) must be local: copy them to this machine "
                "first, for example by `gcloud storage cp`."
            )
    return paths


def expand(paths: Sequence[str]) -> list[pathlib.Path]:
    """Returns the files and folders that the paths name, globs expanded in the order of names.

    Raises:
      ConfigError: when there is no such file.
    """
    expanded: list[pathlib.Path] = []
    for named in paths:
        path = pathlib.Path(named).expanduser()
        if path.exists() or path.is_symlink():
            expanded.append(path)
            continue
        # pathlib's own matches a pattern within one folder, which an absolute path has not.
        matches = sorted(glob.glob(str(path), recursive=True))  # noqa: PTH207
        if not matches:
            kind = "matches no file" if glob.has_magic(named) else "is not there"
            raise ConfigError(
                f"images ({text.one_line(named):.200}) {kind}; the path is relative to "
                f"{text.one_line(str(pathlib.Path.cwd()))}."
            )
        expanded += map(pathlib.Path, matches)
    return expanded


@contextlib.contextmanager
def opened(paths: Sequence[str]) -> Iterator[Found]:
    """Lists the files that are named; the zips among them stay open until the block ends.

    Raises:
      ConfigError: when there is no such file.
      RunError: when a zip or a list can't be read, or nothing in them may be a radiograph.
    """
    with contextlib.ExitStack() as stack:
        lister = _Lister(stack)
        for path in expand(paths):
            lister.add(path)
        yield lister.found(paths)


class _Lister:
    """Collects candidates from files, folders, zips and lists."""

    def __init__(self, stack: contextlib.ExitStack) -> None:
        self._stack = stack
        self._candidates: dict[str, Candidate] = {}
        self._twice = 0
        self._others: collections.Counter[str] = collections.Counter()

    def found(self, paths: Sequence[str]) -> Found:
        notes = []
        if self._others:
            count = sum(self._others.values())
            kinds = ", ".join(f"{n:,} {suffix}" for suffix, n in self._others.most_common(5))
            notes.append(f"Not read, as no radiograph has such a name: {count:,} ({kinds}).")
        if self._twice:
            notes.append(f"Named more than once, read once: {text.counted(self._twice, 'file')}.")
        if not self._candidates:
            shown = text.one_line(", ".join(paths))
            raise RunError(
                f"images ({shown:.200}) names no radiograph: {' '.join(notes) or 'it is empty.'} "
                f"Give {', '.join(reading.SUFFIXES)} files, or folders, zips or CSV lists of them."
            )
        return Found(tuple(self._candidates.values()), tuple(notes))

    def add(self, path: pathlib.Path, columns: dict[str, str] | None = None) -> None:
        """Adds a path that is named itself, or by a glob or a list."""
        if path.is_dir():
            self._add_tree(path)
        elif path.suffix.lower() == ".zip" and columns is None:
            self._add_zip(path)
        elif path.suffix.lower() == ".csv" and columns is None:
            self._add_list(path)
        else:
            self._add_file(path, str(path), columns or {})

    def _add_tree(self, root: pathlib.Path) -> None:
        try:
            entries = listing.list_files(epath.Path(root))
        except OSError as error:
            raise RunError(f"{root} can't be read ({text.clause(error)}).") from error
        for entry in entries:
            path = root / entry.path
            if entry.is_folder or entry.problem:
                self._keep(Candidate(str(path), "", entry.problem, {}, bytes))
            elif reading.looks_like_radiograph(entry.path, _head(path.open, entry.suffix)):
                self._add_file(path, str(path), {})
            else:
                self._others[entry.suffix or "without a suffix"] += 1

    def _add_file(self, path: pathlib.Path, name: str, columns: dict[str, str]) -> None:
        try:
            status = path.stat()
            problem = None if path.is_file() else "is not a regular file"
            if status.st_size > listing.MAX_FILE_BYTES:
                problem = f"has {status.st_size >> 20:,} MiB, over the limit of an image file"
            stamp = f"{status.st_size} {status.st_mtime_ns}"
        except OSError as error:
            stamp, problem = "", f"can't be read ({text.clause(error.strerror or error)})"
        self._keep(Candidate(name, stamp, problem, columns, path.read_bytes))

    def _add_zip(self, path: pathlib.Path) -> None:
        try:
            entries = listing.list_files(epath.Path(path))
            zipped = self._stack.enter_context(zipfile.ZipFile(path))
        except listing.SourceError as error:
            raise RunError(error.line) from error
        except _UNREADABLE as error:
            raise RunError(f"{path} is no zip that can be read ({text.clause(error)}).") from error
        for entry in entries:
            name, stamp = f"{path}/{entry.path}", f"{entry.size} {entry.crc}"

            def read(member: str = entry.path) -> bytes:
                return zipped.read(member)

            def open_member(_: str, member: str = entry.path) -> io.BufferedIOBase:
                return zipped.open(member)  # type: ignore[return-value]

            if entry.problem:
                self._keep(Candidate(name, stamp, entry.problem, {}, bytes))
            elif reading.looks_like_radiograph(entry.path, _head(open_member, entry.suffix)):
                self._keep(Candidate(name, stamp, None, {}, read))
            else:
                self._others[entry.suffix or "without a suffix"] += 1

    def _add_list(self, path: pathlib.Path) -> None:
        for name, columns in read_list(path):
            member = pathlib.Path(name).expanduser()
            self.add(member if member.is_absolute() else path.parent / member, columns)

    def _keep(self, candidate: Candidate) -> None:
        if candidate.name in self._candidates:
            self._twice += 1
        else:
            self._candidates[candidate.name] = candidate


def read_list(path: pathlib.Path) -> list[tuple[str, dict[str, str]]]:
    """Reads a CSV list: the file of each row, and its other columns.

    A column `file`, `path`, `image` or `file_name` holds paths, relative to the list's folder. The
    columns are separated by commas, semicolons or tabs.

    Raises:
      RunError: when it can't be read, or has no such column.
    """
    try:
        if path.stat().st_size > _MAX_LIST_BYTES:
            raise RunError(f"{path} has more than {_MAX_LIST_BYTES >> 20} MiB: no list has.")
        content = path.read_text("utf-8-sig")
        head = content.partition("\n")[0]
        delimiter = max(",;\t", key=head.count)
        rows = csv.DictReader(io.StringIO(content), delimiter=delimiter)
        names = [str(name).strip() for name in rows.fieldnames or ()]
        rows.fieldnames = names
        table = [(rows.line_num, row) for row in rows]
    except (OSError, UnicodeError, csv.Error) as error:
        raise RunError(f"{path} can't be read as a list ({text.clause(error)}).") from error
    by_lower = {name.lower(): name for name in reversed(names)}
    column = next((by_lower[name] for name in FILE_COLUMNS if name in by_lower), None)
    if column is None:
        raise RunError(
            f"{path} has no column of files: name one of its columns `file` (it has "
            f"{text.one_line(', '.join(names)):.200 or 'none'})."
        )
    found = []
    for line, row in table:
        name = (row.pop(column, None) or "").strip()
        others = {key: (value or "").strip() for key, value in row.items() if isinstance(key, str)}
        if not name and not any(others.values()):
            continue
        if not name:
            raise RunError(f"{path}, line {line}, has no {column}; fill it in, or remove the line.")
        found.append((name, others))
    return found


def _head(opens: Callable[[str], Iterable[bytes]], suffix: str) -> bytes:
    """Returns the first bytes of a file whose suffix doesn't tell what it is."""
    if suffix in reading.SUFFIXES or suffix[1:].isalpha():
        return b""
    try:
        with opens("rb") as file:  # type: ignore[attr-defined]
            head: bytes = file.read(reading.HEAD_BYTES)
            return head
    except _UNREADABLE:
        return b""
