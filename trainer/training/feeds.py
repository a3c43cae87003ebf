"""Feeds: the whole network and batches of images, or its suffix and batches of cached features.

    feed = feeds.build(config, data, network, context)
    driver = Driver(feed.model, context.strategy)
    driver.fit(feed.training_batches, validation=feed.evaluation_batches("validation"), ...)

Both feeds use the same examples in the same order. Runs with and without the cache differ only by
the rounding of stored features.
"""

from __future__ import annotations

import abc
import functools
import time
from typing import TYPE_CHECKING, Any

import keras

from trainer.data import augment
from trainer.data.batches import stable_seed
from trainer.errors import ConfigError
from trainer.features import partition as partition_lib
from trainer.features import shard_files, store
from trainer.system import console
from trainer.training.driver import Driver
from trainer.training.host_devices import HostPredictor

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy as np

    from trainer import config as config_lib
    from trainer.data.batches import Batches
    from trainer.data.pipeline import Data
    from trainer.distribution.runtime import Context
    from trainer.models.classifier import Network


TRAINING_SPLITS = ("train", "validation")


class Feed(abc.ABC):
    """A model, and the batches for its training and evaluation.

    Attributes:
      model: the model that trains; it shares its variables with the network.
      reason: a sentence that explains why this feed was chosen.
      kind: the properties of the feed that change results; a resumed run must have the same ones.
    """

    model: keras.Model
    reason: str
    kind: str

    def prepare(self) -> None:  # noqa: B027 -- A feed of images has nothing to do.
        """Computes what training needs, so that the first epoch's time does not include it."""

    @abc.abstractmethod
    def training_batches(self, epoch: int) -> Batches:
        """Returns the batches of an epoch, from 0."""

    @abc.abstractmethod
    def evaluation_batches(self, split: str, rows: np.ndarray | None = None) -> Batches:
        """Returns batches of every example of a split once, in the split's order.

        Args:
          split: train, validation or test.
          rows: the examples to return instead, in this order, [M]; None: the whole split.
        """


class ImageFeed(Feed):
    """Trains the network, or its head alone, on images; every layer runs at every step."""

    def __init__(
        self, data: Data, network: Network, seed: int, reason: str, *, head_alone: bool = False
    ) -> None:
        # Not network.whole itself, which is saved and must not contain optimizer and metrics.
        whole = network.whole
        self.model = _HeadAlone(network) if head_alone else keras.Model(whole.inputs, whole.outputs)
        self.reason, self.kind = reason, "images"
        self._data, self._seed = data, seed

    def training_batches(self, epoch: int) -> Batches:
        """Returns batches of images [B, H, W, 1]."""
        return self._data.training_batches(epoch, self._seed)

    def evaluation_batches(self, split: str, rows: np.ndarray | None = None) -> Batches:
        """Returns batches of images [B, H, W, 1]."""
        return self._data.evaluation_batches(split, self._data.config.batch_size, rows=rows)


class FeatureFeed(Feed):
    """Runs the frozen layers once for all epochs, and trains the others on their cached outputs.

    Attributes:
      partition: the network in two parts, frozen and trained.
      cache: where the outputs of the frozen part are stored.
    """

    def __init__(
        self,
        config: config_lib.Config,
        data: Data,
        partition: partition_lib.Partition,
        context: Context,
        cache: store.Cache,
    ) -> None:
        self.model = partition.suffix
        self.reason = f"training on cached features of the layers up to {partition.cut.name}."
        views = config.features.views
        self.kind = f"features-{partition.cut.position}-{partition.dtype.name}-{views}"
        self.partition, self.cache = partition, cache
        self._config, self._data, self._context = config, data, context
        self._predictor = self.build_predictor(partition.prefix)
        self._activations = functools.cache(self._open)  # Opens a split once; ends with the feed.

    def build_predictor(self, model: keras.Model) -> Driver | HostPredictor:
        """Returns what runs frozen layers over images, on all devices of this host."""
        strategy = self._context.strategy
        if not self._context.is_multi_host:
            return Driver(model, strategy)
        # Several hosts divide the pass by sections of the cache. Each computes its own sections
        # alone: a collective operation would wait for hosts that run other sections.
        return HostPredictor(model, strategy, strategy.extended.worker_devices)

    @property
    def pass_batch_size(self) -> int:
        """Images that this host's devices take together, PASS_BATCH_SIZE each."""
        return shard_files.PASS_BATCH_SIZE * self._predictor.num_replicas

    def prepare(self) -> None:
        """Computes the missing features of the training and validation splits."""
        self._activations("train")
        self._activations("validation", augmented=False)

    def training_batches(self, epoch: int) -> Batches:
        """Returns batches of features [B, …]."""
        seed = self._config.runtime.seed
        return self._activations("train").training_batches(
            self._data.training_rows(epoch, seed),
            self._data.plan.draws(epoch),
            self._data.table("train").label,
            self._config.data.batch_size,
            view_seed=stable_seed(seed, epoch),
        )

    def evaluation_batches(self, split: str, rows: np.ndarray | None = None) -> Batches:
        """Returns batches of features [B, …] of images without augmentation."""
        labels = self._data.table(split).label
        # Training without views has them open already, and maybe in memory.
        is_open = split == "train" and self.views(split) == (None,)
        stored = self._activations(split) if is_open else self._activations(split, augmented=False)
        return stored.evaluation_batches(labels, self._config.data.batch_size, rows)

    def _open(self, split: str, *, augmented: bool = True) -> partition_lib.Activations:
        views = self.views(split) if augmented else (None,)
        stored = tuple(self._load_or_compute(split, view) for view in views)
        return partition_lib.Activations(
            stored, self._data.num_examples(split), self.partition.dtype
        )

    def _load_or_compute(self, split: str, view: int | None) -> tuple[np.ndarray, ...]:
        key = self.key(split, view)
        shards, label = self.shards(split), self.label(split, view)
        start, computed = time.monotonic(), 0
        with console.bar(self.cache.count_missing(key, shards), label, "img") as bar:

            def compute(first: int, last: int) -> Iterator[np.ndarray]:
                nonlocal computed
                if not computed:
                    console.say(f"{label}: computing ...")
                for block in self.run_prefix(split, view, first, last):
                    computed += len(block)
                    bar.update(len(block))
                    yield block  # Code after it would not run for the last block.

            arrays = self.cache.load_or_compute(key, shards, compute)
        elapsed_s = time.monotonic() - start
        cached = shards.num_examples - computed
        rate = f", {computed / elapsed_s:.1f} img/s" if computed else ""
        console.say(f"{label}: {cached:,} cached, {computed:,} computed in {elapsed_s:.1f} s{rate}")
        return arrays

    def run_prefix(
        self, split: str, view: int | None, start: int, stop: int
    ) -> Iterator[np.ndarray]:
        """Yields the frozen layers' outputs for rows of a split, in blocks [n, …]."""
        for block in self.blocks(self._predictor, split, view, start, stop):
            yield partition_lib.to_stored(block, self.partition.dtype)

    def blocks(
        self, predictor: Driver | HostPredictor, split: str, view: int | None, start: int, stop: int
    ) -> Iterator[Any]:
        """Yields a predictor's outputs for images of a split, as `Driver.predict_blocks` does."""
        images = self._data.evaluation_batches(
            split, self.pass_batch_size, start=start, stop=stop, view=view
        )
        yield from predictor.predict_blocks(images)

    def label(self, split: str, view: int | None) -> str:
        """Returns the name of a view of a split in progress messages."""
        return f"features of {split}" + (f", view {view + 1}" if view is not None else "")

    def missing_examples(self, split: str) -> int:
        """Returns the number of examples without features, summed over the views of a split."""
        shards = self.shards(split)
        return sum(
            self.cache.count_missing(self.key(split, view), shards) for view in self.views(split)
        )

    def num_bytes(self, split: str) -> int:
        """Returns the disk space in bytes that the features of all views of a split take."""
        return self.shards(split).num_bytes * len(self.views(split))

    def fill_other(self, cache: store.Cache, num_examples: int) -> None:
        """Computes features of the first training images into another cache, for timing."""
        compute = functools.partial(self.run_prefix, "train", None)
        shards = self.partition.shards(num_examples)
        cache.load_or_compute(self.key("train", None), shards, compute)

    def shards(self, split: str) -> shard_files.Shards:
        """Returns how a view of a split is stored."""
        return self.partition.shards(self._data.num_examples(split))

    def key(self, split: str, view: int | None) -> shard_files.Key:
        """Returns the cache key of a view of a split."""
        drawn = augment.STRENGTHS[self._config.data.augmentation] if view is not None else None
        return shard_files.Key(
            data_fingerprint=self._data.fingerprint,
            split=split,
            backbone=self._config.model.backbone,
            weights_hash=self._weights_hash,
            image_shape=self._data.image_shape,
            backbone_image_shape=tuple(self.partition.prefix.layers[-1].input.shape[1:]),
            cut_at=self.partition.cut.position,
            row_shape=tuple(self.partition.suffix.input.shape[1:]),
            precision=keras.mixed_precision.dtype_policy().name,
            device=self._context.device,
            dtype=self.partition.dtype.name,
            augmentation=drawn,
            view=view,
        )

    def views(self, split: str) -> tuple[int | None, ...]:
        """Returns the views of a split that training reads; None: images without augmentation."""
        count = self._config.features.views
        return tuple(range(count)) if count and split == "train" else (None,)

    @functools.cached_property
    def _weights_hash(self) -> str:
        return partition_lib.weights_hash(self.partition.prefix.weights)


def compute_together(feeds: Sequence[FeatureFeed], network: Network, split: str) -> None:
    """Computes the features that several feeds need of a split in one pass over its images.

    Args:
      feeds: feeds whose options differ only in `layers_to_unfreeze`: cuts of one network.
      network: a network with the weights that all feeds share.
      split: train or validation.
    """
    first = feeds[0]
    joint = partition_lib.joint_prefix(network, [feed.partition.cut.position for feed in feeds])
    predictor = first.build_predictor(joint)
    for view in first.views(split):
        wanted = {feed.key(split, view): feed.shards(split) for feed in feeds}
        missing = max(first.cache.count_missing(key, cut) for key, cut in wanted.items())
        with console.bar(missing, first.label(split, view), "img") as bar:

            def compute(start: int, stop: int, view: int | None = view) -> Iterator[Any]:
                for blocks in first.blocks(predictor, split, view, start, stop):
                    bar.update(len(blocks[0]))
                    yield [
                        partition_lib.to_stored(block, feed.partition.dtype)
                        for block, feed in zip(blocks, feeds, strict=True)
                    ]

            first.cache.fill(wanted, compute)


def build(config: config_lib.Config, data: Data, network: Network, context: Context) -> Feed:
    """Builds the feed of cached features if possible, else the one of images.

    Call it inside the strategy's scope.

    Raises:
      ConfigError: when the config asks for views and features can't be cached.
    """
    partition = partition_lib.cut(network)
    obstacle = _obstacle_to_caching(config, data, partition)
    if partition is None or obstacle:
        if config.features.views:
            raise ConfigError(
                f"views ({config.features.views}) needs cached features, and this run trains on "
                f"images: {obstacle}."
            )
        reason = f"training on images, not on cached features: {obstacle}."
        return ImageFeed(data, network, config.runtime.seed, reason)
    return FeatureFeed(config, data, partition, context, _cache(config, context))


def build_for_head(
    config: config_lib.Config, data: Data, network: Network, context: Context
) -> Feed:
    """Builds the feed with which the head trains alone, likewise on cached features if possible."""
    partition = partition_lib.cut_below_head(network)
    obstacle = _obstacle_to_caching(config, data, partition)
    if obstacle:
        return ImageFeed(data, network, config.runtime.seed, obstacle, head_alone=True)
    return FeatureFeed(config, data, partition, context, _cache(config, context))


class _HeadAlone(keras.Model):
    """The whole network, of which only the head trains, whatever the trunk's layers say."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self._network = network

    def call(self, x: Any, training: bool | None = None) -> Any:  # noqa: FBT001 -- Keras's.
        return self._network.whole(x, training=training)

    @property
    def trainable_variables(self) -> list[Any]:
        return self._network.head.trainable_variables

    trainable_weights = trainable_variables


def _cache(config: config_lib.Config, context: Context) -> store.Cache:
    return store.Cache(
        config.cache_root,
        config.features.cache_budget_gb * 2**30,
        worker_index=context.worker_index,
        num_workers=context.num_workers,
        remote=store.remote(config.features.cache_dir),
    )


def _obstacle_to_caching(
    config: config_lib.Config,
    data: Data,
    partition: partition_lib.Partition | None,
) -> str:
    """Returns why the run can't train on cached features; empty if it can."""
    views = config.features.views
    if config.features.feature_cache == "off":
        return "--feature_cache=off"
    if partition is None:
        return "no layer below the first trainable one is frozen"
    if config.data.augmentation != "none" and not views:
        return "augmentation changes images in every epoch (--views=V would cache V views)"
    # Checked before the run, because the cache never removes what a running process uses.
    rows = data.num_examples("train") * (views or 1)
    rows += data.num_examples("validation") + data.num_examples("test")
    num_bytes = partition.shards(rows).num_bytes
    if num_bytes > config.features.cache_budget_gb * 2**30:
        return (
            f"features of the layers up to {partition.cut.name} take {num_bytes / 2**30:.1f} GiB, "
            "more than "
            f"--cache_budget_gb={config.features.cache_budget_gb:g}"
        )
    return ""
