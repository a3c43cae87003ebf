"""Which zip or folder is the archive, and what is said of others."""

from __future__ import annotations

import os
import pathlib
import zipfile

import pytest

from cxr_tfds import source
from cxr_tfds.archives import candidates
from tests.support import radiographs
from tests.support.radiographs import Files


def write_zip(path: pathlib.Path, **members: bytes) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)


@pytest.mark.parametrize("name", ["chest_xray.zip", "ZhangLabData.zip", "a (1).ZIP"])
def test_a_zip_may_have_any_name(name: str, files: Files, tmp_path: pathlib.Path) -> None:
    for manual_dir in (files.zip(tmp_path, name), tmp_path / name):
        archive = source.open_archive(manual_dir)
        assert (len(archive.records), archive.is_zip) == (116, True)


def test_a_zip_as_manual_dir_needs_no_suffix(files: Files, tmp_path: pathlib.Path) -> None:
    files.zip(tmp_path, "download")
    assert len(source.open_archive(tmp_path / "download").records) == 116


def test_a_folder_may_be_named_like_a_zip(files: Files, tmp_path: pathlib.Path) -> None:
    archive = source.open_archive(files.extract(tmp_path / "archive.zip"))
    assert (len(archive.records), archive.is_zip) == (116, False)


def test_other_zips_beside_a_tree_are_named(files: Files, tmp_path: pathlib.Path) -> None:
    files.extract(tmp_path)
    write_zip(tmp_path / "archive.zip", text=b"")
    (tmp_path / "damaged.zip").write_bytes(b"PK")
    archive = source.open_archive(tmp_path)
    assert len(archive.records) == 116
    assert "damaged.zip is damaged" in archive.notes()[0]
    assert "(2 .zip), archive.zip, damaged.zip" in archive.notes()[2]


def test_of_equal_zips_the_first_is_read_and_the_other_named(
    files: Files, manual_dir: pathlib.Path
) -> None:
    files.zip(manual_dir, "chest_xray.zip")
    archive = source.open_archive(manual_dir)
    assert pathlib.Path(archive.root).name == "archive.zip"
    assert "because it holds the same images as archive.zip: chest_xray.zip." in archive.notes()[0]


def test_an_extracted_part_of_the_zip_is_not_read_and_counted(
    files: Files, manual_dir: pathlib.Path
) -> None:
    Files(dict(list(files.content.items())[:10])).extract(manual_dir)
    (manual_dir / "stray.png").write_bytes(b"")
    (line, *_) = source.open_archive(manual_dir).notes()
    assert "Not read beside archive.zip: 11 files (10 .jpeg, 1 .png), stray.png, " in line


@pytest.mark.parametrize("name", ["IM-0000-0000.jpeg", "IM-0900-0001.jpeg"])
def test_a_tree_with_other_images_than_the_zip_beside_it_is_refused(
    name: str, manual_dir: pathlib.Path
) -> None:
    path = f"chest_xray/train/NORMAL/{name}"
    Files({path: radiographs.draw(1, size=(99, 99))}).extract(manual_dir)
    with pytest.raises(source.SourceError, match=f"1 image that the zip doesn't have.* {path}"):
        source.open_archive(manual_dir)


@pytest.mark.parametrize(
    ("part", "whole"),
    [
        ("chest_xray/train", "chest_xray"),
        ("chest_xray/train/NORMAL", "chest_xray"),
        ("chest_xray/test/PNEUMONIA", "chest_xray"),
    ],
)
def test_a_folder_inside_of_the_archive_is_refused_with_the_right_one(
    part: str, whole: str, files: Files, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files.extract(tmp_path)
    with pytest.raises(source.SourceError, match=f"--manual_dir={tmp_path / whole}$"):
        source.open_archive(tmp_path / part)
    monkeypatch.chdir(tmp_path / part)
    with pytest.raises(source.SourceError, match=f"--manual_dir={tmp_path / whole}$"):
        source.open_archive(".")
    assert len(source.open_archive(tmp_path / whole).records) == 116


def test_a_folder_for_the_archive_may_be_named_test(files: Files, tmp_path: pathlib.Path) -> None:
    assert len(source.open_archive(files.extract(tmp_path / "test")).records) == 116


@pytest.mark.parametrize("suffix", [".tar.gz", ".tgz", ".tar", ".7z", ".rar", ".tar.bz2"])
def test_another_kind_of_archive_is_refused_by_name(suffix: str, tmp_path: pathlib.Path) -> None:
    path = tmp_path / f"archive{suffix}"
    path.write_bytes(b"x")
    for manual_dir in (tmp_path, path):
        with pytest.raises(source.SourceError, match=f"archive{suffix} is a {suffix}: extract it"):
            source.open_archive(manual_dir)


def test_an_unfinished_download_is_refused_by_name(tmp_path: pathlib.Path) -> None:
    (tmp_path / "archive.zip.crdownload").write_bytes(b"PK")
    with pytest.raises(source.SourceError, match=r"archive.zip.crdownload is an unfinished"):
        source.open_archive(tmp_path)


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        (
            "scan.jpeg",
            radiographs.draw(0),
            "scan.jpeg is an image, not an archive: give",
        ),
        ("notes.txt", b"hello", r"notes.txt is neither a folder nor a zip\."),
        ("empty.zip", b"", r"empty.zip is damaged"),
        ("page.zip", b"<html>log in</html>", r"page.zip is damaged"),
    ],
)
def test_a_file_that_is_no_zip_is_refused(
    name: str, data: bytes, message: str, tmp_path: pathlib.Path
) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(source.SourceError, match=message) as caught:
        source.open_archive(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_a_zip_in_a_zip_or_in_a_subfolder_is_named(files: Files, tmp_path: pathlib.Path) -> None:
    files.zip(tmp_path / "tree" / "sub")
    inner = (tmp_path / "tree" / "sub" / "archive.zip").read_bytes()
    write_zip(tmp_path / "outer.zip", **{"deep/inner.zip": inner})
    with pytest.raises(source.SourceError, match=r"outside of sub/archive.zip: extract that"):
        source.open_archive(tmp_path / "tree")
    with pytest.raises(source.SourceError, match=r"outside of deep/inner.zip: extract that"):
        source.open_archive(tmp_path / "outer.zip")


def test_files_that_are_no_chest_x_rays_are_counted(tmp_path: pathlib.Path) -> None:
    Files({"healthy/a.jpeg": b"", "ill/b.jpeg": b"", "c.csv": b""}).extract(tmp_path)
    message = (
        r"NORMAL and PNEUMONIA; it has 2 .jpeg, 1 .csv elsewhere, with images in healthy, ill\.\nD"
    )
    with pytest.raises(source.SourceError, match=message):
        source.open_archive(tmp_path)


def test_images_with_a_table_of_labels_are_to_be_sorted_and_named(tmp_path: pathlib.Path) -> None:
    Files({"images/0000_000.png": b"", "Data_Entry.csv": b""}).extract(tmp_path)
    with pytest.raises(source.SourceError) as refusal:
        source.open_archive(tmp_path)
    assert "sort the images into folders NORMAL and PNEUMONIA, and name them" in refusal.value.line
    assert "tables of labels are not read" in refusal.value.line


@pytest.mark.parametrize("name", ["x" * 300, "a\0b"])
def test_a_path_that_cannot_exist_is_refused_in_one_line(name: str, tmp_path: pathlib.Path) -> None:
    with pytest.raises(source.SourceError, match=r"can't be read: |does not exist"):
        source.open_archive(tmp_path / name)


def test_a_name_from_the_disk_reaches_no_terminal(tmp_path: pathlib.Path) -> None:
    folder = tmp_path / os.fsdecode(b"a\xff\x1b[2J")
    folder.mkdir()
    with pytest.raises(source.SourceError, match=r"a\\udcff\\x1b\[2J contains no chest X-rays"):
        source.open_archive(folder)


def test_a_candidate_lists_images_by_key(manual_dir: pathlib.Path) -> None:
    found = candidates.choose(source.epath.Path(manual_dir))
    assert len(found.images) == 116
    assert all(key == image.key for key, image in found.images.items())


@pytest.mark.parametrize("place", [".venv/lib/zone.tar.gz", "a/b/c/zone.tar.gz", ".cache/a.zip"])
def test_packed_parts_of_something_else_are_not_proposed(
    place: str, tmp_path: pathlib.Path
) -> None:
    (tmp_path / place).parent.mkdir(parents=True)
    (tmp_path / place).touch()
    with pytest.raises(source.SourceError) as caught:
        source.open_archive(tmp_path)
    assert "extract" not in caught.value.line
    assert "folder with archive.zip" in caught.value.line


_DICOM = bytes(128) + b"DICM" + bytes(16)


@pytest.mark.parametrize(
    ("names", "line"),
    [
        (("N/1.dcm", "P/2.DCM"), "has 2 DICOM files (2 .dcm) in NORMAL and PNEUMONIA: DICOM isn't"),
        (("N/1", "N/2", "P/3"), "has 3 DICOM files (3 without a suffix) in NORMAL and PNEUMONIA: "),
        (("N/1.2.84", "P/1.2.9"), "has 2 DICOM files (1 .84, 1 .9) in NORMAL and PNEUMONIA: DICOM"),
        (("P/bacteria/1.dcm",), "has 1 DICOM file (1 .dcm) in PNEUMONIA: DICOM isn't read; exp"),
        (("a/1.dcm", "b/2"), "has 1 DICOM file (1 .dcm) outside of folders NORMAL and PNEUMONIA: "),
        (("N/1.gif", "P/2.nii"), "has 2 files (1 .gif, 1 .nii) in NORMAL and PNEUMONIA, and no .j"),
    ],
)
@pytest.mark.parametrize("is_zip", [True, False])
def test_images_of_a_kind_that_is_not_read_are_named_with_the_way_out(
    names: tuple[str, ...], line: str, tmp_path: pathlib.Path, is_zip: bool
) -> None:
    long = {"N": "train/NORMAL", "P": "train/PNEUMONIA"}
    paths = (name.split("/", 1) for name in names)
    content = {f"{long.get(folder, folder)}/{rest}": _DICOM for folder, rest in paths}
    folder = (Files(content).zip if is_zip else Files(content).extract)(tmp_path / "x")
    root = folder / "archive.zip" if is_zip else folder
    with pytest.raises(source.SourceError) as caught:
        source.open_archive(folder)
    assert caught.value.line.startswith(f"{root} {line}")
    assert "as 8-bit PNG or JPEG" in caught.value.line
    assert "--manual_dir" not in str(caught.value)


def test_a_class_of_dicom_files_alone_is_not_called_incomplete(
    files: Files, tmp_path: pathlib.Path
) -> None:
    content = {
        f"{path}.dcm" if "NORMAL" in path else path: data for path, data in files.content.items()
    }
    with pytest.raises(source.SourceError, match=r"\.dcm.*DICOM isn't read: export it as 8-bit"):
        source.open_archive(Files(content).extract(tmp_path))
