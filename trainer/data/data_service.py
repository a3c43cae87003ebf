"""Decoding on other machines by tf.data service, in the order and with the result of decoding here.

tf.data service by itself gives a choice of two: each worker goes through all examples, so that each
comes as many times as there are workers; or they divide the examples, and these come in the order
in which the workers are done. Training would change with the number of workers, and predictions
would lose their examples. So the workers divide *batches*, each of which is a list of places in the
record files and carries its number, and they are put in order again on arrival.

    records = data_service.locate(paths)                   # of a split
    data_service.distribute("grpc://host:5000", records, rows, batch_size=32, load=...)

The workers read the files under the same paths as this machine. A batch that was with a worker when
it died is missing, and ends the run.
"""

from __future__ import annotations

import dataclasses
import functools
import struct
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf

from trainer.data import batches
from trainer.errors import RunError
from trainer.system import sockets

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

TIMEOUT_S = 10
LENGTH_BYTES, CRC_BYTES = 8, 4
"""A TFRecord is a length, its checksum, the data and their checksum
(tensorflow/core/lib/io/record_writer.h)."""


@dataclasses.dataclass(frozen=True)
class Records:
    """Where each record of a split lies; arrays [N], in the order of the split.

    Attributes:
      path: the file.
      before: bytes of the file before the record's data.
      length: bytes of the data.
      after: bytes of the file after them.
    """

    path: np.ndarray
    before: np.ndarray
    length: np.ndarray
    after: np.ndarray

    def take(self, rows: np.ndarray) -> tuple[np.ndarray, ...]:
        """Returns the columns at `rows`, in the shape of `rows`."""
        return self.path[rows], self.before[rows], self.length[rows], self.after[rows]


def locate(paths: Sequence[str]) -> Records:
    """Finds the records of TFRecord files by their lengths; the data themselves are not read."""
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
            (length,) = struct.unpack("<Q", file.read(LENGTH_BYTES))
            before = end + LENGTH_BYTES + CRC_BYTES
            yield path, before, length, size - before - length
            end = before + length + CRC_BYTES


def require(service: str) -> None:
    """Raises unless a dispatcher answers; tf.data would try again without end.

    Raises:
      RunError: when nothing answers there.
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
    """Returns what `batches.pad` does of the same rows, loaded by the service's workers.

    Args:
      service: the dispatcher, grpc://host:port.
      records: of the split.
      rows: which records, in order, [N].
      batch_size: global.
      load: serialized record -> (x, label, weight).
    """
    steps = -(-len(rows) // batch_size)
    padded = np.resize(rows, steps * batch_size)
    weights = (np.arange(len(padded)) < len(rows)).astype(np.float32)

    @functools.cache
    def read(share: batches.Share) -> tf.data.Dataset:
        cut = [_cut(column, batch_size, share) for column in (padded, weights)]
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


def _cut(column: np.ndarray, batch_size: int, share: batches.Share) -> np.ndarray:
    """Returns a host's share of a column, [replica batches, examples]."""
    by_host = column.reshape(-1, share.num_hosts, batch_size // share.num_hosts)
    return by_host[share.first_step :, share.host].reshape(-1, batch_size // share.num_replicas)


def _loader(load: Callable[[tf.Tensor], Any], size: int) -> Callable[..., tf.data.Dataset]:
    """Returns (number, places, weights) -> one element, the batch with its number."""

    def load_batch(number: tf.Tensor, places: Any, weights: tf.Tensor) -> tf.data.Dataset:
        serialized = tf.data.Dataset.from_tensor_slices(places).flat_map(
            lambda path, before, length, after: tf.data.FixedLengthRecordDataset(
                path, record_bytes=length, header_bytes=before, footer_bytes=after
            )
        )
        examples = batches.parallel(serialized, load).batch(size, drop_remainder=True)
        return examples.map(lambda x, label, weight: (number, (x, label, weight * weights)))

    return load_batch


def _in_order(distributed: tf.data.Dataset, count: int) -> tf.data.Dataset:
    """Puts numbered batches in order, holding back those that come early."""

    def generate() -> Iterator[Any]:
        early: dict[int, Any] = {}
        following = 0
        for number, batch in distributed:
            early[int(number)] = batch
            while following in early:
                yield early.pop(following)
                following += 1
        if following < count:
            raise RunError(f"--data_service lost batch {following} of {count}: a worker has died.")

    _, signature = distributed.element_spec
    return tf.data.Dataset.from_generator(generate, output_signature=signature)
