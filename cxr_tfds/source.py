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

import collections
import contextlib
import dataclasses
import os
import pathlib
import re
import struct
import zipfile
from typing import TYPE_CHECKING, Final

from etils import epath

from cxr_tfds import text
from cxr_tfds.archives import candidates, layout, listing
from cxr_tfds.archives.layout import CLASSES, ETIOLOGIES, FOLDERS, IMAGE_SUFFIXES
from cxr_tfds.archives.listing import (
    HOW_TO_OBTAIN,
    KAGGLE_DATASET,
    WAY_OUT,
    Issue,
    SourceError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

__all__ = [
    "CLASSES",
    "ETIOLOGIES",
    "FOLDERS",
    "HOW_TO_OBTAIN",
    "IMAGE_SUFFIXES",
    "KAGGLE_DATASET",
    "WAY_OUT",
    "Archive",
    "Issue",
    "Record",
    "SourceError",
    "has_kaggle_credentials",
    "open_archive",
    "parse_name",
    "require_clean",
    "summarize",
]

DAMAGED: Final = "is damaged in the zip"
"""How the problem of a file begins that its zip doesn't give."""

# Images in each class folder of the two archives: (NORMAL, PNEUMONIA).
_COUNTS: Final = {
    "Kaggle": {"train": (1_341, 3_875), "val": (8, 8), "test": (234, 390)},
    "Mendeley": {"train": (1_349, 3_883), "test": (234, 390)},
}
_TOTAL: Final = 5_856
_UNKNOWN_NAME: Final = "has a name that follows neither Kaggle's nor Mendeley's scheme"
_NAMES: Final = """\
Etiology and patient are read from the names: IM-0115-0001.jpeg is a NORMAL image of patient 0115,
person1_bacteria_2.jpeg and person1_virus_6.jpeg are PNEUMONIA images of patient 1, and Mendeley
writes NORMAL-, BACTERIA- or VIRUS-1003233-0001.jpeg. Other names can't be read yet; renaming such
files to one of these schemes is the way to use them."""
_NAMED_ISSUES, _LISTED_ISSUES, _PROBLEMS_IN_A_LINE = 5, 50, 3

# One Kaggle file, person447_virus_921_1, has an extra number.
_PERSON = re.compile(r"(?P<patient>person\d+)_(?P<etiology>bacteria|virus)_\d+(_\d+)?", re.ASCII)
_IM = re.compile(r"(?P<patient>(NORMAL2-)?IM-\d+)(-\d+)+", re.ASCII)
_MENDELEY = re.compile(r"(?P<etiology>NORMAL|BACTERIA|VIRUS)-(?P<number>\d+)-\d+", re.ASCII)
# What browsers, file managers and augmentation append to the name of a copy.
_COPY = re.compile(r"( ?\(\d+\)|[ _-]+copy|_[hv]?flip(ped)?|_(aug|rot)\w*)$", re.IGNORECASE)


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
      issues: image files whose name follows no known scheme or contradicts their folder, and those
        that can't be read.
      ignored: paths of files that are not read: those without an image suffix, and images that are
        in no class folder.
      copies: paths of images with the key and the contents of a record.
      beside: one line for each other thing in the folder that is not read.
    """

    root: str
    records: tuple[Record, ...]
    issues: tuple[Issue, ...]
    ignored: tuple[str, ...]
    copies: tuple[str, ...] = ()
    beside: tuple[str, ...] = ()

    @property
    def is_zip(self) -> bool:
        """Whether `root` is a zip file."""
        return epath.Path(self.root).is_file()

    @contextlib.contextmanager
    def reader(self) -> Iterator[Callable[[Record], bytes]]:
        """Yields a function from a record to the bytes of its file; threads may share it."""
        root = epath.Path(self.root)
        if self.is_zip:
            with root.open("rb") as file, zipfile.ZipFile(file) as archive:
                yield lambda record: _read_member(archive, record.path)
        else:
            yield lambda record: (root / record.path).read_bytes()

    def notes(self) -> list[str]:
        """Returns a line for everything that is left out or seems to be missing."""
        notes = list(self.beside)
        if self.copies:
            notes.append(
                f"Left out, because another image has the same name and contents: "
                f"{text.counted(len(self.copies), 'image')}, {text.some(self.copies)}."
            )
        if self.ignored:
            notes.append(
                f"Not read, because not {'/'.join(IMAGE_SUFFIXES)} in a folder NORMAL or "
                f"PNEUMONIA: {text.counted(len(self.ignored), 'file')} "
                f"({listing.count_by_suffix(self.ignored)}), {text.some(self.ignored)}."
            )
        return notes + _missing(self.records)


def open_archive(manual_dir: epath.PathLike) -> Archive:
    """Finds the archive in `manual_dir` and lists its images without decoding any.

    What counts is what is inside: a zip may have any name, and zips without chest X-rays don't
    matter. A zip is preferred to an extracted tree beside it that has no other images.

    Args:
      manual_dir: the zip, a folder that holds it, or a folder with the extracted tree at any depth.

    Raises:
      SourceError: there is no archive or more than one, it is damaged, has folders that are not
        understood, or lacks a class.
    """
    if not os.fspath(manual_dir):
        raise SourceError(f"manual_dir is empty; {WAY_OUT}.")
    if "://" in os.fspath(manual_dir):
        return _open_url(os.fspath(manual_dir))
    path = epath.Path(manual_dir).expanduser()
    try:
        return _open(path)
    except (OSError, RuntimeError) as error:  # RuntimeError: a circle of links.
        place = getattr(error, "filename", None) or path
        reason = getattr(error, "strerror", None) or text.visible(str(error))
        raise SourceError(f"{text.visible(str(place))} can't be read: {reason}.") from error


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
    raise ValueError(_UNKNOWN_NAME)


def require_clean(issues: Sequence[Issue], root: str) -> None:
    """Rejects an archive with bad files; the message says what is wrong and what to do.

    Raises:
      SourceError: there is at least one issue.
    """
    if not issues:
        return
    lines = [f"  {line}" for line in summarize(issues)]
    if len(lines) > _LISTED_ISSUES:
        more = len(lines) - _LISTED_ISSUES
        lines[_LISTED_ISSUES:] = [f"  and {more:,} more, which python -m cxr_tfds.audit lists"]
    if any(issue.problem == _UNKNOWN_NAME for issue in issues):
        lines.append(_NAMES)
    listed = "\n".join(lines)
    where = text.visible(root)
    raise SourceError(
        f"{text.counted(len(issues), 'bad file')} in {where}:\n{listed}\n"
        "Nothing was built. Download the archive again; or extract it, delete or correct these "
        "files, and give the extracted folder as --manual_dir.",
        issues,
        line=f"{text.counted(len(issues), 'bad file')} in {where}: {_shortly(issues)}; "
        f"python -m cxr_tfds.audit --manual_dir={text.quoted(root)} lists them.",
    )


def _shortly(issues: Sequence[Issue]) -> str:
    """Names each problem with its first files; of many problems, as in a damaged zip, three."""
    keys = _keys_by_problem(issues)
    clauses = [_clause(problem, members) for problem, members in keys.items()]
    shown = "; ".join(clauses[:_PROBLEMS_IN_A_LINE])
    if more := sum(len(members) for members in list(keys.values())[_PROBLEMS_IN_A_LINE:]):
        shown += f"; and {text.counted(more, 'other')}"
    if any(problem.startswith(DAMAGED) for problem in keys):
        shown += "; download the zip again"
    unknown = [pathlib.PurePosixPath(key).stem for key in keys.get(_UNKNOWN_NAME, ())]
    if not unknown:
        return shown
    way_out = "rename them in the scheme of IM-0115-0001.jpeg or person1_virus_6.jpeg"
    if all(map(_COPY.search, unknown)):
        way_out = "delete them if they are copies, or " + way_out
    return f"{shown}; {way_out}"


def _clause(problem: str, keys: Sequence[str]) -> str:
    if len(keys) == 1:
        return str(Issue(keys[0], problem))
    return f"each of {len(keys):,} files {text.visible(problem)}: {text.some(keys)}"


def _keys_by_problem(issues: Iterable[Issue]) -> dict[str, list[str]]:
    keys: dict[str, list[str]] = collections.defaultdict(list)
    for issue in sorted(issues):
        keys[issue.problem].append(issue.place)
    return keys


def summarize(issues: Iterable[Issue]) -> list[str]:
    """Returns a line for each issue, but one for all files that share a problem if they are many.

    With own names, every file of an archive has the same problem.
    """
    lines = []
    for problem, members in _keys_by_problem(issues).items():
        if len(members) > _NAMED_ISSUES:
            lines.append(_clause(problem, members))
        else:
            lines += [str(Issue(key, problem)) for key in members]
    return sorted(lines)


def has_kaggle_credentials() -> bool:
    """Whether the kaggle command would find credentials."""
    by_environment = {"KAGGLE_USERNAME", "KAGGLE_KEY"} <= os.environ.keys()
    return by_environment or epath.Path("~/.kaggle/kaggle.json").expanduser().exists()


def _open_url(url: str) -> Archive:
    try:
        return _open(epath.Path(url))
    except SourceError:
        raise
    except Exception as error:  # Each file system raises its own kind.
        reason = (str(error).splitlines() or [""])[0] or type(error).__name__
        if isinstance(error, KeyError):
            reason = "there is no reader for such addresses"
        raise SourceError(
            f"{text.visible(url)} can't be read ({text.visible(reason)}); copy the archive to this "
            "machine, and give its folder as --manual_dir."
        ) from error


def _open(path: epath.Path) -> Archive:
    if not path.exists():
        reason = f"{text.visible(str(path))} does not exist"
        raise SourceError(f"{reason}.\n{HOW_TO_OBTAIN}", line=f"{reason}; {WAY_OUT}.")
    found = candidates.choose(path)
    arranged = layout.arrange(found.root, found.entries)
    records: list[Record] = []
    issues: list[Issue] = []
    for key, image in arranged.images.items():
        try:
            records.append(_record(key, image))
        except ValueError as error:
            issues.append(Issue(key, str(error), image.entry.path))
    archive = Archive(
        str(found.root),
        tuple(sorted(records, key=lambda record: record.key)),
        tuple(sorted(issues)),
        tuple(sorted(arranged.ignored)),
        arranged.copies,
        found.beside,
    )
    _check_completeness(archive)
    return archive


def _read_member(archive: zipfile.ZipFile, path: str) -> bytes:
    try:
        return archive.read(path)
    except (EOFError, KeyError, OverflowError, struct.error) as error:
        # A damaged member, too; its other errors are BadZipFile and OSError.
        raise OSError(f"{type(error).__name__}: {error}") from error


def _record(key: str, image: layout.Image) -> Record:
    """Raises ValueError, with a predicate, if the file can't be read or its name is wrong."""
    if image.entry.problem:
        raise ValueError(image.entry.problem)
    stem = pathlib.PurePosixPath(image.entry.parts[-1]).stem
    etiology, patient_id = parse_name(stem)
    if (etiology == "normal") != (image.label == "NORMAL"):
        raise ValueError(f"is in folder {image.label}, but its name says {etiology}")
    if image.etiology not in (None, etiology):
        raise ValueError(f"is in folder {image.etiology}, but its name says {etiology}")
    return Record(key, image.label, etiology, patient_id, image.entry.path)


def _check_completeness(archive: Archive) -> None:
    """Raises SourceError if train, or any other folder that is present, lacks a class."""
    seen = {tuple(key.split("/")[:2]) for key in _keys(archive)}
    folders = {folder for folder, _ in seen} | {"train"}
    wanted = {(folder, label) for folder in folders for label in CLASSES}
    if missing := sorted("/".join(pair) for pair in wanted - seen):
        found = text.counted(sum(1 for _ in _keys(archive)), "image")
        others = listing.count_by_suffix(archive.ignored) or "none"
        ignored = [listing.FileEntry(path, 0) for path in archive.ignored]
        inside = [entry for entry in ignored if layout.label_of(entry)]
        way_out = "The archive is incomplete: download or extract it again."
        if listing.find_dicom(epath.Path(archive.root), inside):
            way_out = "DICOM isn't read: export it as 8-bit PNG or JPEG, with a window."
        raise SourceError(
            f"{text.visible(archive.root)} contains no images in {', '.join(missing)} ({found} in "
            f"the other class folders; files that are not read: {others}). {way_out}"
        )


def _keys(archive: Archive) -> Iterator[str]:
    yield from (record.key for record in archive.records)
    yield from (issue.key for issue in archive.issues)


def _missing(records: Iterable[Record]) -> list[str]:
    """Returns a line if these images can only be a part of Kaggle's or Mendeley's archive."""
    publishers = {"Mendeley" if r.patient_id.startswith("patient-") else "Kaggle" for r in records}
    if len(publishers) != 1:
        return []
    (publisher,) = publishers
    found = collections.Counter((record.folder, record.label) for record in records)
    whole = {
        (folder, label): count
        for folder, counts in _COUNTS[publisher].items()
        for label, count in zip(CLASSES, counts, strict=True)
    }
    if any(count > whole.get(place, 0) for place, count in found.items()) or found == whole:
        return []
    named = "; ".join(
        f"{folder} {label} has {found[folder, label]:,} of {count:,}"
        for (folder, label), count in whole.items()
        if found[folder, label] < count
    )
    missing = f"{_TOTAL - found.total():,} of the {_TOTAL:,} images"
    return [f"{missing} of {publisher}'s archive are missing: {named}."]
