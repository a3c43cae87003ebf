"""The zips that `--images` names: what is in them, and a member's bytes. No TensorFlow.

    with zips.Zips() as opened:
        for member in opened.members(path):
            opened.read(member)

Of thousands of zips few are open at once. A member is read by its entry in the zip's directory, not
by its name, which another one may have too; and never more of it than the entry declares.
"""

from __future__ import annotations

import bz2
import collections
import contextlib
import copy
import dataclasses
import threading
import zipfile
import zlib
from typing import IO, TYPE_CHECKING, Final, Self

from etils import epath

from cxr_tfds.archives import listing

if TYPE_CHECKING:
    import pathlib
    from collections.abc import Iterator

    from cxr_tfds.archives.listing import FileEntry

_MAX_OPEN: Final = 16
_STEP_BYTES = 1 << 12
"""Of LZMA, zipfile expands all that it has read at once, up to 7,000 times as much."""
TWICE: Final = "is in the zip twice, with other contents"
"""The problem of a name: which of its members is meant can't be told."""


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Member:
    """A file in a zip.

    Attributes:
      zip_path: the zip.
      entry: what its directory says of the file.
      problem: why it can't be read, as a predicate; None if it may be.
      stamp: changes with its contents.
      info: of zipfile, by which it is read.
    """

    zip_path: pathlib.Path
    entry: FileEntry
    problem: str | None
    stamp: str
    info: zipfile.ZipInfo


class Zips:
    """Gives members of zips to threads; a context manager that closes them all."""

    def __init__(self, max_open: int = _MAX_OPEN) -> None:
        """Opens no zip yet; of `max_open`, the one that was used last stays open longest."""
        self._max_open = max_open
        self._lock = threading.Lock()
        self._open: collections.OrderedDict[pathlib.Path, zipfile.ZipFile] = (
            collections.OrderedDict()
        )

    def __enter__(self) -> Self:
        """Returns itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Closes the zips."""
        with self._lock:
            while self._open:
                self._open.popitem()[1].close()

    def members(self, path: pathlib.Path) -> Iterator[Member]:
        """Yields the files of a zip, the outermost first, a name with several contents once.

        Raises:
          SourceError: the zip is damaged.
          OSError: it can't be read.
        """
        listed = listing.list_members(epath.Path(path))
        stamps: dict[str, set[str]] = collections.defaultdict(set)
        for entry, _ in listed:
            stamps[entry.path].add(f"{entry.size} {entry.crc}")
        told = set()
        for entry, info in listed:
            of_name = sorted(stamps[entry.path])
            if len(of_name) == 1:
                yield Member(path, entry, entry.problem, of_name[0], info)
            elif entry.path not in told:
                told.add(entry.path)
                yield Member(path, entry, TWICE, ", ".join(of_name), info)

    def read(self, member: Member, size: int | None = None) -> bytes:
        """Returns the first `size` bytes of a member, or all.

        Raises:
          Exception: of zipfile, for what is damaged; an OSError.
        """
        info = member.info
        # One more: to the checksum, which is compared at the declared end.
        left = info.file_size + 1 if size is None else size
        if info.compress_type != zipfile.ZIP_BZIP2:
            with self._opened(member.zip_path, info) as file:
                return b"".join(_parts(file, left))
        # zipfile expands all that it has read, which may be a million times as much.
        packed = copy.copy(info)
        packed.compress_type, packed.file_size = zipfile.ZIP_STORED, info.compress_size
        packed.CRC = None  # type: ignore[assignment]  # It is of what is expanded.
        with self._opened(member.zip_path, packed) as file:
            data = b"".join(_expanded(file, left))
        if size is None and zlib.crc32(data) != info.CRC:
            raise zipfile.BadZipFile("Bad CRC-32")
        return data

    @contextlib.contextmanager
    def _opened(self, path: pathlib.Path, info: zipfile.ZipInfo) -> Iterator[IO[bytes]]:
        # Opening and closing count users of the zip, and may close it: one thread at a time.
        with self._lock:
            file = self._zip(path).open(info)
        try:
            yield file
        finally:
            with self._lock:
                file.close()

    def _zip(self, path: pathlib.Path) -> zipfile.ZipFile:
        """Returns an open zip; another one is closed for it, or rather when its last read ends."""
        found = self._open.get(path)
        if found is None:
            while len(self._open) >= self._max_open:
                self._open.popitem(last=False)[1].close()
            found = self._open[path] = zipfile.ZipFile(path)
        self._open.move_to_end(path)
        return found


def _parts(file: IO[bytes], left: int) -> Iterator[bytes]:
    while left > 0 and (part := file.read(min(_STEP_BYTES, left))):
        yield part
        left -= len(part)


def _expanded(file: IO[bytes], left: int) -> Iterator[bytes]:
    engine = bz2.BZ2Decompressor()
    while left > 0 and not engine.eof:
        data = file.read(_STEP_BYTES) if engine.needs_input else b""
        if engine.needs_input and not data:
            raise EOFError("its data is truncated")
        part = engine.decompress(data, left)
        yield part
        left -= len(part)
