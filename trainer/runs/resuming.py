"""Takes a run directory for a run that begins, resumes or continues to a larger length.

    directory, config = resuming.take(config, is_chief=True)
    with directory:
        directory.save_config(config)

A run resumes with its own options only. Those that decide when training ends may differ, if they
leave the learning rates of its epochs as they were (`config.LENGTHS`).
"""

from __future__ import annotations

import atexit
import dataclasses
import datetime
import itertools
import os
import pathlib
import platform
import shutil
import tempfile
import time
import uuid
from typing import TYPE_CHECKING, Any

import filelock

from trainer.config import LENGTHS
from trainer.errors import ConfigError, RunError
from trainer.runs import claims, run_directory
from trainer.runs.run_directory import LOCK, OWNER
from trainer.storage import files
from trainer.system import faults, text

if TYPE_CHECKING:
    from trainer.config import Config
    from trainer.runs.run_directory import RunDirectory


def take(config: Config, *, is_chief: bool) -> tuple[RunDirectory, Config]:
    """Locks the directory of a new run, or of one that resumes, until its `with` block ends.

    Workers other than the chief get a temporary directory, which is removed when they exit.

    Returns:
      The directory, and the config with what the run in it chose by itself, if there is one: its
      precision, and its batch size where none is given.

    Raises:
      ConfigError: when `resume` forbids it, the run in it has other options, or the files in it
        are no run's.
      RunError: when another process has it, or it can't be read or written.
    """
    named = config
    if not config.model_dir:
        name = new_name(config.data.dataset, config)
        # Another worker only needs a name that no run has.
        name = _claimed(name) if is_chief else f"{name}-{uuid.uuid4().hex}"
        named = dataclasses.replace(config, model_dir=name)
    run = run_directory.at(named)
    if not run.has(claims.CONFIG):
        claims.require_options(run, run.entries())
        claims.require_free_for_run(named, run.entries())
    if is_chief:
        run = dataclasses.replace(run, lock=_lock(run))
    try:
        saved = _load_resumable(run, config)
    except BaseException:
        run.release()
        if run.mirrored is not None:
            shutil.rmtree(run.path, ignore_errors=True)
        raise
    if not is_chief:
        run = _copy(run)
    if saved is not None:
        config = config.with_precision(saved.runtime.precision)
        config = config.with_batch_size(config.data.batch_size or saved.data.batch_size)
    return run, config


def require_resumable(run: RunDirectory, config: Config) -> None:
    """Checks whether the run in a directory, if there is one, may resume with a config.

    Raises:
      ConfigError: when it has other options.
      RunError: when they can't be read.
    """
    if run.has(claims.CONFIG):
        _require_same_run(run, config, run.load_config())


def _claimed(name: str) -> str:
    """Creates a folder of this name, or with a number after it: another run may have the same."""
    numbered = (name if count == 1 else f"{name}-{count}" for count in itertools.count(1))
    for candidate in numbered:
        try:
            pathlib.Path(candidate).mkdir(parents=True)
        except FileExistsError:
            continue
        except OSError as error:
            raise RunError(
                f"run directory {candidate} can't be written: {error.strerror}"
                f"{faults.way_out(error, 'model_dir')}."
            ) from error
        return candidate
    raise AssertionError("itertools.count never ends")


def _lock(run: RunDirectory) -> filelock.FileLock:
    """Locks the directory; the system frees the lock when this process ends, however it ends."""
    lock = filelock.FileLock(run.path / LOCK)
    owner = run.path / OWNER
    try:
        run.path.mkdir(parents=True, exist_ok=True)
        for folder in (run.checkpoints, run.tensorboard):
            run.folder(folder.name)
        lock.acquire(blocking=False)
        for partial in run.checkpoints.glob(".partial-*"):  # Of a process that was killed.
            shutil.rmtree(partial, ignore_errors=True)
        files.save_json(
            owner, {"process": os.getpid(), "host": platform.node(), "since": time.time()}
        )
    except filelock.Timeout as error:
        raise RunError(
            f"model_dir ({run}) is in use by {claims.owner(run.path)}; end it first, or name "
            "another."
        ) from error
    except OSError as error:
        raise RunError(
            f"run directory {run} can't be written: {error.strerror}"
            f"{faults.way_out(error, 'model_dir')}."
        ) from error
    return lock


def _load_resumable(run: RunDirectory, config: Config) -> Config | None:
    """Returns the config of the run in the directory, if it may resume; None if there is no run."""
    if not run.has(run.config.name):
        if config.checkpoints.resume == "must":
            raise ConfigError(claims.nothing_to_resume(run))
        return None
    if config.checkpoints.resume == "never":
        raise ConfigError(claims.already_a_run(run))
    if run.mirrored is not None:
        run.mirrored.restore()
        _remove_unfinished(run.checkpoints)
    saved = run.load_config()
    _require_same_run(run, config, saved)
    claims.require_checkpoints(run, run.path)
    return saved


def _require_same_run(run: RunDirectory, config: Config, saved: Config) -> None:
    """Raises ConfigError unless the run in the directory may continue with this config."""
    changes = _obstacles(config, saved)
    if changes:
        listed = ", ".join(f"{n} {old!r:.200} -> {new!r:.200}" for n, (old, new) in changes.items())
        hint = ""
        if set(changes) <= set(LENGTHS):
            horizon = text.counted(saved.optimization.horizon, "epoch")
            hint = f"; the learning rate of its epochs decays over {horizon}"
        raise ConfigError(
            f"model_dir ({run}) holds a run with other options ({listed}){hint}; name another, or "
            "undo the change."
        )
    (epoch, step), limit = run.position, config.optimization.max_epochs
    if (epoch, step) > (limit, 0):
        raise ConfigError(
            f"max_epochs ({limit}) is less than what the run in model_dir ({run}) has trained "
            f"(epoch {epoch}, step {step}); give --max_epochs={epoch + bool(step)} or more, or "
            "name another directory."
        )


def _obstacles(config: Config, saved: Config) -> dict[str, tuple[Any, Any]]:
    """Returns the changes with which a run of `saved` can't resume: name -> (its value, ours).

    Not among them is another length (`LENGTHS`) with the same learning rate in each epoch.
    """
    changes = config.changes_from(saved)
    if config.runtime.precision == "auto":
        changes.pop("precision", None)
    has_same_rates = config.optimization.decay_epochs == saved.optimization.decay_epochs
    for name in LENGTHS if has_same_rates else ("patience",):
        changes.pop(name, None)
    return changes


def _remove_unfinished(checkpoints: pathlib.Path) -> None:
    """Removes checkpoints whose upload was interrupted: the manifest comes last."""
    for folder in checkpoints.glob("[0-9]*"):
        if not (folder / "manifest.json").exists():
            shutil.rmtree(folder)


def _copy(run: RunDirectory) -> RunDirectory:
    """Returns a temporary directory with a copy of the chief's checkpoints."""
    path = pathlib.Path(tempfile.mkdtemp(prefix="cxr-trainer-"))
    atexit.register(shutil.rmtree, path, ignore_errors=True)
    if run.checkpoints.is_dir():
        ignored = shutil.ignore_patterns(".partial-*")
        shutil.copytree(run.checkpoints, path / run.checkpoints.name, ignore=ignored)
    if run.mirrored is not None:
        shutil.rmtree(run.path, ignore_errors=True)
    return run_directory.RunDirectory(path)


def new_name(what: str, config: Config) -> str:
    """Returns a path with the data set, the backbone and the time."""
    now = datetime.datetime.now().astimezone()
    return f"runs/{what}-{config.model.backbone}-{now:%Y%m%d-%H%M%S}"
