"""Decodes on other machines through tf.data service, with the order and results of local decoding.

tf.data service offers two sharding policies. With OFF, every worker reads all examples, so each
example arrives once per worker. With DYNAMIC, the workers divide the examples, which then arrive in
whatever order the workers finish. Either way training would depend on the number of workers, and
predictions could not be matched to their examples. So here the workers divide *batches*: each batch
is a list of positions in the record files and carries its number, and this machine restores the
order as batches arrive.

    records = data_service.locate(paths)                   # the record files of a split
    data_service.distribute("grpc://host:5000", records, rows, batch_size=32, load=...)

The workers must see the files under the same paths as this machine. If a worker dies, its
unfinished batch is lost, and the run ends with an error.
"""

from __future__ import annotations

import dataclasses
import functools
import struct
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf

from trainer.data import batches
from trainer.errors import DiskError, RunError
from trainer.system import sockets

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

TIMEOUT_S = 10
LENGTH_BYTES, CRC_BYTES = 8, 4
"""A TFRecord is a length, its checksum, the data and their checksum
(tensorflow/core/lib/io/record_writer.h)."""


@dataclasses.dataclass(frozen=True)
class Records:
    """The position of each record of a split in its file; arrays [N], in the order of the split.

    Attributes:
      path: the file that holds the record.
      before: number of bytes in the file before the record's data.
      length: number of bytes of data.
      after: number of bytes in the file after the data.
    """

    path: np.ndarray
    before: np.ndarray
    length: np.ndarray
    after: np.ndarray

    def take(self, rows: np.ndarray) -> tuple[np.ndarray, ...]:
        """Returns the columns at `rows`, in the shape of `rows`."""
        return self.path[rows], self.before[rows], self.length[rows], self.after[rows]


def locate(paths: Sequence[str]) -> Records:
    """Finds the records of TFRecord files by their length fields, without reading their data.

    Raises:
      DiskError: when a file ends within a record.
    """
    places = [place for path in paths for place in _places(path)]
    path, before, length, after = zip(*places, strict=True)
    return Records(
        np.array(path), *(np.array(column, np.int64) for column in (before, length, after))
    )


def _places(path: str) -> Iterator[tuple[str, int, int, int]]:
    size = tf.io.gfile.stat(path).length
    with tf.io.gfile.GFile(path, "rb") as file:
        end = 0
        while end < size:
            file.seek(end)
            field = file.read(LENGTH_BYTES).ljust(LENGTH_BYTES, b"\xff")  # Cut: as if too long.
            (length,) = struct.unpack("<Q", field)
            before = end + LENGTH_BYTES + CRC_BYTES
            if before + length + CRC_BYTES > size:
                raise DiskError(f"{path} ends within a record; build the data set again.")
            yield path, before, length, size - before - length
            end = before + length + CRC_BYTES


def require(service: str) -> None:
    """Checks that a dispatcher answers, because tf.data itself would retry for ever.

    Raises:
      RunError: when nothing answers at this address.
    """
    if not sockets.answers(service, TIMEOUT_S):
        raise RunError(
            f"no tf.data service dispatcher answers at {service}; start one there, or leave out "
            "--data_service to decode on this machine."
        )


def distribute(
    service: str,
    records: Records,
    rows: np.ndarray,
    batch_size: int,
    load: Callable[[tf.Tensor], Any],
) -> batches.Batches:
    """Returns the same batches as `batches.pad`, loaded by the workers of the service.

    Args:
      service: address of the dispatcher, grpc://host:port.
      records: the records of the split.
      rows: indices of the records to load, in order, [N].
      batch_size: global batch size.
      load: serialized record -> (x, label, weight).
    """
    steps = -(-len(rows) // batch_size)
    # Padding repeats real rows, because workers load by position; their weight is 0.
    padded = np.resize(rows, steps * batch_size)
    weights = (np.arange(len(padded)) < len(rows)).astype(np.float32)

    @functools.cache
    def read(share: batches.Share) -> tf.data.Dataset:
        cut = [batches.share_of(column, batch_size, share) for column in (padded, weights)]
        numbers = np.arange(len(cut[0]))
        pieces = tf.data.Dataset.from_tensor_slices((numbers, records.take(cut[0]), cut[1]))
        loaded = pieces.flat_map(_loader(load, cut[0].shape[1]))
        distributed = loaded.apply(
            tf.data.experimental.service.distribute(
                tf.data.experimental.service.ShardingPolicy.DYNAMIC, service
            )
        )
        return _in_order(distributed, len(numbers)).prefetch(tf.data.AUTOTUNE)

    return batches.Batches(read, steps, len(rows))


def _loader(load: Callable[[tf.Tensor], Any], size: int) -> Callable[..., tf.data.Dataset]:
    """Returns (number, places, weights) -> a dataset of one element, the numbered batch."""

    def load_batch(number: tf.Tensor, places: Any, weights: tf.Tensor) -> tf.data.Dataset:
        # TFRecordDataset can't seek. Instead, everything before the record counts as the header of
        # its file and everything after it as the footer, which leaves one fixed-length record.
        serialized = tf.data.Dataset.from_tensor_slices(places).flat_map(
            lambda path, before, length, after: tf.data.FixedLengthRecordDataset(
                path, record_bytes=length, header_bytes=before, footer_bytes=after
            )
        )
        examples = batches.parallel(serialized, load).batch(size, drop_remainder=True)
        return examples.map(lambda x, label, weight: (number, (x, label, weight * weights)))

    return load_batch


def _in_order(distributed: tf.data.Dataset, count: int) -> tf.data.Dataset:
    """Restores the order of numbered batches, holding back those that arrive early."""

    def generate() -> Iterator[Any]:
        early: dict[int, Any] = {}
        expected = 0
        for number, batch in distributed:
            early[int(number)] = batch
            while expected in early:
                yield early.pop(expected)
                expected += 1
        if expected < count:
            raise RunError(
                f"--data_service lost batch {expected} of {count}, because a worker died; restart "
                "the worker and run the command again."
            )

    _, signature = distributed.element_spec
    return tf.data.Dataset.from_generator(generate, output_signature=signature)
