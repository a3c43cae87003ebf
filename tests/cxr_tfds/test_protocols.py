from __future__ import annotations

import collections
import dataclasses
from typing import TYPE_CHECKING

import hypothesis
import pytest
from hypothesis import strategies as st

from cxr_tfds import protocols, source

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Mapping, Sequence

GROUPED = ("grouped", "official")


def record_for(key: str) -> source.Record:
    _, label, name = key.split("/")
    etiology, patient_id = source.parse_name(name.rsplit(".", 1)[0])
    return source.Record(key, label, etiology, patient_id, path=key)


def distinct(records: Sequence[source.Record]) -> dict[str, str]:
    return {record.key: record.key for record in records}


@st.composite
def archives(draw: st.DrawFn) -> tuple[list[source.Record], dict[str, str]]:
    """Both classes in train and test, patients of several images, some byte-identical images."""
    patients = st.integers(1, 60)
    images = st.lists(st.tuples(patients, st.sampled_from(["train", "test"])), min_size=20)
    keys = [
        f"{folder}/NORMAL/IM-{patient:04d}-{i:04d}.jpeg"
        for i, (patient, folder) in enumerate(draw(images))
    ] + [
        f"{folder}/PNEUMONIA/person{patient}_{'virus' if i % 2 else 'bacteria'}_{i}.jpeg"
        for i, (patient, folder) in enumerate(draw(images))
    ]
    records = [record_for(key) for key in keys]
    hypothesis.assume(len({record.folder for record in records}) == 2)
    contents = st.integers(0, 6 * len(records))
    return records, {record.key: f"{draw(contents)}" for record in records}


def assign_or_assume(
    protocol: str, records: Sequence[source.Record], hashes: Mapping[str, str]
) -> dict[str, str]:
    try:
        return protocols.assign(protocol, records, hashes)
    except source.SourceError:  # Too few groups for three splits.
        hypothesis.assume(False)
        raise


settings = hypothesis.settings(
    deadline=None,
    max_examples=40,
    suppress_health_check=[hypothesis.HealthCheck.too_slow, hypothesis.HealthCheck.filter_too_much],
)


@pytest.mark.parametrize("protocol", protocols.PROTOCOLS)
@settings
@hypothesis.given(archive=archives())
def test_each_image_is_in_exactly_one_split(
    protocol: str, archive: tuple[list[source.Record], dict[str, str]]
) -> None:
    splits = assign_or_assume(protocol, *archive)
    assert sorted(splits) == sorted(record.key for record in archive[0])
    assert set(splits.values()) == set(protocols.SPLITS)


@pytest.mark.parametrize("protocol", protocols.PROTOCOLS)
@settings
@hypothesis.given(archive=archives(), rng=st.randoms(use_true_random=False))
def test_splits_do_not_depend_on_file_order(
    protocol: str, archive: tuple[list[source.Record], dict[str, str]], rng: random.Random
) -> None:
    records, hashes = archive
    shuffled = rng.sample(records, len(records))
    assert assign_or_assume(protocol, records, hashes) == assign_or_assume(
        protocol, shuffled, hashes
    )


@settings
@hypothesis.given(archive=archives())
def test_grouped_has_no_patient_and_no_content_on_two_sides(
    archive: tuple[list[source.Record], dict[str, str]],
) -> None:
    records, hashes = archive
    splits = assign_or_assume("grouped", records, hashes)
    by_patient = collections.defaultdict(set)
    by_content = collections.defaultdict(set)
    for record in records:
        by_patient[record.patient_id].add(splits[record.key])
        by_content[hashes[record.key]].add(splits[record.key])
    assert {len(names) for names in by_patient.values()} == {1}
    assert {len(names) for names in by_content.values()} == {1}


@settings
@hypothesis.given(archive=archives())
def test_official_shares_no_patient_between_train_and_validation(
    archive: tuple[list[source.Record], dict[str, str]],
) -> None:
    records, hashes = archive
    splits = assign_or_assume("official", records, hashes)
    assert protocols.shared_patient_images(records, splits, "validation") == 0
    assert {r.key for r in records if r.folder == "test"} == {
        key for key, name in splits.items() if name == "test"
    }


@settings
@hypothesis.given(archive=archives())
def test_grouped_falls_short_of_a_share_by_less_than_the_largest_patient(
    archive: tuple[list[source.Record], dict[str, str]],
) -> None:
    records, _ = archive
    splits = assign_or_assume("grouped", records, distinct(records))
    for label in source.CLASSES:
        members = [record for record in records if record.label == label]
        largest = max(collections.Counter(record.patient_id for record in members).values())
        in_test = sum(splits[record.key] == "test" for record in members)
        share = -(-len(members) * 25 // 100)
        assert share - largest < in_test <= share


def full_counts() -> list[source.Record]:
    """As many images of each class as Kaggle has, with patients of one to several images."""
    normal = [f"train/NORMAL/IM-{i * 7 // 10:04d}-{i:04d}.jpeg" for i in range(1_583)]
    ill = [f"train/PNEUMONIA/person{i * 6 // 10}_virus_{i}.jpeg" for i in range(4_273)]
    return [record_for(key) for key in normal + ill]


def moved_to_test(records: Sequence[source.Record]) -> list[source.Record]:
    return [record_for(record.key.replace("train/", "test/")) for record in records]


def count(records: Sequence[source.Record], splits: Mapping[str, str], name: str) -> dict[str, int]:
    return dict(collections.Counter(r.label for r in records if splits[r.key] == name))


@pytest.mark.parametrize("protocol", ["paper", "grouped"])
def test_full_counts_give_the_papers_test_split(protocol: str) -> None:
    records = full_counts()
    splits = protocols.assign(protocol, records, distinct(records))
    assert count(records, splits, "test") == {"NORMAL": 396, "PNEUMONIA": 1_069}
    assert count(records, splits, "validation") == {"NORMAL": 119, "PNEUMONIA": 321}


def test_paper_shares_patients_and_says_how_many() -> None:
    records = full_counts()
    splits = protocols.assign("paper", records, distinct(records))
    for among in (("train",), ("train", "validation")):
        seen = {record.patient_id for record in records if splits[record.key] in among}
        expected = sum(splits[r.key] == "test" and r.patient_id in seen for r in records)
        assert protocols.shared_patient_images(records, splits, among=among) == expected > 0


def test_a_patient_of_validation_alone_is_shared_with_test() -> None:
    """The validation split chooses the epoch."""
    records = full_counts()[:3]
    same = [dataclasses.replace(record, patient_id="IM-9999") for record in records[:2]]
    splits = {same[0].key: "validation", same[1].key: "test", records[2].key: "train"}
    everyone = [*same, records[2]]
    assert protocols.shared_patient_images(everyone, splits) == 1
    assert protocols.shared_patient_images(everyone, splits, among=("train",)) == 0


def test_grouped_shares_no_patient() -> None:
    records = full_counts()
    splits = protocols.assign("grouped", records, distinct(records))
    assert protocols.shared_patient_images(records, splits) == 0


def test_splits_do_not_depend_on_the_suffix() -> None:
    records = full_counts()[::5]
    renamed = [record_for(record.key.replace(".jpeg", ".png")) for record in records]
    splits = protocols.assign("grouped", records, distinct(records))
    other = protocols.assign("grouped", renamed, distinct(renamed))
    assert other == {key.replace(".jpeg", ".png"): name for key, name in splits.items()}


def test_a_byte_identical_pair_of_both_classes_stays_together() -> None:
    records = full_counts()[::9]
    hashes = distinct(records)
    normal = next(r.key for r in records if r.label == "NORMAL")
    ill = next(r.key for r in records if r.label == "PNEUMONIA")
    hashes[ill] = hashes[normal]
    splits = protocols.assign("grouped", records, hashes)
    assert splits[ill] == splits[normal]


def test_official_without_a_test_folder_is_refused() -> None:
    records = full_counts()[::50]
    with pytest.raises(source.SourceError, match="needs Kaggle's test folder"):
        protocols.assign("official", records, distinct(records))


def test_too_few_patients_for_three_splits_are_refused() -> None:
    records = [record_for(f"train/NORMAL/IM-0001-{i:04d}.jpeg") for i in range(8)]
    records += [record_for(f"train/PNEUMONIA/person{i}_virus_{i}.jpeg") for i in range(8)]
    message = (
        r"grouped leaves validation without NORMAL, test without NORMAL \(images: train 8 NORMAL, "
        r"5 PNEUMONIA; validation 0 NORMAL, 1 PNEUMONIA; test 0 NORMAL, 2 PNEUMONIA; "
        r"patients: 1 NORMAL, 8 PNEUMONIA\)\. Add images of other patients"
    )
    with pytest.raises(source.SourceError, match=message):
        protocols.assign("grouped", records, distinct(records))


@pytest.mark.parametrize("protocol", protocols.PROTOCOLS)
@pytest.mark.parametrize("label", source.CLASSES)
@pytest.mark.parametrize("folder", ["train", "test"])
def test_a_split_without_a_class_is_refused_by_every_protocol(
    protocol: str, label: str, folder: str
) -> None:
    records = [
        record
        for record in [*full_counts()[::50], *moved_to_test(full_counts()[1::50])]
        if record.label != label or (protocol == "official" and record.folder != folder)
    ]
    with pytest.raises(source.SourceError, match=f"without {label}"):
        protocols.assign(protocol, records, distinct(records))


@pytest.mark.parametrize("protocol", protocols.PROTOCOLS)
@settings
@hypothesis.given(archive=archives())
def test_every_split_has_every_class(
    protocol: str, archive: tuple[list[source.Record], dict[str, str]]
) -> None:
    splits = assign_or_assume(protocol, *archive)
    found = {(splits[record.key], record.label) for record in archive[0]}
    assert found == {(name, label) for name in protocols.SPLITS for label in source.CLASSES}


@pytest.mark.parametrize("count", [1, 2])
def test_no_protocol_splits_one_or_two_images_of_a_class(count: int) -> None:
    records = full_counts()[::50]
    few = [record for record in records if record.label == "NORMAL"][:count]
    records = few + [record for record in records if record.label == "PNEUMONIA"]
    for protocol in ("grouped", "paper"):
        with pytest.raises(source.SourceError, match="without NORMAL"):
            protocols.assign(protocol, records, distinct(records))


@pytest.mark.parametrize(
    "change",
    [
        lambda splits, hashes: ({**splits, "a": "test"}, hashes, ("c",)),
        lambda splits, hashes: (splits, {**hashes, "a": "9"}, ("c",)),
        lambda splits, hashes: (splits, hashes, ("d",)),
    ],
    ids=["split", "content", "context"],
)
def test_fingerprint_changes_with_everything_that_shapes_the_data(
    change: Callable[..., tuple[dict[str, str], dict[str, str], tuple[str]]],
) -> None:
    splits, hashes = {"a": "train", "b": "test"}, {"a": "1", "b": "2"}
    changed_splits, changed_hashes, context = change(splits, hashes)
    assert protocols.fingerprint(splits, hashes, "c") != protocols.fingerprint(
        changed_splits, changed_hashes, *context
    )


def test_fingerprint_does_not_depend_on_order() -> None:
    splits, hashes = {"a": "train", "b": "test"}, {"a": "1", "b": "2"}
    backwards = dict(reversed(splits.items()))
    assert protocols.fingerprint(splits, hashes) == protocols.fingerprint(backwards, hashes)
