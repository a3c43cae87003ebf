"""Decodes on other machines through tf.data service, with the order and results of local decoding.

tf.data service offers two sharding policies. With OFF, every worker reads all examples, so each
example arrives once per worker. With DYNAMIC, the workers divide the examples, which then arrive in
whatever order the workers finish. Either way training would depend on the number of workers, and
predictions could not be matched to their examples. So here the workers divide *batches*: each batch
is a list of positions in the record files and carries its number, and this machine restores the
order as batches arrive.

    found = records.locate(paths)                   # the record files of a split
    data_service.distribute("grpc://host:5000", found, (rows, draws), batch_size=32, load=...)

The workers must see the files under the same paths as this machine. If a worker dies, its
unfinished batch is lost, and the run ends with an error.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf

from trainer.data import batches, records
from trainer.errors import RunError
from trainer.system import sockets

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

TIMEOUT_S = 10


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
    found: records.Records,
    columns: tuple[np.ndarray, np.ndarray],
    batch_size: int,
    load: Callable[[tf.Tensor, tf.Tensor], Any],
) -> batches.Batches:
    """Returns the same batches as `batches.load`, loaded by the workers of the service.

    Args:
      service: address of the dispatcher, grpc://host:port.
      found: the records of the split.
      columns: indices of the records to load, in order, and the draw of each, [N].
      batch_size: global batch size.
      load: serialized record, draw -> (x, label, weight).
    """

    def read(rows: np.ndarray, draws: np.ndarray, weights: np.ndarray) -> tf.data.Dataset:
        # Padding is row 0, as workers load by position; its weight is 0.
        pieces = tf.data.Dataset.from_tensor_slices(
            (np.arange(len(rows)), found.data_places(rows), draws, weights)
        )
        loaded = pieces.flat_map(_loader(load, found.paths, rows.shape[1]))
        distributed = loaded.apply(
            tf.data.experimental.service.distribute(
                tf.data.experimental.service.ShardingPolicy.DYNAMIC, service
            )
        )
        return _in_order(distributed, len(rows))

    return batches.of_columns(columns, batch_size, read)


def _loader(
    load: Callable[[tf.Tensor, tf.Tensor], Any], paths: Sequence[str], size: int
) -> Callable[..., tf.data.Dataset]:
    """Returns (number, places, draws, weights) -> a dataset of one element, the numbered batch."""

    def load_batch(
        number: tf.Tensor, places: Any, draws: tf.Tensor, weights: tf.Tensor
    ) -> tf.data.Dataset:
        serialized = tf.data.Dataset.from_tensor_slices(places).flat_map(
            functools.partial(records.fixed_length, tf.constant(paths))
        )
        drawn = tf.data.Dataset.zip(serialized, tf.data.Dataset.from_tensor_slices(draws))
        examples = batches.parallel(drawn, load).batch(size, drop_remainder=True)
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
