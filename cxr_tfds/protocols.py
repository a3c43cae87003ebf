"""Which image goes to train, which to validation, which to test. Pure functions, no TensorFlow.

    splits = protocols.assign("grouped", records, content_hashes)    # {key: "train", ...}

Order comes from hashes of the file names, so that a split is the same on every machine, in every
order of files and at every resolution. Contents matter only where two files are byte-identical:
then they are one image, and their patients one group.

Shares are rounded up in whole images of each class, as the paper does: 25 % of 1,583 NORMAL and
4,273 PNEUMONIA are 396 and 1,069.
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
      content_hashes: key of each record to a hash of its file's bytes.

    Raises:
      SourceError: a split would stay empty, or the protocol needs a folder that is missing.
    """
    splits = PROTOCOLS[protocol](records, content_hashes)
    if missing := sorted(set(SPLITS) - set(splits.values())):
        raise source.SourceError(
            f"Protocol {protocol} leaves {' and '.join(missing)} empty: "
            f"{len(records)} images are too few."
        )
    return splits


def assign_grouped(records: Sequence[source.Record], content_hashes: Mapping[str, str]) -> Splits:
    """Splits by patient: 25 % of each class is test, 10 % of the rest validation.

    No patient and no byte-identical image is on two sides. A share is never exceeded; where groups
    of several images do not fill it exactly, it falls short by less than the largest group.
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

    Patients land on both sides: `shared_patient_images` counts the test images concerned.
    """
    images = sorted(((record,) for record in records), key=_hashed_order)
    test = _fill(images, TEST_PERCENT)
    rest = [image for image in images if image not in test]
    return _by_key(rest, test)


def assign_official(records: Sequence[source.Record], content_hashes: Mapping[str, str]) -> Splits:
    """Keeps Kaggle's test folder; train and val are merged and validation is cut by patient.

    Kaggle's val folder has 16 images, too few to steer anything.

    Raises:
      SourceError: there is no test folder.
    """
    test = [(record,) for record in records if record.folder == "test"]
    if not test:
        raise source.SourceError(
            "Protocol official needs Kaggle's test folder, and this archive has none. "
            "Use grouped or paper, or download the whole archive."
        )
    rest = [record for record in records if record.folder != "test"]
    return _by_key(_group(rest, content_hashes), test)


PROTOCOLS: Final[dict[str, Callable[[Sequence[source.Record], Mapping[str, str]], Splits]]] = {
    "grouped": assign_grouped,
    "paper": assign_paper,
    "official": assign_official,
}


def shared_patient_images(
    records: Iterable[source.Record], splits: Mapping[str, str], *, held_out: str = "test"
) -> int:
    """Returns how many held-out images show a patient that train shows too."""
    patients: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    for record in records:
        patients[splits[record.key]][record.patient_id] += 1
    return sum(n for patient, n in patients[held_out].items() if patient in patients["train"])


def fingerprint(splits: Mapping[str, str], content_hashes: Mapping[str, str], *context: str) -> str:
    """Returns a SHA-256 over what is in which split: equal fingerprints mean equal data.

    Args:
      splits: key to split.
      content_hashes: key to content hash.
      *context: what else shapes the examples (config, version, resolution).
    """
    digest = hashlib.sha256("\n".join(context).encode())
    for key in sorted(splits):
        digest.update(f"\n{key}\t{content_hashes[key]}\t{splits[key]}".encode())
    return digest.hexdigest()


def _group(records: Iterable[source.Record], content_hashes: Mapping[str, str]) -> list[_Group]:
    """Joins records that share a patient or a content (union-find), in hashed order."""
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
    """Sorts like a shuffle that depends on the names alone; the key settles equal names."""
    first = min(group, key=lambda record: (record.file_name, record.key))
    stem = first.file_name.rsplit(".", 1)[0]
    return hashlib.sha256(stem.encode()).hexdigest(), first.key


def _fill(groups: Sequence[_Group], percent: int) -> set[_Group]:
    """Takes groups in order as long as they fit into the share of each of their classes.

    A skipped group did not fit, so the shortfall of a class is smaller than the smallest group of
    it that was skipped; the many patients with one image usually make it zero.
    """
    room = {
        # In whole numbers: math.ceil(0.1 * 30) is 4.
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
    """Cuts validation out of `rest` and names the split of every record."""
    validation = _fill(rest, VALIDATION_PERCENT)
    splits = {record.key: "test" for group in test for record in group}
    for group in rest:
        name = "validation" if group in validation else "train"
        splits |= dict.fromkeys((record.key for record in group), name)
    return splits
