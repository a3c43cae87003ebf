"""Builds what a run trains: the network, its feeds, and the compiled models.

setup = setups.build(config, data, context)
setup.network, setup.feed, setup.notes
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from trainer.errors import ConfigError, RunError
from trainer.features import partition
from trainer.models import classifier, footprint, inference_mode, session
from trainer.system import text
from trainer.training import feeds, optimization

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trainer.config import Config
    from trainer.data.pipeline import Data
    from trainer.distribution.runtime import Context


@dataclasses.dataclass(frozen=True)
class TrainingSetup:
    """Everything that training needs, built from a config and its data.

    Attributes:
      network: the whole model and its parts.
      feed: the model that trains, and its batches.
      head: the same for the first epochs, in which the head trains alone; None: there are none.
      head_epochs: number of these epochs.
      variables: the variables that a training step changes.
      fingerprint: identifies what a checkpoint leaves out: hashes of the frozen weights and the
        data, and whether training uses images or the features of a certain layer.
      steps_per_epoch: number of batches in an epoch.
      notes: a sentence for each split that lacks a class, and for a batch larger than the split.
    """

    network: classifier.Network
    feed: feeds.Feed
    head: feeds.Feed | None
    head_epochs: int
    variables: Sequence[Any]
    fingerprint: str
    steps_per_epoch: int
    notes: tuple[str, ...] = ()


def build(
    config: Config, data: Data, context: Context, *, weights: str | None = None
) -> TrainingSetup:
    """Builds and compiles the network, in a Keras session of its own.

    Args:
      config: the run's config, with a precision that is not `auto`.
      data: the data set to train on.
      context: devices and strategy.
      weights: initial weights in place of the config's, whose file is gone; None: the config's.

    Raises:
      ConfigError: when an option does not fit the backbone or the data.
      RunError: when weights can't be loaded or don't fit, or a class has no training example.
    """
    notes = _notes_of_classes(data, config.optimization.monitor) + _notes_of_batches(data)
    session.begin(config.runtime.precision, config.runtime.seed)
    with context.strategy.scope():
        model = dataclasses.replace(config.model, weights=weights or config.model.weights)
        network = classifier.build(model, data.image_shape, len(data.class_names))
        feed = feeds.build(config, data, network, context)
        _require_memory(feed, config, context)
        steps = data.plan.steps
        variables = optimization.compile_model(
            feed.model,
            config.optimization,
            data.class_counts(),
            steps,
            backbone=None if config.model.is_untrained else network.trunk,
        )
        head = _build_head(config, data, network, context)
        if head is not None:
            _require_memory_of_pass(head, config, context)
            num_classes = len(data.class_names)
            variables += optimization.compile_head(head.model, feed.model, num_classes)
    frozen = partition.weights_hash(inference_mode.frozen_weights(network.whole))
    kinds = feed.kind if head is None else f"{feed.kind}-head-{head.kind}"
    fingerprint = f"{frozen}-{data.fingerprint}-{kinds}"
    notes += _notes_of_phases(config, network, head)
    alone = config.optimization.head_epochs if head else 0
    return TrainingSetup(network, feed, head, alone, variables, fingerprint, steps, notes)


def _build_head(
    config: Config, data: Data, network: classifier.Network, context: Context
) -> feeds.Feed | None:
    """Returns the feed of the epochs in which the head trains alone; None: there are none.

    A new head has random weights: its first gradients would undo what the backbone has learnt. And
    it learns from pooled features, which cost next to nothing once they are cached.
    """
    if not config.optimization.head_epochs or not _fine_tunes(config, network):
        return None
    return feeds.build_for_head(config, data, network, context)


def _fine_tunes(config: Config, network: classifier.Network) -> bool:
    """Whether layers of the backbone train that have been trained before."""
    return bool(network.trunk.trainable_variables) and not config.model.is_untrained


def _notes_of_phases(
    config: Config, network: classifier.Network, head: feeds.Feed | None
) -> tuple[str, ...]:
    """Says when the unfrozen layers train, and at which rate."""
    if not _fine_tunes(config, network):
        return ()
    rules = config.optimization
    rates = f"at learning rate {rules.backbone_rate:g} (the head: {rules.learning_rate:g})"
    if head is None:
        return (f"the unfrozen layers train {rates}.",)
    count = rules.head_epochs
    if count >= rules.max_epochs:
        note = (
            f"max_epochs ({rules.max_epochs}) ends before the unfrozen layers join: the head "
            f"trains alone for {text.counted(count, 'epoch')}; give a larger --max_epochs, or "
            "--head_epochs=0."
        )
        return (note,)
    first = "epoch 1 trains" if count == 1 else f"epochs 1 to {count} train"
    return (f"{first} the head alone; then the unfrozen layers train too, {rates}.",)


def _require_memory(feed: feeds.Feed, config: Config, context: Context) -> None:
    if context.device != "CPU":
        return
    size = config.data.batch_size // context.num_workers
    footprint.require_batch(feed.model, "batch_size", size, step=context.num_replicas)
    _require_memory_of_pass(feed, config, context)


def _require_memory_of_pass(feed: feeds.Feed, config: Config, context: Context) -> None:
    """Features are computed in batches of a fixed size, whatever batch_size says."""
    if context.device == "CPU" and isinstance(feed, feeds.FeatureFeed):
        side = config.model.backbone_image_size
        footprint.require_batch(
            feed.partition.prefix,
            f"image_size ({side}), computing features in batches",
            feed.pass_batch_size,
            is_trained=False,
            avoids="--feature_cache=off",
        )


def _notes_of_batches(data: Data) -> tuple[str, ...]:
    plan = data.plan
    if plan.batch_size <= plan.num_examples:
        return ()
    note = (
        f"batch_size ({plan.batch_size}) exceeds the {plan.num_examples:,} training examples, so "
        f"each step repeats some; a batch_size of at most {plan.num_examples} has each once."
    )
    return (note,)


def _notes_of_classes(data: Data, monitor: str) -> tuple[str, ...]:
    """Says which splits lack a class; raises an error where training then makes no sense."""
    notes = []
    for split in ("train", "validation"):
        counts = data.class_counts(split)
        lacking = [name for name, count in zip(data.class_names, counts, strict=True) if not count]
        if not lacking:
            continue
        fact = f"the {split} split has no example of {', '.join(lacking)}"
        if split == "train":
            raise RunError(f"{fact}, so nothing can be learnt; build the data set with both.")
        if monitor == "val_auc":
            raise ConfigError(
                f"monitor (val_auc) is undefined: {fact}; give --monitor=val_loss, or build the "
                "data set with both."
            )
        notes.append(f"{fact}: its AUC is undefined. The best epoch is that of {monitor}.")
    return tuple(notes)
