"""Times the stages of a run one by one in this process: reading, decoding, prefix, training.

rates = stages.measure(config, data, context, folder)
rates.pass_per_s / rates.forward_per_s      # the share of the bare forward pass's speed
"""

from __future__ import annotations

if __name__ == "__main__":  # Said before TensorFlow is imported.
    raise SystemExit("this module is no command; give: python -m trainer --mode=benchmark")

import dataclasses
import functools
import math
import statistics
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf

from trainer.errors import ConfigError
from trainer.features import shard_files, store
from trainer.models import classifier, session
from trainer.system import console
from trainer.training import feeds, optimization
from trainer.training.driver import Driver

if TYPE_CHECKING:
    import pathlib
    from collections.abc import Callable, Mapping

    from trainer.config import Config
    from trainer.data import pipeline
    from trainer.data.batches import Batches
    from trainer.distribution import runtime

ROUNDS = 7
"""Rounds of what is compared. Of three, one disturbed by the machine moved the median by 5 %."""
ROUND_S = 10.0
"""Length of a round of the prefix, so long that the start of its input pipeline is negligible."""
FEED_S = 1.0
"""Least length of a round of the cached feed, which reads an epoch as often as that takes."""
GATHERED_BYTES = 128 << 20
"""Features that the bare gather reads from, where an epoch has more."""
UNCACHED_STEPS = 8


@dataclasses.dataclass(frozen=True)
class Stages:
    """Rates of the stages of a run.

    Attributes:
      records_per_s: examples read from TFRecords, not decoded.
      decoded_per_s: examples read and decoded.
      input_wait: share of the time that training on images waits for input, in [0, 1].
      forward_per_s: images through the frozen prefix, without input pipeline and cache.
      pass_per_s: images through the pass that fills the cache.
      gathered_per_s: rows gathered from memory, a batch at a time, without the feed.
      fed_per_s: rows that the cached feed delivers.
      suffix_steps_per_s: training steps on cached features.
    """

    records_per_s: float
    decoded_per_s: float
    input_wait: float
    forward_per_s: float
    pass_per_s: float
    gathered_per_s: float
    fed_per_s: float
    suffix_steps_per_s: float


def measure(
    config: Config, data: pipeline.Data, context: runtime.Context, folder: pathlib.Path
) -> Stages:
    """Times the stages in this process; features come from the cache that `race` filled."""
    console.say("the stages, one by one ...")
    cached, uncached = build_feeds(config, data, context)
    decoded = data.evaluation_batches("train", data.config.batch_size)
    forward_per_s, pass_per_s = _time_prefix(cached, data, folder / "stages")
    cached.prepare()
    gathered_per_s, fed_per_s = time_feed(lambda: cached.training_batches(0))
    return Stages(
        records_per_s=_rate_of(data.read("train").batch(256), data.num_examples("train")),
        decoded_per_s=_rate_of(decoded.dataset, decoded.num_examples),
        input_wait=_second_epoch(uncached, context, UNCACHED_STEPS)["input_wait"],
        forward_per_s=forward_per_s,
        pass_per_s=pass_per_s,
        gathered_per_s=gathered_per_s,
        fed_per_s=fed_per_s,
        suffix_steps_per_s=_second_epoch(cached, context, data.plan.steps)["examples_per_s"]
        / config.data.batch_size,
    )


def build_feeds(
    config: Config, data: pipeline.Data, context: runtime.Context
) -> tuple[feeds.FeatureFeed, feeds.ImageFeed]:
    """Returns a feed of cached features, and a feed of images.

    Raises:
      ConfigError: when nothing can be cached.
    """
    # With the same seed, random weights are equal each time: the cache is keyed by them.
    session.begin(config.runtime.precision, config.runtime.seed)
    with context.strategy.scope():
        network = classifier.build(config.model, data.image_shape, len(data.class_names))
        cached = feeds.build(config, data, network, context)
        if not isinstance(cached, feeds.FeatureFeed):
            raise ConfigError(f"--mode=benchmark needs features to cache; {cached.reason}")
        uncached = feeds.ImageFeed(data, network, config.runtime.seed, "")
        for feed in (cached, uncached):
            optimization.compile_model(
                feed.model, config.optimization, data.class_counts(), data.plan.steps
            )
    return cached, uncached


def _time_prefix(
    feed: feeds.FeatureFeed, data: pipeline.Data, folder: pathlib.Path
) -> tuple[float, float]:
    """Returns images per second of the bare forward pass and of the pass that fills a cache.

    The two alternate, so that a change in the machine's speed affects both.
    """
    size = shard_files.PASS_BATCH_SIZE
    forward = tf.function(lambda images: feed.partition.prefix(images, training=False))
    images = tf.constant(next(iter(data.evaluation_batches("train", size).dataset))[0])
    forward(images)  # The first call traces: keep that out of the measurement.
    batch_s = _seconds(lambda: forward(images).numpy())
    steps = int(np.clip(ROUND_S / batch_s, 1, data.num_examples("train") // size))
    list(feed.run_prefix("train", None, 0, size))  # Traces as well.
    bare_s, pass_s = [], []
    for turn in range(ROUNDS):
        cache = store.Cache(folder / str(turn), math.inf)
        fill = functools.partial(feed.fill_other, cache, steps * size)
        bare_s.append(_seconds(lambda: [forward(images).numpy() for _ in range(steps)]))
        pass_s.append(_seconds(fill))
    count = steps * size
    return count / statistics.median(bare_s), count / statistics.median(pass_s)


def time_feed(batches_of_epoch: Callable[[], Batches]) -> tuple[float, float]:
    """Returns rows per second of a gather from memory, and of the feed that delivers such rows.

    Both copy as many rows, batch by batch. What the feed does besides is its input pipeline, which
    is built anew for each epoch. The two alternate.

    Args:
      batches_of_epoch: returns the batches of an epoch; of each, the features are the first part.
    """
    batches = batches_of_epoch()
    size = batches.num_examples // batches.steps
    # A part of an epoch of large features: all of them may not fit into memory.
    taken = [x for x, *_ in batches.dataset.take(GATHERED_BYTES // _batch_bytes(batches) + 1)]
    stored = tf.concat(taken, 0)
    gather = tf.function(lambda rows: tf.gather(stored, rows))
    order = np.random.default_rng(0).integers(len(stored), size=(batches.steps, size))
    rows_of_batch = [tf.constant(rows) for rows in order]

    def read_gathered() -> None:
        for rows in rows_of_batch:
            gather(rows)

    def read_fed() -> None:
        for _ in batches_of_epoch().dataset:
            pass

    works = (read_gathered, read_fed)
    for work in works:
        work()  # Traces.
    times = np.array([[_mean_seconds(work, FEED_S) for work in works] for _ in range(ROUNDS)])
    gathered_s, fed_s = np.median(times, axis=0)
    return batches.num_examples / gathered_s, batches.num_examples / fed_s


def _batch_bytes(batches: Batches) -> int:
    features = batches.dataset.element_spec[0]
    return math.prod(features.shape) * features.dtype.size


def _second_epoch(feed: feeds.Feed, context: runtime.Context, steps: int) -> Mapping[str, float]:
    """Trains two epochs of at most `steps` steps; returns the logs of the second."""

    def first(batches: Any, steps: int) -> Any:
        steps = min(steps, batches.steps)
        size = batches.num_examples * steps // batches.steps
        return dataclasses.replace(batches, steps=steps, num_examples=size)

    history = Driver(
        feed.model, context.strategy, steps_per_execution=context.steps_per_execution
    ).fit(
        lambda epoch: first(feed.training_batches(epoch), steps),
        validation=first(feed.evaluation_batches("validation"), 1),
        epochs=2,
    )
    return {name: values[-1] for name, values in history.items()}


def _rate_of(dataset: tf.data.Dataset, count: int) -> float:
    """Iterates a data set of `count` examples to its end; returns examples per second."""
    return count / _seconds(lambda: [None for _ in dataset])


def _mean_seconds(work: Callable[[], Any], least_s: float) -> float:
    """Repeats `work` for at least so many seconds; returns the mean of its times."""
    count, start = 0, time.perf_counter()
    while not count or time.perf_counter() - start < least_s:
        work()
        count += 1
    return (time.perf_counter() - start) / count


def _seconds(work: Callable[[], Any]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start
