"""One trial: the trainer's own code trains a configuration to the last epoch of a rung.

    workspace = tasks.Workspace(base)
    task = tasks.Task(tasks.config_of(base, values, "val_auc"), folder, epochs=7)
    outcome = tasks.train(task, workspace, workspace.build(task.config))
    outcome.curve, outcome.warnings

The folder of a configuration is a run directory. A trial resumes from its checkpoint, written in
the rung below or by a killed process, with optimizer, random states and history.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import time
import traceback
from typing import TYPE_CHECKING, Any

import filelock
import tensorflow as tf

from trainer.data import opening
from trainer.distribution import runtime
from trainer.errors import ConfigError, DiskError, DivergedError, RunError, TooLargeError
from trainer.evaluation import guards
from trainer.models import precision
from trainer.runs import trained
from trainer.runs.run_directory import RunDirectory
from trainer.system import text
from trainer.training import fitting, setups
from tuner import records
from tuner.space import with_value

if TYPE_CHECKING:
    import pathlib
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from trainer.config import Config
    from trainer.data.pipeline import Data

LOCK_TIMEOUT_S = 120.0
"""Timeout of the lock on a configuration's folder, whose last worker may still be shutting down."""
DETAILS = "failure.txt"


@dataclasses.dataclass(frozen=True)
class Task:
    """A trial to run.

    Attributes:
      config: of the run, from `config_of`.
      folder: of the configuration.
      epochs: last epoch to train, counted from the start of the configuration.
    """

    config: Config
    folder: pathlib.Path
    epochs: int


@dataclasses.dataclass(frozen=True)
class TrainedTrial:
    """What a trial has trained.

    Attributes:
      curve: one row of metrics per epoch of the configuration.
      warnings: what the guard says of the best epoch's predictions on the validation split, one
        sentence each; see `trainer.evaluation.guards`.
    """

    curve: Sequence[Mapping[str, Any]]
    warnings: tuple[str, ...] = ()


class Workspace:
    """Devices, and data without the test split, which all trials of a process share."""

    def __init__(self, base: Config) -> None:
        self.base = base
        self.context = runtime.build(base.runtime)

    @functools.cached_property
    def _opened(self) -> Data:
        role = os.environ.get("KERASTUNER_TUNER_ID", "chief")
        data = opening.load(
            self.base.data,
            self.base.model.backbone_image_size,
            compares_archive="chief" in role,
        )
        return data.without("test")

    def data(self, config: Config) -> Data:
        """Returns the data with a configuration's options; reading the test split raises."""
        return dataclasses.replace(self._opened, config=config.data)

    def build(self, config: Config) -> setups.TrainingSetup:
        """Builds the model and feed of a configuration, as `python -m trainer` would.

        Raises:
          ConfigError: when its options contradict each other.
          RunError: when the backbone's weights can't be loaded.
        """
        config = config.with_batch_size(self.context.batch_size_for(config.data.batch_size))
        config = config.with_precision(precision.choose(config, self.context).policy)
        data = self.data(config)
        with data.reading():
            return setups.build(config, data, self.context)


def config_of(base: Config, values: Mapping[str, Any], objective: str) -> Config:
    """Returns the trainer's config for a configuration of a search.

    The learning-rate schedule spans `max_epochs` in every rung. Early stopping is off. A divergence
    fails the trial instead of restarting from a checkpoint.
    """
    epochs = base.optimization.max_epochs
    rules = {"monitor": objective, "patience": epochs, "max_recoveries": 0}
    return with_value(base, {**values, **rules, "model_dir": ""})


def config_to_repeat(
    base: Config, values: Mapping[str, Any], objective: str, epochs: int
) -> Config:
    """Returns the config with which `python -m trainer` repeats a trial of `epochs` epochs."""
    config = config_of(base, values, objective)
    horizon = base.optimization.horizon
    ends = {"max_epochs": epochs, "schedule_epochs": 0 if horizon == epochs else horizon}
    recoveries = {"max_recoveries": base.checkpoints.max_recoveries}
    return with_value(config, {**ends, "patience": epochs, **recoveries})


def train(task: Task, workspace: Workspace, setup: setups.TrainingSetup) -> TrainedTrial:
    """Trains to the task's last epoch, and predicts the validation split with the best epoch."""
    directory, data = RunDirectory(task.folder), workspace.data(task.config)
    with data.reading():
        driver = fitting.fit(
            task.config, workspace.context, setup, directory, until=task.epochs, is_quiet=True
        )
        probabilities = driver.predict(setup.feed.evaluation_batches("validation"))
        table = trained.predictions_of(data, "validation", probabilities)
    return TrainedTrial(directory.load_rows(), guards.of_table(table))


@contextlib.contextmanager
def locked(folder: pathlib.Path) -> Iterator[None]:
    """Locks the folder of a configuration.

    Raises:
      RunError: when another process holds the lock for longer than LOCK_TIMEOUT_S.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with filelock.FileLock(folder / ".lock", timeout=LOCK_TIMEOUT_S):
            yield
    except filelock.Timeout as error:
        raise RunError(
            f"{folder} is in use by another process; stop that process first."
        ) from error


def attempt(
    folder: pathlib.Path, epochs: int, objective: str, work: Callable[[], TrainedTrial]
) -> records.TrialRecord:
    """Trains and returns the trial's record; an error becomes a failed record.

    Args:
      folder: of the configuration; the traceback of an error is saved there.
      epochs: last epoch that `work` trains.
      objective: name of the metric that is the score.
      work: trains.

    Raises:
      OSError, DiskError: when the disk fails, which is not the trial's fault.
    """
    start = time.monotonic()
    try:
        outcome = work()
        found = records.of_curve(outcome.curve, epochs, objective, time.monotonic() - start)
        return dataclasses.replace(found, warnings=outcome.warnings)
    except (OSError, DiskError):
        raise
    except Exception as error:  # noqa: BLE001 -- No error of a trial may end the search.
        folder.mkdir(parents=True, exist_ok=True)
        (folder / DETAILS).write_text(traceback.format_exc(), "utf-8")
        seconds = round(time.monotonic() - start, 3)
        return records.TrialRecord(reason=_reason(error), seconds=seconds)


def _reason(error: Exception) -> str:
    """Returns "cause: message" for an error."""
    line = text.first_line(error)
    if isinstance(error, DivergedError) or isinstance(error.__cause__, DivergedError):
        return f"diverged: {error.__cause__ or error}"
    if isinstance(error, MemoryError | tf.errors.ResourceExhaustedError | TooLargeError):
        return f"out of memory: {line}"
    if isinstance(error, ConfigError):
        return f"impossible: {line}"
    if isinstance(error, RunError):
        return f"failed: {line}"
    return f"crashed: {type(error).__name__}: {line}"
