"""Reads the archive of Kaggle or Mendeley as a list of records. Imports no TensorFlow.

The path of an image tells all that is known before decoding it:

    train/NORMAL/IM-0115-0001.jpeg              Kaggle, normal, patient IM-0115
    test/NORMAL/NORMAL2-IM-0381-0001.jpeg       Kaggle, normal, patient NORMAL2-IM-0381
    val/PNEUMONIA/person1946_bacteria_4874.jpeg Kaggle, pneumonia, patient person1946
    train/PNEUMONIA/VIRUS-1008087-0001.jpeg     Mendeley, pneumonia, patient patient-1008087

`IM-0381` and `NORMAL2-IM-0381` are treated as two patients: 211 numbers occur in both series, and
their images correlate no more than those of different patients (0.749 against 0.745; images of one
patient: 0.773). A person number is one patient, whatever the etiology in the name: merging two
patients is harmless, splitting one leaks.

    archive = source.open_archive("~/downloads/manual")
    with archive.reader() as read:
        for record in archive.records:
            data = read(record)
"""

from __future__ import annotations

import contextlib
import dataclasses
import fnmatch
import os
import pathlib
import re
import struct
import zipfile
from typing import TYPE_CHECKING, Final

from absl import logging
from etils import epath

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

CLASSES: Final = ("NORMAL", "PNEUMONIA")
ETIOLOGIES: Final = ("normal", "bacteria", "virus")
FOLDERS: Final = ("train", "val", "test")
IMAGE_SUFFIXES: Final = (".jpeg", ".jpg", ".png")

KAGGLE_DATASET: Final = "paultimothymooney/chest-xray-pneumonia"
HOW_TO_OBTAIN: Final = f"""\
Download archive.zip from https://www.kaggle.com/datasets/{KAGGLE_DATASET}
(or ChestXRay2017.zip from Mendeley Data, doi 10.17632/rscbjbr9sj) into a folder of its own, and
give that folder as --manual_dir. Extracting the zip is optional."""

# Kaggle's web page, its command line and Mendeley name the archive differently. Other zips in the
# folder are ignored.
_ZIP_PATTERNS: Final = ("archive*.zip", "chest-xray-pneumonia*.zip", "chestxray2017*.zip")
# How many folders may lie between manual_dir and train/, as in <download>/chest_xray/chest_xray/.
_MAX_DEPTH: Final = 4
_DEBRIS: Final = ("__MACOSX", "Thumbs.db", "desktop.ini")

# One Kaggle file, person447_virus_921_1, has an extra number.
_PERSON = re.compile(r"(?P<patient>person\d+)_(?P<etiology>bacteria|virus)_\d+(_\d+)?")
_IM = re.compile(r"(?P<patient>(NORMAL2-)?IM-\d+)(-\d+)+")
_MENDELEY = re.compile(r"(?P<etiology>NORMAL|BACTERIA|VIRUS)-(?P<number>\d+)-\d+")


@dataclasses.dataclass(frozen=True, order=True)
class Issue:
    """What is wrong with one file; `problem` is a predicate such as "is empty"."""

    key: str
    problem: str

    def __str__(self) -> str:
        """Returns one line."""
        return f"{self.key}: {self.problem}"


class SourceError(ValueError):
    """The archive is missing, incomplete or damaged. The message says what to do about it.

    Attributes:
      issues: one per bad file, sorted; empty if the error concerns the archive as a whole.
    """

    def __init__(self, message: str, issues: Iterable[Issue] = ()) -> None:
        super().__init__(message)
        self.issues = tuple(sorted(issues))


@dataclasses.dataclass(frozen=True, slots=True)
class Record:
    """One image, as described by its path.

    Attributes:
      key: `folder/label/file_name`; unique, and independent of where the archive is.
      label: one of `CLASSES`.
      etiology: one of `ETIOLOGIES`.
      patient_id: the same for all images of a patient.
      path: of the file, relative to the archive (copies in nested folders have the same key).
    """

    key: str
    label: str
    etiology: str
    patient_id: str
    path: str

    @property
    def folder(self) -> str:
        """The archive's own split, one of `FOLDERS`."""
        return self.key.split("/")[0]

    @property
    def file_name(self) -> str:
        """Base name with suffix."""
        return self.key.rsplit("/", 1)[-1]


@dataclasses.dataclass(frozen=True)
class Archive:
    """The records and where to read them. Plain data, so that Beam can pickle it for its workers.

    Attributes:
      root: the zip file, or the folder that holds the extracted tree.
      records: sorted by key.
      issues: image files whose name follows no known scheme or contradicts their folder.
      ignored: files in class folders without an image suffix.
    """

    root: str
    records: tuple[Record, ...]
    issues: tuple[Issue, ...]
    ignored: tuple[str, ...]

    @property
    def is_zip(self) -> bool:
        """Whether `root` is a zip file."""
        return self.root.lower().endswith(".zip")

    @contextlib.contextmanager
    def reader(self) -> Iterator[Callable[[Record], bytes]]:
        """Yields a function from a record to the bytes of its file; threads may share it."""
        root = epath.Path(self.root)
        if self.is_zip:
            with root.open("rb") as file, zipfile.ZipFile(file) as archive:
                yield lambda record: archive.read(record.path)
        else:
            yield lambda record: (root / record.path).read_bytes()


def open_archive(manual_dir: epath.PathLike) -> Archive:
    """Finds the archive in `manual_dir` and lists its images without decoding any.

    A zip takes precedence over an extracted tree beside it, which may be incomplete.

    Args:
      manual_dir: the zip, a folder that holds it, or a folder with the extracted tree, at most four
        levels down.

    Raises:
      SourceError: there is no archive or more than one, it is damaged, or a class folder is empty.
    """
    folder = epath.Path(manual_dir).expanduser()
    root = _find_zip(folder) or folder
    paths = _list_zip(root) if root.suffix.lower() == ".zip" else _list_tree(root)
    archive = _read_paths(str(root), paths)
    _check_completeness(archive)
    if archive.ignored:
        names = ", ".join(archive.ignored)
        logging.warning("Ignored files without a suffix %s: %s", "/".join(IMAGE_SUFFIXES), names)
    return archive


def parse_name(stem: str) -> tuple[str, str]:
    """Returns (etiology, patient id) of a file name without its suffix.

    Raises:
      ValueError: the name follows neither Kaggle's nor Mendeley's scheme.
    """
    if match := _PERSON.fullmatch(stem):
        return match["etiology"], match["patient"]
    if match := _IM.fullmatch(stem):
        return "normal", match["patient"]
    if match := _MENDELEY.fullmatch(stem):
        return match["etiology"].lower(), f"patient-{match['number']}"
    raise ValueError("has a name that follows neither Kaggle's nor Mendeley's scheme")


def require_clean(issues: Sequence[Issue], root: str) -> None:
    """Rejects an archive with bad files; the message lists them all and says what to do.

    Raises:
      SourceError: there is at least one issue.
    """
    if issues:
        listing = "\n".join(f"  {issue}" for issue in sorted(issues))
        raise SourceError(
            f"{len(issues)} bad file(s) in {root}:\n{listing}\n"
            "Nothing was built. Download the archive again; or extract it, delete or correct these "
            "files, and give the extracted folder as --manual_dir.",
            issues,
        )


def has_kaggle_credentials() -> bool:
    """Whether the kaggle command would find credentials."""
    by_environment = {"KAGGLE_USERNAME", "KAGGLE_KEY"} <= os.environ.keys()
    return by_environment or epath.Path("~/.kaggle/kaggle.json").expanduser().exists()


def _find_zip(folder: epath.Path) -> epath.Path | None:
    if not folder.exists():
        raise SourceError(f"{folder} does not exist.\n{HOW_TO_OBTAIN}")
    if not folder.is_dir():
        return folder
    zips = sorted(path for path in folder.iterdir() if _is_our_zip(path.name))
    if len(zips) > 1:
        names = ", ".join(path.name for path in zips)
        raise SourceError(
            f"{folder} contains {len(zips)} archives ({names}). Keep only one of them."
        )
    return zips[0] if zips else None


def _is_our_zip(name: str) -> bool:
    return any(fnmatch.fnmatch(name.lower(), pattern) for pattern in _ZIP_PATTERNS)


def _list_zip(path: epath.Path) -> list[str]:
    try:
        with path.open("rb") as file, zipfile.ZipFile(file) as archive:
            return [info.filename for info in archive.infolist() if not info.is_dir()]
    except (zipfile.BadZipFile, EOFError, NotImplementedError, ValueError, struct.error) as error:
        raise SourceError(f"{path} is damaged ({error}). Download it again.") from error


def _list_tree(root: epath.Path) -> list[str]:
    # manual_dir may be `chest_xray/` itself or a folder above it; epath has no recursive glob.
    patterns = (
        f"{'*/' * depth}{folder}/{label}/*"
        for depth in range(_MAX_DEPTH + 1)
        for folder in FOLDERS
        for label in CLASSES
    )
    return [
        path.relative_to(root).as_posix() for pattern in patterns for path in root.glob(pattern)
    ]


def _read_paths(root: str, paths: Iterable[str]) -> Archive:
    records: list[Record] = []
    issues: list[Issue] = []
    ignored: list[str] = []
    for key, path in _outermost_copies(paths).items():
        try:
            records.append(_parse_path(key, path))
        except _NotAnImageError:
            ignored.append(key)
        except ValueError as error:
            issues.append(Issue(key, str(error)))
    return Archive(
        root,
        tuple(sorted(records, key=lambda record: record.key)),
        tuple(sorted(issues)),
        tuple(sorted(ignored)),
    )


def _outermost_copies(paths: Iterable[str]) -> dict[str, str]:
    """Maps `folder/class/name` to its path; of nested copies (Kaggle ships some), the outermost."""
    copies: dict[str, str] = {}
    for path in sorted(paths, key=lambda path: (path.count("/"), path)):
        parts = pathlib.PurePosixPath(path).parts
        if len(parts) >= 3 and _is_class_folder(parts[-3], parts[-2]) and not _is_debris(parts):
            copies.setdefault("/".join(parts[-3:]), path)
    return copies


def _is_class_folder(folder: str, label: str) -> bool:
    return folder in FOLDERS and label in CLASSES


def _is_debris(parts: Sequence[str]) -> bool:
    # Hidden files are the operating system's (.DS_Store, ._IM-0115-0001.jpeg). `parts` starts below
    # manual_dir, so it may itself lie in a hidden folder.
    return parts[-1].startswith(".") or any(part in _DEBRIS for part in parts)


class _NotAnImageError(Exception):
    """The file has no image suffix."""


def _parse_path(key: str, path: str) -> Record:
    _, label, file_name = key.split("/")
    name = pathlib.PurePosixPath(file_name)
    if name.suffix.lower() not in IMAGE_SUFFIXES:
        raise _NotAnImageError
    etiology, patient_id = parse_name(name.stem)
    if (etiology == "normal") != (label == "NORMAL"):
        raise ValueError(f"is in folder {label}, but its name says {etiology}")
    return Record(key, label, etiology, patient_id, path)


def _check_completeness(archive: Archive) -> None:
    """Raises SourceError if train, or any other folder that is present, lacks a class."""
    seen = {tuple(key.split("/")[:2]) for key in _keys(archive)}
    if not seen:
        raise SourceError(f"{archive.root} contains no chest X-rays.\n{HOW_TO_OBTAIN}")
    folders = {folder for folder, _ in seen} | {"train"}
    wanted = {(folder, label) for folder in folders for label in CLASSES}
    if missing := sorted("/".join(pair) for pair in wanted - seen):
        raise SourceError(
            f"{archive.root} contains no images in {', '.join(missing)}. The archive is "
            "incomplete: download or extract it again."
        )


def _keys(archive: Archive) -> Iterator[str]:
    yield from (record.key for record in archive.records)
    yield from (issue.key for issue in archive.issues)
