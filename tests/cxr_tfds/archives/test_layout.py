"""What folders say, and what becomes of each file."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import hypothesis
import pytest
from hypothesis import strategies as st

from cxr_tfds import source
from cxr_tfds.archives import layout
from tests.support import radiographs
from tests.support.radiographs import Files

if TYPE_CHECKING:
    import pathlib
    from collections.abc import Callable


def with_folders(files: Files, change: Callable[[str], str]) -> Files:
    """Changes the folders of every file, never its name."""
    parts = ((*path.rpartition("/"), data) for path, data in files.content.items())
    return Files({change(folder + slash) + name: data for folder, slash, name, data in parts})


def by_etiology(files: Files, *etiologies: str) -> Files:
    """Puts images of these etiologies into a folder below PNEUMONIA."""
    pattern = re.compile(rf"(PNEUMONIA/)(?=person\d+_({'|'.join(etiologies)}))")
    return Files({pattern.sub(r"\1\2/", path): data for path, data in files.content.items()})


FOLDERS: dict[str, Callable[[str], str]] = {
    "upper case": str.upper,
    "classes in lower case": lambda path: path.replace("NORMAL", "normal"),
    "classes in title case": lambda path: path.replace("PNEUMONIA", "Pneumonia"),
    "splits in title case": lambda path: path.replace("/t", "/T").replace("/v", "/V"),
    "valid": lambda path: path.replace("/val/", "/valid/"),
    "validation": lambda path: path.replace("/val/", "/Validation/"),
    "of Windows": lambda path: path.replace("/", "\\"),
    "of nothing above": lambda path: path.removeprefix("chest_xray/"),
    "deep": lambda path: f"a/b/c/d/e/f/g/{path}",
    "of any name": lambda path: f"Röntgen 胸部/[1]/star*/per%20cent/{path}",
}


@pytest.mark.parametrize("change", FOLDERS.values(), ids=FOLDERS)
def test_folders_may_be_written_in_many_ways(
    change: Callable[[str], str], files: Files, tmp_path: pathlib.Path
) -> None:
    expected = source.open_archive(files.zip(tmp_path / "expected"))
    changed = with_folders(files, change)
    for folder in (changed.zip(tmp_path / "zip"), changed.extract(tmp_path / "tree")):
        found = source.open_archive(folder)
        assert [record.key for record in found.records] == [r.key for r in expected.records]
        assert (found.issues, found.ignored) == ((), ())
        with found.reader() as read:
            assert all(read(record).startswith(b"\xff\xd8") for record in found.records)


@pytest.mark.parametrize("etiologies", [("virus",), ("bacteria", "virus")])
def test_folders_by_etiology_change_no_record(
    etiologies: tuple[str, ...], files: Files, tmp_path: pathlib.Path
) -> None:
    expected = source.open_archive(files.zip(tmp_path / "expected"))
    found = source.open_archive(by_etiology(files, *etiologies).zip(tmp_path / "changed"))
    assert [record.key for record in found.records] == [record.key for record in expected.records]


def test_an_image_in_the_folder_of_another_etiology_is_an_issue(
    files: Files, tmp_path: pathlib.Path
) -> None:
    files.content["chest_xray/train/PNEUMONIA/virus/person9_bacteria_9.jpeg"] = radiographs.draw(0)
    (issue,) = source.open_archive(files.zip(tmp_path)).issues
    assert issue.problem == "is in folder virus, but its name says bacteria"


def test_images_in_no_split_folder_are_of_train(files: Files, tmp_path: pathlib.Path) -> None:
    flat = with_folders(files, lambda path: re.sub("(train|val|test)/", "", path))
    records = source.open_archive(flat.zip(tmp_path)).records
    assert len(records) == 116
    assert {record.folder for record in records} == {"train"}


@pytest.mark.parametrize(
    ("folder", "named"),
    [
        ("chest_xray/train/COVID19", r"chest_xray/train/COVID19 \(9\)"),
        ("chest_xray/test/Covid/severe", r"chest_xray/test/Covid/severe \(9\)"),
        ("chest_xray/train/NORMAL/rejected", r"chest_xray/train/NORMAL/rejected \(9\)"),
        ("chest_xray/train/PNEUMONIA/virus/old", r"chest_xray/train/PNEUMONIA/virus/old \(9\)"),
        ("chest_xray/train", r"chest_xray/train \(9\)"),
        ("chest_xray/Validation/COVID19", r"chest_xray/Validation/COVID19 \(9\)"),
        ("chest_xray/train/\x1b[2J", r"chest_xray/train/\\x1b\[2J \(9\)"),
    ],
)
def test_a_folder_of_no_known_class_is_refused_by_name_and_count(
    folder: str, named: str, files: Files, tmp_path: pathlib.Path
) -> None:
    files.content |= {f"{folder}/COVID19({i}).jpg": radiographs.draw(i) for i in range(9)}
    with pytest.raises(source.SourceError, match=f"has 9 images in folders .*: {named}. The data"):
        source.open_archive(files.zip(tmp_path))


def test_a_third_class_beside_class_folders_without_splits_is_refused(
    files: Files, tmp_path: pathlib.Path
) -> None:
    flat = with_folders(files, lambda path: re.sub("(train|val|test)/", "", path))
    flat.content["chest_xray/COVID19/a.png"] = radiographs.draw(0)
    with pytest.raises(source.SourceError, match=r"chest_xray/COVID19 \(1\)"):
        source.open_archive(flat.zip(tmp_path))


@pytest.mark.parametrize("name", ["holdout", "Testing"])
def test_a_split_folder_of_no_known_name_is_refused(
    name: str, files: Files, tmp_path: pathlib.Path
) -> None:
    renamed = with_folders(files, lambda path: path.replace("/test/", f"/{name}/"))
    message = rf"none of train, val and test: in chest_xray/{name} \(12 images\)"
    with pytest.raises(source.SourceError, match=message):
        source.open_archive(renamed.zip(tmp_path))


def test_equal_images_of_equal_names_are_taken_once_and_counted(
    files: Files, tmp_path: pathlib.Path
) -> None:
    images = {path: data for path, data in files.content.items() if "chest_xray/t" in path}
    twice = Files({f"{side}/{path}": data for path, data in images.items() for side in "ab"})
    for folder in (twice.zip(tmp_path / "zip"), twice.extract(tmp_path / "tree")):
        archive = source.open_archive(folder)
        assert (len(archive.records), len(archive.copies)) == (112, 112)
        assert (
            "Left out, because another image has the same name and contents: 112 images, b/"
            in (archive.notes()[0])
        )


def test_different_images_of_equal_names_are_refused(files: Files, tmp_path: pathlib.Path) -> None:
    other = {path.replace("chest_xray", "b"): radiographs.draw(7) for path in files.content}
    both = Files(files.content | {path: data for path, data in other.items() if "/train/N" in path})
    pair = "b/train/NORMAL/IM-0000-0000.jpeg and chest_xray/train/NORMAL/IM-0000-0000.jpeg"
    for folder in (both.zip(tmp_path / "zip"), both.extract(tmp_path / "tree")):
        with pytest.raises(source.SourceError, match=f"39 pairs of different images .* {pair}"):
            source.open_archive(folder)


@pytest.mark.parametrize("suffix", layout.IMAGE_SUFFIXES)
def test_every_image_suffix_is_read_in_any_case(
    suffix: str, files: Files, tmp_path: pathlib.Path
) -> None:
    files.content |= {
        f"chest_xray/train/NORMAL/IM-09{i}-0001{spelt}": radiographs.draw(i)
        for i, spelt in enumerate((suffix, suffix.upper()))
    }
    assert len(source.open_archive(files.zip(tmp_path)).records) == 118


def test_files_that_are_not_read_are_counted_by_suffix_in_one_line(
    files: Files, tmp_path: pathlib.Path
) -> None:
    files.content |= {f"chest_xray/train/NORMAL/{i}.dcm": b"" for i in range(12)}
    files.content |= {"chest_xray/a.gif": b"", "notes": b"", "Bild.JPEG": b"", "x.tar.gz": b""}
    archive = source.open_archive(files.zip(tmp_path))
    line = "16 files (12 .dcm, 1 .jpeg, 1 .gif, 1 without a suffix, 1 .tar.gz), Bild.JPEG, "
    assert line in archive.notes()[1]


CASES = st.sampled_from([str.lower, str.upper, str.title])
SPLITS = st.sampled_from(["train", "val", "valid", "validation", "test", "holdout", None])
LABELS = st.sampled_from(["NORMAL", "PNEUMONIA", "COVID19", None])
ETIOLOGY = st.sampled_from(["virus", "bacteria", "old", None, None, None])
NAMES = st.sampled_from(["IM-{0}-{0}", "person{0}_virus_{0}", "person{0}_bacteria_{0}", "scan{0}"])
SUFFIXES = st.sampled_from([".jpeg", ".JPG", ".jfif", ".png", ".webp", ".dcm", ".txt", ""])
DEBRIS = ("__MACOSX/train/NORMAL/IM-1-1.jpeg", "a/._IM-1-1.jpeg", ".DS_Store", "a/Thumbs.db")


@st.composite
def trees(draw: st.DrawFn) -> dict[str, bytes]:
    """Files by path, as people and programs leave them."""
    case = draw(CASES)
    tops = st.lists(st.sampled_from(["chest_xray", "a b", "胸部"]), max_size=3)
    top, content = draw(tops), {}
    wanted = [(split, label) for split in ("train", draw(SPLITS)) for label in layout.CLASSES]
    strange = draw(st.lists(st.tuples(SPLITS, LABELS), max_size=2))
    for number, (split, label) in enumerate([*wanted, *strange]):
        above = draw(st.sampled_from([top, top, top, [*top, "copy"]]))
        folders = [*above, *(case(name) for name in (split, label, draw(ETIOLOGY)) if name)]
        regular = "IM-{0}-{0}" if label == "NORMAL" else "person{0}_virus_{0}"
        for name in (regular, draw(st.just(regular) | NAMES)):
            data = bytes([draw(st.integers(0, 1))])
            path = "/".join([*folders, name.format(number) + draw(SUFFIXES)])
            content[path] = data
    for path in draw(st.lists(st.sampled_from(DEBRIS))):
        content[path] = b""
    return content


def opened(folder: pathlib.Path) -> tuple[source.Archive | None, str]:
    try:
        return source.open_archive(folder), ""
    except source.SourceError as error:
        return None, str(error)


@hypothesis.settings(
    max_examples=300,
    deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
@hypothesis.given(content=trees(), as_zip=st.booleans())
def test_every_file_is_a_record_or_an_issue_or_counted_or_the_archive_is_refused(
    content: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory, *, as_zip: bool
) -> None:
    folder = tmp_path_factory.mktemp("tree")
    write = Files(content).zip if as_zip else Files(content).extract
    archive, refusal = opened(write(folder))
    if not archive:
        assert re.search(r"\d", refusal.replace(str(folder), ""))
        return
    kept = [record.path for record in archive.records]
    named = {issue.key for issue in archive.issues}
    assert len(kept) + len(named) + len(archive.copies) + len(archive.ignored) == len(
        content.keys() - set(DEBRIS)
    )
    assert len({record.key for record in archive.records} | named) == len(kept) + len(named)
    assert set(kept) | set(archive.copies) | set(archive.ignored) <= content.keys()
