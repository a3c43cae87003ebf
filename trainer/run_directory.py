"""What a run directory holds, and where.

config.json              the run's options
metrics.jsonl            an object per epoch
checkpoints/             what an interrupted run goes on from; see trainer.checkpoint
tensorboard/             the same as TensorBoard events
trained_on.json          the data's fingerprint, and whose images were trained on
best.keras               the whole model of the best epoch: uint8 images in, probabilities out
predictions_<split>.csv  a row per example
report.json              judgement, history, facts about data and run
curves.png  confusion_matrix.png  samples.png
on_<data>_<fingerprint>/ the last four, of `--mode=evaluate`

    with run_directory.create(config, is_chief=True) as run:
        run.save_model(model)
        run.sync()                # to the bucket, if it is in one
"""

from __future__ import annotations

import atexit
import dataclasses
import datetime
import json
import pathlib
import shutil
import tempfile
import uuid
from typing import TYPE_CHECKING, Any, Self

from trainer import console, locations, mirror, storage
from trainer.errors import ConfigError, RunError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import keras

    from trainer.config import Config


@dataclasses.dataclass(frozen=True)
class RunDirectory:
    """A folder with one run in it.

    In a bucket, it has a local folder that is kept in step with it; the run works there. The `with`
    block ends when all of it is in the bucket.

    Attributes:
      path: the local folder.
      kept: what keeps it in step; None for a local run.
    """

    path: pathlib.Path
    kept: mirror.Mirror | None = None

    def __str__(self) -> str:
        """As the user named it."""
        return str(self.kept.url if self.kept else self.path)

    def __enter__(self) -> Self:
        """Returns itself."""
        return self

    def __exit__(self, *exception: Any) -> None:
        """Brings what is left into the bucket, and removes the local folder once it is there."""
        if self.kept is None:
            return
        console.say(f"bringing the run to {self} ...")
        if self.kept.finish(*exception):
            shutil.rmtree(self.path, ignore_errors=True)
            console.say(f"the run is in {self}.")

    def sync(self, then: Sequence[pathlib.Path] = ()) -> None:
        """Lets what has changed go to the bucket, `then` last; returns at once."""
        if self.kept is not None:
            self.kept.sync(then)

    def has(self, name: str) -> bool:
        """Whether a file of the run exists, wherever it is kept."""
        return self.kept.has(name) if self.kept else (self.path / name).exists()

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
        """What a run that was interrupted goes on from."""
        return self.path / "checkpoints"

    @property
    def tensorboard(self) -> pathlib.Path:
        """TensorBoard's log directory."""
        return self.path / "tensorboard"

    @property
    def best_model(self) -> pathlib.Path:
        """The saved model."""
        return self.path / "best.keras"

    def save_model(self, model: keras.Model) -> None:
        """Saves the whole model, without optimizer."""
        with storage.replacing(self.best_model) as partial:
            model.save(partial)

    def save_trained_on(self, fingerprint: str, patients: Iterable[str]) -> None:
        """Notes whose images a model has seen, so that it can't be judged on them unnoticed."""
        record = {"fingerprint": fingerprint, "patients": sorted(set(patients))}
        storage.save_json(self.path / "trained_on.json", record)

    def load_training_patients(self) -> frozenset[str]:
        """Returns the patients of the training split."""
        record = json.loads((self.path / "trained_on.json").read_text("utf-8"))
        return frozenset(record["patients"])

    def load_history(self) -> dict[str, list[float]]:
        """Returns a list per metric, as `Driver.fit` does; empty where nothing was trained."""
        if not self.metrics.exists():
            return {}
        rows = [json.loads(line) for line in self.metrics.read_text("utf-8").splitlines()]
        return {name: [row[name] for row in rows] for name in rows[0] if name != "epoch"}


def at(config: Config) -> RunDirectory:
    """Returns the directory that the user named; of one in a bucket, nothing is downloaded yet.

    Raises:
      StorageError: when the bucket can't be used.
    """
    if not locations.is_url(config.model_dir):
        return RunDirectory(pathlib.Path(config.model_dir).expanduser())
    url = locations.parse(config.model_dir)
    # A folder of its own: what an earlier process left of the run may be older than the bucket.
    folder = config.data.staging_root / f"run-{uuid.uuid4().hex[:12]}"
    return RunDirectory(folder, mirror.Mirror(url, folder))


def restore(config: Config, *, is_chief: bool) -> RunDirectory:
    """Returns the directory that the user named, with all that the bucket has of it.

    Of several processes, each has a copy, and the chief alone keeps it in step.

    Raises:
      StorageError: when the bucket can't be used.
    """
    run = at(config)
    if run.kept is None:
        return run
    run.kept.restore()
    if is_chief:
        return run
    atexit.register(shutil.rmtree, run.path, ignore_errors=True)
    return RunDirectory(run.path)


def create(config: Config, *, is_chief: bool) -> RunDirectory:
    """Makes the directory of a new run and saves its config there.

    Of several processes that train together, the others than the chief write what they must write
    into a temporary directory, which ends with them.

    Raises:
      ConfigError: when `model_dir` holds a run already.
      RunError: when it can't be made.
    """
    run = _new(config, is_chief=is_chief)
    require_unused(run)
    try:
        # Where this machine keeps copies is not the next one's affair.
        here = {"model_dir": str(run), "staging_dir": ""}
        storage.save_json(run.config, config.to_flat() | here)
    except OSError as error:
        raise RunError(f"run directory {run.path} can't be written: {error.strerror}.") from error
    if run.kept is not None:
        run.sync()
        run.kept.wait()  # Now the place is ours: another run that starts there is refused.
    return run


def require_unused(run: RunDirectory) -> None:
    """Raises ConfigError when the directory holds a run, finished or not."""
    if run.has(run.best_model.name):
        raise ConfigError(
            f"model_dir ({run}) already holds a run; name another, or judge that run again "
            "with --mode=evaluate."
        )
    if run.has(run.config.name):
        raise ConfigError(
            f"model_dir ({run}) holds a run that did not finish; name another, or remove it."
        )


def _new(config: Config, *, is_chief: bool) -> RunDirectory:
    if is_chief:
        named = config.model_dir or new_name(config.data.dataset, config)
        return at(dataclasses.replace(config, model_dir=named))
    path = tempfile.mkdtemp(prefix="cxr-trainer-")
    atexit.register(shutil.rmtree, path, ignore_errors=True)
    return RunDirectory(pathlib.Path(path))


def new_name(what: str, config: Config) -> str:
    """Returns a path that tells what the run is about, and when it began."""
    now = datetime.datetime.now().astimezone()
    return f"runs/{what}-{config.model.backbone}-{now:%Y%m%d-%H%M%S}"
