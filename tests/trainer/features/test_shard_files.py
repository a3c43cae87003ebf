"""How the rows of an entry are divided into files, and how many scans find them."""

from __future__ import annotations

import dataclasses
import os

import pytest
import tensorflow as tf

from tests.trainer.features.test_store import KEY, SHARDS, Prefix
from trainer.features import shard_files, store


@pytest.mark.parametrize(
    ("row_shape", "rows"), [((512,), 256), ((14, 14, 512), 160), ((112, 112, 64), 32)]
)
def test_shards_are_bounded_in_rows_and_bytes(row_shape, rows):
    assert shard_files.Shards(1000, row_shape, tf.float32).rows_per_shard == rows


@pytest.mark.parametrize(
    ("num_examples", "rows"), [(16_384, 256), (100_000, 1_536), (10_000_000, 32_768)]
)
def test_small_rows_of_a_large_split_have_longer_shards(num_examples, rows):
    """An interrupted pass repeats two shards at most: a 32nd of it, or 512 images."""
    shards = shard_files.Shards(num_examples, (512,), tf.float32)
    assert shards.rows_per_shard == rows
    assert 2 * rows <= max(512, num_examples / 32)
    assert rows * shards.row_bytes <= shard_files.SHARD_BYTES


LARGE = dataclasses.replace(SHARDS, num_examples=4096 * 32, row_shape=(1 << 20,))


@pytest.fixture
def many_shards(tmp_path):
    """Empty files under the names of 4,096 shards, of which every 16th is missing."""
    folder = tmp_path / KEY.digest
    folder.mkdir()
    for i, (start, stop) in enumerate(LARGE.ranges()):
        if i % 16:
            (folder / f"{start:08d}-{stop:08d}.0123456789abcdef.npy").touch()
    return tmp_path


def _count_scans(monkeypatch) -> list[str]:
    """Returns a list that grows with each folder that is listed."""
    scans: list[str] = []
    for name in ("listdir", "scandir"):
        original = getattr(os, name)
        monkeypatch.setattr(
            os, name, lambda path, of=original: (scans.append(str(path)), of(path))[1]
        )
    return scans


def test_missing_rows_are_counted_in_one_scan(many_shards, monkeypatch):
    """A scan for each shard would take the square of their number: days for ten million rows."""
    cache = store.Cache(many_shards, 1 << 60)
    scans = _count_scans(monkeypatch)
    assert cache.count_missing(KEY, LARGE) == 4096 // 16 * 32
    assert scans == [str(many_shards / KEY.digest)]


def test_reading_an_entry_scans_its_folder_a_few_times_a_section(tmp_path, monkeypatch):
    cache = store.Cache(tmp_path, 1 << 30)
    shards = dataclasses.replace(SHARDS, num_examples=100 * 256)
    cache.load_or_compute(KEY, shards, Prefix())
    scans = _count_scans(monkeypatch)
    for read in (cache.load_or_compute, lambda *args: cache.fill({KEY: shards}, args[-1])):
        scans.clear()
        read(KEY, shards, Prefix())
        assert scans.count(str(tmp_path / KEY.digest)) < 4 * shard_files.SECTIONS
