"""Training that outlives its process: from the newest checkpoint on, and through divergences.

    driver = fitting.fit(config, context, belongs_to, feed, state, directory, steps_per_epoch)

Started again after any end, it goes on where the last checkpoint was written, and ends as if
nothing had been. A loss that is no longer a number sends it back to that checkpoint, with half the
learning rate.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from trainer import callbacks, checkpoint, console, signals
from trainer.driver import Driver, Position
from trainer.errors import DivergedError, RunError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trainer.config import Config
    from trainer.feeds import Feed
    from trainer.run_directory import RunDirectory
    from trainer.runtime import Context


def fit(
    config: Config,
    context: Context,
    belongs_to: str,
    feed: Feed,
    state: Sequence[Any],
    directory: RunDirectory,
    steps_per_epoch: int,
) -> Driver:
    """Trains `feed.model` to the end, and leaves the weights of the best epoch in it.

    Args:
      config: of the run.
      context: where it computes.
      belongs_to: hash of all that a checkpoint leaves out: frozen weights and data.
      feed: what trains, and on what.
      state: the variables that a step changes, as `optimization.compile_model` returns them.
      directory: where checkpoints and records go.
      steps_per_epoch: of the data's plan.

    Returns:
      The driver, for what is left to do with the model.

    Raises:
      ConfigError: when the checkpoints are of other frozen weights.
      RunError: when no checkpoint is sound, or the loss diverges more than `max_recoveries` times.
      Stopped: when somebody asked for it; everything is saved.
    """
    feed.prepare()
    driver = Driver(feed.model, context.strategy, steps_per_call=context.steps_per_call)
    stopping = callbacks.EarlyStopping(feed.model, config.optimization.patience)
    checkpoints = checkpoint.Checkpoints(
        directory.checkpoints,
        [*state, *stopping.variables],
        belongs_to,
        keep=config.checkpoints.keep_checkpoints,
        num_replicas=context.num_replicas,
    )
    hooks = callbacks.build(directory, config.optimization.max_epochs, steps_per_epoch, stopping)
    saving = callbacks.Checkpointing(
        checkpoints,
        feed.model.trainable_variables,
        hooks,
        config.checkpoints,
        is_multi_host=context.is_multi_host,
        on_saved=lambda manifest: directory.sync(then=[manifest]),
    )
    _fit_through_divergences(config, driver, feed, hooks, saving)
    return driver


def _fit_through_divergences(
    config: Config,
    driver: Driver,
    feed: Feed,
    hooks: Sequence[Any],
    saving: callbacks.Checkpointing,
) -> None:
    start = saving.restore()
    if start != Position():
        console.say(f"going on after {start.epoch} epochs and {start.step} steps.")
    while True:
        try:
            with signals.deferred():
                driver.fit(
                    feed.training_batches,
                    validation=feed.evaluation_batches("validation"),
                    epochs=config.optimization.max_epochs,
                    callbacks=[*hooks, saving],
                    start=start,
                )
        except DivergedError as error:
            start = _recover(error, driver, saving, config.checkpoints.max_recoveries)
        else:
            return


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
    start = saving.restore()
    factor.assign(failed / 2)  # The checkpoint has an older one.
    console.say(
        f"{error}: going back to {start.epoch} epochs and {start.step} steps, with "
        f"{failed / 2:g} of the learning rate."
    )
    return start
