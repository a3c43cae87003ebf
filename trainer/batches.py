"""What an epoch is made of: which examples, in batches that are always full.

plan = EpochPlan(num_examples=3_531, batch_size=32, fixed_steps=None, wrap=True)
plan.steps                      # 111
list(plan.pieces(epoch=4))      # [(4, 0, 3531), (4, 0, 21)]: pass 4, then its first 21 again
pad(weighted, 32, 1_465).steps  # 46; the last batch has 7 examples of weight 0
"""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING

import numpy as np
import tensorflow as tf

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclasses.dataclass(frozen=True)
class Batches:
    """A finite run of full batches.

    Attributes:
      dataset: yields (x [B, …], y [B] int32, weight [B] float32), `steps` times at least.
      steps: number of batches.
      num_examples: number of examples, without padding.
    """

    dataset: tf.data.Dataset
    steps: int
    num_examples: int


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


def pad(weighted: tf.data.Dataset, batch_size: int, num_examples: int) -> Batches:
    """Pads (x, label, weight) with examples of weight 0 to whole batches of a static shape."""
    steps = math.ceil(num_examples / batch_size)
    padding = tf.nest.map_structure(
        lambda spec: tf.zeros([steps * batch_size - num_examples, *spec.shape], spec.dtype),
        weighted.element_spec,
    )
    padded = weighted.concatenate(tf.data.Dataset.from_tensor_slices(padding))
    options = tf.data.Options()
    # Several hosts each take their share of every batch, however many files there are.
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
    batches = padded.batch(batch_size, drop_remainder=True).prefetch(tf.data.AUTOTUNE)
    return Batches(batches.with_options(options), steps, num_examples)
