from __future__ import annotations

import concurrent.futures
import dataclasses
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import threading

import numpy as np
import pytest
import tensorflow as tf

from trainer.features import locks, shard_files, store

KEY = shard_files.Key(
    data_fingerprint="d", split="train", backbone="vgg16", weights_hash="w",
    image_shape=(8, 8, 1), backbone_image_shape=(8, 8, 3), cut_at=3, row_shape=(2,),
    precision="float32", device="CPU", dtype="float32", augmentation=None, view=None,
)  # fmt: skip
SHARDS = shard_files.Shards(600, (2,), tf.float32)


class Prefix:
    """Records the ranges that it is asked for, and the rows that it computes of them."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, int]] = []
        self.rows: list[int] = []

    def __call__(self, start: int, stop: int):
        self.asked.append((start, stop))
        for first in range(start, stop, 33):  # Not a divisor of a shard, as with three replicas.
            rows = np.arange(first, min(first + 33, stop), dtype=np.float32)
            self.rows += rows.astype(int).tolist()
            yield np.stack([rows, -rows], 1)


@pytest.fixture
def cache(tmp_path):
    return store.Cache(tmp_path, budget_bytes=1 << 30)


def _rows(arrays) -> list[int]:
    return np.concatenate(arrays)[:, 0].astype(int).tolist()


def test_stored_features_are_computed_once(cache):
    prefix = Prefix()
    first = cache.load_or_compute(KEY, SHARDS, prefix)
    second = cache.load_or_compute(KEY, SHARDS, prefix)
    assert _rows(first) == _rows(second) == list(range(600))
    assert prefix.asked == [(0, 600)]


def test_an_interrupted_pass_resumes_with_the_missing_shards(cache, tmp_path):
    def dies(start, stop):
        for block in Prefix()(start, stop):
            if block[0, 0] > 550:
                raise KeyboardInterrupt
            yield block

    assert cache.count_missing(KEY, SHARDS) == 600
    with pytest.raises(KeyboardInterrupt):
        cache.load_or_compute(KEY, SHARDS, dies)
    assert cache.count_missing(KEY, SHARDS) == 88
    half = tmp_path / KEY.digest / ".partial-of-a-killed-process.npy"
    half.write_bytes(b"half a shard")
    os.utime(half, (1, 1))
    prefix = Prefix()
    assert _rows(cache.load_or_compute(KEY, SHARDS, prefix)) == list(range(600))
    assert prefix.asked == [(512, 600)]
    assert not half.exists()


OTHER = dataclasses.replace(KEY, cut_at=5, row_shape=(64,), dtype="bfloat16")
WIDE = shard_files.Shards(600, (64,), tf.bfloat16)


class TwoPrefixes(Prefix):
    """Computes rows for two entries."""

    def __call__(self, start: int, stop: int):
        for block in super().__call__(start, stop):
            wide = np.repeat(block[:, :1], 64, axis=1)
            yield block, wide.astype(tf.bfloat16.as_numpy_dtype)


@pytest.fixture
def small_shards(monkeypatch):
    """The wide entry then has shards of 96 rows, the other of 256."""
    monkeypatch.setattr(shard_files, "SHARD_BYTES", 100 * WIDE.row_bytes)


def _fill(cache) -> list[tuple[int, int]]:
    prefixes = TwoPrefixes()
    cache.fill({KEY: SHARDS, OTHER: WIDE}, prefixes)
    return prefixes.asked


@pytest.mark.usefixtures("small_shards")
def test_entries_that_share_a_pass_equal_those_that_do_not(cache, tmp_path):
    assert _fill(cache) == [(0, 600)]
    assert _fill(cache) == []
    prefix = Prefix()
    store.Cache(tmp_path / "own", 1 << 30).load_or_compute(KEY, SHARDS, prefix)
    ours, theirs = (
        sorted(path.name for path in (folder / KEY.digest).glob("*.npy"))
        for folder in (tmp_path, tmp_path / "own")
    )
    assert ours == theirs
    never = Prefix()
    assert _rows(cache.load_or_compute(KEY, SHARDS, never)) == list(range(600))
    assert not never.asked


@pytest.mark.usefixtures("small_shards")
def test_a_shared_pass_resumes_with_the_shards_that_any_entry_lacks(cache, tmp_path):
    _fill(cache)
    names = {KEY: "00000256-00000512", OTHER: "00000480-00000576"}
    for key, name in names.items():
        (path,) = (tmp_path / key.digest).glob(f"{name}.*.npy")
        before = path.name
        path.unlink()
        assert _fill(cache) == [tuple(map(int, name.split("-")))]
        assert path.name == before
        assert path.exists()


@pytest.mark.parametrize("damage", ["flip", "truncate", "foreign"])
def test_damaged_shards_are_computed_again_with_a_message(cache, tmp_path, damage, caplog):
    cache.load_or_compute(KEY, SHARDS, Prefix())
    shard = sorted((tmp_path / KEY.digest).glob("*.npy"))[1]
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1
    shard.write_bytes({"flip": data, "truncate": data[:-9], "foreign": b"not an array"}[damage])
    prefix = Prefix()
    with caplog.at_level(logging.WARNING, logger="absl"):
        assert _rows(cache.load_or_compute(KEY, SHARDS, prefix)) == list(range(600))
    assert prefix.asked == [(256, 512)]
    assert "Damaged features" in caplog.text


@pytest.mark.parametrize("place", ["another entry", "other rows"])
def test_a_sound_shard_in_the_wrong_place_is_computed_again(cache, tmp_path, place, caplog):
    other = dataclasses.replace(KEY, view=1)
    cache.load_or_compute(KEY, SHARDS, Prefix())
    cache.load_or_compute(other, SHARDS, Prefix())
    first, second, _ = sorted((tmp_path / KEY.digest).glob("*.npy"))
    source = second if place == "other rows" else tmp_path / other.digest / first.name
    if place == "another entry":
        (source,) = (tmp_path / other.digest).glob(f"{first.name.split('.')[0]}.*.npy")
    checksum = source.name.split(".")[1]
    first.unlink()
    shutil.copy(source, first.with_name(f"{first.name.split('.')[0]}.{checksum}.npy"))
    prefix = Prefix()
    with caplog.at_level(logging.WARNING, logger="absl"):
        assert _rows(cache.load_or_compute(KEY, SHARDS, prefix)) == list(range(600))
    assert prefix.asked == [(0, 256)]
    assert "Damaged features" in caplog.text


def test_a_shard_of_another_shape_is_never_used(cache):
    cache.load_or_compute(KEY, SHARDS, Prefix())
    wider = dataclasses.replace(SHARDS, row_shape=(3,))
    arrays = cache.load_or_compute(KEY, wider, lambda a, b: [np.zeros((b - a, 3), np.float32)])
    assert arrays[0].shape == (256, 3)


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(KEY)])
def test_every_field_of_the_key_changes_the_entry(field):
    assert dataclasses.replace(KEY, **{field: "other"}).digest != KEY.digest


def test_the_key_is_stored_as_text_beside_the_shards(cache, tmp_path):
    cache.load_or_compute(KEY, SHARDS, Prefix())
    saved = json.loads((tmp_path / KEY.digest / "key.json").read_text("utf-8"))
    assert saved == json.loads(json.dumps(dataclasses.asdict(KEY)))


def test_bfloat16_is_restored_exactly(cache):
    shards = dataclasses.replace(SHARDS, dtype=tf.bfloat16)
    kind = tf.bfloat16.as_numpy_dtype
    arrays = cache.load_or_compute(
        KEY, shards, lambda a, b: (x.astype(kind) for x in Prefix()(a, b))
    )
    restored = np.concatenate(arrays).view(kind).astype(np.float32)
    np.testing.assert_array_equal(restored[:100, 0], np.arange(100))


def test_the_least_recently_used_entry_is_removed_first(tmp_path):
    size = 600 * 2 * 4 + 3 * 128
    keys = [dataclasses.replace(KEY, view=view) for view in range(3)]

    def use(key):  # Each time as a run of its own.
        store.Cache(tmp_path, budget_bytes=2 * size).load_or_compute(key, SHARDS, Prefix())

    for age, key in zip((100, 200), keys[:2], strict=True):
        use(key)
        os.utime(tmp_path / key.digest / "key.json", (age, age))
    use(keys[0])  # Used again: now the younger one.
    use(keys[2])
    assert _entries(tmp_path) == {keys[0].digest, keys[2].digest}


def test_what_is_no_entry_is_never_removed(tmp_path):
    """Staged data lies in the same folder by default; a user may name any other."""
    for name in ("staging/run", "precision", "photos", KEY.digest[:-1], KEY.digest + "0"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "file").write_text("x")
    for view in range(3):
        other = dataclasses.replace(KEY, view=view)
        store.Cache(tmp_path, budget_bytes=1).load_or_compute(other, SHARDS, Prefix())
    assert len(list(tmp_path.rglob("file"))) == 5


def test_an_entry_in_use_is_not_removed(tmp_path):
    held = dataclasses.replace(KEY, view=1)
    store.Cache(tmp_path, budget_bytes=1).load_or_compute(held, SHARDS, Prefix())
    cache = store.Cache(tmp_path, budget_bytes=1)
    os.utime(tmp_path / held.digest / "key.json", (1, 1))
    with locks.section(tmp_path / held.digest, 2):
        cache.load_or_compute(KEY, SHARDS, Prefix())
    assert (tmp_path / held.digest / "key.json").exists()


def test_entries_of_another_process_stay_until_it_ends(tmp_path):
    """Otherwise an interrupted run would have to compute all its features again."""
    other, third = (dataclasses.replace(KEY, view=view) for view in (1, 2))
    code = (
        "import pathlib, sys\n"
        "from tests.trainer.features import test_store as t\n"
        f"cache = t.store.Cache(pathlib.Path({str(tmp_path)!r}), 1)\n"
        "cache.load_or_compute(t.KEY, t.SHARDS, t.Prefix())\n"
        "print('opened', flush=True)\n"
        "sys.stdin.read()\n"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", code], **pipes) as process:
        assert process.stdout.readline() == "opened\n"
        store.Cache(tmp_path, 1).load_or_compute(other, SHARDS, Prefix())
        assert _entries(tmp_path) == {KEY.digest, other.digest}
        process.kill()
    store.Cache(tmp_path, 1).load_or_compute(third, SHARDS, Prefix())
    assert _entries(tmp_path) == {third.digest}


def _entries(root) -> set[str]:
    return {path.parent.name for path in root.glob("*/key.json")}


def test_room_is_made_before_it_is_needed(tmp_path):
    """A disk may be as large as the budget."""

    def compute(start, stop):
        assert not (tmp_path / KEY.digest).exists()
        yield from Prefix()(start, stop)

    budget = 1.5 * SHARDS.num_bytes
    store.Cache(tmp_path, budget).load_or_compute(KEY, SHARDS, Prefix())
    other = dataclasses.replace(KEY, view=1)
    store.Cache(tmp_path, budget).load_or_compute(other, SHARDS, compute)
    assert _entries(tmp_path) == {other.digest}


def test_an_interrupted_removal_is_completed(tmp_path):
    store.Cache(tmp_path, 1).load_or_compute(KEY, SHARDS, Prefix())
    (tmp_path / KEY.digest / "key.json").unlink()
    other = dataclasses.replace(KEY, view=1)
    store.Cache(tmp_path, 1).load_or_compute(other, SHARDS, Prefix())
    assert not (tmp_path / KEY.digest).exists()


def test_waiting_for_another_process_prints_a_message(cache, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(locks, "WAIT_S", 0.05)
    pool = concurrent.futures.ThreadPoolExecutor(1)
    with locks.section(tmp_path / KEY.digest, 1):
        waiting = pool.submit(cache.load_or_compute, KEY, SHARDS, Prefix())
        with pytest.raises(TimeoutError):
            waiting.result(timeout=0.5)
        printed = capsys.readouterr().out
    assert _rows(waiting.result(timeout=60)) == list(range(600))
    assert f"waiting for another process to compute features in {tmp_path / KEY.digest}" in printed


def test_mapped_shards_outlive_their_removal(tmp_path):
    arrays = store.Cache(tmp_path, budget_bytes=1).load_or_compute(KEY, SHARDS, Prefix())
    other = store.Cache(tmp_path, budget_bytes=1)
    other.load_or_compute(dataclasses.replace(KEY, view=1), SHARDS, Prefix())
    assert not (tmp_path / KEY.digest).exists()
    assert _rows(arrays) == list(range(600))


def test_entries_of_a_running_process_may_exceed_the_budget(tmp_path):
    cache = store.Cache(tmp_path, budget_bytes=1)
    keys = [dataclasses.replace(KEY, split=split) for split in ("train", "validation", "test")]
    for key in keys:
        cache.load_or_compute(key, SHARDS, Prefix())
    assert len(list(tmp_path.glob("*/key.json"))) == 3


def test_runs_that_evict_each_others_entries_do_not_fail(tmp_path):
    def work(offset):
        for i in range(25):
            key = dataclasses.replace(KEY, view=(i + offset) % 4)
            cache = store.Cache(tmp_path, budget_bytes=1)
            assert _rows(cache.load_or_compute(key, SHARDS, Prefix())) == list(range(600))

    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        for result in [pool.submit(work, offset) for offset in range(3)]:
            result.result()


def test_consecutive_missing_shards_are_computed_in_one_pass(cache, tmp_path):
    """Starting the input pipeline costs as much as many images on a fast device."""
    shards = dataclasses.replace(SHARDS, num_examples=20 * 256)  # Sections of three shards.
    cache.load_or_compute(KEY, shards, Prefix())
    for start in (0, 256, 1024):
        next((tmp_path / KEY.digest).glob(f"{start:08d}-*.npy")).unlink()
    prefix = Prefix()
    assert _rows(cache.load_or_compute(KEY, shards, prefix)) == list(range(20 * 256))
    assert prefix.asked == [(0, 512), (1024, 1280)]


def test_an_interrupted_run_of_shards_keeps_those_that_were_finished(cache):
    shards = dataclasses.replace(SHARDS, num_examples=20 * 256)

    def dies(start, stop):
        for block in Prefix()(start, stop):
            if block[0, 0] > 600:
                raise KeyboardInterrupt
            yield block

    with pytest.raises(KeyboardInterrupt):
        cache.load_or_compute(KEY, shards, dies)
    prefix = Prefix()
    cache.load_or_compute(KEY, shards, prefix)
    assert prefix.asked == [(512, 20 * 256)]


def test_processes_that_train_together_divide_the_sections(tmp_path):
    """Each starts at another section, and reads those that the other has computed."""
    shards = dataclasses.replace(SHARDS, num_examples=16 * 256)
    prefixes, arrays = [Prefix(), Prefix()], [None, None]
    both_started = threading.Barrier(2)

    def work(index):
        def compute(start, stop):
            both_started.wait(timeout=30)
            yield from prefixes[index](start, stop)

        cache = store.Cache(tmp_path, 1 << 30, worker_index=index, num_workers=2)
        arrays[index] = cache.load_or_compute(KEY, shards, compute)

    threads = [threading.Thread(target=work, args=(index,)) for index in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert _rows(arrays[0]) == _rows(arrays[1]) == list(range(16 * 256))
    assert [prefix.asked for prefix in prefixes] == [[(0, 4096)], [(2048, 4096)]]
    twice = set(prefixes[0].rows) & set(prefixes[1].rows)
    assert len(twice) < 33  # The rest of the block in which the other's section begins.


def test_a_killed_process_leaves_its_section_free(cache, tmp_path):
    """After SIGKILL between two shards, the lock is free and the finished shards are used."""
    code = (
        "import os, signal, pathlib, numpy as np\n"
        "from tests.trainer.features import test_store as t\n"
        "def dies(start, stop):\n"
        "    for block in t.Prefix()(start, stop):\n"
        "        if block[0, 0] > 550: os.kill(os.getpid(), signal.SIGKILL)\n"
        "        yield block\n"
        f"cache = t.store.Cache(pathlib.Path({str(tmp_path)!r}), 1 << 30)\n"
        "cache.load_or_compute(t.KEY, t.SHARDS, dies)\n"
    )
    killed = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    prefix = Prefix()
    assert _rows(cache.load_or_compute(KEY, SHARDS, prefix)) == list(range(600))
    assert prefix.asked == [(512, 600)]


def test_two_processes_that_need_the_same_entry_compute_it_once(cache, tmp_path):
    prefix, other = Prefix(), store.Cache(tmp_path, 1 << 30)
    threads = [
        threading.Thread(target=c.load_or_compute, args=(KEY, SHARDS, prefix))
        for c in (cache, other)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(prefix.rows) == set(range(600))
    assert len(prefix.rows) < 600 + 2 * 33  # At most a block where one waits for the other.
