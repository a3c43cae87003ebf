"""Training that resumes from its newest checkpoint and recovers from divergence.

    setup = setups.build(config, data, context)
    driver = fitting.fit(config, context, setup, directory)

An interrupted run that is started again resumes from its newest checkpoint, and its results are
those of an uninterrupted run. If the loss becomes NaN or infinite, training returns to the newest
checkpoint and continues with half the learning rate.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
from typing import TYPE_CHECKING

import keras
import tensorflow as tf

from trainer.distribution import peers
from trainer.errors import DivergedError, RunError, Stopped
from trainer.models import inference_mode
from trainer.runs import trained
from trainer.system import console, signals
from trainer.training import callbacks, checkpoint, feeds, setups
from trainer.training.driver import Driver, Position
from trainer.training.logs import live_page, metrics_log, progress

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from trainer.config import Config
    from trainer.distribution.runtime import Context
    from trainer.runs.run_directory import RunDirectory


def fit(
    config: Config,
    context: Context,
    setup: setups.TrainingSetup,
    directory: RunDirectory,
    *,
    until: int | None = None,
    is_quiet: bool = False,
) -> Driver:
    """Trains to the end, and leaves the weights of the best epoch in the network.

    Args:
      config: the run's config.
      context: devices and strategy.
      setup: the model, its batches and its variables.
      directory: the run directory, for checkpoints and logs.
      until: number of epochs to train, in place of `max_epochs`; a later call with a larger number
        resumes from there.
      is_quiet: whether to print no progress.

    Returns:
      The driver, for evaluation and prediction.

    Raises:
      ConfigError: when the checkpoints belong to other frozen weights, data or features.
      RunError: when every checkpoint is damaged, or training diverges more than `max_recoveries`
        times.
      Stopped: when a signal requested it; a checkpoint has been saved.
    """
    epochs = config.optimization.max_epochs if until is None else until
    hooks = _build_callbacks(config, context, setup, directory, None if is_quiet else epochs)
    found = hooks.saving.restore()
    _prepare(context, setup, found or Position(), epochs)
    _require_agreement(config, context, setup, found)
    directory.save_lengths(config)
    is_closing = live_page.closed_at_failure(*hooks.pages)
    with _saving_what_is_left(hooks), is_closing, signals.deferred(context.any_host):
        start = found or hooks.saving.save_first()
        if not is_quiet:
            _say_start(start, epochs, hooks.stopping)
        phases = _phases(context, setup, epochs)
        _train(phases, hooks, start, config.checkpoints.max_recoveries)
        hooks.stopping.restore_best()
        for shown in hooks.pages:
            shown.say("evaluating")
    return phases[-1].driver


@contextlib.contextmanager
def _saving_what_is_left(hooks: _Callbacks) -> Iterator[None]:
    """Saves what is left to save where training is stopped."""
    try:
        yield
    except Stopped:
        hooks.saving.save_stopped()
        # The other hosts end too: their absence must not end this one while it uploads its run.
        peers.part()
        raise


def page_of(
    config: Config,
    directory: RunDirectory,
    rows: Callable[[], Sequence[Mapping[str, float | None]]] | None = None,
    *,
    epochs: int = 0,
) -> live_page.LivePage:
    """Returns the page of a run that has no evaluation yet.

    Args:
      config: the run's config.
      directory: the run directory.
      rows: as for `live_page.LivePage`; None: the epochs that the directory has.
      epochs: number of epochs to train; 0: `max_epochs`.
    """
    return live_page.LivePage(
        directory.page,
        rows or directory.load_rows,
        epochs=epochs or config.optimization.max_epochs,
        run={"command": config.command_line(), "config": config.to_flat()},
        monitor=config.optimization.monitor,
        evaluated_epochs=_evaluated_epochs(directory),
    )


def _evaluated_epochs(directory: RunDirectory) -> int | None:
    """Returns how many epochs the run's report is of; None where there is none."""
    try:
        last = trained.last_evaluation(directory)
    except RunError:
        return None
    return last.epochs if last else None


def _prepare(context: Context, setup: setups.TrainingSetup, start: Position, epochs: int) -> None:
    """Computes the features that training needs; for the head alone only while it trains alone.

    Call it with the restored weights: they are those that the backbone has in this epoch.
    """
    needed = [setup.feed] if epochs > setup.head_epochs else []
    if setup.head is not None and start.epoch < setup.head_epochs:
        needed.append(setup.head)
    cached = [feed for feed in needed if isinstance(feed, feeds.FeatureFeed)]
    # Several hosts divide a pass among themselves, but only that of one feed.
    for split in feeds.TRAINING_SPLITS if len(cached) > 1 and not context.is_multi_host else ():
        if all(feed.missing_examples(split) for feed in cached):
            feeds.compute_together(cached, setup.network, split)
    for feed in needed:
        feed.prepare()


@dataclasses.dataclass(frozen=True)
class _Phase:
    """Epochs that train the same variables: from the end of the phase before it to `stop`."""

    driver: Driver
    feed: feeds.Feed
    stop: int


def _phases(context: Context, setup: setups.TrainingSetup, epochs: int) -> list[_Phase]:
    def phase(feed: feeds.Feed, stop: int) -> _Phase:
        steps = context.steps_per_execution
        driver = Driver(feed.model, context.strategy, steps_per_execution=steps)
        return _Phase(driver, feed, min(stop, epochs))

    head = [] if setup.head is None else [phase(setup.head, setup.head_epochs)]
    return [*head, phase(setup.feed, epochs)]


def _say_start(start: Position, epochs: int, stopping: callbacks.EarlyStopping) -> None:
    if start != Position():
        console.say(f"resuming after epoch {start.epoch}, step {start.step}.")
    if stopping.reason and start.epoch < epochs:
        console.say(f"training stopped early after epoch {start.epoch}: {stopping.reason}.")


def _train(
    phases: Sequence[_Phase], hooks: _Callbacks, start: Position, max_recoveries: int
) -> None:
    """Trains to the end; after a divergence, resumes from the newest checkpoint."""
    while True:
        try:
            for phase in phases:
                if start.epoch < phase.stop:
                    phase.driver.fit(
                        phase.feed.training_batches,
                        validation=phase.feed.evaluation_batches("validation"),
                        epochs=phase.stop,
                        callbacks=hooks.all,
                        start=start,
                    )
                    start = Position(phase.stop)
        except DivergedError as error:
            start = _recover(error, hooks, max_recoveries)
        else:
            return


@dataclasses.dataclass(frozen=True)
class _Callbacks:
    """The callbacks of a run: all of them in calling order, and those that `fit` uses itself."""

    all: Sequence[keras.callbacks.Callback]
    pages: Sequence[live_page.LivePage]
    stopping: callbacks.EarlyStopping
    recoveries: callbacks.Recoveries
    saving: callbacks.Checkpointing


def _build_callbacks(
    config: Config,
    context: Context,
    setup: setups.TrainingSetup,
    directory: RunDirectory,
    shown_epochs: int | None,
) -> _Callbacks:
    """Builds the callbacks: first those that log, then early stopping, and last checkpointing.

    `shown_epochs` is the upper limit in the progress lines; None: no progress lines.
    """
    model, rules = setup.feed.model, config.optimization
    log = metrics_log.MetricsLog(directory.metrics)
    kept = [*model.trainable_variables, *inference_mode.moving_statistics(model)]
    stopping = callbacks.EarlyStopping(
        kept,
        monitor=rules.monitor,
        patience=rules.patience,
        first_epoch=setup.head_epochs,
    )
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
        [*kept, *model.optimizer.variables],
        [log, stopping, recoveries],
        config.checkpoints,
        any_host=context.any_host,
        on_saved=lambda manifest: directory.sync(then=[manifest]),
    )
    tensorboard = keras.callbacks.TensorBoard(str(directory.tensorboard), write_graph=False)
    bars, pages = [], []
    if shown_epochs is not None:
        bars = [
            progress.Progress(shown_epochs, setup.steps_per_epoch, head_epochs=setup.head_epochs)
        ]
        pages = [page_of(config, directory, log.state, epochs=shown_epochs)]
    hooks = [callbacks.StopAtDivergence(), *bars, log, *pages, tensorboard, stopping, saving]
    return _Callbacks(hooks, pages, stopping, recoveries, saving)


def _require_agreement(
    config: Config, context: Context, setup: setups.TrainingSetup, found: Position | None
) -> None:
    """Raises RunError unless all hosts have the same options, weights, data and checkpoint.

    Hosts that disagree would run different steps and wait for each other for ever. This must come
    before the first checkpoint, because saving one is a collective operation.
    """
    if not context.is_multi_host:
        return
    strategy, position = context.strategy, (found.epoch, found.step) if found else (-1, -1)
    facts = [setup.fingerprint, setup.steps_per_epoch, context.steps_per_execution]
    options = config.changes_from(type(config)())
    digest = hashlib.sha256(json.dumps([*facts, options], sort_keys=True).encode()).digest()
    row_of_host = (*position, int.from_bytes(digest[:7], "big"))  # 7 bytes fit into an int64.

    @tf.function
    def gather() -> tf.Tensor:
        local = strategy.run(lambda: tf.constant([row_of_host], tf.int64))
        return strategy.gather(local, axis=0)

    rows = {tuple(map(int, row)) for row in gather().numpy()}
    if len({row[2] for row in rows}) > 1:
        raise RunError(
            "the hosts have different options, frozen weights or data; give all of them the same "
            "flags, --weights and --data_dir."
        )
    if len(rows) > 1:
        listed = ", ".join(
            "none" if epoch < 0 else f"epoch {epoch}, step {step}"
            for epoch, step, _ in sorted(rows)
        )
        raise RunError(
            f"the hosts found different checkpoints ({listed}); give all of them the same "
            "--model_dir, in a folder that they share."
        )


def _recover(error: DivergedError, hooks: _Callbacks, limit: int) -> Position:
    """Restores the newest checkpoint and halves the learning rate; returns where to resume."""
    recoveries = hooks.recoveries
    count = recoveries.count  # Restored with the checkpoint: it counts across restarts.
    if count >= limit:
        raise RunError(
            f"{error}, after {count} recoveries; give a lower --learning_rate or "
            "--global_clipnorm=1."
        ) from error
    start = hooks.saving.restore() or Position()  # `fit` saves one before the first step.
    recoveries.restore(count + 1)  # Restoring the checkpoint reset the count.
    console.say(
        f"{error}: returning to epoch {start.epoch}, step {start.step}, with "
        f"{recoveries.factor:g} times the learning rate."
    )
    return start
