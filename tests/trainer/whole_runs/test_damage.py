"""A damaged file of a run or its cache is named in an error, or does not change the result."""

from __future__ import annotations

import itertools
import shutil

import pytest

from trainer.commands import train
from trainer.data import records
from trainer.errors import ConfigError, DiskError, RunError

WAYS = ("truncate", "flip", "delete")


def _damage(path, way: str) -> None:
    data = path.read_bytes()
    if way == "delete":
        path.unlink()
    elif way == "truncate":
        path.write_bytes(data[: len(data) // 2])
    else:
        middle = len(data) // 2
        path.write_bytes(data[:middle] + bytes([data[middle] ^ 0x55]) + data[middle + 1 :])


def _files(folder) -> list:
    """All that is ever read again: not locks, and not what TensorBoard reads."""
    return sorted(
        path.relative_to(folder)
        for path in folder.rglob("*")
        if path.is_file() and path.suffix != ".lock" and "tensorboard" not in path.parts
    )


def _run(config) -> str:
    """Returns why it was refused; empty where it went through."""
    try:
        train.run(config)
    except (ConfigError, RunError) as error:
        return str(error)
    return ""


_DAMAGED = (
    r"^/\S*/cxr_tfds-{}\.tfrecord-00000-of-\d+ can't be read "
    r"\([^{{\[]*(record at \d+|No such file|expected to contain)[^{{\[]*\); remove .* and"
)
"""The file, the cause without TensorFlow's names of nodes, and the way out."""


@pytest.mark.parametrize("feature_cache", ["auto", "off"])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("split", ["train", "test"])
def test_damaged_records_are_told_in_a_line(
    make_config, data_dir, tmp_path, way, feature_cache, split
):
    """TensorFlow's own error names neither the data set nor the folder."""
    _damage(_copied_records(data_dir, tmp_path, split), way)
    config = make_config(data_dir=str(tmp_path / "data"), feature_cache=feature_cache, max_epochs=1)
    with pytest.raises(DiskError, match=_DAMAGED.format(split)):
        train.run(config)


def _copied_records(data_dir, tmp_path, split: str):
    """The first file of a split, in a copy of the data set."""
    shutil.copytree(data_dir, tmp_path / "data")
    records = tmp_path / "data" / "cxr_tfds" / "paper"  # Other tests build others beside it.
    return next(records.rglob(f"*-{split}.tfrecord-00000-*"))


def test_records_that_end_early_are_told_in_a_line(make_config, data_dir, tmp_path):
    """A copy that was cut between two records has no damage that a checksum would find."""
    path = _copied_records(data_dir, tmp_path, "train")
    last = int(records.locate([str(path)]).bounds[-2])
    path.write_bytes(path.read_bytes()[:last])
    with pytest.raises(DiskError, match=r"can't be read \(.*expected to contain.*\); remove "):
        train.run(make_config(data_dir=str(tmp_path / "data"), max_epochs=1))


@pytest.mark.long
def test_damage_to_any_file_is_found(make_config, tmp_path):
    config, run, sound = make_config(max_epochs=2), tmp_path / "run", tmp_path / "sound"
    train.run(config)
    for name in ("run", "cache"):
        shutil.copytree(tmp_path / name, sound / name)
    files = _files(sound)
    assert len(files) > 15
    refused = []
    for path, way in zip(files, itertools.cycle(WAYS), strict=False):
        for name in ("run", "cache"):
            shutil.rmtree(tmp_path / name)
            shutil.copytree(sound / name, tmp_path / name)
        _damage(tmp_path / path, way)
        message = _run(config)
        if message:
            assert path.name in message or "options" in message, (path, way)
            refused.append(path.name)
        else:
            for name in ("predictions_test.csv", "trained_on.json"):
                assert (run / name).read_bytes() == (sound / "run" / name).read_bytes(), (path, way)
            assert {p.name for p in run.iterdir()} >= {p.name for p in (sound / "run").iterdir()}
    assert set(refused) <= {"config.json"}


@pytest.mark.parametrize("way", WAYS)
def test_options_of_a_run_that_are_damaged_are_never_guessed(make_config, tmp_path, way):
    run = tmp_path / "run"
    (run / "checkpoints" / "00001-000000").mkdir(parents=True)
    (run / "config.json").write_text('{"dataset": "paper", "seed": 0}\n')
    _damage(run / "config.json", way)
    with pytest.raises(RunError, match=r"config\.json"):
        train.run(make_config())
