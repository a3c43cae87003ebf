"""What a run directory holds, and where.

config.json              the run's options
metrics.jsonl            an object per epoch
tensorboard/             the same as TensorBoard events
trained_on.json          the data's fingerprint, and whose images were trained on
best.keras               the whole model of the best epoch: uint8 images in, probabilities out
predictions_<split>.csv  a row per example
report.json              judgement, history, facts about data and run
curves.png  confusion_matrix.png  samples.png
on_<data>_<fingerprint>/ the last four, of `--mode=evaluate`
"""

from __future__ import annotations

import atexit
import dataclasses
import datetime
import json
import pathlib
import shutil
import tempfile
from typing import TYPE_CHECKING

from trainer import storage
from trainer.errors import ConfigError, RunError

if TYPE_CHECKING:
    from collections.abc import Iterable

    import keras

    from trainer.config import Config


@dataclasses.dataclass(frozen=True)
class RunDirectory:
    """A folder with one run in it."""

    path: pathlib.Path

    @property
    def config(self) -> pathlib.Path:
        """The run's options; a folder that has it is a run directory."""
        return self.path / "config.json"

    @property
    def metrics(self) -> pathlib.Path:
        """The history of training."""
        return self.path / "metrics.jsonl"

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


def at(path: str) -> RunDirectory:
    """Returns the directory at a path that a user gave."""
    return RunDirectory(pathlib.Path(path).expanduser())


def create(config: Config, *, is_chief: bool) -> RunDirectory:
    """Makes the directory of a new run and saves its config there.

    Of several processes that train together, the others than the chief write what they must write
    into a temporary directory, which ends with them.

    Raises:
      ConfigError: when `model_dir` holds a run already.
      RunError: when it can't be made.
    """
    run = RunDirectory(_path_for(config, is_chief))
    require_unused(run)
    try:
        storage.save_json(run.config, {**config.to_flat(), "model_dir": str(run.path)})
    except OSError as error:
        raise RunError(f"run directory {run.path} can't be written: {error.strerror}.") from error
    return run


def require_unused(run: RunDirectory) -> None:
    """Raises ConfigError when the directory holds a run, finished or not."""
    if run.best_model.exists():
        raise ConfigError(
            f"model_dir ({run.path}) already holds a run; name another, or judge that run again "
            "with --mode=evaluate."
        )
    if run.config.exists():
        raise ConfigError(
            f"model_dir ({run.path}) holds a run that did not finish; name another, or remove it."
        )


def _path_for(config: Config, is_chief: bool) -> pathlib.Path:  # noqa: FBT001
    if is_chief:
        return pathlib.Path(config.model_dir or new_name(config.data.dataset, config)).expanduser()
    path = tempfile.mkdtemp(prefix="cxr-trainer-")
    atexit.register(shutil.rmtree, path, ignore_errors=True)
    return pathlib.Path(path)


def new_name(what: str, config: Config) -> str:
    """Returns a path that tells what the run is about, and when it began."""
    now = datetime.datetime.now().astimezone()
    return f"runs/{what}-{config.model.backbone}-{now:%Y%m%d-%H%M%S}"
