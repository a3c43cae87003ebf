from __future__ import annotations

import itertools
import json
import re
import shlex
import shutil
import subprocess
import sys

import pytest
import tensorflow_datasets as tfds

from cxr_tfds import configs
from tests.support import radiographs
from tests.support.radiographs import Files
from trainer.data import opening, provenance
from trainer.errors import DiskError, RunError
from trainer.options import DataOptions


def test_only_larger_images_are_resized_by_the_pipeline(data_dir):
    options = DataOptions(dataset="paper", data_dir=str(data_dir))
    assert opening.load(options, 64).image_shape == (64, 64, 1)
    assert opening.load(options, 299).image_shape == (224, 224, 1)


def test_the_error_for_a_data_set_that_is_not_built_names_both_remedies(tmp_path):
    with pytest.raises(RunError, match=r"is not built in .*--manual_dir.*tfds build cxr_tfds"):
        opening.load(DataOptions(dataset="grouped", data_dir=str(tmp_path)), 224)


def test_tfds_does_not_warn_of_what_is_about_to_be_built(tmp_path, caplog):
    files = radiographs.kaggle_files()
    files.zip(tmp_path / "a")
    opening.load(_options(tmp_path, "a"), 224)
    assert "dataset_info.json" not in caplog.text


def test_an_empty_archive_folder_is_one_error(tmp_path):
    (tmp_path / "manual").mkdir()
    options = DataOptions(manual_dir=str(tmp_path / "manual"), data_dir=str(tmp_path / "data"))
    with pytest.raises(RunError, match="kaggle"):
        opening.load(options, 224)


@pytest.fixture(scope="module")
def archives(tmp_path_factory):
    """Records of archive `a`; beside it archives that differ in a name, in a size, in nothing."""
    folder = tmp_path_factory.mktemp("archives")
    files = radiographs.kaggle_files()
    files.zip(folder / "a")
    files.extract(folder / "a_extracted")
    first = "chest_xray/train/NORMAL/IM-0000-0000.jpeg"
    Files(files.content | {first: files.content[first] + b"\0"}).zip(folder / "resaved")
    Files({path: data for path, data in files.content.items() if path != first}).zip(
        folder / "shorter"
    )
    opening.load(_options(folder, "a"), 224)
    return folder


def _options(folder, name: str, **changes) -> DataOptions:
    values = {"dataset": "paper", "data_dir": str(folder / "data")}
    return DataOptions(**values | {"manual_dir": str(folder / name)} | changes)


@pytest.mark.parametrize("name", ["a", "a_extracted"])
def test_records_of_the_named_archive_are_used(archives, name):
    assert opening.load(_options(archives, name), 224).num_examples("test") == 29


@pytest.mark.parametrize(
    ("name", "difference"),
    [
        ("shorter", r"the records have 116 images, the archive 115; train/.*0000.jpeg is only in "),
        ("resaved", "their files have the same names and different sizes"),
        ("nowhere", "can't be compared with .* which is built in .*nowhere does not exist"),
    ],
)
def test_records_of_another_archive_are_refused_with_the_difference(
    archives, name, difference, caplog
):
    with pytest.raises(RunError, match=rf"{difference}.*leave --manual_dir out"):
        opening.load(_options(archives, name), 224)
    opening.load(_options(archives, name), 224, compares_archive=False)
    assert not caplog.text


def test_records_that_do_not_name_their_archive_are_used_with_a_line(archives, tmp_path, capsys):
    shutil.copytree(archives / "data", tmp_path / "data")
    path = tmp_path / "data/cxr_tfds/paper/2.0.0/metadata.json"
    metadata = json.loads(path.read_text())
    del metadata["archive_digest"]
    path.write_text(json.dumps(metadata))
    opening.load(_options(archives, "a", data_dir=str(tmp_path / "data")), 224)
    assert "does not say which archive it was built from" in capsys.readouterr().out


def test_an_archive_for_phantoms_is_ignored_aloud(data_dir, tmp_path, capsys):
    options = DataOptions(dataset="phantom", data_dir=str(data_dir), manual_dir=str(tmp_path))
    builder = opening.describe(options, 224).builder
    provenance.require_same_archive(builder, options)
    assert "is not read: phantom radiographs are drawn" in capsys.readouterr().out


@pytest.mark.parametrize("inner", ["cxr_tfds", "cxr_tfds/paper", "cxr_tfds/paper/2.0.0"])
@pytest.mark.parametrize("manual_dir", ["", "somewhere"])
def test_a_data_dir_that_is_too_deep_is_refused_with_the_right_one(archives, inner, manual_dir):
    right = archives / "data"
    options = DataOptions(dataset="paper", data_dir=str(right / inner), manual_dir=manual_dir)
    with pytest.raises(RunError, match=rf"give --data_dir={right}\."):
        opening.load(options, 224)
    assert not list((right / "cxr_tfds").rglob("cxr_tfds"))


def test_a_data_dir_that_is_too_high_is_refused_with_the_right_one(archives):
    with pytest.raises(RunError, match=rf"built below {archives / 'data'}: give --data_dir="):
        opening.load(DataOptions(dataset="paper", data_dir=str(archives)), 224)


def test_the_data_dir_that_is_suggested_is_a_word_of_a_shell(archives, tmp_path):
    right = tmp_path / "a b's"
    shutil.copytree(archives / "data", right)
    with pytest.raises(RunError) as raised:
        opening.load(DataOptions(dataset="paper", data_dir=str(tmp_path)), 224)
    word = shlex.split(str(raised.value).partition("give ")[2].partition(". ")[0])[0]
    _, _, data_dir = word.partition("=")
    assert opening.load(DataOptions(dataset="paper", data_dir=data_dir), 224)


def test_a_data_set_of_another_version_is_named(archives, tmp_path):
    shutil.copytree(archives / "data", tmp_path / "data")
    versions = tmp_path / "data" / "cxr_tfds" / "paper"
    (versions / configs.VERSION).rename(versions / "1.0.0")
    with pytest.raises(RunError, match=r"Version 1\.0\.0 is built there.* needs 2\.0\.0"):
        opening.load(DataOptions(dataset="paper", data_dir=str(tmp_path / "data")), 224)


def test_a_phantom_of_an_earlier_version_is_drawn_anew_with_a_line(phantom_dir, tmp_path, capsys):
    versions = tmp_path / "cxr_tfds" / "phantom"
    shutil.copytree(phantom_dir / "cxr_tfds" / "phantom", versions)
    (versions / configs.VERSION).rename(versions / "1.1.0")
    data = opening.load(DataOptions(dataset="phantom", data_dir=str(tmp_path)), 224)
    said = capsys.readouterr().out
    assert "cxr_tfds/phantom/2.0.0 is drawn now, beside version 1.1.0 in" in said
    assert "Runs on another version can be evaluated and can predict, but not be resumed" in said
    assert data.has_masks
    assert sorted(path.name for path in versions.iterdir() if path.is_dir()) == ["1.1.0", "2.0.0"]


def _built(folder, dataset: str, **options):
    builder = tfds.builder(f"cxr_tfds/{dataset}", data_dir=folder / "data")
    config = tfds.download.DownloadConfig(manual_dir=folder / "a", **options)
    builder.download_and_prepare(download_config=config)


def test_a_part_of_the_images_is_used_with_a_line_and_the_whole_without(tmp_path, capsys):
    radiographs.kaggle_files().zip(tmp_path / "a")
    _built(tmp_path, "paper", max_examples_per_split=20)
    _built(tmp_path, "grouped")
    opening.load(_options(tmp_path, "a", manual_dir=""), 224)
    said = capsys.readouterr().out
    assert re.search(r"hold 20 of \d\d train images, 20 of 29 test images \(tfds build --max", said)
    assert "build again with tfds build --overwrite" in said
    opening.load(_options(tmp_path, "a", manual_dir="", dataset="grouped"), 224)
    assert "A part of the data" not in capsys.readouterr().out


def test_a_part_of_the_images_has_a_fingerprint_of_its_own(tmp_path):
    """TFDS writes a part in another order: cached features of one are wrong for the other."""
    radiographs.kaggle_files().zip(tmp_path / "a")
    found = []
    for options in ({"max_examples_per_split": 20}, {"max_examples_per_split": 25}, {}):
        _built(tmp_path, "paper", **options)
        found.append(opening.load(_options(tmp_path, "a", manual_dir=""), 224).fingerprint)
        shutil.rmtree(tmp_path / "data")
    assert len(set(found)) == 3
    assert len({len(fingerprint) for fingerprint in found}) == 1


@pytest.mark.parametrize("images", [{}, {"other": {"NORMAL": 1}}, {"train": {"OTHER": 1}}])
def test_counts_that_say_nothing_leave_the_fingerprint(archives, tmp_path, images):
    """Of another version, or forged."""
    shutil.copytree(archives / "data", tmp_path / "data")
    options = DataOptions(dataset="paper", data_dir=str(tmp_path / "data"))
    before = opening.load(options, 224).fingerprint
    path = next((tmp_path / "data").rglob("paper/*/metadata.json"))
    path.write_text(json.dumps(json.loads(path.read_text()) | {"images": images}))
    assert opening.load(options, 224).fingerprint == before


@pytest.mark.parametrize(
    ("change", "way_out"),
    [
        (shutil.copytree, r"cxr_tfds/paper: give --dataset=paper, or remove the folder and build "),
        (shutil.move, r"give --dataset=paper and rename \S+/grouped to paper, or remove the fold"),
    ],
)
def test_records_under_the_name_of_another_config_are_named(archives, tmp_path, change, way_out):
    shutil.copytree(archives / "data", tmp_path / "data")
    folder = tmp_path / "data" / "cxr_tfds"
    change(folder / "paper", folder / "grouped")
    options = DataOptions(dataset="grouped", data_dir=str(tmp_path / "data"))
    with pytest.raises(DiskError, match=way_out) as raised:
        opening.load(options, 224)
    assert str(raised.value).endswith("build cxr_tfds/grouped.")


@pytest.mark.parametrize(("key", "value"), [("version", "0.9.0"), ("name", "mnist")])
def test_records_of_another_kind_are_named_in_words(archives, tmp_path, key, value):
    shutil.copytree(archives / "data", tmp_path / "data")
    path = tmp_path / "data/cxr_tfds/paper/2.0.0/dataset_info.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    options = DataOptions(dataset="paper", data_dir=str(tmp_path / "data"))
    with pytest.raises(
        DiskError, match=rf"it describes .*{value}.*, not cxr_tfds/paper 2\.0\.0 as"
    ):
        opening.load(options, 224)


@pytest.mark.parametrize("change", [lambda splits: splits[:2], lambda splits: [*splits, splits[0]]])
def test_records_with_other_splits_are_named_in_words(archives, tmp_path, change):
    shutil.copytree(archives / "data", tmp_path / "data")
    path = tmp_path / "data/cxr_tfds/paper/2.0.0/dataset_info.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"splits": change(content["splits"])}))
    options = DataOptions(dataset="paper", data_dir=str(tmp_path / "data"))
    with pytest.raises(DiskError, match=r"its splits are .*, not train, validation, test"):
        opening.load(options, 224)


def test_a_half_built_data_set_is_named(tmp_path):
    (tmp_path / "cxr_tfds" / "paper" / "incomplete.AAAAAA_2.0.0").mkdir(parents=True)
    with pytest.raises(RunError, match="A build was stopped there before its end"):
        opening.load(DataOptions(dataset="paper", data_dir=str(tmp_path)), 224)


@pytest.mark.parametrize("name", ["dataset_info.json", "metadata.json"])
@pytest.mark.parametrize("content", ["", "garbage", "[]", "{}", "[" * 5000, "\0\xff", '{"a": 1}'])
def test_a_garbled_description_is_one_line(archives, tmp_path, name, content):
    shutil.copytree(archives / "data", tmp_path / "data")
    path = tmp_path / "data/cxr_tfds/paper/2.0.0" / name
    path.write_bytes(content.encode("latin-1"))
    options = DataOptions(dataset="paper", data_dir=str(tmp_path / "data"))
    with pytest.raises(DiskError, match=r"can't be read \(.*\); remove the folder and build"):
        opening.load(options, 224)


_FILES = ("dataset_info.json", "metadata.json", "features.json", "label.labels.txt", "LICENSE")


@pytest.mark.parametrize("manual_dir", ["", "a"])
@pytest.mark.parametrize("names", [*((name,) for name in _FILES[:2]), ("*",)])
def test_a_data_set_without_its_description_is_one_line(archives, tmp_path, names, manual_dir):
    folder = shutil.copytree(archives / "data", tmp_path / "data") / "cxr_tfds/paper/2.0.0"
    for path in itertools.chain(*map(folder.glob, names)):
        path.unlink()
    given = str(archives / manual_dir) if manual_dir else ""
    options = DataOptions(dataset="paper", data_dir=str(tmp_path / "data"), manual_dir=given)
    with pytest.raises(
        DiskError, match=r"(dataset_info|metadata)\.json.*remove the folder and build"
    ):
        opening.load(options, 224)


@pytest.mark.parametrize("name", _FILES[2:])
def test_files_that_the_builder_knows_by_heart_may_be_missing(archives, tmp_path, name):
    folder = shutil.copytree(archives / "data", tmp_path / "data") / "cxr_tfds/paper/2.0.0"
    (folder / name).unlink()
    options = DataOptions(dataset="paper", data_dir=str(tmp_path / "data"))
    assert opening.load(options, 224).class_names == ("NORMAL", "PNEUMONIA")


def test_a_folder_that_can_not_be_written_is_one_line(archives, tmp_path):
    (tmp_path / "file").write_text("")
    options = _options(archives, "a", data_dir=str(tmp_path / "file" / "data"))
    with pytest.raises(DiskError, match=r"file.*: Not a directory \(in --data_dir\)"):
        opening.load(options, 224)


def test_an_archive_as_the_data_dir_is_one_line_and_stays(archives):
    path = archives / "a" / "archive.zip"
    before = path.read_bytes()
    with pytest.raises(DiskError, match=r"archive\.zip.*: Not a directory \(in --data_dir\)"):
        opening.load(_options(archives, "a", data_dir=str(path)), 224)
    assert path.read_bytes() == before


def test_a_full_disk_at_the_build_is_one_line_and_leaves_nothing(archives, tmp_path):
    """A limit on the size of files, as the disk's own end needs a disk of its own."""
    options = f"dataset='paper', data_dir={str(tmp_path)!r}, manual_dir={str(archives / 'a')!r}"
    code = (
        "import resource, signal\n"
        "from trainer.data import opening\n"
        "from trainer.errors import DiskError\n"
        "from trainer.options import DataOptions\n"
        "from trainer.system import console\n"
        "console.share_terminal()\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))\n"
        "try:\n"
        f"    opening.load(DataOptions({options}), 224)\n"
        "except DiskError as error:\n"
        "    print('told:', error)\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "told: cxr_tfds/paper can't be built in" in ended.stdout
    assert "\r" not in ended.stderr  # A bar in a log file ends without a line end.
    assert not list(tmp_path.rglob("*.tfrecord*"))
