from __future__ import annotations

import pickle
import subprocess
import sys
import zipfile
from typing import TYPE_CHECKING

import pytest

from cxr_tfds import source
from tests.support import radiographs
from tests.support.radiographs import Files

if TYPE_CHECKING:
    import pathlib


@pytest.mark.parametrize(
    ("stem", "etiology", "patient_id"),
    [
        ("IM-0115-0001", "normal", "IM-0115"),
        ("IM-0629-0001-0001", "normal", "IM-0629"),
        ("NORMAL2-IM-0381-0001", "normal", "NORMAL2-IM-0381"),
        ("NORMAL2-IM-0983-0001-0002", "normal", "NORMAL2-IM-0983"),
        ("person1_bacteria_2", "bacteria", "person1"),
        ("person1_virus_6", "virus", "person1"),
        ("person447_virus_921_1", "virus", "person447"),
        ("NORMAL-1003233-0001", "normal", "patient-1003233"),
        ("BACTERIA-1008087-0001", "bacteria", "patient-1008087"),
        ("VIRUS-1008087-0002", "virus", "patient-1008087"),
    ],
)
def test_kaggle_and_mendeley_names_are_read(stem: str, etiology: str, patient_id: str) -> None:
    assert source.parse_name(stem) == (etiology, patient_id)


@pytest.mark.parametrize("stem", ["IM-0115", "person1_fungus_2", "IM-0115-0001 (1)", "scan", ""])
def test_other_names_are_refused(stem: str) -> None:
    with pytest.raises(ValueError, match="scheme"):
        source.parse_name(stem)


def test_zip_and_folder_give_the_same_records(files: Files, tmp_path: pathlib.Path) -> None:
    zipped = source.open_archive(files.zip(tmp_path / "zip"))
    extracted = source.open_archive(files.extract(tmp_path / "tree"))
    assert zipped.records == extracted.records


def test_debris_and_nested_copies_are_not_records(manual_dir: pathlib.Path) -> None:
    archive = source.open_archive(manual_dir)
    assert len(archive.records) == 48 + 68
    assert {record.path.count("/") for record in archive.records} == {3}
    assert (archive.issues, archive.ignored) == ((), ())


def test_manual_dir_may_be_the_tree_itself(files: Files, tmp_path: pathlib.Path) -> None:
    tree = files.extract(tmp_path) / "chest_xray"
    assert len(source.open_archive(tree).records) == 116


def test_manual_dir_may_be_the_zip_itself(manual_dir: pathlib.Path) -> None:
    assert len(source.open_archive(manual_dir / "archive.zip").records) == 116


def test_zip_is_preferred_to_a_tree_beside_it(files: Files, manual_dir: pathlib.Path) -> None:
    partial = Files(dict(list(files.content.items())[:10]))
    partial.extract(manual_dir)
    assert source.open_archive(manual_dir).is_zip


def test_reader_reads_what_the_record_names(files: Files, tmp_path: pathlib.Path) -> None:
    for folder in (files.zip(tmp_path / "zip"), files.extract(tmp_path / "tree")):
        archive = source.open_archive(folder)
        with archive.reader() as read:
            assert all(read(record) == files.content[record.path] for record in archive.records)


def test_an_archive_can_be_sent_to_another_process(manual_dir: pathlib.Path) -> None:
    archive = source.open_archive(manual_dir)
    assert pickle.loads(pickle.dumps(archive)) == archive


def test_suffixes_are_read_in_any_case(files: Files, tmp_path: pathlib.Path) -> None:
    files.content["chest_xray/train/NORMAL/IM-0900-0001.PNG"] = radiographs.draw(1, format="PNG")
    files.content["chest_xray/train/NORMAL/IM-0901-0001.JPG"] = radiographs.draw(2)
    assert len(source.open_archive(files.zip(tmp_path)).records) == 118


def test_other_files_in_class_folders_are_ignored_but_named(
    files: Files, tmp_path: pathlib.Path
) -> None:
    files.content["chest_xray/train/NORMAL/notes.txt"] = b"seen"
    assert source.open_archive(files.zip(tmp_path)).ignored == (
        "chest_xray/train/NORMAL/notes.txt",
    )


@pytest.mark.parametrize(
    ("key", "problem"),
    [
        ("train/NORMAL/person7_virus_9.jpeg", "is in folder NORMAL, but its name says virus"),
        ("train/PNEUMONIA/IM-0115-0001.jpeg", "is in folder PNEUMONIA, but its name says normal"),
        ("train/NORMAL/VIRUS-1-0001.jpeg", "is in folder NORMAL, but its name says virus"),
        ("test/NORMAL/scan.jpeg", "neither Kaggle's nor Mendeley's"),
    ],
)
def test_a_name_that_lies_or_says_nothing_is_an_issue(
    files: Files, tmp_path: pathlib.Path, key: str, problem: str
) -> None:
    files.content[f"chest_xray/{key}"] = radiographs.draw(0)
    (issue,) = source.open_archive(files.zip(tmp_path)).issues
    assert issue.key == key
    assert problem in issue.problem


def test_a_missing_folder_is_refused_with_what_to_download(tmp_path: pathlib.Path) -> None:
    with pytest.raises(source.SourceError, match=r"nowhere does not exist\.\nDownload archive.zip"):
        source.open_archive(tmp_path / "nowhere")


def test_an_empty_folder_is_refused_with_what_to_download(tmp_path: pathlib.Path) -> None:
    with pytest.raises(source.SourceError, match=r"no chest X-rays\.\nDownload archive.zip"):
        source.open_archive(tmp_path)


def test_two_zips_of_different_images_are_refused_by_name(
    files: Files, manual_dir: pathlib.Path
) -> None:
    files.content["chest_xray/train/NORMAL/IM-0900-0001.jpeg"] = radiographs.draw(1)
    files.zip(manual_dir, "another.zip")
    with pytest.raises(source.SourceError, match=r"\(another.zip, archive.zip\)\. Keep only one"):
        source.open_archive(manual_dir)


def test_a_damaged_zip_is_refused(manual_dir: pathlib.Path) -> None:
    archive = manual_dir / "archive.zip"
    archive.write_bytes(archive.read_bytes()[:-100])
    with pytest.raises(source.SourceError, match="damaged"):
        source.open_archive(manual_dir)


def test_a_missing_class_folder_is_refused(files: Files, tmp_path: pathlib.Path) -> None:
    kept = {path: data for path, data in files.content.items() if "test/NORMAL" not in path}
    with pytest.raises(source.SourceError, match="no images in test/NORMAL"):
        source.open_archive(Files(kept).zip(tmp_path))


def test_a_missing_train_folder_is_refused(files: Files, tmp_path: pathlib.Path) -> None:
    kept = {path: data for path, data in files.content.items() if "/train/" not in path}
    with pytest.raises(source.SourceError, match="train/NORMAL, train/PNEUMONIA"):
        source.open_archive(Files(kept).zip(tmp_path))


def test_all_issues_are_named_in_one_error() -> None:
    issues = [source.Issue(f"train/NORMAL/{i}.jpeg", "is empty") for i in range(3)]
    with pytest.raises(source.SourceError, match="3 bad file") as caught:
        source.require_clean(issues, "archive.zip")
    assert all(str(issue) in str(caught.value) for issue in issues)
    assert caught.value.issues == tuple(issues)


def test_no_issue_is_no_error() -> None:
    source.require_clean([], "archive.zip")


def test_members_are_never_written_outside_the_archive(tmp_path: pathlib.Path) -> None:
    with zipfile.ZipFile(tmp_path / "archive.zip", "w") as archive:
        archive.writestr("../../train/NORMAL/IM-0115-0001.jpeg", radiographs.draw(0))
        archive.writestr("train/PNEUMONIA/person1_virus_6.jpeg", radiographs.draw(1))
    opened = source.open_archive(tmp_path)
    with opened.reader() as read:
        assert read(opened.records[0]) == radiographs.draw(0)
    assert [path.name for path in tmp_path.iterdir()] == ["archive.zip"]


@pytest.mark.parametrize("module", ["source", "protocols", "phantoms", "images", "audit"])
def test_importing_the_module_imports_no_tensorflow(module: str) -> None:
    code = f"import cxr_tfds.{module}, sys; sys.exit('tensorflow' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("url", ["http://host/archive.zip", "no-such://host/archive.zip"])
def test_an_address_that_cannot_be_read_is_one_line(url: str) -> None:
    with pytest.raises(source.SourceError, match=rf"^{url} can't be read .*; copy the archive to"):
        source.open_archive(url)


def test_an_empty_manual_dir_is_not_the_working_directory() -> None:
    with pytest.raises(source.SourceError, match=r"^manual_dir is empty; give --manual_dir"):
        source.open_archive("")


def line_of(files: Files, folder: pathlib.Path) -> str:
    archive = source.open_archive(files.zip(folder))
    with pytest.raises(source.SourceError) as caught:
        source.require_clean(archive.issues, archive.root)
    return caught.value.line


def test_the_line_for_bad_names_shows_each_and_what_to_do_with_copies(
    files: Files, tmp_path: pathlib.Path
) -> None:
    for name in ("IM-0001-0002_flip", "IM-0001-0002 (1)"):
        files.content[f"chest_xray/train/NORMAL/{name}.jpeg"] = radiographs.draw(0)
    assert (
        "each of 2 files has a name that follows neither Kaggle's nor Mendeley's scheme: "
        "train/NORMAL/IM-0001-0002 (1).jpeg, train/NORMAL/IM-0001-0002_flip.jpeg; "
        "delete them if they are copies, or rename them in the scheme of "
    ) in line_of(files, tmp_path)


def test_the_line_for_bad_files_shows_each_kind(files: Files, tmp_path: pathlib.Path) -> None:
    names = ("NORMAL/scan", "NORMAL/person7_virus_9", "PNEUMONIA/IM-0900-0001")
    for name in names:
        files.content[f"chest_xray/train/{name}.jpeg"] = radiographs.draw(0)
    line = line_of(files, tmp_path)
    assert line.startswith("3 bad files in ")
    assert all(name in line for name in names)
    assert "delete" not in line


def test_a_bad_file_of_an_archive_without_split_folders_is_named_where_it_is(
    tmp_path: pathlib.Path,
) -> None:
    Files(
        {"NORMAL/0000.jpeg": radiographs.draw(0), "PNEUMONIA/0001.jpeg": radiographs.draw(0)}
    ).extract(tmp_path)
    archive = source.open_archive(tmp_path)
    with pytest.raises(source.SourceError) as caught:
        source.require_clean(archive.issues, archive.root)
    assert ": NORMAL/0000.jpeg, PNEUMONIA/0001.jpeg; rename them" in caught.value.line
