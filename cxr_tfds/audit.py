"""Reports bad files and duplicates in an archive, and leakage between the splits of each protocol.

    python -m cxr_tfds.audit --manual_dir=FOLDER [--protocol=grouped] [--json=REPORT.json]

The exit code is 1 if a file is bad, or if splits share patients or images that the protocol keeps
apart. Two known leaks are reported without failing: `paper` splits by image, and
in `official` Kaggle's test folder shares person numbers with train (always with the other etiology,
so these may be different people).
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import difflib
import os
import platform
import sys
from typing import TYPE_CHECKING, Any, Final, NoReturn

import numpy as np
from absl import app, flags
from absl.flags import argparse_flags
from PIL import Image

from cxr_tfds import configs, images, protocols, report_file, source, text

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from etils import epath
    from numpy.typing import NDArray

_THUMBNAIL_SIDE: Final = 48
# Correlation of thumbnails. In the archive, two different radiographs reach at most 0.972; a
# recompressed copy of one radiograph exceeds 0.99.
_NEAR_DUPLICATE: Final = 0.99
_BLOCK: Final = 512
_OPTIONS: Final = ("manual_dir", "json", "protocol", "version", "help")
_SYNONYMS: Final = {
    **dict.fromkeys(("archive", "data_dir", "data", "dir", "folder"), "manual_dir"),
    **dict.fromkeys(("output", "out", "report"), "json"),
    **dict.fromkeys(("config", "dataset", "split"), "protocol"),
}
"""Names of the same option elsewhere."""
_PROTOCOLS: Final = ", ".join(protocols.PROTOCOLS)


@dataclasses.dataclass(frozen=True)
class Leak:
    """How many held-out images of a protocol have a counterpart in a split that decides the model.

    That is train and, for test images, validation, which chooses the epoch.

    Attributes:
      test_patients: test images whose patient is also in train or validation.
      validation_patients: validation images whose patient is also in train.
      identical: test images that are byte-identical to one in train or validation, and validation
        images that are to one in train.
      is_failure: whether the protocol rules this leakage out.
    """

    test_patients: int
    validation_patients: int
    identical: int
    is_failure: bool


@dataclasses.dataclass(frozen=True)
class Findings:
    """Everything an audit finds; every field converts to JSON.

    Attributes:
      images: number of images by folder and class.
      sizes: [smallest, median, largest] height and width of each class, in pixels.
      notes: a line for everything that is left out or seems to be missing.
      issues: what is wrong with bad files.
      ignored: paths of files that are not read.
      rgb_coded: keys of images with colour channels.
      duplicates: groups of keys with the same bytes.
      near_duplicates: pairs of keys whose images look the same but differ in their bytes.
      leaks: the leakage of each protocol, or the reason why it cannot be built.
    """

    images: dict[str, dict[str, int]]
    sizes: dict[str, dict[str, list[int]]]
    notes: list[str]
    issues: list[source.Issue]
    ignored: list[str]
    rgb_coded: list[str]
    duplicates: list[list[str]]
    near_duplicates: list[list[str]]
    leaks: dict[str, Leak | str]

    @property
    def is_sound(self) -> bool:
        """Whether every image is good and no protocol leaks what it rules out."""
        failures = [leak for leak in self.leaks.values() if isinstance(leak, Leak)]
        return not self.issues and not any(leak.is_failure for leak in failures)


def audit(archive: source.Archive, protocol_names: Iterable[str]) -> Findings:
    """Examines every image of the archive, and the splits of the named protocols."""
    facts, issues = images.inspect(archive)
    records = [record for record in archive.records if record.key in facts]
    hashes = {key: fact.content_hash for key, fact in facts.items()}
    return Findings(
        images=_count(records),
        sizes=_measure(records, facts),
        notes=archive.notes(),
        issues=sorted(issues),
        ignored=list(archive.ignored),
        rgb_coded=[record.key for record in records if facts[record.key].is_rgb_coded],
        duplicates=_find_duplicates(hashes),
        near_duplicates=_find_near_duplicates(archive, records, hashes),
        leaks={name: _examine(name, records, hashes) for name in protocol_names},
    )


def format_table(findings: Findings) -> str:
    """Returns the findings for a terminal."""
    lines = [f"{'':12}" + "".join(f"{label:>12}" for label in source.CLASSES)]
    for folder, counts in findings.images.items():
        lines.append(f"{folder:12}" + "".join(f"{counts[label]:12,}" for label in source.CLASSES))
    for side in ("height", "width"):
        cells = (findings.sizes.get(label, {}).get(side, []) for label in source.CLASSES)
        lines.append(f"{side:12}" + "".join(f"{'–'.join(map(str, cell)):>16}" for cell in cells))
    lines += [
        f"bad files                     {len(findings.issues):,}",
        *(f"  {line}" for line in source.summarize(findings.issues)),
        f"files not read                {len(findings.ignored):,}",
        f"RGB-coded                     {len(findings.rgb_coded):,}",
        f"groups of identical files     {len(findings.duplicates):,}",
        *(f"  {' = '.join(map(text.visible, keys))}" for keys in findings.duplicates),
        f"near-duplicate pairs          {len(findings.near_duplicates):,}",
        *(f"  {' ~ '.join(map(text.visible, keys))}" for keys in findings.near_duplicates),
        *(f"{name:10}{_format_leak(leak)}" for name, leak in findings.leaks.items()),
        *findings.notes,
    ]
    return "\n".join(lines)


def _count(records: Sequence[source.Record]) -> dict[str, dict[str, int]]:
    counts = collections.Counter((record.folder, record.label) for record in records)
    return {
        folder: {label: counts[folder, label] for label in source.CLASSES}
        for folder in source.FOLDERS
    }


def _measure(
    records: Sequence[source.Record], facts: Mapping[str, images.Facts]
) -> dict[str, dict[str, list[int]]]:
    sizes: dict[str, dict[str, list[int]]] = {}
    for label in {record.label for record in records}:
        members = [facts[record.key] for record in records if record.label == label]
        sizes[label] = {
            "height": _summarize([fact.height for fact in members]),
            "width": _summarize([fact.width for fact in members]),
        }
    return sizes


def _summarize(values: Sequence[int]) -> list[int]:
    return [min(values), round(float(np.median(values))), max(values)]


def _find_duplicates(hashes: Mapping[str, str]) -> list[list[str]]:
    groups: dict[str, list[str]] = collections.defaultdict(list)
    for key in sorted(hashes):
        groups[hashes[key]].append(key)
    return sorted(group for group in groups.values() if len(group) > 1)


def _find_near_duplicates(
    archive: source.Archive, records: Sequence[source.Record], hashes: Mapping[str, str]
) -> list[list[str]]:
    with archive.reader() as read:
        thumbnails = images.parallel_map(lambda record: _thumbnail(read(record)), records)
        vectors = np.array([vector for _, vector in thumbnails], dtype=np.float32)
    pairs = []
    for start in range(0, len(vectors), _BLOCK):
        similar = vectors[start : start + _BLOCK] @ vectors.T > _NEAR_DUPLICATE
        for i, j in zip(*np.nonzero(similar), strict=True):
            first, second = records[start + i].key, records[j].key
            if start + i < j and hashes[first] != hashes[second]:
                pairs.append([first, second])
    return pairs


def _thumbnail(data: bytes) -> NDArray[np.float32]:
    """Returns (48 * 48,) float32 with zero mean and unit length, so that exposure cancels."""
    image = Image.fromarray(images.decode(data))
    small = image.resize((_THUMBNAIL_SIDE, _THUMBNAIL_SIDE), Image.Resampling.BOX)
    vector = np.asarray(small, np.float32).ravel()
    vector -= vector.mean()
    return vector / max(float(np.linalg.norm(vector)), 1e-6)


def _examine(name: str, records: Sequence[source.Record], hashes: Mapping[str, str]) -> Leak | str:
    try:
        splits = protocols.assign(name, records, hashes)
    except source.SourceError as error:
        return str(error)
    first = {"train": 0, "validation": 1, "test": 2}
    earliest: dict[str, int] = {}
    for key, split in splits.items():
        earliest[hashes[key]] = min(first[split], earliest.get(hashes[key], len(first)))
    identical = sum(earliest[hashes[key]] < first[split] for key, split in splits.items())
    test = protocols.shared_patient_images(records, splits)
    validation = protocols.shared_patient_images(records, splits, "validation")
    promised = {
        "grouped": test + validation + identical,
        "official": validation + identical,
        "paper": 0,
    }
    return Leak(test, validation, identical, is_failure=promised[name] > 0)


def _format_leak(leak: Leak | str) -> str:
    if isinstance(leak, str):
        return leak
    return (
        f"{leak.test_patients:,} test images share a patient with train or validation, and "
        f"{leak.validation_patients:,} validation images with train; {leak.identical:,} are "
        "identical to an image there" + (" – LEAK" if leak.is_failure else "")
    )


class _Parser(argparse_flags.ArgumentParser):
    """Ends with one line for wrong usage, without argparse's three lines of options before it."""

    def error(self, message: str) -> NoReturn:
        sys.exit(_fail(message.removeprefix("argument ").rstrip("."), code=2))


def _parse_flags(argv: Sequence[str]) -> argparse.Namespace:
    parser = _Parser(
        prog="python -m cxr_tfds.audit",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        conflict_handler="resolve",  # absl's flags are inherited: also those of other commands.
    )
    parser.add_argument("--manual_dir", help="the zip, or the folder with the zip or its files")
    parser.add_argument(
        "--json", help="also write the findings to this file, outside of manual_dir"
    )
    parser.add_argument(
        "--protocol", metavar="NAME", help=f"audit only one of {_PROTOCOLS} (default: all)"
    )
    parser.add_argument("--version", action="version", version=_version())
    try:
        arguments, others = parser.parse_known_args(argv[1:])
    except (flags.Error, OSError) as error:  # absl's own flags, such as --flagfile.
        parser.error(text.visible(str(error)))
    if others:
        parser.error(_unexpected(others[0]))
    if not arguments.manual_dir:
        parser.error("give --manual_dir, the folder with archive.zip; --help lists the options")
    if "://" in arguments.manual_dir:
        where = text.visible(arguments.manual_dir)
        parser.error(f"manual_dir ({where}) must be a local path; copy the archive there first")
    if arguments.protocol not in (None, *protocols.PROTOCOLS):
        hint = _nearest(arguments.protocol, protocols.PROTOCOLS)
        parser.error(f"protocol ({arguments.protocol}) must be one of {_PROTOCOLS}{hint}")
    return arguments


def _version() -> str:
    return f"cxr_tfds {configs.VERSION} (python {platform.python_version()})"


def _unexpected(argument: str) -> str:
    shown = text.visible(argument)
    if not argument.startswith("-"):
        return f"unexpected argument {shown!r}; did you mean --manual_dir={text.quoted(argument)}?"
    name = argument.lstrip("-").partition("=")[0]
    hint = _nearest(name, _OPTIONS, "--") or "; --help lists them all"
    return f"unknown option --{text.visible(name)}{hint}"


def _nearest(word: str, known: Iterable[str], prefix: str = "") -> str:
    found = difflib.get_close_matches(_SYNONYMS.get(word, word), list(known), n=1)
    return f"; did you mean {prefix}{found[0]}?" if found else ""


def _fail(reason: str, code: int) -> int:
    """Prints a line to standard error and returns the exit code."""
    sys.stderr.write(f"audit: {reason if reason.endswith('?') else reason.rstrip('.') + '.'}\n")
    return code


def main(arguments: argparse.Namespace) -> int:
    """Prints the findings and returns the exit code."""
    names = [arguments.protocol] if arguments.protocol else list(protocols.PROTOCOLS)
    try:
        path = None
        if arguments.json is not None:
            path = report_file.parse(arguments.json, arguments.manual_dir)
    except (ValueError, OSError, RuntimeError) as error:  # RuntimeError: "~nobody".
        return _fail(text.visible(str(error)), code=2)
    try:
        findings = audit(source.open_archive(arguments.manual_dir), names)
    except source.SourceError as error:
        return _fail(error.line, code=1)
    problem = _write(findings, path, arguments.json) if path else ""
    try:
        _print(format_table(findings))
    except OSError as error:
        problem = problem or f"standard output can't be written: {error.strerror}"
    if problem:
        return _fail(problem, code=1)
    return 0 if findings.is_sound else 1


def _write(findings: Findings, path: epath.Path, option: str) -> str:
    """Returns what keeps the report from being written; empty if nothing does."""
    value: dict[str, Any] = dataclasses.asdict(findings) | {"is_sound": findings.is_sound}
    try:
        report_file.write(path, value)
    except OSError as error:
        return report_file.explain(error, option)
    return ""


def _print(table: str) -> None:
    """Prints also where the terminal lacks a character, or its reader has left."""
    sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr]
    try:
        sys.stdout.write(f"{table}\n")
        sys.stdout.flush()
    except BrokenPipeError:
        with open(os.devnull, "wb") as null:  # noqa: PTH123 -- What is left goes there at the exit.
            os.dup2(null.fileno(), sys.stdout.fileno())


if __name__ == "__main__":
    app.run(main, flags_parser=_parse_flags)
