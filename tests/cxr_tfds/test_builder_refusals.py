"""What the builder refuses, what it downloads, and in which words."""

from __future__ import annotations

import importlib
import itertools
import os
import pathlib
import re
import shutil
import stat
import subprocess
import sys

import pytest
import tensorflow_datasets as tfds

import cxr_tfds
from cxr_tfds import source
from tests.cxr_tfds.builds import build
from tests.support import radiographs
from tests.support.radiographs import Files

pytestmark = [
    # TFDS's test case imports Beam, whose Google client misses an optional package of its own.
    pytest.mark.filterwarnings("ignore:Please install grpcio-status:ImportWarning"),
    # TFDS reads its info files by a method that protobuf 6 deprecates.
    pytest.mark.filterwarnings(r"ignore:label\(\) is deprecated:DeprecationWarning"),
]

ROOT = pathlib.Path(cxr_tfds.__file__).parents[1]


@pytest.fixture
def damaged_dir(files: Files, tmp_path: pathlib.Path) -> pathlib.Path:
    files.content |= {
        "chest_xray/train/NORMAL/IM-0000-0000.jpeg": b"",
        "chest_xray/train/PNEUMONIA/IM-0777-0001.jpeg": radiographs.draw(3),
    }
    return files.zip(tmp_path / "manual")


@pytest.mark.parametrize("exists_before", [True, False])
def test_bad_files_fail_the_build_once_and_leave_no_records(
    exists_before: bool, damaged_dir: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    data_dir = tmp_path / "data"
    if exists_before:
        data_dir.mkdir()
    with pytest.raises(source.SourceError) as caught:
        build("grouped", damaged_dir, data_dir)
    assert [issue.key for issue in caught.value.issues] == [
        "train/NORMAL/IM-0000-0000.jpeg",
        "train/PNEUMONIA/IM-0777-0001.jpeg",
    ]
    assert not list(data_dir.rglob("*2.0.0*"))
    assert not list(data_dir.rglob("*.tfrecord*"))


def test_a_zip_with_damaged_bytes_is_to_be_downloaded_again(
    files: Files, tmp_path: pathlib.Path
) -> None:
    path = next(files.zip(tmp_path / "manual").glob("*.zip"))
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 300] = bytes(300)
    path.write_bytes(content)
    with pytest.raises(source.SourceError) as caught:
        build("grouped", tmp_path / "manual", tmp_path / "data")
    assert re.search(r"is damaged in the zip .*; download the zip again", caught.value.line)


def test_official_without_a_test_folder_is_refused(files: Files, tmp_path: pathlib.Path) -> None:
    kept = {path: data for path, data in files.content.items() if "/test/" not in path}
    with pytest.raises(source.SourceError, match="needs Kaggle's test folder"):
        build("official", Files(kept).zip(tmp_path / "manual"), tmp_path / "data")


def test_an_absent_manual_dir_is_refused(tmp_path: pathlib.Path) -> None:
    with pytest.raises(source.SourceError, match=r"nowhere does not exist\.\nDownload"):
        build("grouped", tmp_path / "nowhere", tmp_path / "data")


def test_an_empty_manual_dir_is_refused(tmp_path: pathlib.Path) -> None:
    (tmp_path / "manual").mkdir()
    with pytest.raises(source.SourceError, match=r"no chest X-rays\.\nDownload archive.zip"):
        build("grouped", tmp_path / "manual", tmp_path / "data")


def test_an_image_as_manual_dir_is_refused(tmp_path: pathlib.Path) -> None:
    (tmp_path / "scan.png").write_bytes(radiographs.draw(0, format="PNG"))
    with pytest.raises(source.SourceError, match=r"scan.png is an image, not an archive"):
        build("grouped", tmp_path / "scan.png", tmp_path / "data")


def test_the_build_says_what_is_missing_and_what_is_not_read(
    files: Files, tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    files.content["chest_xray/train/NORMAL/\x1b[2J.gif"] = b""
    build("official", files.zip(tmp_path / "manual"), tmp_path / "data")
    assert "5,740 of the 5,856 images of Kaggle's archive are missing: train NORMAL" in caplog.text
    assert r"1 file (1 .gif), chest_xray/train/NORMAL/\x1b[2J.gif" in caplog.text


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Records of an archive, `data`; beside it others: with an image less, one resaved, none."""
    folder = tmp_path_factory.mktemp("built")
    content = radiographs.kaggle_files().content
    first = "chest_xray/train/NORMAL/IM-0000-0000.jpeg"
    Files(content).extract(folder / "same")
    Files({path: data for path, data in content.items() if path != first}).zip(folder / "shorter")
    Files(content | {first: content[first] + b"\0"}).zip(folder / "resaved")
    (folder / "empty").mkdir()
    build("official", Files(content).zip(folder / "manual"), folder / "data")
    return folder


@pytest.mark.parametrize(
    ("name", "difference"),
    [
        ("shorter", "the records have 116 images, the archive 115"),
        ("resaved", "their files have other names or sizes"),
    ],
)
def test_records_of_another_archive_are_refused(
    name: str, difference: str, built: pathlib.Path
) -> None:
    with pytest.raises(source.SourceError, match=rf"{difference}; leave .* --overwrite"):
        build("official", built / name, built / "data")


@pytest.mark.parametrize("name", ["same", "manual", None])
def test_records_of_the_same_archive_are_used_in_silence(
    name: str | None, built: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    builder = build("official", built / name if name else None, built / "data")
    assert builder.info.splits["test"].num_examples == 12
    assert not caplog.text


@pytest.mark.parametrize(
    ("name", "reason"), [("nowhere", "does not exist"), ("empty", "contains no chest X-rays")]
)
def test_records_without_their_archive_are_used_with_a_line(
    name: str, reason: str, built: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    build("official", built / name, built / "data")
    (record,) = caplog.records
    line = record.getMessage()
    assert "data/cxr_tfds/official/2.0.0 are used, of an archive of 116 images (archive_" in line
    assert reason in line
    assert "\n" not in line


@pytest.mark.parametrize("keeps", [(), ("*.tfrecord*", "features.json", "metadata.json")])
@pytest.mark.parametrize("name", ["same", None])
def test_a_folder_without_its_description_is_refused(
    keeps: tuple[str, ...], name: str | None, built: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    folder = tmp_path / "cxr_tfds" / "official" / "2.0.0"
    folder.mkdir(parents=True)
    for path in itertools.chain(*map((built / "data/cxr_tfds/official/2.0.0").glob, keeps)):
        shutil.copy(path, folder)
    with pytest.raises(source.SourceError, match=r"without dataset_info\.json.*remove the folder"):
        build("official", built / name if name else None, tmp_path)


@pytest.mark.parametrize(
    "name", ["metadata.json", "features.json", "label.labels.txt", "etiology.labels.txt", "LICENSE"]
)
def test_records_without_another_file_are_used(
    name: str, built: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    shutil.copytree(built / "data", tmp_path, dirs_exist_ok=True)
    (tmp_path / "cxr_tfds/official/2.0.0" / name).unlink()
    builder = build("official", built / "same", tmp_path)
    assert builder.info.splits["test"].num_examples == 12


def test_records_are_built_again_on_request(built: pathlib.Path, tmp_path: pathlib.Path) -> None:
    build("official", built / "manual", tmp_path)
    mode = tfds.GenerateMode.REUSE_CACHE_IF_EXISTS
    builder = build("official", built / "shorter", tmp_path, download_mode=mode)
    assert builder.info.splits.total_num_examples == 115


def test_a_first_build_warns_of_nothing(
    tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    builder = tfds.builder("cxr_tfds/official", data_dir=tmp_path)
    assert not builder.is_prepared()
    assert "Variant folder" not in caplog.text


def only_one_normal(folder: pathlib.Path) -> pathlib.Path:
    """An archive in which a split of every protocol lacks NORMAL."""
    files = radiographs.kaggle_files()
    kept = {p: data for p, data in files.content.items() if "NORMAL" not in p and "__MAC" not in p}
    kept["chest_xray/train/NORMAL/IM-0001-0001.jpeg"] = radiographs.draw(0)
    kept["chest_xray/test/NORMAL/IM-0002-0001.jpeg"] = radiographs.draw(1)
    kept["chest_xray/val/NORMAL/IM-0001-0002.jpeg"] = radiographs.draw(2)
    return Files(kept).zip(folder)


@pytest.mark.parametrize("config", ["grouped", "official"])
def test_a_split_without_a_class_is_refused_and_leaves_no_records(
    config: str, tmp_path: pathlib.Path
) -> None:
    with pytest.raises(source.SourceError, match=r"without NORMAL \(images: train .* patients: 2"):
        build(config, only_one_normal(tmp_path / "manual"), tmp_path / "data")
    assert not list((tmp_path / "data").rglob("*.tfrecord*"))


@pytest.mark.slow
def test_beam_refuses_a_split_without_a_class(tfds_command: str, tmp_path: pathlib.Path) -> None:
    manual_dir = only_one_normal(tmp_path / "manual")
    arguments = ["--config=official", f"--manual_dir={manual_dir}", f"--data_dir={tmp_path}"]
    beam = "--beam_pipeline_options=runner=DirectRunner"
    command = [tfds_command, "build", "cxr_tfds", *arguments, beam]
    result = subprocess.run(command, check=False, capture_output=True, text=True, cwd=ROOT)
    assert result.returncode != 0
    assert "Protocol official leaves validation without NORMAL" in result.stderr
    assert not list(tmp_path.rglob("*.tfrecord*"))


@pytest.fixture
def kaggle_command(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    """An executable in the place of Kaggle's, and credentials for it."""
    command = tmp_path / "bin" / "kaggle"
    command.parent.mkdir()
    monkeypatch.setenv("PATH", str(command.parent), prepend=os.pathsep)
    monkeypatch.setenv("KAGGLE_USERNAME", "someone")
    monkeypatch.setenv("KAGGLE_KEY", "0")
    return command


def write_script(path: pathlib.Path, body: str) -> None:
    path.write_text(f"#!{sys.executable}\nimport shutil, sys\n{body}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def test_without_manual_dir_the_kaggle_command_downloads(
    kaggle_command: pathlib.Path, manual_dir: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    # kaggle datasets download --path FOLDER paultimothymooney/chest-xray-pneumonia
    name = "sys.argv[4] + '/chest-xray-pneumonia.zip'"
    write_script(kaggle_command, f"shutil.copy({str(manual_dir / 'archive.zip')!r}, {name})")
    builder = build("grouped", None, tmp_path / "data")
    assert builder.info.splits["test"].num_examples == 28


def test_the_default_manual_folder_is_read_before_kaggle_is_asked(
    kaggle_command: pathlib.Path, files: Files, tmp_path: pathlib.Path
) -> None:
    write_script(kaggle_command, "sys.exit(1)")
    files.zip(tmp_path / "data" / "downloads" / "manual")
    builder = build("grouped", None, tmp_path / "data")
    assert builder.info.splits["test"].num_examples == 28


def test_a_failing_kaggle_command_names_the_ways_out(
    kaggle_command: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    write_script(kaggle_command, "sys.exit(1)")
    with pytest.raises(source.SourceError, match=r"(?s)pip install kaggle.*Download archive.zip"):
        build("grouped", None, tmp_path / "data")


def test_without_manual_dir_and_credentials_the_error_says_what_to_download(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("KAGGLE_KEY", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(source.SourceError, match=source.KAGGLE_DATASET):
        build("grouped", None, tmp_path / "data")


def test_an_unknown_config_names_the_nearest(tmp_path: pathlib.Path) -> None:
    with pytest.raises(source.SourceError, match=r"no config 'groupd'\. Did you mean grouped\?"):
        tfds.builder("cxr_tfds/groupd", data_dir=tmp_path)


def test_the_advice_for_a_missing_archive_has_python_too(tmp_path: pathlib.Path) -> None:
    with pytest.raises(source.SourceError, match=r"(?s)--manual_dir.*From Python: .*manual_dir="):
        build("grouped", tmp_path / "nowhere", tmp_path / "data")


@pytest.mark.parametrize(
    ("arguments", "lines"),
    [
        (["--config=groupd"], ["cxr_tfds has no config 'groupd'. Did you mean grouped?"]),
        pytest.param(
            ["--config=grouped", "--manual_dir=/nowhere"],
            ["/nowhere does not exist.", *source.HOW_TO_OBTAIN.splitlines()],
            marks=pytest.mark.slow,
        ),
        pytest.param(
            ["--config=phantom", "--data_dir=/proc/nowhere"],
            ["cxr_tfds/phantom can't be built in /proc/nowhere"],
            marks=pytest.mark.slow,
        ),
    ],
)
def test_tfds_build_ends_with_our_lines_alone(
    arguments: list[str], lines: list[str], tfds_command: str, tmp_path: pathlib.Path
) -> None:
    command = [tfds_command, "build", "cxr_tfds", f"--data_dir={tmp_path}", *arguments]
    ended = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert ended.returncode == 1
    assert "Traceback" not in ended.stderr
    assert all(line in ended.stderr for line in lines)


def test_the_builder_run_as_a_script_names_tfds_build() -> None:
    path = ROOT / "cxr_tfds" / "cxr_tfds_dataset_builder.py"
    ended = subprocess.run([sys.executable, path], capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert "build it by `tfds build cxr_tfds --manual_dir=" in ended.stderr
    assert len(ended.stderr.splitlines()) == 1


def test_the_audit_in_a_python_without_packages_is_one_line(tmp_path: pathlib.Path) -> None:
    shutil.copytree(ROOT / "cxr_tfds", tmp_path / "cxr_tfds")
    command = [sys.executable, "-S", "-m", "cxr_tfds.audit"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert ended.returncode == 1
    assert "has no package numpy; activate this project's env" in ended.stderr
    assert len(ended.stderr.splitlines()) == 1


def test_an_older_python_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "version_info", (3, 10, 13))
    with pytest.raises(ImportError, match=r"needs Python 3\.11 or newer, not 3\.10; act") as caught:
        importlib.reload(cxr_tfds)
    assert caught.value.name == "cxr_tfds"  # Of which `python -m` makes one line.
