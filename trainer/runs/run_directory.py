"""What a run directory holds, and where.

config.json              the run's options
changes.jsonl            an object for each time that its lengths or its evaluation changed
metrics.jsonl            an object per epoch
checkpoints/             an interrupted run resumes from these; see trainer.training.checkpoint
tensorboard/             the same as TensorBoard events
trained_on.json          fingerprint of the data; patients, images, classes that decided the model
best.keras               the whole model of the best epoch: grey images in, probabilities out
predictions_<split>.csv  a row per example
operating_point.json     from which probability on the positive class is predicted, and why
looks.jsonl              an object for each time that a test split was evaluated
validation_sample.npz    what data of a later evaluation are compared with
report.json              figures, history, facts about data and run
report.html              the same for people, with charts
curves.png  confusion_matrix.png  samples.png
on_<data>_<fingerprint>/ predictions, report and plots of `--mode=evaluate`

    run, config = resuming.take(config, is_chief=True)
    with run:
        run.save_config(config)   # of a new run
        run.save_lengths(config)  # of one that goes on
        run.save_model(model.save)
        run.sync()                # to the bucket, if it is in one
"""

from __future__ import annotations

import atexit
import dataclasses
import datetime
import json
import pathlib
import re
import shutil
import uuid
from typing import TYPE_CHECKING, Annotated, Any, NotRequired, Self, TypedDict

from trainer.config import LENGTHS, Config, of_saved
from trainer.errors import RunError
from trainer.evaluation import history
from trainer.runs import claims
from trainer.storage import contents, documents, files, locations, mirror
from trainer.system import console, text

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import filelock


LOCK, OWNER = claims.LOCK, claims.OWNER
CHECKPOINT = re.compile(r"[0-9]{5,9}-[0-9]{6,9}")
"""The name of a checkpoint: completed epochs, and steps after them."""
_WAY_OUT = "restore it from a copy, or name another --model_dir"


def _require_digest(written: str) -> None:
    if not re.fullmatch("[0-9a-f]{16}", written):
        raise ValueError("is no digest of an image")


class TrainedOn(TypedDict):
    """What `trained_on.json` holds: the data's fingerprint, and whose images decided the model.

    `patients` are those of train, `image_digests` of the images of both splits, and `class_counts`
    those of train. Earlier versions wrote only the first two, or `images`, hashes of encoded images
    that no record has any more.
    """

    fingerprint: documents.Name
    patients: list[str]
    validation_patients: NotRequired[list[str]]
    image_digests: NotRequired[list[Annotated[str, _require_digest]]]
    class_counts: NotRequired[dict[str, documents.Count]]


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
        if self.path.is_dir() and {path.name for path in self.path.iterdir()} <= {LOCK, OWNER}:
            shutil.rmtree(self.path, ignore_errors=True)
        self.lock.release()

    def save_config(self, config: Config) -> None:
        """Writes the options of a new run; from here on, the directory is taken.

        A run that is there already keeps its own: see `save_lengths`.
        """
        if self.config.exists():
            return
        # The next machine may stage its copies elsewhere.
        here = {"model_dir": str(self), "staging_dir": ""}
        files.save_json(self.config, config.to_flat() | here)
        self.sync()
        if self.mirrored is not None:
            self.mirrored.wait()  # Another run that starts there now is refused.

    def save_lengths(self, config: Config) -> None:
        """Replaces the lengths of a run that continues with others, and how it is assessed.

        Records the change.

        Call it when the checkpoint has been restored: a run that can't go on keeps its own.
        """
        if not self.config.exists():  # A trial, or another worker's copy.
            return
        saved = self.load_config()
        changes = config.changes_from(saved)
        lengths = {name: changes[name] for name in LENGTHS if name in changes}
        lengths |= config.evaluation.changes_from(saved.evaluation)
        if not lengths:
            return
        entry = {
            "time": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
            "epochs": self.position[0],
            "changes": lengths,
            "command": config.command_line(),
        }
        path = self.path / "changes.jsonl"
        limit = documents.LARGE_BYTES
        exists = path.exists()
        before = documents.read_text(path, way_out=_WAY_OUT, max_bytes=limit) if exists else ""
        with files.replacing(path) as partial:
            partial.write_text(f"{before}{json.dumps(entry)}\n", "utf-8")
        files.save_json(self.config, saved.to_flat() | {k: new for k, (_, new) in lengths.items()})
        self.sync()

    def sync(self, then: Sequence[pathlib.Path] = ()) -> None:
        """Uploads what has changed, `then` last, in the background."""
        if self.mirrored is not None:
            self.mirrored.sync(then)

    def has(self, name: str) -> bool:
        """Whether a file of the run exists, locally or in the bucket."""
        return self.mirrored.has(name) if self.mirrored else (self.path / name).exists()

    def entries(self) -> list[str]:
        """Returns the names in the directory, those of folders with a slash at the end."""
        return self.mirrored.entries() if self.mirrored else contents.entries(self.path)

    @property
    def config(self) -> pathlib.Path:
        """The run's options; a folder that has it is a run directory."""
        return self.path / claims.CONFIG

    @property
    def metrics(self) -> pathlib.Path:
        """The history of training."""
        return self.path / "metrics.jsonl"

    @property
    def page(self) -> pathlib.Path:
        """The page of the run for a browser, which is there from the first epoch on."""
        return self.path / claims.PAGE

    @property
    def checkpoints(self) -> pathlib.Path:
        """What an interrupted run resumes from."""
        return self.path / "checkpoints"

    @property
    def position(self) -> tuple[int, int]:
        """Completed epochs and steps after them in the newest checkpoint; zeros without one."""
        names = (path.name for path in self.checkpoints.glob("[0-9]*"))
        found = [name.split("-") for name in names if CHECKPOINT.fullmatch(name)]
        return max(((int(epoch), int(step)) for epoch, step in found), default=(0, 0))

    @property
    def tensorboard(self) -> pathlib.Path:
        """TensorBoard's log directory."""
        return self.path / "tensorboard"

    @property
    def best_model(self) -> pathlib.Path:
        """The saved model."""
        return self.path / claims.BEST_MODEL

    def save_model(self, save: Callable[[pathlib.Path], None]) -> None:
        """Saves the model with a function that writes it to a path."""
        with files.replacing(self.best_model, makes_folder=False) as partial:
            save(partial)

    def save_trained_on(self, record: TrainedOn) -> None:
        """Records what decided the model, so that evaluating on it is noticed."""
        files.save_json(self.path / "trained_on.json", record)

    def load_trained_on(self) -> TrainedOn:
        """Returns what `save_trained_on` wrote.

        Raises:
          RunError: when it can't be read.
        """
        return documents.load(
            self.path / "trained_on.json",
            TrainedOn,
            way_out=claims.written_again(str(self)),
            max_bytes=documents.LARGE_BYTES,
        )

    def load_config(self) -> Config:
        """Returns the run's options.

        Raises:
          RunError: when they can't be read.
        """
        values: dict[str, Any] = documents.load(self.config, dict[str, Any], way_out=_WAY_OUT)
        return of_saved(values, self.config, _WAY_OUT)

    def load_history(self) -> dict[str, list[float]]:
        """Returns a list per metric, as `Driver.fit` does; empty if no epoch was trained.

        Raises:
          RunError: when the file can't be read.
        """
        rows = self.load_rows()
        names = [name for name in rows[0] if name != "epoch"] if rows else []
        return {name: [row[name] for row in rows] for name in names}

    def load_rows(self) -> list[dict[str, float]]:
        """Returns the history as a row per epoch; NaN where a metric was undefined.

        Raises:
          RunError: when the file can't be read.
        """
        return history.load_rows(self.metrics) if self.metrics.exists() else []

    def folder(self, name: str) -> pathlib.Path:
        """Returns a folder of the run, which need not exist.

        Raises:
          RunError: when `name`, which may come from a file, is not a plain name, or the folder is a
            link: what is written into it would be elsewhere.
        """
        try:
            locations.require_name(name)
        except locations.LocationError as error:
            raise RunError(f"{text.shown(name)} {error}; nothing was written.") from error
        path = self.path / name
        if path.is_symlink():
            raise RunError(
                f"{path} is a link, and nothing is written through it; replace it by a folder."
            )
        return path


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
