"""Which files `--images` names, in which order, and what of them is said to be unreadable."""

from __future__ import annotations

import os
import stat
import sys
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.scans import dicom_files
from tests.support.scans.folders import IMAGE, write
from trainer.errors import ConfigError, RunError
from trainer.inference import heatmaps, sources, worklist
from trainer.runs import evaluated

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trainer.inference.sources import Found


def zipped(path: Path, **options: Any) -> Path:
    """A zip with members of these names: name -> bytes."""
    members = options.pop("members")
    with zipfile.ZipFile(path, "w", **options) as archive:
        for name, data in members.items():
            archive.writestr(zipfile.ZipInfo(name), data, options.get("compression"))
    return path


def found_in(paths: Sequence[str | Path], **options: Any) -> Found:
    with sources.opened([str(path) for path in paths], **options) as found:
        return found


def names_in(folder: Path, *paths: str | Path, **options: Any) -> list[str]:
    """The names found, those below the folder relative to it."""
    found = found_in(paths or [folder], **options)
    return [candidate.name.removeprefix(f"{folder}/") for candidate in found.candidates]


def problems_in(folder: Path, *paths: str | Path) -> dict[str, str | None]:
    found = found_in(paths or [folder])
    return {of.name.removeprefix(f"{folder}/"): of.problem for of in found.candidates}


def test_a_folder_gives_its_images_the_outermost_first(tmp_path):
    write(tmp_path, "b.png", "a.JPG", "sub/0.tif", "sub/deep/z.dcm", "c.jfif")
    assert names_in(tmp_path) == ["a.JPG", "b.png", "c.jfif", "sub/0.tif", "sub/deep/z.dcm"]


def test_what_systems_leave_is_no_image_and_not_worth_a_word(tmp_path):
    debris = (".DS_Store", "Thumbs.db", "__MACOSX/a.png", "._a.png", "sub/._b.jpeg")
    write(tmp_path, "a.png", *debris, data=b"debris")
    assert names_in(tmp_path) == ["a.png"]
    assert found_in([tmp_path]).notes == ()


def test_other_files_of_a_folder_are_counted_by_kind(tmp_path):
    write(tmp_path, "a.png", "readme.txt", "b.TXT", "x.zip", "labels.csv", "without")
    note, of_zips = found_in([tmp_path]).notes
    assert of_zips == "Zips in folders and in zips are not opened: name them, or extract them."
    kinds = "2 .txt, 1 .csv, 1 without a suffix, 1 .zip"
    assert note == f"Not read, as no radiograph has such a name: 5 ({kinds})."


def test_a_suffix_of_control_characters_is_made_visible(tmp_path):
    write(tmp_path, "a.png", "b.\x1b[2J")
    (note,) = found_in([tmp_path]).notes
    assert note.isprintable()


def test_files_without_a_suffix_are_read_if_they_are_dicom(tmp_path):
    write(tmp_path, "IM000017", "1.2.840.113619", data=dicom_files.file(dicom_files.levels(8)))
    write(tmp_path, "README", data=b"text")
    assert names_in(tmp_path) == ["1.2.840.113619", "IM000017"]
    packed = zipped(
        tmp_path / "a.zip",
        members={"x/IM1": (tmp_path / "IM000017").read_bytes(), "README": b"text"},
    )
    assert names_in(tmp_path, packed) == ["a.zip/x/IM1"]


def test_each_real_folder_is_listed_once_and_links_may_be_circles(tmp_path):
    write(tmp_path, "a/x.png")
    (tmp_path / "a" / "up").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "again").symlink_to(tmp_path / "a", target_is_directory=True)
    assert names_in(tmp_path) == ["a/x.png"]


@pytest.mark.parametrize("suffix", ["png", "zip", "csv", "dcm", ""])
def test_pipes_and_devices_are_named_and_never_opened(tmp_path, suffix):
    """Whoever opens a pipe waits for its writer."""
    write(tmp_path, "a.png")
    pipe = tmp_path / f"pipe.{suffix}"
    os.mkfifo(pipe)
    device = tmp_path / f"device.{suffix}"
    device.symlink_to("/dev/zero")
    for path in (pipe, device):
        assert problems_in(tmp_path, path) == {path.name: "is not a regular file"}
        assert problems_in(tmp_path)[path.name] == "is not a regular file"


def test_a_link_to_nowhere_is_named(tmp_path):
    (tmp_path / "a.png").symlink_to(tmp_path / "absent")
    assert problems_in(tmp_path) == {"a.png": "is not a regular file"}
    (problem,) = problems_in(tmp_path, tmp_path / "a.png").values()
    assert problem == "can't be read (No such file or directory)"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_what_may_not_be_read_is_named(tmp_path):
    write(tmp_path, "a.png", "sub/b.png", "c.png")
    (tmp_path / "a.png").chmod(0)
    (tmp_path / "sub").chmod(0)
    try:
        with sources.opened([str(tmp_path)]) as found:
            assert found.candidates[1].problem == "can't be read: Permission denied"
            with pytest.raises(ValueError, match=r"can't be read \(.*Permission denied"):
                found.candidates[0].read()
    finally:
        (tmp_path / "sub").chmod(stat.S_IRWXU)


def test_a_file_that_vanishes_is_named_when_it_is_read(tmp_path):
    write(tmp_path, "a.png")
    with sources.opened([str(tmp_path)]) as found:
        (tmp_path / "a.png").unlink()
        with pytest.raises(ValueError, match=r"can't be read \(.*No such file"):
            found.candidates[0].read()


def test_a_file_larger_than_any_radiograph_is_named_and_not_read(tmp_path):
    write(tmp_path, "a.png")
    os.truncate(tmp_path / "a.png", 1 << 40)
    (problem,) = problems_in(tmp_path, tmp_path / "a.png").values()
    assert problem == "has 1,048,576 MiB, over the limit of an image file"
    (problem,) = problems_in(tmp_path).values()
    assert problem.startswith("has 1,048,576 MiB, over the ")


def test_whatever_is_named_itself_is_tried(tmp_path):
    write(tmp_path, "scan", "b.txt")
    assert names_in(tmp_path, tmp_path / "scan", tmp_path / "b.txt") == ["scan", "b.txt"]


def test_paths_keep_their_order_and_each_file_comes_once(tmp_path):
    write(tmp_path, "b/2.png", "a/1.png", "b/3.png")
    named = [tmp_path / "b", tmp_path / "a", tmp_path / "b/2.png", f"{tmp_path}/./b/3.png"]
    assert names_in(tmp_path, *named) == ["b/2.png", "b/3.png", "a/1.png"]
    assert found_in(named).notes == ("Named more than once, read once: 2 files.",)


def test_globs_match_in_the_order_of_names(tmp_path):
    write(tmp_path, "b.png", "a.png", "c.jpeg", "x/d.png", "x/y/e.png", ".hidden/f.png")
    assert names_in(tmp_path, tmp_path / "*.png") == ["a.png", "b.png"]
    assert names_in(tmp_path, tmp_path / "[bc].*") == ["b.png", "c.jpeg"]
    deep = names_in(tmp_path, tmp_path / "**" / "*.png")
    assert deep == ["a.png", "b.png", "x/d.png", "x/y/e.png"]
    everything = sorted(names_in(tmp_path, tmp_path / "**"))
    assert everything == [".hidden/f.png", "a.png", "b.png", "c.jpeg", "x/d.png", "x/y/e.png"]


def test_a_glob_from_the_home_folder_matches(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write(tmp_path, "scans/a.png")
    assert names_in(tmp_path, "~/scans/*.png") == ["scans/a.png"]
    assert names_in(tmp_path, "~/scans") == ["scans/a.png"]


def test_brackets_in_a_name_that_exists_are_no_glob(tmp_path):
    write(tmp_path, "a[1].png", "a1.png")
    assert names_in(tmp_path, tmp_path / "a[1].png") == ["a[1].png"]


@pytest.mark.parametrize(
    ("named", "said"),
    [
        ("absent/*.png", r"images \(absent/\*\.png\) matches no file; the path is relative to /"),
        ("absent.png", r"images \(absent\.png\) is not there; the path is relative to /"),
        ("~nobody-here/x.png", r"images \(~nobody-here/x\.png\) is not there"),
        ("~nobody-here/*.png", r"images \(~nobody-here/\*\.png\) matches no file"),
        ("a\0b", r"images \(a\\x00b\) is not there"),
        ("a\0*", r"images \(a\\x00\*\) matches no file"),
        ("x" * 5000, "is not there"),
        ("x" * 300 + "*", "matches no file"),
        ("two\nlines", "is not there"),
    ],
)
def test_what_is_not_there_is_told_in_a_line(tmp_path, monkeypatch, named, said):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=said) as raised:
        found_in([named])
    assert str(raised.value).isprintable()
    assert len(str(raised.value)) < 500


def test_names_are_separated_by_commas_and_one_that_exists_may_have_some(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert sources.split(" a.png , b,c ") == ["a.png", "b", "c"]
    write(tmp_path, "Doe, Jane.png")
    assert sources.split("Doe, Jane.png") == ["Doe, Jane.png"]


def test_many_names_in_one_value_are_not_taken_for_one_long_name():
    names = [f"scan{i:04}.png" for i in range(5000)]
    assert sources.split(",".join(names)) == names


@pytest.mark.parametrize(
    ("named", "said"),
    [
        ("", r'images \(""\) is empty: give files, folders, globs, zips or CSV lists'),
        ("  ", "is empty"),
        (",", r'images \(","\) is empty'),
        ("a,,b", r'images \("a,,b"\) has an empty name'),
        ("gs://b/x", r"images \(gs://b/x\) must be local: copy them to this machine first"),
        ("a.png,s3://b/x", r"images \(s3://b/x\) must be local"),
        ("https://x/a.png", "must be local"),
    ],
)
def test_names_that_can_be_no_files_are_refused(named, said):
    with pytest.raises(ConfigError, match=said):
        sources.split(named)


def test_nothing_to_read_is_an_error_that_says_what_is_there(tmp_path):
    with pytest.raises(RunError, match=r"names no radiograph: it is empty. Give .jpeg, "):
        found_in([tmp_path])
    write(tmp_path, "a.gif", "b.txt")
    with pytest.raises(RunError, match=r"names no radiograph: Not read, as no .* 2 \(1 .gif, 1 "):
        found_in([tmp_path])


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere names must be UTF-8")
def test_a_name_that_is_not_utf8_is_read_like_any_other(tmp_path):
    name = os.fsencode(tmp_path) + b"/\xff\xfe.png"
    Path(os.fsdecode(name)).write_bytes(IMAGE)
    with sources.opened([str(tmp_path)]) as found:
        (candidate,) = found.candidates
        assert candidate.name == os.fsdecode(name)
        assert candidate.read() == IMAGE


def test_what_the_command_wrote_before_is_left_out(tmp_path):
    write(tmp_path, "a.png", "out/heatmaps/a-1234.png", "out/b.png")
    own = tmp_path / "out" / "heatmaps"
    assert names_in(tmp_path, own=own) == ["a.png", "out/b.png"]
    (note,) = found_in([tmp_path], own=own).notes
    assert note == f"Not read, as this command writes there: 1 file in {own}."
    link = tmp_path.with_name("link")
    link.symlink_to(tmp_path, target_is_directory=True)
    assert names_in(link, own=own) == ["a.png", "out/b.png"]


def test_what_other_commands_wrote_is_left_out_of_folders_and_globs(tmp_path):
    """Pictures of heat maps would be scored, and their list read as one of radiographs."""
    written = ("out/heatmaps/a.png", "run/predictions/heatmaps/b.png", "run/curves.png")
    write(tmp_path, "a.png", "heatmaps/c.png", "my/samples.png", "my/worklist.csv", *written)
    write(tmp_path, *(f"{of}/journal.jsonl" for of in ("out", "run/predictions")), data=b"{}")
    write(tmp_path, "run/report.json", data=b"{}")
    write(tmp_path, "out/worklist.csv", data=b"file\nx.png\n")
    own = ["a.png", "heatmaps/c.png", "my/samples.png"]
    assert names_in(tmp_path) == own
    assert names_in(tmp_path, tmp_path / "**" / "*.png") == own
    notes = found_in([tmp_path / "**" / "*.png"]).notes
    example = tmp_path / "out" / "heatmaps" / "a.png"
    assert notes == (
        f"Not read, as this program wrote what is no radiograph: 3 files, such as {example}.",
    )
    assert names_in(tmp_path, tmp_path / "out" / "*.csv", tmp_path / "a.png") == ["a.png"]
    with pytest.raises(RunError, match=r"names no radiograph: Not read, as this program wrote"):
        found_in([tmp_path / "out" / "heatmaps"])


def test_what_another_command_wrote_is_read_if_it_is_named_itself(tmp_path):
    write(tmp_path, "out/heatmaps/a.png", "out/journal.jsonl", "b.png")
    (tmp_path / "out" / "worklist.csv").write_text(f"file\n{tmp_path / 'b.png'}\n")
    named = (tmp_path / "out" / "heatmaps" / "a.png", tmp_path / "out" / "worklist.csv")
    assert names_in(tmp_path, *named) == ["out/heatmaps/a.png", "b.png"]


def test_a_glob_does_not_read_what_this_command_wrote(tmp_path):
    write(tmp_path, "a.png", "out/heatmaps/a-1234.png")
    own = tmp_path / "out" / "heatmaps"
    assert names_in(tmp_path, tmp_path / "**" / "*.png", own=own) == ["a.png"]
    assert names_in(tmp_path, tmp_path / "**", own=own) == ["a.png"]


def test_the_names_of_what_is_written_are_those_of_its_writers():
    assert sources.HEAT_MAPS == heatmaps.FOLDER
    pictures = (evaluated.CURVES, evaluated.CONFUSION_MATRIX, evaluated.SAMPLES)
    written = {worklist.JOURNAL: (worklist.CSV,), evaluated.REPORT: pictures}
    assert written == sources.WRITTEN


def test_a_stamp_changes_with_the_file(tmp_path):
    write(tmp_path, "a.png")
    (before,) = found_in([tmp_path]).candidates
    assert before.stamp == found_in([tmp_path]).candidates[0].stamp
    os.utime(tmp_path / "a.png", ns=(1, 1))
    assert before.stamp != found_in([tmp_path]).candidates[0].stamp


HOSTILE = {
    "../../up.png": IMAGE, "/absolute.png": IMAGE, "C:\\windows\\a.png": IMAGE, "a/./b.png": IMAGE,
    "sub\\c.png": IMAGE, "\x1b[2Jd.png": IMAGE, "__MACOSX/._a.png": b"fork", "e.txt": b"text",
}  # fmt: skip


def test_names_in_a_zip_stay_names(tmp_path):
    path = zipped(tmp_path / "a.zip", members=HOSTILE)
    before = sorted(tmp_path.parent.rglob("*"))
    with sources.opened([str(path)]) as found:
        assert {candidate.name.removeprefix(f"{path}/") for candidate in found.candidates} == {
            *list(HOSTILE)[:6]
        }
        assert all(candidate.read() == IMAGE for candidate in found.candidates)
    assert sorted(tmp_path.parent.rglob("*")) == before


def test_a_file_knows_the_folders_below_what_was_named(tmp_path, monkeypatch):
    """What the user's own folders above are called says nothing of it."""
    root = tmp_path / "pneumonia" / "scans"
    write(root, "NORMAL/a/1.png", "2.png")
    packed = zipped(root / "NORMAL.zip", members={"x\\y/3.png": IMAGE})
    (root / "list.csv").write_text("file\nNORMAL/a/1.png\n2.png\n")
    monkeypatch.chdir(root)

    def folders(named):
        return [candidate.folders for candidate in found_in([named]).candidates]

    assert folders(root) == [("scans",), ("scans", "NORMAL", "a")]
    assert folders(".") == folders(root)
    assert folders(root / "NORMAL") == [("NORMAL", "a")]
    assert folders(packed) == [("NORMAL", "x", "y")]
    assert folders("2.png") == [("scans",)]
    assert folders("NORMAL/*/*.png") == [("a",)]
    assert folders("list.csv") == [("NORMAL", "a"), ("scans",)]
