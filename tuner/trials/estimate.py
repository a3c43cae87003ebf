"""What a plan will cost, from steps that are measured before anything is searched.

costs = estimate.measure(workspace, cuts.configs_for(base, space, "val_auc"))
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
from trainer.features import entries
from trainer.system import console
from trainer.training import feeds
from trainer.training.driver import Driver

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trainer.config import Config
    from tuner.plan import Plan
    from tuner.trials import tasks

STEPS = 8
"""That are timed after the first, which traces."""
SAVING_S = 0.1
"""For the checkpoint at the end of an epoch."""


@dataclasses.dataclass(frozen=True)
class Cost:
    """What the trials of one cut cost.

    Attributes:
      setup_s: of a trial: to build, trace and open the features.
      epoch_s: of an epoch, with validation.
      cache_bytes: features on disk.
      checkpoint_bytes: of a configuration.
    """

    setup_s: float
    epoch_s: float
    cache_bytes: int
    checkpoint_bytes: int


@dataclasses.dataclass(frozen=True)
class Costs:
    """What a search costs: the pass over the images, and the trials of each cut.

    Attributes:
      pass_s: to compute the features that no cache has yet, for all cuts together.
      cuts: a cost for each.
    """

    pass_s: float
    cuts: tuple[Cost, ...]

    def seconds(self, plan: Plan, workers: int = 1) -> float:
        """Returns how long a plan takes; a worker has its share of the machine, no more of it."""
        setup_s = statistics.mean(cut.setup_s for cut in self.cuts)
        epoch_s = statistics.mean(cut.epoch_s for cut in self.cuts)
        # Building uses one thread, training all that there are.
        return self.pass_s + plan.num_trials * setup_s / workers + plan.num_epochs * epoch_s

    def num_bytes(self, plan: Plan) -> int:
        """Returns the disk space that the features and all checkpoints take."""
        checkpoint = max(cut.checkpoint_bytes for cut in self.cuts)
        return sum(c.cache_bytes for c in self.cuts) + checkpoint * plan.num_configurations

    def to_text(self, plan: Plan, workers: int = 1) -> str:
        """Returns what `--dry_run` prints."""
        return "\n".join(
            [
                plan.to_text(),
                (
                    f"{plan.num_trials} trials of {plan.num_configurations} configurations, "
                    f"{plan.num_epochs} epochs"
                ),
                (
                    f"about {_duration(self.seconds(plan, workers))}, of which "
                    f"{_duration(self.pass_s)} to compute features"
                ),
                (
                    f"about {self.num_bytes(plan) / 2**30:.2f} GiB on disk, of which "
                    f"{sum(c.cache_bytes for c in self.cuts) / 2**30:.2f} GiB features"
                ),
            ]
        )


def measure(workspace: tasks.Workspace, configs: Sequence[Config]) -> Costs:
    """Builds a configuration of each cut and times a few steps of it, on made-up features.

    Raises:
      ConfigError: when a cut is impossible.
    """
    with console.muted():
        measured = [_measure(workspace, config) for config in configs]
    pass_s = max(seconds for _, seconds in measured)  # Cuts share one pass; the highest decides.
    return Costs(pass_s, tuple(cost for cost, _ in measured))


def _measure(workspace: tasks.Workspace, config: Config) -> tuple[Cost, float]:
    """Returns the cost of a configuration's trials, and the seconds of its pass."""
    start = time.monotonic()
    setup = workspace.build(config)
    feed, size = setup.feed, config.data.batch_size
    driver = Driver(feed.model, workspace.context.strategy)
    few = _few(feed.model.input.shape[1:], feed.model.input.dtype, size)
    driver.fit(lambda _: few, validation=few, epochs=1)  # Traces.
    setup_s = time.monotonic() - start
    start = time.monotonic()
    driver.fit(lambda _: few, validation=_one(few), epochs=1)
    step_s = (time.monotonic() - start) / STEPS
    start = time.monotonic()
    driver.evaluate(few)
    judge_s = (time.monotonic() - start) / STEPS
    data = workspace.data(config)
    validation_steps = math.ceil(data.num_examples("validation") / size)
    epoch_s = setup.steps_per_epoch * step_s + validation_steps * judge_s + SAVING_S
    pass_s, cache_bytes = _pass_of(feed)
    shapes = (tf.TensorShape(variable.shape).as_list() for variable in setup.variables)
    checkpoint_bytes = sum(4 * math.prod(shape) for shape in shapes)
    return Cost(setup_s, epoch_s, cache_bytes, 2 * checkpoint_bytes), pass_s


def _pass_of(feed: feeds.Feed) -> tuple[float, int]:
    """Returns the seconds that the missing features take, and the bytes that all take."""
    if not isinstance(feed, feeds.FeatureFeed):
        return 0.0, 0
    missing = sum(feed.missing_examples(split) for split in feeds.TRAINING_SPLITS)
    num_bytes = sum(feed.num_bytes(split) for split in feeds.TRAINING_SPLITS)
    if not missing:
        return 0.0, num_bytes
    batch = entries.PASS_BATCH_SIZE
    list(feed.run_prefix("train", None, 0, batch))  # Traces.
    start = time.monotonic()
    list(feed.run_prefix("train", None, 0, batch))
    return missing * (time.monotonic() - start) / batch, num_bytes


def _few(shape: Any, dtype: str, batch_size: int) -> batches.Batches:
    """Makes batches of zeros, of the shape that a model takes."""
    example = (tf.zeros(shape, dtype), tf.zeros((), tf.int32), tf.ones(()))
    rows = tf.data.Dataset.from_tensors(example).repeat(STEPS * batch_size)
    return batches.pad(rows, batch_size, STEPS * batch_size)


def _one(few: batches.Batches) -> batches.Batches:
    return dataclasses.replace(few, steps=1, num_examples=few.num_examples // few.steps)


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min" if minutes else f"{max(1, round(seconds))} s"
