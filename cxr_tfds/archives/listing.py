"""Lists the files of a zip or a folder, and says what keeps one from being read. No TensorFlow.

Nothing is extracted: a member is read in place, so its name never becomes a path on this machine.

    for entry in listing.list_files(epath.Path("archive.zip")):
        entry.path, entry.size, entry.problem
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import pathlib
import stat
import struct
import zipfile
import zlib
from typing import TYPE_CHECKING, Final

from etils import epath

from cxr_tfds import text

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

KAGGLE_DATASET: Final = "paultimothymooney/chest-xray-pneumonia"
HOW_TO_OBTAIN: Final = f"""\
Download archive.zip from https://www.kaggle.com/datasets/{KAGGLE_DATASET}
(or ChestXRay2017.zip from Mendeley Data, doi 10.17632/rscbjbr9sj) into a folder of its own, and
give that folder as --manual_dir. Extracting the zip is optional.
From Python: config = tfds.download.DownloadConfig(manual_dir=FOLDER), then
tfds.load("cxr_tfds/…", download_and_prepare_kwargs={{"download_config": config}})"""
WAY_OUT: Final = (
    "give --manual_dir, the folder with archive.zip from https://www.kaggle.com/datasets/"
    f"{KAGGLE_DATASET}"
)
"""The same in a clause."""
MAX_FILE_BYTES: Final = 1 << 28
"""No radiograph has as many; a larger file is refused by its declared size, before it is read."""
UNFINISHED_SUFFIXES: Final = (".part", ".crdownload", ".download")
"""What browsers call a download that isn't finished."""
PACKED_SUFFIXES: Final = (
    *(".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst", ".gz", ".7z", ".rar"),
    *UNFINISHED_SUFFIXES,
)
"""Archives that are named, but not read."""
DICOM_SUFFIXES: Final = (".dcm", ".dicom", ".dic", ".ima")
PICTURE_SUFFIXES: Final = (
    *(".gif", ".heic", ".heif", ".avif", ".jp2", ".j2k", ".psd", ".pdf"),
    *(".nii", ".nrrd", ".mha", ".mhd", ".npy", ".npz"),
)
"""Other kinds in which radiographs are kept; none is read."""

_ENCRYPTED: Final = 0x1
_METHODS: Final = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
# What zipfile raises for a file that is none.
_DAMAGED: Final = (
    *(zipfile.BadZipFile, EOFError, NotImplementedError, ValueError, struct.error),
    OverflowError,
)
_DEBRIS: Final = ("thumbs.db", "desktop.ini")


@dataclasses.dataclass(frozen=True, order=True)
class Issue:
    """What is wrong with one file.

    Attributes:
      key: of its record, if it had one.
      problem: a predicate such as "is empty".
      path: in the archive.
    """

    key: str
    problem: str
    path: str = ""

    @property
    def place(self) -> str:
        """What a user is told: the key, or the path where it is in other folders than the key's."""
        return self.key if self.path.endswith(self.key) else self.path or self.key

    def __str__(self) -> str:
        """Returns one line without control characters."""
        return f"{text.visible(self.place)}: {text.visible(self.problem)}"


class SourceError(ValueError):
    """The archive is missing, incomplete or damaged. The message says what to do about it.

    Attributes:
      issues: one per bad file, sorted; empty if the error concerns the archive as a whole.
      line: the message in one line, for commands that print no more.
    """

    def __init__(self, message: str, issues: Iterable[Issue] = (), line: str = "") -> None:
        super().__init__(message)
        self.issues = tuple(sorted(issues))
        self.line = line or message.splitlines()[0]


@dataclasses.dataclass(frozen=True, slots=True)
class FileEntry:
    """One file, or a folder that can't be listed.

    Attributes:
      path: relative to the zip or folder, as that spells it.
      size: in bytes, as declared.
      crc: CRC-32 of the contents, if the zip declares it.
      problem: why it can't be read, as a predicate; None if it may be.
      is_folder: whether it is a folder, of which nothing but the problem is known.
    """

    path: str
    size: int
    crc: int | None = None
    problem: str | None = None
    is_folder: bool = False

    @property
    def parts(self) -> tuple[str, ...]:
        r"""Folders and file name. Some zips, and trees extracted from them, have "\" for "/"."""
        return tuple(part for part in self.path.replace("\\", "/").split("/") if part)

    @property
    def suffix(self) -> str:
        """In lower case; the whole of .tar.gz."""
        name = self.parts[-1].lower()
        packed = (suffix for suffix in PACKED_SUFFIXES if name.endswith(suffix))
        return max(packed, key=len, default=pathlib.PurePosixPath(name).suffix)


def list_files(root: epath.Path) -> list[FileEntry]:
    """Lists the files of a zip or of a folder with all below it, the outermost first.

    Leaves out what operating systems add (`__MACOSX/`, `._name`, `.DS_Store`, `Thumbs.db`).

    Raises:
      SourceError: the zip is damaged.
      OSError: the root can't be read; a folder below it becomes an entry with the problem.
    """
    if not root.is_dir():
        return [entry for entry, _ in list_members(root)]
    found = (entry for entry in _walk(root) if _is_listed(entry))
    return sorted(found, key=_place)


def list_members(root: epath.Path) -> list[tuple[FileEntry, zipfile.ZipInfo]]:
    """Lists the files of a zip as `list_files` does, each with what it is to be read by.

    Of two members with one name, zipfile reads the last, whichever of them was looked at.

    Raises:
      SourceError: the zip is damaged.
      OSError: it can't be read.
    """
    members = ((_member(info), info) for info in _list_zip(root))
    found = (member for member in members if _is_listed(member[0]))
    return sorted(found, key=lambda member: _place(member[0]))


def are_equal(root: epath.Path, first: FileEntry, second: FileEntry) -> bool:
    """Whether two files of one zip or folder have the same contents."""
    return first.size == second.size and _checksum(root, first) == _checksum(root, second)


def find_dicom(root: epath.Path, entries: Iterable[FileEntry]) -> list[FileEntry]:
    """Returns which files are DICOM, by suffix, or by contents where the suffix tells no kind.

    A scanner names a file by its number, such as 1.2.840.113619.2.5.
    """
    with contextlib.ExitStack() as stack:
        members: zipfile.ZipFile | None = None
        if not root.is_dir():
            members = stack.enter_context(zipfile.ZipFile(stack.enter_context(root.open("rb"))))

        def is_dicom(entry: FileEntry) -> bool:
            if entry.problem or entry.suffix[1:].isalpha():
                return entry.suffix in DICOM_SUFFIXES
            try:
                opened = members.open(entry.path) if members else (root / entry.path).open("rb")
                with opened as file:
                    return bool(file.read(132)[128:] == b"DICM")
            except (*_DAMAGED, OSError, RuntimeError, zlib.error):
                return False

        return [entry for entry in entries if is_dicom(entry)]


def count_by_suffix(paths: Iterable[str]) -> str:
    """Counts files by suffix, the most frequent first: "12 .dcm, 1 .txt"."""
    counts = collections.Counter(FileEntry(path, 0).suffix or "without a suffix" for path in paths)
    named = [f"{count:,} {suffix}" for suffix, count in counts.most_common()]
    return text.some(named, limit=5)


def _is_listed(entry: FileEntry) -> bool:
    return bool(entry.parts) and not _is_debris(entry.parts)


def _place(entry: FileEntry) -> tuple[int, str]:
    return len(entry.parts), entry.path


def _list_zip(path: epath.Path) -> list[zipfile.ZipInfo]:
    try:
        with path.open("rb") as file, zipfile.ZipFile(file) as archive:
            return [info for info in archive.infolist() if not info.is_dir()]
    except (*_DAMAGED, MemoryError) as error:
        raise SourceError(
            f"{text.visible(str(path))} is damaged ({text.visible(str(error))}). Download it again."
        ) from error


def _member(info: zipfile.ZipInfo) -> FileEntry:
    problem = _size_problem(info.file_size)
    if info.flag_bits & _ENCRYPTED:
        problem = "is encrypted: extract the zip with its password, and give the folder"
    elif info.compress_type not in _METHODS:
        problem = (
            f"is compressed by a method ({info.compress_type}) that Python can't read: extract the "
            "zip, and give the folder"
        )
    return FileEntry(info.filename, info.file_size, info.CRC, problem)


def _walk(root: epath.Path) -> Iterator[FileEntry]:
    """Yields the files below a folder, of every real folder once, so that no link makes a circle.

    Linked folders come last: what is inside `root` is listed by its own path.
    """
    pending, linked, seen = collections.deque([root]), collections.deque[epath.Path](), set()
    while pending or linked:
        folder = pending.popleft() if pending else linked.popleft()
        real = pathlib.Path(folder).resolve()
        if real in seen:
            continue
        seen.add(real)
        try:
            children = sorted(_children(folder))
        except OSError as error:
            if folder == root:
                raise
            reason = error.strerror or type(error).__name__
            name = folder.relative_to(root).as_posix()
            yield FileEntry(name, 0, problem=f"can't be read: {reason}", is_folder=True)
            continue
        for path in children:
            if path.is_dir():
                (linked if pathlib.Path(path).is_symlink() else pending).append(path)
            else:
                yield _file(path, root)


def _children(folder: epath.Path) -> Iterator[epath.Path]:
    if "://" in str(folder):
        return folder.iterdir()
    # On a local disk epath leaves out names that end in "~".
    return (folder / path.name for path in pathlib.Path(folder).iterdir())


def _file(path: epath.Path, root: epath.Path) -> FileEntry:
    name = path.relative_to(root).as_posix()
    try:
        size = _regular_size(path)
    except OSError:  # A link may lead nowhere.
        size = None
    if size is None:
        return FileEntry(name, 0, problem="is not a regular file")
    return FileEntry(name, size, problem=_size_problem(size))


def _regular_size(path: epath.Path) -> int | None:
    """Returns a file's size in bytes; None for a pipe, which would block whoever reads it.

    A network file system is asked once a file: each question takes it a millisecond.
    """
    if "://" in str(path):
        return size_of(path) if path.is_file() else None
    status = pathlib.Path(path).stat()
    return status.st_size if stat.S_ISREG(status.st_mode) else None


def size_of(path: epath.Path) -> int:
    """Returns a file's size in bytes."""
    if "://" in str(path):
        return path.stat().length
    # epath also asks for the owner's name, which a container or a network disk may not have.
    return pathlib.Path(path).stat().st_size


def _size_problem(size: int) -> str | None:
    if size <= MAX_FILE_BYTES:
        return None
    return f"has {size >> 20:,} MiB, over the {MAX_FILE_BYTES >> 20} MiB of an image file"


def _checksum(root: epath.Path, entry: FileEntry) -> int | None:
    if entry.crc is not None or entry.problem:
        return entry.crc
    return zlib.crc32((root / entry.path).read_bytes())


def _is_debris(parts: tuple[str, ...]) -> bool:
    name = parts[-1].lower()
    return "__MACOSX" in parts or name.startswith("._") or name == ".ds_store" or name in _DEBRIS
