"""Assigns every image to train, validation or test. Pure functions, no TensorFlow.

    splits = protocols.assign("grouped", records, content_hashes)    # {key: "train", ...}

Images are ordered by hashes of their file names, so a split is the same on every machine, for every
order of the files and at every resolution. Contents matter only where two files are byte-identical:
they count as one image, and their patients as one group.

The size of a split is rounded up per class, as in the paper: 25 % of 1,583 NORMAL and 4,273
PNEUMONIA are 396 and 1,069.
"""

from __future__ import annotations

import collections
import hashlib
from typing import TYPE_CHECKING, Final

from cxr_tfds import source

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

SPLITS: Final = ("train", "validation", "test")
TEST_PERCENT: Final = 25
VALIDATION_PERCENT: Final = 10

Splits = dict[str, str]
"""Key of a record to the name of its split."""
_Group = tuple[source.Record, ...]


def assign(
    protocol: str, records: Sequence[source.Record], content_hashes: Mapping[str, str]
) -> Splits:
    """Returns the split of every record under one protocol.

    Args:
      protocol: a key of `PROTOCOLS`.
      records: in any order, with unique keys.
      content_hashes: maps the key of each record to a hash of its file's bytes.

    Raises:
      SourceError: a split would lack a class, or the protocol needs a folder that is missing.
    """
    splits = PROTOCOLS[protocol](records, content_hashes)
    _check_classes(protocol, records, splits)
    return splits


def assign_grouped(records: Sequence[source.Record], content_hashes: Mapping[str, str]) -> Splits:
    """Splits by patient: 25 % of each class is test, 10 % of the rest validation.

    All images of a patient, and byte-identical images, are in one split. A split never exceeds its
    share of a class; it may fall short by less than the largest group of images.
    """
    groups = _group(records, content_hashes)
    test = _fill(groups, TEST_PERCENT)
    rest = [group for group in groups if group not in test]
    return _by_key(rest, test)


def assign_paper(
    records: Sequence[source.Record],
    content_hashes: Mapping[str, str],  # noqa: ARG001 - one signature for all protocols.
) -> Splits:
    """Splits by image, as the paper does: 25 % of each class is test, 10 % of the rest validation.

    Splits share patients; `shared_patient_images` counts the test images concerned.
    """
    images = sorted(((record,) for record in records), key=_hashed_order)
    test = _fill(images, TEST_PERCENT)
    rest = [image for image in images if image not in test]
    return _by_key(rest, test)


def assign_official(records: Sequence[source.Record], content_hashes: Mapping[str, str]) -> Splits:
    """Keeps Kaggle's test folder; merges train and val, and splits validation off by patient.

    Kaggle's val folder has only 16 images, too few to choose an epoch by.

    Raises:
      SourceError: there is no test folder.
    """
    test = [(record,) for record in records if record.folder == "test"]
    if not test:
        raise source.SourceError(
            "Protocol official needs Kaggle's test folder, which this archive lacks. "
            "Use grouped or paper, or download the complete archive."
        )
    rest = [record for record in records if record.folder != "test"]
    return _by_key(_group(rest, content_hashes), test)


PROTOCOLS: Final[dict[str, Callable[[Sequence[source.Record], Mapping[str, str]], Splits]]] = {
    "grouped": assign_grouped,
    "paper": assign_paper,
    "official": assign_official,
}


_WAYS_OUT: Final = {
    "grouped": "Add images of other patients of that class, or use paper, which splits by image.",
    "paper": "Add images of that class.",
    "official": (
        "Add images of other patients of that class to the test folder or, for the other splits, "
        "to train; or use grouped or paper, which need no test folder."
    ),
}
"""By protocol: what helps where a split lacks a class."""


def shared_patient_images(
    records: Iterable[source.Record],
    splits: Mapping[str, str],
    held_out: str = "test",
    *,
    among: Sequence[str] = ("train", "validation"),
) -> int:
    """Returns how many held-out images are of a patient who is also in one of the other splits.

    By default: of the test images, those of patients that decided the model. Validation counts, as
    it chooses the epoch.
    """
    patients: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    for record in records:
        patients[splits[record.key]][record.patient_id] += 1
    seen = {patient for name in among if name != held_out for patient in patients[name]}
    return sum(n for patient, n in patients[held_out].items() if patient in seen)


def count(
    records: Iterable[source.Record],
    splits: Mapping[str, str],
    field: Callable[[source.Record], str],
) -> dict[str, dict[str, int]]:
    """Returns {split: {value of field: number of images}}."""
    counts = {name: collections.Counter[str]() for name in SPLITS}
    for record in records:
        counts[splits[record.key]][field(record)] += 1
    return {name: dict(sorted(counter.items())) for name, counter in counts.items()}


def fingerprint(splits: Mapping[str, str], content_hashes: Mapping[str, str], *context: str) -> str:
    """Returns a SHA-256 of the contents of all splits: equal fingerprints mean equal data.

    Args:
      splits: maps keys to splits.
      content_hashes: maps keys to content hashes.
      *context: everything else that shapes the examples (config, version, resolution).
    """
    digest = hashlib.sha256("\n".join(context).encode())
    for key in sorted(splits):
        digest.update(f"\n{key}\t{content_hashes[key]}\t{splits[key]}".encode())
    return digest.hexdigest()


def _check_classes(
    protocol: str, records: Sequence[source.Record], splits: Mapping[str, str]
) -> None:
    """Refuses a split that lacks a class: no metric of it would mean anything."""
    images = collections.Counter((splits[record.key], record.label) for record in records)
    lacking = {
        name: [label for label in source.CLASSES if not images[name, label]] for name in SPLITS
    }
    if not any(lacking.values()):
        return
    named = ", ".join(
        f"{name} without {' and '.join(labels)}" for name, labels in lacking.items() if labels
    )
    counts = "; ".join(
        f"{name} {', '.join(f'{images[name, label]:,} {label}' for label in source.CLASSES)}"
        for name in SPLITS
    )
    patients = collections.Counter(
        label for _, label in {(record.patient_id, record.label) for record in records}
    )
    people = ", ".join(f"{patients[label]:,} {label}" for label in source.CLASSES)
    raise source.SourceError(
        f"Protocol {protocol} leaves {named} (images: {counts}; patients: {people}). "
        f"{_WAYS_OUT[protocol]}"
    )


def _group(records: Iterable[source.Record], content_hashes: Mapping[str, str]) -> list[_Group]:
    """Groups records that share a patient or their bytes (union-find), in hashed order."""
    parents: dict[str, str] = {}

    def find(node: str) -> str:
        root = node
        while parents.setdefault(root, root) != root:
            root = parents[root]
        while parents[node] != root:
            parents[node], node = root, parents[node]
        return root

    ordered = sorted(records, key=lambda record: record.key)
    for record in ordered:
        parents[find(f"content {content_hashes[record.key]}")] = find(record.patient_id)
    members: dict[str, list[source.Record]] = collections.defaultdict(list)
    for record in ordered:
        members[find(record.patient_id)].append(record)
    return sorted((tuple(group) for group in members.values()), key=_hashed_order)


def _hashed_order(group: _Group) -> tuple[str, str]:
    """Sort key of a shuffle that depends only on file names; record keys break ties."""
    first = min(group, key=lambda record: (record.file_name, record.key))
    stem = first.file_name.rsplit(".", 1)[0]
    return hashlib.sha256(stem.encode()).hexdigest(), first.key


def _fill(groups: Sequence[_Group], percent: int) -> set[_Group]:
    """Takes groups in order, skipping those that would exceed the share of one of their classes.

    So a class falls short by less than its smallest skipped group. Usually it is zero, because many
    patients have a single image.
    """
    room = {
        # Integer arithmetic, because math.ceil(0.1 * 30) is 4.
        label: -(-count * percent // 100)
        for label, count in _count_labels(groups).items()
    }
    taken: set[_Group] = set()
    for group in groups:
        counts = _count_labels([group])
        if all(count <= room[label] for label, count in counts.items()):
            taken.add(group)
            for label, count in counts.items():
                room[label] -= count
    return taken


def _count_labels(groups: Iterable[_Group]) -> collections.Counter[str]:
    return collections.Counter(record.label for group in groups for record in group)


def _by_key(rest: Sequence[_Group], test: Iterable[_Group]) -> Splits:
    """Splits validation off `rest` and returns the split of every record."""
    validation = _fill(rest, VALIDATION_PERCENT)
    splits = {record.key: "test" for group in test for record in group}
    for group in rest:
        name = "validation" if group in validation else "train"
        splits |= dict.fromkeys((record.key for record in group), name)
    return splits
