"""What an epoch is made of: which examples, in batches that are always full.

plan = EpochPlan(num_examples=3_531, batch_size=32, fixed_steps=None, wrap=True)
plan.steps                      # 111
list(plan.pieces(epoch=4))      # [(4, 0, 3531), (4, 0, 21)]: pass 4, then its first 21 again
pad(weighted, 32, 1_465).steps  # 46; the last batch has 7 examples of weight 0

Hosts that train together part every global batch among them, so that together they go through the
examples in the order of one device. They part rows, not files: fewer files than hosts are enough.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@dataclasses.dataclass(frozen=True)
class Share:
    """The part of every global batch that one host reads, cut as its replicas take it.

    Attributes:
      host: index of the host, from 0.
      num_hosts: how many read.
      num_replicas: of all hosts together.
      first_step: the global batches before it are left out, and not loaded.
    """

    host: int = 0
    num_hosts: int = 1
    num_replicas: int = 1
    first_step: int = 0


@dataclasses.dataclass(frozen=True)
class Batches:
    """A finite run of full batches.

    Attributes:
      read: a host's share of them: replica batches of (x [b, …], y [b] int32, weight [b] float32),
        in which those of its replicas follow one another. Only what is in the share is loaded.
      steps: number of batches.
      num_examples: number of examples, without padding.
    """

    read: Callable[[Share], tf.data.Dataset]
    steps: int
    num_examples: int

    @property
    def dataset(self) -> tf.data.Dataset:
        """The global batches."""
        return self.read(Share())

    def map(self, function: Callable[..., Any]) -> Batches:
        """Applies `function` to each (x, y, weight), in parallel and in order."""

        @functools.cache
        def read(share: Share) -> tf.data.Dataset:
            return parallel(self.read(share), function).prefetch(tf.data.AUTOTUNE)

        return dataclasses.replace(self, read=read)


@dataclasses.dataclass(frozen=True)
class EpochPlan:
    """Which examples an epoch trains on, as pieces of passes over the shuffled split.

    Attributes:
      num_examples: in the split.
      batch_size: global.
      fixed_steps: steps per epoch, or None for as many as use all samples.
      wrap: whether the tail of a pass is filled with its first examples, or dropped.
    """

    num_examples: int
    batch_size: int
    fixed_steps: int | None
    wrap: bool

    @property
    def steps(self) -> int:
        """Batches in an epoch."""
        if self.fixed_steps is not None:
            return self.fixed_steps
        if self.wrap:
            return math.ceil(self.num_examples / self.batch_size)
        return self.num_examples // self.batch_size

    def pieces(self, epoch: int) -> Iterator[tuple[int, int, int]]:
        """Yields (pass, start, stop): the epoch is these ranges of these passes, in order.

        With all samples, an epoch is one pass, and wraps within it. With fixed steps, epochs follow
        one another through the passes, so that all samples come up in turn.
        """
        count = self.steps * self.batch_size
        position = epoch * count if self.fixed_steps is not None else 0
        while count > 0:
            turn, start = divmod(position, self.num_examples)
            stop = min(start + count, self.num_examples)
            yield (turn if self.fixed_steps is not None else epoch), start, stop
            position += stop - start
            count -= stop - start


def stable_seed(*numbers: int) -> int:
    """Mixes numbers into one seed, in [0, 2^31); near numbers give unrelated seeds."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0] >> 1)


def pad(
    rows: tf.data.Dataset,
    batch_size: int,
    num_examples: int,
    load: Callable[..., Any] | None = None,
) -> Batches:
    """Makes whole batches of a static shape; padding has weight 0.

    Args:
      rows: what examples are loaded from, in the order of the data.
      batch_size: global.
      num_examples: in `rows`.
      load: row -> (x, label, weight); None: rows are that already. It runs after the hosts' shares
        are parted, so that a host decodes what its own replicas see and no more.
    """
    steps = math.ceil(num_examples / batch_size)

    @functools.cache  # Building it traces functions; validation comes back after every epoch.
    def read(share: Share) -> tf.data.Dataset:
        width = batch_size // share.num_hosts
        mine = rows.skip(share.first_step * batch_size)
        if share.num_hosts > 1:
            mine = mine.enumerate().filter(lambda i, _: i % batch_size // width == share.host)
            mine = mine.map(lambda _, row: row)
        examples = parallel(mine, load) if load else mine
        padded = examples.concatenate(_zeros(examples.element_spec)).take(
            (steps - share.first_step) * width
        )
        batches = padded.batch(batch_size // share.num_replicas, drop_remainder=True)
        return batches.prefetch(tf.data.AUTOTUNE)

    return Batches(read, steps, num_examples)


def parallel(dataset: tf.data.Dataset, function: Callable[..., Any]) -> tf.data.Dataset:
    """Maps in parallel and in order."""
    return dataset.map(function, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)


def _zeros(spec: Any) -> tf.data.Dataset:
    """Repeats an example of zeros, whose weight is 0 as well."""
    zeros = tf.nest.map_structure(lambda tensor: tf.zeros(tensor.shape, tensor.dtype), spec)
    return tf.data.Dataset.from_tensors(zeros).repeat()
