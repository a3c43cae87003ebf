"""Estimates the time and disk space of a plan from a few timed steps of each cut.

costs = estimate.measure(workspace, features.configs_for(base, space, "val_auc"))
costs.seconds(plan, workers=2), costs.cache_bytes
"""

from __future__ import annotations

import dataclasses
import math
import statistics
import time
from typing import TYPE_CHECKING, Any

import tensorflow as tf

from trainer.data import batches
from trainer.system import console, text
from trainer.training import feeds
from trainer.training.driver import Driver

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trainer.config import Config
    from tuner.plan import Plan
    from tuner.trials import tasks

STEPS = 8
"""Steps that are timed, after an epoch that traces them."""
SAVING_S = 0.1
"""Allowance for the checkpoint at the end of an epoch."""


@dataclasses.dataclass(frozen=True)
class Cost:
    """The cost of trials with the same cut.

    Attributes:
      setup_s: time of a trial before its first epoch: building, tracing, opening the features.
      epoch_s: time of an epoch, with validation.
      cache_bytes: disk space of the features.
      checkpoint_bytes: disk space of a configuration's checkpoints.
    """

    setup_s: float
    epoch_s: float
    cache_bytes: int
    checkpoint_bytes: int


@dataclasses.dataclass(frozen=True)
class Costs:
    """The cost of a search: the pass over the images, and the trials of each cut.

    Attributes:
      pass_s: time to compute the features that are not cached yet, for all cuts together.
      cuts: the cost of trials with each cut.
    """

    pass_s: float
    cuts: tuple[Cost, ...]

    def seconds(self, plan: Plan, workers: int = 1) -> float:
        """Returns the time that a plan takes on this machine."""
        setup_s = statistics.mean(cut.setup_s for cut in self.cuts)
        epoch_s = statistics.mean(cut.epoch_s for cut in self.cuts)
        # Building a model is single-threaded and scales with workers. Training is not: it uses all
        # CPUs already, and more workers only divide them.
        return self.pass_s + plan.num_trials * setup_s / workers + plan.num_epochs * epoch_s

    def num_bytes(self, plan: Plan) -> int:
        """Returns the disk space of the features and all checkpoints."""
        checkpoint = max(cut.checkpoint_bytes for cut in self.cuts)
        return sum(c.cache_bytes for c in self.cuts) + checkpoint * plan.num_configurations

    def to_text(self, plan: Plan, workers: int = 1) -> str:
        """Returns what `--dry_run` prints."""
        return "\n".join(
            [
                plan.to_text(),
                (
                    f"{text.counted(plan.num_trials, 'trial')} of "
                    f"{text.counted(plan.num_configurations, 'configuration')}, "
                    f"{text.counted(plan.num_epochs, 'epoch')} in total"
                ),
                (
                    f"estimated time: {_duration(self.seconds(plan, workers))}, "
                    f"{_duration(self.pass_s)} of it to compute features"
                ),
                (
                    f"estimated disk space: {self.num_bytes(plan) / 2**30:.2f} GiB, "
                    f"{sum(c.cache_bytes for c in self.cuts) / 2**30:.2f} GiB of it for features"
                ),
            ]
        )


def measure(workspace: tasks.Workspace, configs: Sequence[Config]) -> Costs:
    """Builds a configuration of each cut and times a few steps of it, on zeros.

    Raises:
      ConfigError: when the backbone has no such cut.
    """
    with console.muted():
        measured = [_measure(workspace, config) for config in configs]
    pass_s = max(
        seconds for _, seconds in measured
    )  # Cuts share one pass, which ends at the highest of them.
    return Costs(pass_s, tuple(cost for cost, _ in measured))


def _measure(workspace: tasks.Workspace, config: Config) -> tuple[Cost, float]:
    """Returns (cost of a configuration's trials, seconds of its pass over the images).

    An epoch of the head alone costs less than is counted here.
    """
    start = time.monotonic()
    setup = workspace.build(config)
    feed, size = setup.feed, config.data.batch_size
    driver = Driver(feed.model, workspace.context.strategy)
    (image_or_features,) = feed.model.inputs  # A model built from a list has a list as `input`.
    zeros = _zeros(image_or_features.shape[1:], image_or_features.dtype, size)
    driver.fit(lambda _: zeros, validation=zeros, epochs=1)  # Traces.
    setup_s = time.monotonic() - start
    start = time.monotonic()
    driver.fit(lambda _: zeros, validation=_first_batch(zeros), epochs=1)
    step_s = (time.monotonic() - start) / STEPS
    start = time.monotonic()
    driver.evaluate(zeros)
    evaluate_step_s = (time.monotonic() - start) / STEPS
    data = workspace.data(config)
    validation_steps = math.ceil(data.num_examples("validation") / size)
    epoch_s = setup.steps_per_epoch * step_s + validation_steps * evaluate_step_s + SAVING_S
    passes = [_pass_cost(own) for own in (feed, setup.head) if own is not None]
    pass_s, cache_bytes = max(s for s, _ in passes), sum(size for _, size in passes)
    shapes = (tf.TensorShape(variable.shape).as_list() for variable in setup.variables)
    checkpoint_bytes = sum(4 * math.prod(shape) for shape in shapes)
    return Cost(setup_s, epoch_s, cache_bytes, 2 * checkpoint_bytes), pass_s


def _pass_cost(feed: feeds.Feed) -> tuple[float, int]:
    """Returns (seconds to compute the missing features, bytes of all features)."""
    if not isinstance(feed, feeds.FeatureFeed):
        return 0.0, 0
    missing = sum(feed.missing_examples(split) for split in feeds.TRAINING_SPLITS)
    num_bytes = sum(feed.num_bytes(split) for split in feeds.TRAINING_SPLITS)
    if not missing:
        return 0.0, num_bytes
    batch = min(feed.pass_batch_size, feed.shards("train").num_examples)
    list(feed.run_prefix("train", None, 0, batch))  # Traces.
    start = time.monotonic()
    list(feed.run_prefix("train", None, 0, batch))
    return missing * (time.monotonic() - start) / batch, num_bytes


def _zeros(shape: Any, dtype: str, batch_size: int) -> batches.Batches:
    """Returns STEPS batches of zeros in a model's input shape."""
    example = (tf.zeros(shape, dtype), tf.zeros((), tf.int32), tf.ones(()))
    rows = tf.data.Dataset.from_tensors(example).repeat(STEPS * batch_size)
    return batches.pad(rows, batch_size, STEPS * batch_size)


def _first_batch(of: batches.Batches) -> batches.Batches:
    return dataclasses.replace(of, steps=1, num_examples=of.num_examples // of.steps)


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min" if minutes else f"{math.ceil(seconds)} s"
