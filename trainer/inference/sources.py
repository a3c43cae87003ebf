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
import dataclasses
import errno
import functools
import glob
import lzma
import pathlib
import struct
import zipfile
import zlib
from typing import TYPE_CHECKING

from etils import epath

from cxr_tfds.archives import listing
from cxr_tfds.file_formats import ImageError
from cxr_tfds.radiographs import reading
from trainer.errors import ConfigError, RunError
from trainer.inference import file_lists, zips
from trainer.storage import locations
from trainer.system import text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from trainer.inference.zips import Zips

# What reading a file, or a member of a zip, raises.
_UNREADABLE = (
    OSError,
    EOFError,
    ValueError,  # A name in a damaged header.
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    struct.error,
    RuntimeError,  # An encrypted member.
    NotImplementedError,  # A compression method that zipfile lacks.
)
HEAT_MAPS, _JOURNAL = "heatmaps", "journal.jsonl"
"""A folder of heat maps, and the file beside it that tells it from a user's own."""
WRITTEN = {
    _JOURNAL: ("worklist.csv",),
    "report.json": ("curves.png", "confusion_matrix.png", "samples.png"),
}
"""What else this program writes that is taken for a radiograph or a list, by the file beside it."""


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class ImageFile:
    """A file that may be a radiograph.

    Attributes:
      name: as the user named it; of a member of a zip, the zip's name, a slash and the member's.
      stamp: changes with the file: its size and time, or its size and checksum in a zip.
      problem: why it can't be read, a predicate; None if it may be.
      columns: of a CSV list, the other columns of its row.
      folders: names of the folders in which it lies, the innermost last: those below and including
        the one that was named, in the zip and its stem, or in the list. What the user's own folders
        above are called says nothing of the file.
    """

    name: str
    stamp: str
    problem: str | None
    columns: dict[str, str]
    folders: tuple[str, ...]
    _read: Callable[[], bytes]

    def read(self) -> bytes:
        """Returns the bytes of the file.

        Raises:
          ImageError: when it can't be read.
          OSError: when this process, or the system, has too many files open.
        """
        if self.problem:
            raise ImageError(self.problem)
        try:
            return self._read()
        except _UNREADABLE as error:
            _pass_on_limits(error)
            raise ImageError(f"can't be read ({text.clause(error)})") from error


@dataclasses.dataclass(frozen=True)
class Found:
    """The files that were named.

    Attributes:
      candidates: each file once, in the order in which they were named.
      notes: a sentence for everything that was left out.
      repeated: those that a list names again, with other columns.
    """

    candidates: tuple[ImageFile, ...]
    notes: tuple[str, ...]
    repeated: tuple[ImageFile, ...] = ()

    @functools.cached_property
    def by_name(self) -> dict[str, ImageFile]:
        """The files by name."""
        return {candidate.name: candidate for candidate in self.candidates}


def split(named: str) -> list[str]:
    """Returns the paths in the value of `--images`; one that exists may contain commas.

    Raises:
      ConfigError: when it is empty, has an empty name, or names a bucket.
    """
    whole = named.strip()
    is_one = bool(whole) and _is_there(whole)
    paths = [whole] if is_one else [part.strip() for part in whole.split(",")]
    check(paths, whole)
    return paths


def check(paths: Sequence[str], named: str | None = None) -> None:
    """Raises ConfigError for an empty name, or one of a bucket.

    Args:
      paths: what is named.
      named: the same as one text, as the user gave it.
    """
    if not paths or not all(paths):
        said = "has an empty name" if any(paths) else "is empty"
        shown = text.shown(list(paths) if named is None else named)
        raise ConfigError(
            f"images ({shown}) {said}: give files, folders, globs, zips or CSV lists, separated by "
            "commas."
        )
    for path in paths:
        if locations.is_remote(path):
            raise ConfigError(
                f"images ({text.one_line(path):.200}) must be local: copy them to this machine "
                "first, for example by `gcloud storage cp`."
            )


def _is_there(named: str) -> bool:
    """Whether a path exists; a list of many files is no path at all, and too long for one."""
    path = _path(named)
    try:
        return path.exists() or path.is_symlink()
    except (OSError, ValueError):
        return False


def _path(named: str) -> pathlib.Path:
    """Returns a path; `~nobody` stays as it is where there is no such user."""
    try:
        return pathlib.Path(named).expanduser()
    except RuntimeError:
        return pathlib.Path(named)


def expand(paths: Sequence[str]) -> list[tuple[pathlib.Path, bool]]:
    """Returns the files and folders that the paths name, globs expanded in the order of names.

    Each comes with whether it was named itself.

    Raises:
      ConfigError: when there is no such file.
    """
    expanded = []
    for named in paths:
        if _is_there(named):
            expanded.append((_path(named), True))
            continue
        # pathlib's own matches a pattern within one folder, which an absolute path has not.
        is_possible = text.is_os_string(named)
        matches = sorted(glob.glob(str(_path(named)), recursive=True)) if is_possible else []  # noqa: PTH207
        if not matches:
            kind = "matches no file" if glob.has_magic(named) else "is not there"
            raise ConfigError(
                f"images ({text.one_line(named):.200}) {kind}; the path is relative to "
                f"{text.one_line(str(pathlib.Path.cwd()))}."
            )
        expanded += [(pathlib.Path(match), False) for match in matches]
    return expanded


@contextlib.contextmanager
def opened(paths: Sequence[str], own: pathlib.Path | None = None) -> Iterator[Found]:
    """Lists the files that are named; they can be read until the block ends.

    Args:
      paths: what is named.
      own: the folder of images that the command writes, such as heat maps. It may be inside one
        that is named, and is then left out: what was written there before is no radiograph.

    Raises:
      ConfigError: when there is no such file.
      RunError: when a zip or a list can't be read, or nothing in them may be a radiograph.
    """
    with zips.Zips() as opened_zips:
        lister = _Lister(opened_zips, own)
        for path, is_named in expand(paths):
            lister.add(path, is_named=is_named)
        yield lister.found(paths)


class _Lister:
    """Collects candidates from files, folders, zips and lists."""

    def __init__(self, opened_zips: Zips, own: pathlib.Path | None) -> None:
        self._zips = opened_zips
        self._own = None if own is None else own.resolve()
        self._candidates: dict[str, ImageFile] = {}
        self._twice = self._written = 0
        self._of_others: list[str] = []
        self._repeated: list[ImageFile] = []
        self._others: collections.Counter[str] = collections.Counter()

    def found(self, paths: Sequence[str]) -> Found:
        notes = []
        if self._others:
            count = sum(self._others.values())
            kinds = ", ".join(f"{n:,} {suffix}" for suffix, n in self._others.most_common(5))
            shown = text.one_line(kinds)
            notes.append(f"Not read, as no radiograph has such a name: {count:,} ({shown:.200}).")
        if ".zip" in self._others:
            notes.append("Zips in folders and in zips are not opened: name them, or extract them.")
        if self._written:
            count_of = text.counted(self._written, "file")
            notes.append(f"Not read, as this command writes there: {count_of} in {self._own}.")
        if self._of_others:
            count_of, first = text.counted(len(self._of_others), "file"), self._of_others[0]
            notes.append(
                f"Not read, as this program wrote what is no radiograph: {count_of}, such as "
                f"{text.one_line(first):.200}."
            )
        if self._twice:
            notes.append(f"Named more than once, read once: {text.counted(self._twice, 'file')}.")
        if self._repeated:
            count_of = text.counted(len(self._repeated), "time")
            notes.append(f"Named again with other columns, of which the first count: {count_of}.")
        if not self._candidates:
            shown = text.one_line(", ".join(paths))
            raise RunError(
                f"images ({shown:.200}) names no radiograph: {' '.join(notes) or 'it is empty.'} "
                f"Give {', '.join(reading.SUFFIXES)} files, or folders, zips or CSV lists of them."
            )
        return Found(tuple(self._candidates.values()), tuple(notes), tuple(self._repeated))

    def add(self, path: pathlib.Path, *, is_named: bool) -> None:
        """Adds a path; what is named itself, and not by a glob, is tried whatever it is."""
        is_file = _is_file(path)  # Whoever opens a pipe waits for a writer.
        if not is_named and is_file and self._is_written(path, path.parent.resolve() / path.name):
            return
        if path.is_dir():
            self._add_tree(path)
        elif path.suffix.lower() == ".zip" and is_file:
            self._add_zip(path)
        elif path.suffix.lower() == ".csv" and is_file:
            self._add_list(path)
        else:
            self._add_file(path, (path.absolute().parent.name,), {})

    def _add_tree(self, root: pathlib.Path) -> None:
        shown = text.one_line(str(root))
        try:
            entries = listing.list_files(epath.Path(root))
        except OSError as error:
            _pass_on_limits(error)
            raise RunError(f"{shown:.200} can't be read ({text.clause(error)}).") from error
        real = root.resolve()
        for entry in entries:
            path, folders = root / entry.path, (root.absolute().name, *entry.parts[:-1])
            if self._is_written(path, real / entry.path):
                continue
            if entry.is_folder or entry.problem:
                self._keep(ImageFile(str(path), "", entry.problem, {}, folders, bytes))
            elif reading.looks_like_radiograph(
                entry.path, _head(functools.partial(_head_of, path), entry.suffix)
            ):
                self._add_file(path, folders, {})
            else:
                self._others[entry.suffix or "without a suffix"] += 1

    def _is_written(self, path: pathlib.Path, real: pathlib.Path) -> bool:
        """Counts a file that this command, or an earlier one, has written."""
        if self._own is not None and real.is_relative_to(self._own):
            self._written += 1
            return True
        is_map = real.parent.name == HEAT_MAPS and _is_file(real.parent.parent / _JOURNAL)
        if is_map or any(
            real.name in names and _is_file(real.with_name(marker))
            for marker, names in WRITTEN.items()
        ):
            self._of_others.append(str(path))
            return True
        return False

    def _add_file(
        self, path: pathlib.Path, folders: tuple[str, ...], columns: dict[str, str]
    ) -> None:
        try:
            status = path.stat()
            problem = None if path.is_file() else "is not a regular file"
            if path.is_dir():
                problem = "is a folder: a list names files"
            elif status.st_size > listing.MAX_FILE_BYTES:
                problem = f"has {status.st_size >> 20:,} MiB, over the limit of an image file"
            stamp = f"{status.st_size} {status.st_mtime_ns}"
        except (OSError, ValueError) as error:  # ValueError: a null byte in the path.
            _pass_on_limits(error)
            reason = getattr(error, "strerror", None) or error
            stamp, problem = "", f"can't be read ({text.clause(reason)})"
        self._keep(ImageFile(str(path), stamp, problem, columns, folders, path.read_bytes))

    def _add_zip(self, path: pathlib.Path) -> None:
        try:
            members = list(self._zips.members(path))
        except listing.SourceError as error:
            raise RunError(error.line) from error
        except OSError as error:
            _pass_on_limits(error)
            shown = text.one_line(str(path))
            reason = text.clause(error.strerror or error)
            raise RunError(f"{shown:.200} can't be read ({reason}).") from error
        for member in members:
            entry, problem = member.entry, member.problem
            name, folders = f"{path}/{entry.path}", (path.stem, *entry.parts[:-1])
            read = functools.partial(self._zips.read, member)
            head = b"" if entry.problem else _head(read, entry.suffix)
            if entry.problem or reading.looks_like_radiograph(entry.path, head):
                self._keep(ImageFile(name, member.stamp, problem, {}, folders, read))
            else:
                self._others[entry.suffix or "without a suffix"] += 1

    def _add_list(self, path: pathlib.Path) -> None:
        for name, columns in file_lists.read(path):
            folders = _path(name).parts[:-1] or (path.absolute().parent.name,)
            self._add_file(path.parent / _path(name), folders, columns)

    def _keep(self, candidate: ImageFile) -> None:
        first = self._candidates.setdefault(candidate.name, candidate)
        if first is not candidate:
            self._twice += 1
            if candidate.columns != first.columns:
                self._repeated.append(candidate)


def _is_file(path: pathlib.Path) -> bool:
    try:
        return path.is_file()
    except OSError:
        return False


def _head(read: Callable[[int], bytes], suffix: str) -> bytes:
    """Returns the first bytes of a file whose suffix doesn't tell what it is."""
    if suffix in reading.SUFFIXES or suffix[1:].isalpha():
        return b""
    try:
        return read(reading.HEAD_BYTES)
    except _UNREADABLE as error:
        _pass_on_limits(error)
        return b""


def _head_of(path: pathlib.Path, size: int) -> bytes:
    with path.open("rb") as file:
        return file.read(size)


def _pass_on_limits(error: Exception) -> None:
    """Raises an error again that says nothing of its file: too many others are open."""
    if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
        raise error
