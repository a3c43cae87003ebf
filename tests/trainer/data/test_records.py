"""Records are read by position, from this machine and through TensorFlow's file systems."""

from __future__ import annotations

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
import tensorflow as tf

from trainer.data import damage, records

CONTENTS = ((b"", b"one"), (), (b"x" * 5000, b"y" * 70, b"z"), (b"last",))
"""Of four files, one of them empty."""
ALL = [data for content in CONTENTS for data in content]
FIRST_OF_LAST_FILE = 5


def _write(folder) -> list[str]:
    paths = [f"{folder}/{i}.tfrecord" for i in range(len(CONTENTS))]
    for path, content in zip(paths, CONTENTS, strict=True):
        with tf.io.TFRecordWriter(path) as writer:
            for data in content:
                writer.write(data)
    return paths


@pytest.fixture(params=["disk", "file system of TensorFlow"])
def folder(request, tmp_path):
    """A folder of this machine, or one that only TensorFlow's ops can read, as in a bucket."""
    if request.param == "disk":
        yield str(tmp_path)
        return
    url = f"ram://{tmp_path.name}"
    tf.io.gfile.makedirs(url)
    yield url
    tf.io.gfile.rmtree(url)


def _read(found: records.Records, rows) -> list[bytes]:
    columns = (np.array(rows, np.int64), np.arange(len(rows), dtype=np.int32))
    pairs = list(found.dataset(*columns).as_numpy_iterator())
    assert [int(number) for _, number in pairs] == list(range(len(rows)))
    return [data for data, _ in pairs]


def _content(path: str) -> bytes:
    with tf.io.gfile.GFile(path, "rb") as file:
        return file.read()


def _replace(path: str, content: bytes) -> None:
    tf.io.gfile.remove(path)  # TensorFlow's file system in memory would append.
    with tf.io.gfile.GFile(path, "wb") as file:
        file.write(content)


def test_records_are_read_in_the_order_of_the_rows(folder):
    found = records.locate(_write(folder), [len(content) for content in CONTENTS])
    assert len(found) == len(ALL)
    for rows in (range(6), [5, 0, 3, 3, 2, 1], [4], []):
        assert _read(found, list(rows)) == [ALL[row] for row in rows]


@hypothesis.given(st.lists(st.integers(0, 199), max_size=300))
@hypothesis.settings(
    deadline=None,
    max_examples=30,
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
)
def test_any_rows_are_read(tmp_path, rows):
    contents = np.array([bytes([i]) * (i * 7 % 50) for i in range(200)], object)
    paths = [str(tmp_path / f"{i}.tfrecord") for i in range(4)]
    for path, part in zip(paths, np.split(contents, 4), strict=True):
        with tf.io.TFRecordWriter(path) as writer:
            for data in part:
                writer.write(data)
    read = records.locate(paths).read(np.array(rows, np.int64))
    assert read.tolist() == contents[np.array(rows, int)].tolist()


def test_records_larger_than_a_chunk_are_read_one_by_one(tmp_path, monkeypatch):
    monkeypatch.setattr(records, "CHUNK_BYTES", 100)
    assert _read(records.locate(_write(tmp_path)), [5, 2, 0]) == [ALL[5], ALL[2], ALL[0]]


@pytest.mark.parametrize("part", ["length", "checksum of the length", "data", "checksum"])
def test_any_flipped_bit_of_a_record_is_found(folder, part):
    """TensorFlow's own reader compares both checksums; a reader by position must too."""
    paths = _write(folder)
    found = records.locate(paths)
    at = {"length": 0, "checksum of the length": 9, "data": 13, "checksum": 12 + 4}[part]
    content = bytearray(_content(paths[-1]))
    content[at] ^= 1
    _replace(paths[-1], bytes(content))
    assert _read(found, [0, 1]) == ALL[:2]
    with pytest.raises(tf.errors.OpError) as raised:
        _read(found, [0, FIRST_OF_LAST_FILE])
    quoted = damage.quoted(raised.value.message)
    assert (quoted.problem, quoted.path) == ("corrupted record at 0", paths[-1])


@pytest.mark.parametrize("kept", [0, 5, 15, 3000])
def test_a_file_that_ends_within_a_record_is_named(folder, kept):
    paths = _write(folder)
    _replace(paths[2], _content(paths[2])[:kept])
    with pytest.raises(damage.RecordError, match=r"corrupted record at 0|expected to") as raised:
        records.locate(paths, [len(content) for content in CONTENTS])
    assert raised.value.path == paths[2]


def test_a_file_that_is_gone_is_named(folder):
    paths = _write(folder)
    tf.io.gfile.remove(paths[0])
    with pytest.raises(damage.RecordError, match=r"(?i)no such file|not found") as raised:
        records.locate(paths)
    assert raised.value.path == paths[0]


def test_a_local_file_that_goes_while_it_is_read_is_named(tmp_path):
    paths = _write(tmp_path)
    found = records.locate(paths)
    tf.io.gfile.remove(paths[0])
    with pytest.raises(tf.errors.OpError) as raised:
        _read(found, [0])
    assert damage.quoted(raised.value.message).path == paths[0]


def test_records_are_found_without_reading_them(tmp_path):
    found = records.locate(_write(tmp_path))
    files, before, length, after = found.data_places(np.arange(len(ALL)))
    assert length.tolist() == [len(data) for data in ALL]
    for file, start, size, rest, data in zip(files, before, length, after, ALL, strict=True):
        content = _content(found.paths[file])
        assert content[start : start + size] == data
        assert start + size + rest == len(content)
