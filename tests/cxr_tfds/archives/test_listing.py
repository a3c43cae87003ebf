"""The files of a zip or a folder, and what keeps them from being read."""

from __future__ import annotations

import os
import pathlib
import pwd
import zipfile
from typing import TYPE_CHECKING

import pytest
from etils import epath

from cxr_tfds import images, origin, source
from cxr_tfds.archives import listing
from tests.support import radiographs
from tests.support.radiographs import Files

if TYPE_CHECKING:
    from collections.abc import Callable

NAME = "chest_xray/train/NORMAL/IM-0900-0001.jpeg"


def patched(path: pathlib.Path, offset: int, value: bytes) -> None:
    """Changes a field of every member, in the local header and in the directory."""
    data = bytearray(path.read_bytes())
    for signature, shift in ((b"PK\x03\x04", 0), (b"PK\x01\x02", 2)):
        start = data.find(signature)
        while start >= 0:
            data[start + offset + shift : start + offset + shift + len(value)] = value
            start = data.find(signature, start + 4)
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("offset", "value", "problem"),
    [
        (6, b"\x01\x00", "is encrypted: extract the zip with its password, and give the folder"),
        (
            8,
            b"\x09\x00",
            r"is compressed by a method \(9\) that Python can't read: extract",
        ),
        (22, b"\x00\x00\x00\x40", r"has 1,024 MiB, over the 256 MiB of an image file"),
    ],
    ids=["encrypted", "deflate64", "bomb"],
)
def test_a_zip_that_cannot_be_read_is_refused_in_few_lines(
    offset: int, value: bytes, problem: str, files: Files, tmp_path: pathlib.Path
) -> None:
    path = files.zip(tmp_path) / "archive.zip"
    patched(path, offset, value)
    archive = source.open_archive(path)
    with pytest.raises(source.SourceError, match=f"each of 116 files {problem}.*and 113 more"):
        source.require_clean(archive.issues, archive.root)


@pytest.mark.parametrize("missing", [1, 20_000])
def test_a_member_that_ends_too_soon_is_an_issue_and_no_other_is(
    missing: int, files: Files, tmp_path: pathlib.Path
) -> None:
    # The last member claims more bytes than the file has.
    path = files.zip(tmp_path) / "archive.zip"
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(NAME, radiographs.draw(0))
        archive.infolist()[-1].compress_size += missing
        archive.infolist()[-1].file_size += missing
    facts, issues = images.inspect(source.open_archive(path))
    assert (len(facts), [issue.key for issue in issues]) == (116, ["train/NORMAL/" + NAME[-17:]])


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_zip_that_may_not_be_read_is_named(manual_dir: pathlib.Path) -> None:
    (manual_dir / "archive.zip").chmod(0)
    with pytest.raises(source.SourceError, match=r"archive.zip can't be read: Permission denied"):
        source.open_archive(manual_dir)


@pytest.fixture
def deny(monkeypatch: pytest.MonkeyPatch) -> Callable[[pathlib.Path], pathlib.Path]:
    """Makes the system refuse to list a folder: root may list any, whatever its mode."""
    iterdir = pathlib.Path.iterdir

    def forbid(denied: pathlib.Path) -> pathlib.Path:
        elsewhere = {denied: denied / ("x" * 300)}
        monkeypatch.setattr(
            pathlib.Path, "iterdir", lambda path: iterdir(elsewhere.get(path, path))
        )
        return denied

    return forbid


@pytest.mark.parametrize("place", ["", "chest_xray/train", "chest_xray/test/NORMAL"])
def test_a_folder_of_the_archive_that_may_not_be_read_is_refused(
    place: str,
    files: Files,
    tmp_path: pathlib.Path,
    deny: Callable[[pathlib.Path], pathlib.Path],
) -> None:
    denied = deny(files.extract(tmp_path) / place)
    with pytest.raises(source.SourceError, match=f"^{denied}[/x]* can't be read: File name too"):
        source.open_archive(tmp_path)


def test_another_folder_that_may_not_be_read_is_named(
    files: Files, tmp_path: pathlib.Path, deny: Callable[[pathlib.Path], pathlib.Path]
) -> None:
    denied = files.extract(tmp_path) / "lost+found"
    denied.mkdir()
    deny(denied)
    archive = source.open_archive(tmp_path)
    assert len(archive.records) == 116
    assert archive.notes()[0] == f"{denied} can't be read: File name too long."


@pytest.mark.parametrize("size", [0, 1, 30, 1000, -1, -30])
def test_a_truncated_zip_is_damaged(size: int, files: Files, tmp_path: pathlib.Path) -> None:
    path = files.zip(tmp_path) / "archive.zip"
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(source.SourceError, match=r"archive.zip is damaged \(.*\)\. Download it"):
        source.open_archive(tmp_path)


@pytest.mark.parametrize("prefix", ["../../", "/", "C:/", "//host/share/", "./"])
def test_a_name_that_points_elsewhere_is_only_a_name(
    prefix: str, files: Files, tmp_path: pathlib.Path
) -> None:
    files.content[prefix + "train/NORMAL/IM-0900-0001.jpeg"] = radiographs.draw(5)
    files.content["chest_xray/train/NORMAL/IM-0901-0001.jpeg\0.txt"] = radiographs.draw(6)
    archive = source.open_archive(files.zip(tmp_path / "manual"))
    facts, issues = images.inspect(archive)
    assert (len(facts), issues) == (118, [])
    assert [path.name for path in tmp_path.rglob("*")] == ["manual", "archive.zip"]


def test_two_members_of_one_name_are_refused_or_taken_once(
    files: Files, tmp_path: pathlib.Path
) -> None:
    path = files.zip(tmp_path) / "archive.zip"
    with (
        pytest.warns(UserWarning, match="Duplicate name"),
        zipfile.ZipFile(path, "a") as archive,
    ):
        archive.writestr("chest_xray/train/NORMAL/IM-0000-0000.jpeg", radiographs.draw(77))
    with pytest.raises(source.SourceError, match="1 pairs of different images"):
        source.open_archive(path)


def test_a_folder_whose_name_ends_like_a_backup_is_read(
    files: Files, tmp_path: pathlib.Path
) -> None:
    moved = Files(
        {path.replace("chest_xray", "mine~"): data for path, data in files.content.items()}
    )
    assert len(source.open_archive(moved.extract(tmp_path)).records) == 116


def test_links_to_folders_are_followed_once(files: Files, tmp_path: pathlib.Path) -> None:
    tree = files.extract(tmp_path / "tree")
    (tree / "chest_xray" / "loop").symlink_to(tree)
    (tree / "again").symlink_to(tree / "chest_xray" / "train")
    elsewhere = Files({"NORMAL/IM-0900-0001.jpeg": radiographs.draw(1)}).extract(tmp_path / "more")
    linked = tree / "other" / "train"
    linked.parent.mkdir()
    linked.symlink_to(elsewhere)
    archive = source.open_archive(tree)
    assert len(archive.records) == 117
    assert (archive.issues, archive.ignored) == ((), ())


def test_what_is_not_a_regular_file_is_an_issue(files: Files, tmp_path: pathlib.Path) -> None:
    folder = files.extract(tmp_path) / "chest_xray" / "train" / "NORMAL"
    (folder / "IM-0900-0001.jpeg").symlink_to("nowhere")
    (folder / "IM-0901-0001.jpeg").symlink_to("IM-0901-0001.jpeg")
    os.mkfifo(folder / "IM-0902-0001.jpeg")
    issues = source.open_archive(tmp_path).issues
    assert [issue.key[-17:-10] for issue in issues] == ["IM-0900", "IM-0901", "IM-0902"]
    assert {issue.problem for issue in issues} == {"is not a regular file"}


def test_files_of_a_user_without_a_name_are_read(
    files: Files, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown(uid: int) -> None:
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    archive = source.open_archive(files.extract(tmp_path))
    assert len(archive.records) == len(origin.sizes(archive)) > 100


def test_a_huge_file_is_an_issue_before_it_is_read(files: Files, tmp_path: pathlib.Path) -> None:
    path = files.extract(tmp_path) / NAME
    path.touch()
    os.truncate(path, listing.MAX_FILE_BYTES + 1)
    (issue,) = source.open_archive(tmp_path).issues
    assert "over the 256 MiB" in issue.problem


def test_a_name_that_is_not_unicode_is_an_issue_that_can_be_printed(
    files: Files, tmp_path: pathlib.Path
) -> None:
    folder = files.extract(tmp_path) / "chest_xray" / "train" / "NORMAL"
    (folder / os.fsdecode(b"IM-\xff\x1b[2J-0001.jpeg")).write_bytes(radiographs.draw(0))
    archive = source.open_archive(tmp_path)
    with pytest.raises(source.SourceError, match=r"NORMAL/IM-\\udcff\\x1b\[2J-0001.jpeg: has"):
        source.require_clean(archive.issues, archive.root)


def test_the_suffix_of_a_packed_archive_is_whole() -> None:
    names = ("a.tar.gz", "a.b.TGZ", "a.jpeg", "a.b.PNG", "a", ".zip")
    suffixes = [listing.FileEntry(name, 0).suffix for name in names]
    assert suffixes == [".tar.gz", ".tgz", ".jpeg", ".png", "", ""]


def test_the_outermost_files_come_first(files: Files, tmp_path: pathlib.Path) -> None:
    for folder in (files.zip(tmp_path / "zip") / "archive.zip", files.extract(tmp_path / "tree")):
        depths = [len(entry.parts) for entry in listing.list_files(epath.Path(folder))]
        assert depths == sorted(depths)


def test_a_file_is_asked_for_once_or_twice(tmp_path, monkeypatch):
    """On a network file system, each question takes a millisecond, and an archive has thousands."""
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "IM-0001-0001.jpeg").write_bytes(b"x")
    asked, ask = [], os.stat
    monkeypatch.setattr(
        os, "stat", lambda path, **named: asked.append(str(path)) or ask(path, **named)
    )
    (entry,) = listing.list_files(epath.Path(tmp_path))
    assert entry.size == 1
    assert 1 <= sum(path.endswith(".jpeg") for path in asked) <= 2
