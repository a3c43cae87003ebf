"""What a run directory holds, and where.

config.json              the run's options
metrics.jsonl            an object per epoch
checkpoints/             an interrupted run resumes from these; see trainer.training.checkpoint
tensorboard/             the same as TensorBoard events
trained_on.json          fingerprint of the data, patients of the training split
best.keras               the whole model of the best epoch: grey images in, probabilities out
predictions_<split>.csv  a row per example
report.json              metrics, history, facts about data and run
curves.png  confusion_matrix.png  samples.png
on_<data>_<fingerprint>/ predictions, report and plots of `--mode=evaluate`

    run, config = run_directory.take(config, is_chief=True)
    with run:
        run.save_config(config)   # of a new run
        run.save_model(model.save)
        run.sync()                # to the bucket, if it is in one
"""

from __future__ import annotations

import atexit
import dataclasses
import datetime
import json
import os
import pathlib
import platform
import shutil
import tempfile
import time
import uuid
from typing import TYPE_CHECKING, Any, Self

import filelock

from trainer.config import Config
from trainer.errors import ConfigError, RunError
from trainer.storage import files, locations, mirror
from trainer.system import console

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

_LOCK, _OWNER = ".lock", ".owner.json"


@dataclasses.dataclass(frozen=True)
class RunDirectory:
    """A folder with one run in it.

    A run in a bucket works in a local folder that is mirrored to the bucket. The `with` block ends
    when everything is in the bucket.

    Attributes:
      path: the local folder.
      mirrored: mirrors the folder to the bucket; None for a local run.
      lock: held against other processes; None where nothing is written.
      name: the user's name for it, where it differs from the path and the mirror's address.
    """

    path: pathlib.Path
    mirrored: mirror.Mirror | None = None
    lock: filelock.FileLock | None = None
    name: str = ""

    def __str__(self) -> str:
        """Returns the directory as the user named it."""
        return self.name or str(self.mirrored.url if self.mirrored else self.path)

    def __enter__(self) -> Self:
        """Returns itself."""
        return self

    def __exit__(self, *exception: Any) -> None:
        """Uploads the rest, and removes the local folder of a run in a bucket."""
        self.release()
        if self.mirrored is None:
            return
        console.say(f"uploading the run to {self} ...")
        if self.mirrored.finish(*exception):
            shutil.rmtree(self.path, ignore_errors=True)
            console.say(f"the run is in {self}.")

    def release(self) -> None:
        """Releases the lock; removes a folder in which no run has begun."""
        if self.lock is None:
            return
        if self.path.is_dir() and {path.name for path in self.path.iterdir()} <= {_LOCK, _OWNER}:
            shutil.rmtree(self.path, ignore_errors=True)
        self.lock.release()

    def save_config(self, config: Config) -> None:
        """Writes the options of a new run, once; from here on, the directory is taken."""
        if self.config.exists():
            return
        # The next machine may stage its copies elsewhere.
        here = {"model_dir": str(self), "staging_dir": ""}
        files.save_json(self.config, config.to_flat() | here)
        self.sync()
        if self.mirrored is not None:
            self.mirrored.wait()  # Another run that starts there now is refused.

    def sync(self, then: Sequence[pathlib.Path] = ()) -> None:
        """Uploads what has changed, `then` last, in the background."""
        if self.mirrored is not None:
            self.mirrored.sync(then)

    def has(self, name: str) -> bool:
        """Whether a file of the run exists, locally or in the bucket."""
        return self.mirrored.has(name) if self.mirrored else (self.path / name).exists()

    @property
    def config(self) -> pathlib.Path:
        """The run's options; a folder that has it is a run directory."""
        return self.path / "config.json"

    @property
    def metrics(self) -> pathlib.Path:
        """The history of training."""
        return self.path / "metrics.jsonl"

    @property
    def checkpoints(self) -> pathlib.Path:
        """What an interrupted run resumes from."""
        return self.path / "checkpoints"

    @property
    def tensorboard(self) -> pathlib.Path:
        """TensorBoard's log directory."""
        return self.path / "tensorboard"

    @property
    def best_model(self) -> pathlib.Path:
        """The saved model."""
        return self.path / "best.keras"

    def save_model(self, save: Callable[[pathlib.Path], None]) -> None:
        """Saves the model with a function that writes it to a path."""
        with files.replacing(self.best_model, makes_folder=False) as partial:
            save(partial)

    def save_trained_on(self, fingerprint: str, patients: Iterable[str]) -> None:
        """Records the training patients, so that evaluating on them is noticed."""
        record = {"fingerprint": fingerprint, "patients": sorted(set(patients))}
        files.save_json(self.path / "trained_on.json", record)

    def load_trained_on(self) -> dict[str, Any]:
        """Returns what `save_trained_on` wrote: `fingerprint` and `patients`.

        Raises:
          RunError: when it can't be read.
        """
        return _load_json(self.path / "trained_on.json")

    def load_config(self) -> Config:
        """Returns the run's options.

        Raises:
          RunError: when they can't be read.
        """
        try:
            return Config.from_flat(_load_json(self.config))
        except ConfigError as error:
            raise RunError(
                f"{self.config} is damaged ({error}); restore it from a copy, or name another "
                "--model_dir."
            ) from error

    def load_history(self) -> dict[str, list[float]]:
        """Returns a list per metric, as `Driver.fit` does; empty if no epoch was trained.

        Raises:
          RunError: when the file can't be read.
        """
        if not self.metrics.exists():
            return {}
        try:
            rows = [json.loads(line) for line in self.metrics.read_text("utf-8").splitlines()]
            names = [name for name in rows[0] if name != "epoch"] if rows else []
            return {name: [row[name] for row in rows] for name in names}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RunError(
                f"{self.metrics} can't be read ({error}); restore it from a copy."
            ) from error


def at(config: Config) -> RunDirectory:
    """Returns the directory that the user named; downloads nothing from a bucket yet.

    Raises:
      StorageError: when the bucket can't be used.
    """
    if not locations.is_url(config.model_dir):
        return RunDirectory(pathlib.Path(config.model_dir).expanduser())
    url = locations.parse(config.model_dir)
    # A new folder: an earlier process's copy of the run may be older than the bucket.
    folder = config.data.staging_root / f"run-{uuid.uuid4().hex[:12]}"
    return RunDirectory(folder, mirror.Mirror(url, folder))


def restore(config: Config, *, is_chief: bool) -> RunDirectory:
    """Returns the directory that the user named, downloaded if it is in a bucket.

    Each worker downloads a copy; only the chief's is mirrored to the bucket.

    Raises:
      StorageError: when the bucket can't be used.
    """
    run = at(config)
    if run.mirrored is None:
        return run
    run.mirrored.restore()
    if is_chief:
        return run
    atexit.register(shutil.rmtree, run.path, ignore_errors=True)
    return RunDirectory(run.path, name=str(run))


def take(config: Config, *, is_chief: bool) -> tuple[RunDirectory, Config]:
    """Locks the directory of a new run, or of one that resumes, until its `with` block ends.

    Workers other than the chief get a temporary directory, which is removed when they exit.

    Returns:
      The directory, and the config with the precision of the run in it, if there is one.

    Raises:
      ConfigError: when `resume` forbids it, or the run in it has other options.
      RunError: when another process has it, or it can't be read or written.
    """
    named = dataclasses.replace(
        config, model_dir=config.model_dir or new_name(config.data.dataset, config)
    )
    run = at(named)
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
    return run, config if saved is None else config.with_precision(saved.runtime.precision)


def _lock(run: RunDirectory) -> filelock.FileLock:
    """Locks the directory; the system frees the lock when this process ends, however it ends."""
    lock = filelock.FileLock(run.path / _LOCK)
    owner = run.path / _OWNER
    try:
        run.path.mkdir(parents=True, exist_ok=True)
        lock.acquire(blocking=False)
        for partial in run.checkpoints.glob(".partial-*"):  # Of a process that was killed.
            shutil.rmtree(partial, ignore_errors=True)
        files.save_json(
            owner, {"process": os.getpid(), "host": platform.node(), "since": time.time()}
        )
    except filelock.Timeout as error:
        raise RunError(
            f"model_dir ({run}) is in use {_describe(owner)}; end it first, or name another."
        ) from error
    except OSError as error:
        raise RunError(f"run directory {run} can't be written: {error.strerror}.") from error
    return lock


def _describe(owner: pathlib.Path) -> str:
    try:
        found = json.loads(owner.read_text("utf-8"))
        minutes = (time.time() - found["since"]) / 60
        return f"by process {found['process']} on {found['host']}, for {minutes:.0f} min"
    except (OSError, ValueError, KeyError, TypeError):
        return "by another process"


def _load_resumable(run: RunDirectory, config: Config) -> Config | None:
    """Returns the config of the run in the directory, if it may resume; None if there is no run."""
    if not run.has(run.config.name):
        if config.checkpoints.resume == "must":
            raise ConfigError(f"model_dir ({run}) holds no run for --resume=must to resume.")
        if run.checkpoints.is_dir():  # Their options are unknown.
            raise RunError(
                f"{run.config} is missing, but there are checkpoints; restore it from a copy, or "
                "name another --model_dir."
            )
        return None
    if config.checkpoints.resume == "never":
        raise ConfigError(
            f"model_dir ({run}) already holds a run; name another, or resume it with --resume=auto."
        )
    if run.mirrored is not None:
        run.mirrored.restore()
        _remove_unfinished(run.checkpoints)
    saved = run.load_config()
    changes = config.changes_from(saved)
    if config.runtime.precision == "auto":
        changes.pop("precision", None)
    if changes:
        listed = ", ".join(f"{name} {old!r} -> {new!r}" for name, (old, new) in changes.items())
        raise ConfigError(
            f"model_dir ({run}) holds a run with other options ({listed}); name another, or undo "
            "the change."
        )
    if run.best_model.exists() and not run.checkpoints.is_dir():
        raise ConfigError(
            f"model_dir ({run}) holds a finished run; name another, or evaluate it again with "
            "--mode=evaluate."
        )
    return saved


def _remove_unfinished(checkpoints: pathlib.Path) -> None:
    """Removes checkpoints whose upload was interrupted: the manifest comes last."""
    for folder in checkpoints.glob("[0-9]*"):
        if not (folder / "manifest.json").exists():
            shutil.rmtree(folder)


def _load_json(path: pathlib.Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text("utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise RunError(
            f"{path} can't be read ({error}); restore it from a copy, or name another --model_dir."
        ) from error


def _copy(run: RunDirectory) -> RunDirectory:
    """Returns a temporary directory with a copy of the chief's checkpoints."""
    path = pathlib.Path(tempfile.mkdtemp(prefix="cxr-trainer-"))
    atexit.register(shutil.rmtree, path, ignore_errors=True)
    if run.checkpoints.is_dir():
        ignored = shutil.ignore_patterns(".partial-*")
        shutil.copytree(run.checkpoints, path / run.checkpoints.name, ignore=ignored)
    if run.mirrored is not None:
        shutil.rmtree(run.path, ignore_errors=True)
    return RunDirectory(path)


def new_name(what: str, config: Config) -> str:
    """Returns a path with the data set, the backbone and the time."""
    now = datetime.datetime.now().astimezone()
    return f"runs/{what}-{config.model.backbone}-{now:%Y%m%d-%H%M%S}"
