"""Training that outlives its process: from the newest checkpoint on, and through divergences.

    setup = fitting.build(config, data, context)
    driver = fitting.fit(config, context, setup, directory)

Started again after any end, it resumes from the last checkpoint, and ends as if nothing had
happened. A loss that is no longer a number sends it back to that checkpoint, with half the
learning rate.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from typing import TYPE_CHECKING, Any

import keras
import tensorflow as tf

from trainer.distribution import peers
from trainer.errors import DivergedError, RunError, Stopped
from trainer.features import partition
from trainer.models import classifier, session
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
class TrainingSetup:
    """All that training works on, made from a config and its data.

    Attributes:
      network: the whole model and its parts.
      feed: the model that trains, and its batches.
      variables: those that a step changes.
      fingerprint: of all that a checkpoint leaves out: hashes of frozen weights and data, and
        whether training is from images, or from the features of which layer.
      steps_per_epoch: of the data's plan.
    """

    network: classifier.Network
    feed: feeds.Feed
    variables: Sequence[Any]
    fingerprint: str
    steps_per_epoch: int


def build(config: Config, data: Data, context: Context) -> TrainingSetup:
    """Builds and compiles the network, in a Keras session of its own.

    Args:
      config: whose precision is a policy, not `auto`.
      data: what it trains on.
      context: where it computes.

    Raises:
      ConfigError: when an option fits neither the backbone nor the data.
      RunError: when weights can't be had or don't fit.
    """
    session.begin(config.runtime.precision, config.runtime.seed)
    with context.strategy.scope():
        network = classifier.build(config.model, data.image_shape, len(data.class_names))
        feed = feeds.build(config, data, network, context)
        steps = data.plan.steps
        variables = optimization.compile_model(
            feed.model, config.optimization, data.class_counts(), steps
        )
    frozen = partition.weights_hash(network.whole.non_trainable_weights)
    fingerprint = f"{frozen}-{data.fingerprint}-{feed.kind}"
    return TrainingSetup(network, feed, variables, fingerprint, steps)


def fit(
    config: Config,
    context: Context,
    setup: TrainingSetup,
    directory: RunDirectory,
    *,
    until: int | None = None,
    is_quiet: bool = False,
) -> Driver:
    """Trains to the end, and leaves the weights of the best epoch in the network.

    Args:
      config: of the run.
      context: where it computes.
      setup: what trains.
      directory: where checkpoints and records go.
      until: so many epochs instead of `max_epochs`; called again with more, it resumes there.
      is_quiet: whether nothing is said while all goes well.

    Returns:
      The driver, for what is left to do with the model.

    Raises:
      ConfigError: when the checkpoints are of other frozen weights.
      RunError: when no checkpoint is sound, or the loss diverges more than `max_recoveries` times.
      Stopped: when somebody asked for it; everything is saved.
    """
    setup.feed.prepare()
    epochs = config.optimization.max_epochs if until is None else until
    hooks = _build_callbacks(config, context, setup, directory, None if is_quiet else epochs)
    found = hooks.saving.restore()
    _require_agreement(config, context, setup, found)
    start = found or hooks.saving.save_first()
    if start != Position() and not is_quiet:
        console.say(f"resuming after epoch {start.epoch}, step {start.step}.")
    driver = Driver(
        setup.feed.model, context.strategy, steps_per_execution=context.steps_per_execution
    )
    try:
        with signals.deferred(context.any_host):
            _train(driver, setup.feed, hooks, start, epochs, config.checkpoints.max_recoveries)
    except Stopped:
        hooks.saving.save_stopped()
        peers.part()  # The others end now too, and this host may have to bring its run away.
        raise
    return driver


def _train(
    driver: Driver,
    feed: feeds.Feed,
    hooks: _Callbacks,
    start: Position,
    epochs: int,
    max_recoveries: int,
) -> None:
    """Trains to the end, through divergences."""
    while True:
        try:
            driver.fit(
                feed.training_batches,
                validation=feed.evaluation_batches("validation"),
                epochs=epochs,
                callbacks=hooks.all,
                start=start,
            )
        except DivergedError as error:
            start = _recover(error, hooks, max_recoveries)
        else:
            return


@dataclasses.dataclass(frozen=True)
class _Callbacks:
    """The callbacks of a run: all in the order of their calls, and those that `fit` talks to."""

    all: Sequence[keras.callbacks.Callback]
    recoveries: callbacks.Recoveries
    saving: callbacks.Checkpointing


def _build_callbacks(
    config: Config,
    context: Context,
    setup: TrainingSetup,
    directory: RunDirectory,
    shown_epochs: int | None,
) -> _Callbacks:
    """Builds the callbacks; what decides comes after what records, and what saves is the last.

    Args:
      config: of the run.
      context: where it computes.
      setup: what trains.
      directory: where checkpoints and records go.
      shown_epochs: upper limit of epochs, for the progress lines; None: nothing is shown.
    """
    model, rules = setup.feed.model, config.optimization
    log = callbacks.MetricsLog(directory.metrics)
    stopping = callbacks.EarlyStopping(model, monitor=rules.monitor, patience=rules.patience)
    recoveries = callbacks.Recoveries(model.optimizer.learning_rate_factor)
    checkpoints = checkpoint.Checkpoints(
        directory.checkpoints,
        [*setup.variables, *stopping.variables],
        setup.fingerprint,
        keep=config.checkpoints.keep_checkpoints,
        num_replicas=context.num_replicas,
    )
    saving = callbacks.Checkpointing(
        checkpoints,
        model.trainable_variables,
        [log, stopping, recoveries],
        config.checkpoints,
        any_host=context.any_host,
        on_saved=lambda manifest: directory.sync(then=[manifest]),
    )
    progress = []
    if shown_epochs is not None:
        progress.append(callbacks.Progress(shown_epochs, setup.steps_per_epoch))
    tensorboard = keras.callbacks.TensorBoard(str(directory.tensorboard), write_graph=False)
    hooks = [callbacks.StopAtDivergence(), *progress, log, tensorboard, stopping, saving]
    return _Callbacks(hooks, recoveries, saving)


def _require_agreement(
    config: Config, context: Context, setup: TrainingSetup, found: Position | None
) -> None:
    """Raises RunError unless all hosts would do the same: else they train apart, or wait for ever.

    Before a host writes a checkpoint, for which it needs the others.
    """
    if not context.is_multi_host:
        return
    strategy, position = context.strategy, (found.epoch, found.step) if found else (-1, -1)
    facts = [setup.fingerprint, setup.steps_per_epoch, context.steps_per_execution]
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
            "none" if epoch < 0 else f"epoch {epoch}, step {step}"
            for epoch, step, _ in sorted(rows)
        )
        raise RunError(
            f"hosts found different checkpoints ({listed}); --model_dir must be a folder that all "
            "of them see."
        )


def _recover(error: DivergedError, hooks: _Callbacks, limit: int) -> Position:
    """Goes back to the newest checkpoint, with half the learning rate that failed."""
    recoveries = hooks.recoveries
    count = recoveries.count  # Of the whole run, whichever process they were in.
    if count >= limit:
        raise RunError(
            f"{error}, after {count} recoveries; give a lower --learning_rate or "
            "--global_clipnorm=1."
        ) from error
    start = hooks.saving.restore() or Position()  # There is one: the start is saved first of all.
    recoveries.restore(count + 1)  # The checkpoint has an older count.
    console.say(
        f"{error}: going back to epoch {start.epoch}, step {start.step}, with "
        f"{recoveries.factor:g} of the learning rate."
    )
    return start
