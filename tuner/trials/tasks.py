"""One trial: a configuration, trained by the trainer's own code to the epoch that its rung says.

    workspace = tasks.Workspace(base)
    task = tasks.Task(tasks.config_of(base, values, "val_auc"), folder, epochs=7)
    curve = tasks.train(task, workspace, workspace.build(task.config))

A configuration's folder is a run's: a trial resumes from the checkpoint in it, of the rung
below or of a process that was killed, with optimizer, random states and history.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import time
import traceback
from typing import TYPE_CHECKING, Any

import filelock
import tensorflow as tf

from trainer.data import opening
from trainer.distribution import runtime
from trainer.errors import ConfigError, DiskError, DivergedError, RunError
from trainer.models import precision
from trainer.runs.run_directory import RunDirectory
from trainer.system import text
from trainer.training import fitting
from tuner import records
from tuner.space import with_value

if TYPE_CHECKING:
    import pathlib
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from trainer.config import Config
    from trainer.data.pipeline import Data

LOCK_TIMEOUT_S = 120.0
"""For the folder of a configuration whose former worker may be ending just now."""
DETAILS = "failure.txt"


@dataclasses.dataclass(frozen=True)
class Task:
    """What a trial has to do.

    Attributes:
      config: of the run, as `config_of` makes it.
      folder: of the configuration.
      epochs: to which it trains, counted from the configuration's start.
    """

    config: Config
    folder: pathlib.Path
    epochs: int


class Workspace:
    """What the trials of a process share: devices, and data without its test split."""

    def __init__(self, base: Config) -> None:
        self.base = base
        self.context = runtime.build(base.runtime)

    @functools.cached_property
    def _opened(self) -> Data:
        data = opening.load(self.base.data, self.base.model.backbone_image_size)
        return data.without("test")

    def data(self, config: Config) -> Data:
        """Returns the data as a configuration reads it; its test split can't be read."""
        return dataclasses.replace(self._opened, config=config.data)

    def build(self, config: Config) -> fitting.TrainingSetup:
        """Builds what a configuration trains, as `python -m trainer` would.

        Raises:
          ConfigError: when it is impossible.
          RunError: when weights can't be had.
        """
        self.context.check_batch_size(config.data.batch_size)
        config = config.with_precision(precision.choose(config, self.context).policy)
        data = self.data(config)
        with data.reading():
            return fitting.build(config, data, self.context)


def config_of(base: Config, values: Mapping[str, Any], objective: str) -> Config:
    """Returns the config of a configuration in a search.

    The schedule is made for all `max_epochs`, whichever rung a trial ends in; nothing ends it
    earlier; a divergence is a result, not something to recover from.
    """
    epochs = base.optimization.max_epochs
    rules = {"monitor": objective, "patience": epochs, "max_recoveries": 0}
    return with_value(base, {**values, **rules, "model_dir": ""})


def config_to_repeat(
    base: Config, values: Mapping[str, Any], objective: str, epochs: int
) -> Config:
    """Returns the config with which `python -m trainer` repeats a trial of so many epochs."""
    config = config_of(base, values, objective)
    horizon = base.optimization.horizon
    ends = {"max_epochs": epochs, "schedule_epochs": 0 if horizon == epochs else horizon}
    recoveries = {"max_recoveries": base.checkpoints.max_recoveries}
    return with_value(config, {**ends, "patience": epochs, **recoveries})


def train(task: Task, workspace: Workspace, setup: fitting.TrainingSetup) -> list[dict[str, float]]:
    """Trains to the end of the task, and returns the history, a row per epoch."""
    directory = RunDirectory(task.folder)
    with workspace.data(task.config).reading():
        fitting.fit(
            task.config, workspace.context, setup, directory, until=task.epochs, is_quiet=True
        )
    lines = directory.metrics.read_text("utf-8").splitlines()
    return [json.loads(line) for line in lines]


@contextlib.contextmanager
def owned(folder: pathlib.Path) -> Iterator[None]:
    """Holds the folder of a configuration.

    Raises:
      RunError: when another process does not let go of it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with filelock.FileLock(folder / ".lock", timeout=LOCK_TIMEOUT_S):
            yield
    except filelock.Timeout as error:
        raise RunError(f"{folder} is in use by another process; end it first.") from error


def attempt(
    folder: pathlib.Path, epochs: int, objective: str, work: Callable[[], Sequence[Any]]
) -> records.TrialRecord:
    """Trains and returns how it went; only a failing disk raises.

    Args:
      folder: of the configuration; a failure leaves its details there.
      epochs: to which `work` trains.
      objective: what the trial is judged by.
      work: trains, and returns a row of metrics for each epoch.

    Raises:
      OSError, DiskError: when the disk fails, which is no trial's fault.
    """
    start = time.monotonic()
    try:
        curve = work()
        return records.of_curve(curve, epochs, objective, time.monotonic() - start)
    except (OSError, DiskError):
        raise
    except Exception as error:  # noqa: BLE001 -- Whatever it is, the search goes on.
        folder.mkdir(parents=True, exist_ok=True)
        (folder / DETAILS).write_text(traceback.format_exc(), "utf-8")
        seconds = round(time.monotonic() - start, 3)
        return records.TrialRecord(reason=_reason(error), seconds=seconds)


def _reason(error: Exception) -> str:
    """Names the cause of a failure, and what the error said."""
    line = text.first_line(error)
    if isinstance(error, DivergedError) or isinstance(error.__cause__, DivergedError):
        return f"diverged: {error.__cause__ or error}"
    if isinstance(error, MemoryError | tf.errors.ResourceExhaustedError):
        return f"out of memory: {line}"
    if isinstance(error, ConfigError):
        return f"impossible: {line}"
    if isinstance(error, RunError):
        return f"failed: {line}"
    return f"crashed: {type(error).__name__}: {line}"
