"""Training that outlives its process: from the newest checkpoint on, and through divergences.

    trainee = fitting.build(config, data, context)
    driver = fitting.fit(config, context, trainee, directory)

Started again after any end, it goes on where the last checkpoint was written, and ends as if
nothing had been. A loss that is no longer a number sends it back to that checkpoint, with half the
learning rate.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from typing import TYPE_CHECKING, Any

import tensorflow as tf

from trainer.distribution import peers
from trainer.errors import DivergedError, RunError, Stopped
from trainer.features import partition
from trainer.models import classifier
from trainer.system import console, signals
from trainer.training import callbacks, checkpoint, feeds, optimization
from trainer.training.driver import Driver, Position

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trainer.config import Config
    from trainer.data.pipeline import Data
    from trainer.distribution.runtime import Context
    from trainer.runs.run_directory import RunDirectory


@dataclasses.dataclass(frozen=True)
class Trainee:
    """All that training works on, made from a config and its data.

    Attributes:
      network: the whole model and its parts.
      feed: what of it trains, and on what.
      state: the variables that a step changes.
      belongs_to: all that a checkpoint leaves out: hashes of frozen weights and data, and whether
        features of which layer are trained on.
      steps_per_epoch: of the data's plan.
    """

    network: classifier.Network
    feed: feeds.Feed
    state: Sequence[Any]
    belongs_to: str
    steps_per_epoch: int


def build(config: Config, data: Data, context: Context) -> Trainee:
    """Builds and compiles the network; right after `precision.settle`, which seeds.

    Raises:
      ConfigError: when an option fits neither the backbone nor the data.
      RunError: when weights can't be had or don't fit.
    """
    with context.strategy.scope():
        network = classifier.build(config.model, data.image_shape, len(data.class_names))
        feed = feeds.build(config, data, network, context)
        steps = data.plan.steps
        state = optimization.compile_model(
            feed.model, config.optimization, data.class_counts(), steps
        )
    frozen = partition.weights_hash(network.whole.non_trainable_weights)
    return Trainee(network, feed, state, f"{frozen}-{data.fingerprint}-{feed.kind}", steps)


def fit(
    config: Config,
    context: Context,
    trainee: Trainee,
    directory: RunDirectory,
    *,
    until: int | None = None,
    is_quiet: bool = False,
) -> Driver:
    """Trains to the end, and leaves the weights of the best epoch in the network.

    Args:
      config: of the run.
      context: where it computes.
      trainee: what trains.
      directory: where checkpoints and records go.
      until: so many epochs instead of `max_epochs`; called again with more, it goes on from there.
      is_quiet: whether nothing is said while all goes well.

    Returns:
      The driver, for what is left to do with the model.

    Raises:
      ConfigError: when the checkpoints are of other frozen weights.
      RunError: when no checkpoint is sound, or the loss diverges more than `max_recoveries` times.
      Stopped: when somebody asked for it; everything is saved.
    """
    feed, rules = trainee.feed, config.optimization
    feed.prepare()
    epochs = rules.max_epochs if until is None else until
    driver = Driver(feed.model, context.strategy, steps_per_call=context.steps_per_call)
    stopping = callbacks.EarlyStopping(feed.model, monitor=rules.monitor, patience=rules.patience)
    checkpoints = checkpoint.Checkpoints(
        directory.checkpoints,
        [*trainee.state, *stopping.variables],
        trainee.belongs_to,
        keep=config.checkpoints.keep_checkpoints,
        num_replicas=context.num_replicas,
    )
    progress = None if is_quiet else callbacks.Progress(epochs, trainee.steps_per_epoch)
    hooks = callbacks.build(directory, stopping, progress)
    saving = callbacks.Checkpointing(
        checkpoints,
        feed.model.trainable_variables,
        hooks,
        config.checkpoints,
        any_host=context.any_host,
        on_saved=lambda manifest: directory.sync(then=[manifest]),
    )
    found = saving.restore()
    _require_agreement(config, context, trainee, found)
    start = found or saving.save_first()
    if start != Position() and not is_quiet:
        console.say(f"going on after {start.epoch} epochs and {start.step} steps.")
    while True:
        try:
            with signals.deferred(context.any_host):
                driver.fit(
                    feed.training_batches,
                    validation=feed.evaluation_batches("validation"),
                    epochs=epochs,
                    callbacks=[*hooks, saving],
                    start=start,
                )
        except DivergedError as error:
            start = _recover(error, driver, saving, config.checkpoints.max_recoveries)
        except Stopped:
            saving.save_stopped()
            peers.part()  # The others end now too, and this host may have to bring its run away.
            raise
        else:
            return driver


def _require_agreement(
    config: Config, context: Context, trainee: Trainee, found: Position | None
) -> None:
    """Raises RunError unless all hosts would do the same: else they train apart, or wait for ever.

    Before a host writes a checkpoint, for which it needs the others.
    """
    if not context.is_multi_host:
        return
    strategy, position = context.strategy, (found.epoch, found.step) if found else (-1, -1)
    facts = [trainee.belongs_to, trainee.steps_per_epoch, context.steps_per_call]
    options = config.changes_from(type(config)())
    digest = hashlib.sha256(json.dumps([*facts, options], sort_keys=True).encode()).digest()
    mine = (*position, int.from_bytes(digest[:7], "big"))

    @tf.function
    def gather() -> tf.Tensor:
        here = strategy.run(lambda: tf.constant([mine], tf.int64))
        return strategy.gather(here, axis=0)

    rows = {tuple(map(int, row)) for row in gather().numpy()}
    if len({row[2] for row in rows}) > 1:
        raise RunError(
            "hosts have different options, frozen weights or records; give all of them the same "
            "flags, --weights and --data_dir."
        )
    if len(rows) > 1:
        listed = ", ".join(
            "none" if epoch < 0 else f"after {epoch} epochs and {step} steps"
            for epoch, step, _ in sorted(rows)
        )
        raise RunError(
            f"hosts found different checkpoints ({listed}); --model_dir must be a folder that all "
            "of them see."
        )


def _recover(
    error: DivergedError, driver: Driver, saving: callbacks.Checkpointing, limit: int
) -> Position:
    """Goes back to the newest checkpoint, with half the learning rate that failed."""
    factor = driver.model.optimizer.learning_rate_factor
    failed = float(factor.value)
    recoveries = round(-math.log2(failed))  # Of the whole run, whichever process they were in.
    if recoveries >= limit:
        raise RunError(
            f"{error}, after {recoveries} recoveries; give a lower --learning_rate or "
            "--clip_norm=1."
        ) from error
    start = saving.restore() or Position()  # There is one: the start is saved first of all.
    factor.assign(failed / 2)  # The checkpoint has an older one.
    console.say(
        f"{error}: going back to {start.epoch} epochs and {start.step} steps, with "
        f"{failed / 2:g} of the learning rate."
    )
    return start
