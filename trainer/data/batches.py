"""Chooses the examples of an epoch and forms full batches of static shape.

plan = EpochPlan(num_examples=3_531, batch_size=32, fixed_steps=None, wrap=True)
plan.steps                      # 111
list(plan.ranges(epoch=4))      # [(4, 0, 3531), (4, 0, 21)]: pass 4, then its first 21 again
plan.rows(epoch=4, seed=0)      # [3552]: a permutation of all 3,531 rows, then its first 21
plan.draws(epoch=4)             # [3552]: 3,531 times 0, then 21 times 1
load((rows, draws), 32, examples_of).steps  # 111
pad(weighted, 32, 1_465).steps  # 46; the last batch has 7 examples of weight 0

Hosts that train together split every global batch among themselves, so that together they read the
examples in the same order as one device. They split rows, not files as `tf.data`'s auto-sharding
does by default: fewer files than hosts are enough, and each host reads only its own part.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf

from trainer.system import processes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence


AHEAD = 4
"""Batches that are loaded while a step runs."""


@dataclasses.dataclass(frozen=True)
class Share:
    """One host's part of every global batch, cut into batches for its replicas.

    Attributes:
      host: index of the host, from 0.
      num_hosts: number of hosts that read.
      num_replicas: number of replicas on all hosts together.
      first_step: the global batches before this one are skipped, and not loaded.
    """

    host: int = 0
    num_hosts: int = 1
    num_replicas: int = 1
    first_step: int = 0


@dataclasses.dataclass(frozen=True)
class Batches:
    """A finite sequence of full batches.

    Attributes:
      read: builds the dataset of one host's share: batches of one replica each, (x [b, …],
        y [b] int32, weight [b] float32), one per replica of the host in turn. It loads only the
        examples of that share.
      steps: number of batches.
      num_examples: number of examples, padding not counted.
    """

    read: Callable[[Share], tf.data.Dataset]
    steps: int
    num_examples: int

    @property
    def dataset(self) -> tf.data.Dataset:
        """The global batches."""
        return self.read(Share())


@dataclasses.dataclass(frozen=True)
class EpochPlan:
    """Chooses the examples of an epoch, as ranges of passes over the shuffled split.

    Attributes:
      num_examples: size of the split.
      batch_size: global batch size.
      fixed_steps: steps per epoch; None: enough to use every example.
      wrap: whether the first examples of a pass fill its incomplete last batch; if false, that
        batch is dropped.
    """

    num_examples: int
    batch_size: int
    fixed_steps: int | None
    wrap: bool

    @property
    def steps(self) -> int:
        """Number of batches in an epoch."""
        if self.fixed_steps is not None:
            return self.fixed_steps
        if self.wrap:
            return math.ceil(self.num_examples / self.batch_size)
        return self.num_examples // self.batch_size

    def ranges(self, epoch: int) -> Iterator[tuple[int, int, int]]:
        """Yields (pass, start, stop); the epoch is these ranges of these passes, in order.

        Without fixed steps, an epoch is one pass and wraps within it. With fixed steps, each epoch
        starts where the one before it stopped, so that every example is used before any is used
        again.
        """
        count = self.steps * self.batch_size
        position = epoch * count if self.fixed_steps is not None else 0
        while count > 0:
            pass_index, start = divmod(position, self.num_examples)
            stop = min(start + count, self.num_examples)
            yield (pass_index if self.fixed_steps is not None else epoch), start, stop
            position += stop - start
            count -= stop - start

    def rows(self, epoch: int, seed: int) -> np.ndarray:
        """Returns the rows of the examples that an epoch uses, in order, [steps * B] int64.

        Each pass is a permutation of the whole split, which depends on seed and pass alone.
        """
        orders: dict[int, np.ndarray] = {}
        parts = []
        for pass_index, start, stop in self.ranges(epoch):
            if pass_index not in orders:
                orders[pass_index] = permutation(self.num_examples, stable_seed(seed, pass_index))
            parts.append(orders[pass_index][start:stop])
        return np.concatenate(parts, dtype=np.int64)

    def draws(self, epoch: int) -> np.ndarray:
        """Returns which use of its example in the epoch each of `rows` is, [steps * B] int32.

        An example that an epoch uses several times has another number each time: what is drawn for
        it (an augmentation, a cached view) then differs. A number is that of the range of a pass,
        so the only use of an example may have a number above 0.
        """
        lengths = [stop - start for _, start, stop in self.ranges(epoch)]
        return np.repeat(np.arange(len(lengths), dtype=np.int32), lengths)


def permutation(count: int, seed: int) -> np.ndarray:
    """Returns the numbers below `count` (at most 2^31) in an order drawn from `seed`, [N] int32.

    A shuffle buffer of `tf.data` would mix only what is near in the files, unless it holds all.
    """
    rows = np.arange(count, dtype=np.int32)  # Half the memory of int64.
    np.random.default_rng(seed).shuffle(rows)
    return rows


def stable_seed(*numbers: int) -> int:
    """Mixes numbers into one seed in [0, 2^31); neighbouring numbers give unrelated seeds."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0] >> 1)


def share_of(column: np.ndarray, batch_size: int, share: Share) -> np.ndarray:
    """Returns a host's part of each batch of a column [N], without padding, [n]."""
    host_batch_size, full_steps = batch_size // share.num_hosts, len(column) // batch_size
    rest = column[full_steps * batch_size :] if share.first_step <= full_steps else column[:0]
    whole = column[: full_steps * batch_size].reshape(full_steps, share.num_hosts, host_batch_size)
    own = slice(share.host * host_batch_size, (share.host + 1) * host_batch_size)
    return np.concatenate([whole[share.first_step :, share.host].reshape(-1), rest[own]])


def load(
    columns: Sequence[np.ndarray],
    batch_size: int,
    examples_of: Callable[..., tf.data.Dataset],
) -> Batches:
    """Returns full batches, each host's from its own rows; padding examples have weight 0.

    Args:
      columns: the rows to load, in order, and what belongs to each, arrays [N].
      batch_size: global batch size.
      examples_of: a part of each column [n] -> a dataset of n examples (x, label, weight).
    """

    def read(share: Share, steps: int) -> tf.data.Dataset:
        examples = examples_of(*(share_of(column, batch_size, share) for column in columns))
        return _batched(examples, batch_size, steps, share)

    return _of(len(columns[0]), batch_size, read)


def pad(rows: tf.data.Dataset, batch_size: int, num_examples: int) -> Batches:
    """Returns full batches of a static shape; padding examples have weight 0.

    A smaller last batch would make the batch dimension dynamic, which a TPU can't compile, and
    might leave a replica without examples. Weight 0 keeps padding out of the loss and the metrics.
    Every host iterates over all examples: those that are costly to make are for `load`.

    Args:
      rows: the examples (x, label, weight), in order.
      batch_size: global batch size.
      num_examples: number of rows.
    """

    def read(share: Share, steps: int) -> tf.data.Dataset:
        host_batch_size = batch_size // share.num_hosts
        host_rows = rows.skip(share.first_step * batch_size)
        if share.num_hosts > 1:
            # Not Dataset.shard, which takes every n-th element: joining the hosts' outputs must
            # give the order of the data, so each host takes a contiguous part of every batch.
            host_rows = host_rows.enumerate().filter(
                lambda i, _: i % batch_size // host_batch_size == share.host
            )
            host_rows = host_rows.map(lambda _, row: row)
        return _batched(host_rows, batch_size, steps, share)

    return _of(num_examples, batch_size, read)


def of_columns(
    columns: Sequence[np.ndarray],
    batch_size: int,
    batches_of: Callable[..., tf.data.Dataset],
) -> Batches:
    """Returns full batches whose examples are loaded a batch at a time, not one by one.

    Args:
      columns: what the examples are loaded from, in order, arrays [N]; padding is 0 in each.
      batch_size: global batch size.
      batches_of: a host's share of each column, and of the weights, [replica batches, b] -> a
        dataset of its batches.
    """
    num_examples = len(columns[0])
    weighted = (*columns, np.ones(num_examples, np.float32))

    def read(share: Share, steps: int) -> tf.data.Dataset:
        padding, size = steps * batch_size - num_examples, batch_size // share.num_replicas
        padded = (np.pad(column, (0, padding)) for column in weighted)
        return ahead(
            batches_of(*(share_of(x, batch_size, share).reshape(-1, size) for x in padded))
        )

    return _of(num_examples, batch_size, read)


def _of(
    num_examples: int, batch_size: int, read: Callable[[Share, int], tf.data.Dataset]
) -> Batches:
    """Returns batches that are read by (share, number of all steps) -> a dataset of the share."""
    steps = math.ceil(num_examples / batch_size)
    # Cached: building it traces functions, and validation reads it after every epoch.
    return Batches(functools.cache(lambda share: read(share, steps)), steps, num_examples)


def _batched(
    examples: tf.data.Dataset, batch_size: int, steps: int, share: Share
) -> tf.data.Dataset:
    """Returns batches of one replica each of a host's examples, padded to whole batches."""
    count = (steps - share.first_step) * (batch_size // share.num_hosts)
    padded = examples.concatenate(_zeros(examples.element_spec)).take(count)
    batches = padded.batch(batch_size // share.num_replicas, drop_remainder=True)
    return ahead(batches)


def parallel(dataset: tf.data.Dataset, function: Callable[..., Any]) -> tf.data.Dataset:
    """Maps `function` over `dataset` in parallel on all CPUs, keeping the order."""
    return dataset.map(function, num_parallel_calls=processes.num_cores(), deterministic=True)


def ahead(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """Returns a dataset that loads AHEAD batches while a step runs, without tf.data's autotuning.

    With it, the end of an iterator sometimes waits, with idle CPUs: 4 of 24 passes of 10 s took 20.
    The thread that tunes sleeps for 10 ms, 20 ms, 40 ms and so on, which would explain it.
    """
    options = tf.data.Options()
    options.autotune.enabled = False
    return dataset.prefetch(AHEAD).with_options(options)


def _zeros(spec: Any) -> tf.data.Dataset:
    """Returns an endless dataset of padding: examples of zeros, the weight among them."""
    zeros = tf.nest.map_structure(lambda tensor: tf.zeros(tensor.shape, tensor.dtype), spec)
    return tf.data.Dataset.from_tensors(zeros).repeat()
