"""Reads the records of TFRecord files by position, in any order, and checks each one's checksums.

    found = records.locate(paths)         # the record files of a split
    found.read(np.array([7, 2, 7]))       # the data of three records
    found.dataset(rows, draws)            # a dataset of (serialized, draw), in the order of rows

A host that trains with others reads the records of its own share of a batch and no others, and a
resumed epoch starts at any step. `tf.data.TFRecordDataset` reads a file from its start and can't
seek. Local files are read by Python, a chunk of records per call, which takes less CPU time than
TFDS takes to read them in order (docs/adr/0014). TensorFlow's own file systems (gs://) are read by
its own ops, which ask for exactly the bytes of a record; a file object would read half a megabyte
for each.
"""

from __future__ import annotations

import array
import concurrent.futures
import dataclasses
import errno
import functools
import os
import pathlib
import struct
from typing import TYPE_CHECKING, Any

import google_crc32c
import numpy as np
import tensorflow as tf

from trainer.data import damage

if TYPE_CHECKING:
    import io
    from collections.abc import Sequence

_LENGTH = struct.Struct("<Q")
_HEADER = struct.Struct("<QI")
_FOOTER = struct.Struct("<I")
FRAME_BYTES = _HEADER.size + _FOOTER.size
"""A TFRecord is a length, its checksum, the data and their checksum
(tensorflow/core/lib/io/record_writer.h)."""
CHUNK_ROWS, CHUNK_BYTES = 64, 4 << 20
"""Most records, and most bytes on average, that are read at a time."""
_READERS = 8
"""Chunks that are read at the same time: a disk or file server answers several requests at once."""
_REQUESTS = 32
"""Requests to a bucket per chunk that are under way at the same time."""


@dataclasses.dataclass(frozen=True, eq=False)
class Records:
    """The positions of a split's records, as if its files were one; 8 bytes for each record.

    Attributes:
      paths: the files of the split, in order.
      starts: position of the first byte of each file, and of the end of the last, [F + 1].
      bounds: position of the first byte of each record, and of the end of the last, [N + 1].
    """

    paths: tuple[str, ...]
    starts: np.ndarray
    bounds: np.ndarray

    def __len__(self) -> int:
        """Number of records."""
        return len(self.bounds) - 1

    def places(
        self, rows: np.ndarray, last: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns index of the file, byte offset in it and number of bytes, frames included.

        Args:
          rows: of any shape, which the results have too.
          last: last row of each run of records that begins at `rows`; None: single records.
        """
        files, begin = self._files_of(rows), self.bounds[rows]
        end = self.bounds[(rows if last is None else last) + 1]
        return files, begin - self.starts[files], end - begin

    def data_places(self, rows: np.ndarray) -> tuple[np.ndarray, ...]:
        """Returns index of the file, and bytes before, in and after the data, as `rows`."""
        files, offset, size = self.places(rows)
        before, length = offset + _HEADER.size, size - FRAME_BYTES
        return files, before, length, self._file_sizes[files] - before - length

    def _files_of(self, rows: np.ndarray) -> np.ndarray:
        return np.searchsorted(self.starts, self.bounds[rows], side="right") - 1

    @property
    def _file_sizes(self) -> np.ndarray:
        return np.diff(self.starts)

    def read(self, rows: np.ndarray) -> np.ndarray:
        """Returns the data of records in local files, in the order of `rows`, [M] of bytes.

        Raises:
          RecordError: when a file is not there or can't be read, or a record is damaged.
        """
        files, begin, size = (column.tolist() for column in self._runs(rows)[1:])
        blobs = [b""] * len(files)
        for file in set(files):  # Opened anew for each chunk: nothing is shared between threads.
            try:
                # Not buffered, which would read more than these records.
                with pathlib.Path(self.paths[file]).open("rb", buffering=0) as opened:
                    for i in (i for i, other in enumerate(files) if other == file):
                        opened.seek(begin[i])
                        blobs[i] = _read_whole(opened, size[i])
            except OSError as error:
                raise damage.RecordError(error.strerror or str(error), self.paths[file]) from error
        return self._take_apart(rows, blobs)

    def _runs(self, rows: np.ndarray) -> tuple[np.ndarray, ...]:
        """Finds runs of consecutive records, each of which is read at once.

        Returns:
          Number of records of each run, and its place: file, byte offset, number of bytes.
        """
        begins = np.ones(len(rows), bool)
        begins[1:] = (np.diff(rows) != 1) | (np.diff(self._files_of(rows)) != 0)
        begin = np.flatnonzero(begins)
        count = np.diff(begin, append=len(rows))
        return count, *self.places(rows[begin], rows[begin + count - 1])

    def _take_apart(self, rows: np.ndarray, blobs: Sequence[bytes]) -> np.ndarray:
        """Returns the data of the records in runs, [M] of bytes, after comparing checksums."""
        data = np.empty(len(rows), object)
        files, offsets, sizes = (column.tolist() for column in self.places(rows))
        counts = self._runs(rows)[0].tolist()
        i = 0
        for blob, count in zip(blobs, counts, strict=True):
            at = 0
            for _ in range(count):
                data[i] = _data_of(blob[at : at + sizes[i]], sizes[i])
                if data[i] is None:
                    problem = f"corrupted record at {offsets[i]}"
                    raise damage.RecordError(problem, self.paths[files[i]])
                at += sizes[i]
                i += 1
        return data

    def dataset(self, rows: np.ndarray, *columns: np.ndarray) -> tf.data.Dataset:
        """Returns a dataset of the records at `rows`, in order: (serialized, a value per column).

        Iterating it raises an error that quotes RecordError for records that can't be read.
        """
        # The arrays are tensors of the dataset. TensorFlow keeps Python functions for ever, and
        # with a function for each epoch also the rows of each epoch.
        slices = tf.data.Dataset.from_tensor_slices((rows.astype(np.int64), *columns))
        chunks = slices.batch(self._chunk_rows)
        if self._is_remote:
            read = chunks.interleave(
                self._fetch,
                cycle_length=_READERS,
                block_length=1,
                num_parallel_calls=_READERS,
                deterministic=True,
            )
        else:
            read = chunks.map(self._load, num_parallel_calls=_READERS, deterministic=True)
        return read.unbatch()

    @property
    def _is_remote(self) -> bool:
        return bool(self.paths) and "://" in self.paths[0]

    @property
    def _chunk_rows(self) -> int:
        mean = max(1, int(self.bounds[-1]) // max(1, len(self)))
        return int(np.clip(CHUNK_BYTES // mean, 1, CHUNK_ROWS))

    def _load(self, rows: tf.Tensor, *columns: tf.Tensor) -> tuple[tf.Tensor, ...]:
        # Not stateful: under op determinism, stateful functions don't run in parallel.
        data = tf.numpy_function(self.read, [rows], tf.string, stateful=False)
        return tf.ensure_shape(data, [None]), *columns

    def _fetch(self, rows: tf.Tensor, *columns: tf.Tensor) -> tf.data.Dataset:
        """Returns a dataset of one element: a chunk of records, read by TensorFlow's ops."""
        places = tf.numpy_function(self._requests, [rows], [tf.int64] * 4, stateful=False)
        places = tuple(tf.ensure_shape(column, [None]) for column in places)
        runs = tf.data.Dataset.from_tensor_slices(places).interleave(
            functools.partial(fixed_length, tf.constant(self.paths)),
            cycle_length=_REQUESTS,
            num_parallel_calls=_REQUESTS,
            deterministic=True,
        )

        def check(blobs: tf.Tensor) -> tuple[tf.Tensor, ...]:
            data = tf.numpy_function(self._take_apart, [rows, blobs], tf.string, stateful=False)
            return tf.ensure_shape(data, [None]), *columns

        return runs.batch(CHUNK_ROWS).map(check)

    def _requests(self, rows: np.ndarray) -> tuple[np.ndarray, ...]:
        files, begin, size = self._runs(rows)[1:]
        return files, begin, size, self._file_sizes[files] - begin - size


def fixed_length(
    paths: tf.Tensor, file: tf.Tensor, before: tf.Tensor, length: tf.Tensor, after: tf.Tensor
) -> tf.data.Dataset:
    """Returns a dataset of one element: `length` bytes of a file, read without the bytes around.

    Everything before them counts as the header of the file and everything after them as its footer,
    which leaves one record of fixed length. Checksums are not compared.
    """
    return tf.data.FixedLengthRecordDataset(
        paths[file],
        record_bytes=length,
        header_bytes=before,
        footer_bytes=after,
        buffer_size=length,
    )


def _read_whole(file: io.FileIO | tf.io.gfile.GFile, size: int) -> bytes:
    """Reads `size` bytes, or to the end: one call of the system may return fewer."""
    found = file.read(size) or b""
    while len(found) < size and (more := file.read(size - len(found))):
        found += more
    return found


def _data_of(frame: bytes, size: int) -> bytes | None:
    """Returns the data of a record; None if it is cut, or a checksum is not that of its bytes."""
    if len(frame) < size:
        return None
    length, length_checksum = _HEADER.unpack_from(frame)
    (checksum,) = _FOOTER.unpack_from(frame, size - _FOOTER.size)
    data = frame[_HEADER.size : size - _FOOTER.size]
    sound = (
        length == len(data)
        and length_checksum == _masked(frame[: _LENGTH.size])
        and checksum == _masked(data)
    )
    return data if sound else None


def _masked(data: bytes) -> int:
    """Returns the CRC32C as TFRecord files have it (tensorflow/core/lib/hash/crc32c.h)."""
    crc = google_crc32c.value(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def locate(paths: Sequence[str], counts: Sequence[int] | None = None) -> Records:
    """Finds the records of TFRecord files by their length fields, without reading their data.

    Args:
      paths: the files, in order.
      counts: how many records each file has; None: unknown.

    Raises:
      RecordError: when a file is not there, ends within a record, or has another count of records.
    """
    with concurrent.futures.ThreadPoolExecutor(_READERS) as pool:
        ends = list(pool.map(_record_ends, paths))
    for path, found, count in zip(paths, ends, counts or map(len, ends), strict=True):
        if len(found) != count:
            problem = f"it has {len(found)} records and was expected to contain {count}"
            raise damage.RecordError(problem, path)
    starts = np.cumsum([0, *(found[-1] if len(found) else 0 for found in ends)])
    bounds = [found + start for found, start in zip(ends, starts[:-1], strict=True)]
    return Records(tuple(paths), starts, np.concatenate([starts[:1], *bounds]))


def _record_ends(path: str) -> np.ndarray:
    """Returns where each record of a file ends, [n] int64."""
    ends, end = array.array("q"), 0  # A list of Python's integers would take four times as much.
    try:
        size = _size_of(path)
        with _opened(path) as file:
            while end < size:
                file.seek(end)
                # A cut field counts as a length that is too large.
                field = _read_whole(file, _LENGTH.size).ljust(_LENGTH.size, b"\xff")
                (length,) = _LENGTH.unpack(field)
                if end + length + FRAME_BYTES > size:
                    raise damage.RecordError(f"corrupted record at {end}: the file is cut", path)
                end += length + FRAME_BYTES
                ends.append(end)
    except OSError as error:
        raise damage.RecordError(error.strerror or str(error), path) from error
    except tf.errors.NotFoundError as error:  # Not every file system of TensorFlow says so.
        raise damage.RecordError(os.strerror(errno.ENOENT), path) from error
    except tf.errors.OpError as error:
        raise damage.RecordError(damage.reason_of(error.message), path) from error
    return np.frombuffer(ends, np.int64) if ends else np.zeros(0, np.int64)


def _size_of(path: str) -> int:
    return (
        int(tf.io.gfile.stat(path).length) if "://" in path else pathlib.Path(path).stat().st_size
    )


def _opened(path: str) -> Any:
    # TensorFlow's file object reads 512 KiB at a time: of a local file, everything.
    return tf.io.gfile.GFile(path, "rb") if "://" in path else pathlib.Path(path).open("rb", 0)
