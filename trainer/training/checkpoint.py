"""The state of a training run on disk: checkpoints that are complete and verified.

checkpoints/
  00003-000040/                         after 3 epochs and 40 steps of the next
    variables.index, variables.data-*   all variables that a step changes, in TensorFlow's format
    state.json                          state of the callbacks
    manifest.json                       size and SHA-256 of the other files; hash of what does not
                                        change

A checkpoint is written under a temporary name, synced and renamed. `restore` takes the newest
undamaged one and logs a warning for each damaged one that it skips.

    checkpoints = checkpoint.Checkpoints(folder, variables, fingerprint, keep=2)
    checkpoints.save(Position(3, 40), callback_states={...})
    checkpoints.restore()         # Checkpoint(position, callback_states); None if there is none
"""

from __future__ import annotations

import dataclasses
import hashlib
import shutil
from typing import TYPE_CHECKING, Annotated, Any, Final, NotRequired, TypedDict

import keras
import numpy as np
import tensorflow as tf
from absl import logging

from trainer.errors import ConfigError, DiskError, RunError
from trainer.runs import claims, run_directory
from trainer.storage import documents, files, locations
from trainer.system import console, faults, text
from trainer.training.driver import Position

if TYPE_CHECKING:
    import pathlib
    from collections.abc import Mapping, Sequence

FORMAT_VERSION = 3
"""Raise it by hand whenever the meaning of a checkpoint changes. 3: the backbone's unfrozen layers
have an optimizer of their own, monitored figures are exact, and dropout differs by replica."""
_MANIFEST, _STATE, _VARIABLES = "manifest.json", "state.json", "variables"
_WAY_OUT = "restore it from a copy, or remove this checkpoint"
_UNREADABLE: Final = (tf.errors.OpError, ValueError, RuntimeError, AssertionError, LookupError)
"""What TensorFlow raises for a file that is not a checkpoint, or is damaged."""


class _Manifest(TypedDict):
    """What the checkpoint consists of, and what it belongs to."""

    format_version: int
    fingerprint: str
    replicas: Annotated[int, documents.at_least(1)]
    files: dict[str, str]
    sizes: NotRequired[dict[str, documents.Count]]


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """The position of a run, and the state of its callbacks."""

    position: Position
    callback_states: Mapping[str, Any]

    def states(self, shapes: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the states of the callbacks of these names, if they have the given shapes.

        Raises:
          RunError: when one has not.
        """
        try:
            return {n: documents.fit(self.callback_states.get(n), shapes[n], n) for n in shapes}
        except ValueError as error:
            raise RunError(
                f"the newest checkpoint {error}; remove it, or give another --model_dir."
            ) from error


class Checkpoints:
    """The folder of a run's checkpoints, and the variables that they contain.

    Not tf.train.CheckpointManager, which does not verify what it restores and has no place for the
    callbacks' state.
    """

    def __init__(
        self,
        folder: pathlib.Path,
        variables: Sequence[Any],
        fingerprint: str,
        *,
        keep: int,
        num_replicas: int = 1,
    ) -> None:
        """Refers to the folder, without creating anything yet.

        Args:
          folder: the checkpoints of one run.
          variables: all Keras or TensorFlow variables that training changes, always in the same
            order.
          fingerprint: identifies what a checkpoint leaves out: frozen weights, data, and whether
            the run trains on images or on features of a certain layer.
          keep: number of the newest checkpoints to keep.
          num_replicas: number of replicas that train; another number changes how sums round.
        """
        self._folder = folder
        # Of the others, early stopping's best value starts at infinity.
        self._trained = [v for v in variables if isinstance(v, keras.Variable) and v.trainable]
        self._variables = [v.value if isinstance(v, keras.Variable) else v for v in variables]
        self._fingerprint = fingerprint
        self._keep = keep
        self._num_replicas = num_replicas

    def save(self, position: Position, callback_states: Mapping[str, Any]) -> pathlib.Path:
        """Writes a checkpoint, removes the oldest ones, and returns the path of its manifest.

        Raises:
          DiskError: when it can't be written; the previous checkpoints are kept.
        """
        if not self._folder.is_dir():
            files.require_folder(self._folder.parent)
            self._folder.mkdir()
        target = self._folder / f"{position.epoch:05d}-{position.step:06d}"
        with files.replacing_folder(target) as partial:
            self._write(partial / _VARIABLES)
            files.save_json(partial / _STATE, callback_states)
            written = sorted(partial.iterdir())
            manifest = {
                "format_version": FORMAT_VERSION,
                "fingerprint": self._fingerprint,
                "replicas": self._num_replicas,
                "files": {path.name: _checksum(path) for path in written},
                "sizes": {path.name: path.stat().st_size for path in written},
            }
            files.save_json(partial / _MANIFEST, manifest)
        for old in saved_in(self._folder)[self._keep :]:
            shutil.rmtree(old, ignore_errors=True)  # A partly removed one counts as damaged.
        return target / _MANIFEST

    def restore(self) -> Checkpoint | None:
        """Restores the variables from the newest undamaged checkpoint.

        Raises:
          ConfigError: when it belongs to other frozen weights, data or features.
          RunError: when there are checkpoints, and all are damaged or of another format.
        """
        damages: dict[pathlib.Path, str] = {}
        for path in saved_in(self._folder):
            damage = _damage(path) or self._misfit(path)
            found = None if damage else self._load(path)
            damage = damage or self._not_finite()
            if damage is None:
                # If kept, they would count as the newest checkpoints and displace good ones.
                for damaged in damages:
                    shutil.rmtree(damaged, ignore_errors=True)
                return found
            logging.warning("Checkpoint %s can't be restored: %s.", path, damage)
            damages[path] = damage
        if damages:
            # Somebody who removes the directory to start again would lose the model with it.
            has_model = (self._folder.parent / claims.BEST_MODEL).exists()
            another = "give another --model_dir, or remove this one to start again"
            way_out = claims.other_uses() if has_model else another
            raise RunError(
                f"no checkpoint in {self._folder} can be restored "
                f"({next(iter(damages.values()))}); {way_out}."
            )
        return None

    def _write(self, prefix: pathlib.Path) -> None:
        try:
            tf.train.Checkpoint(values=self._variables).write(str(prefix))
        except (tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.CancelledError):
            # Not an error of the disk. Saving sums the metrics over the hosts, and one is lost.
            raise
        except tf.errors.OpError as error:  # For example a full disk.
            of_system = faults.of_library(error)
            way_out = faults.way_out(of_system, "model_dir") if of_system else ""
            reason = of_system.strerror if of_system else text.first_line(error.message)
            raise DiskError(
                f"a checkpoint can't be written to {self._folder}: {reason}"
                f"{way_out or f'; {faults.FREE}'}."
            ) from error

    def _misfit(self, path: pathlib.Path) -> str | None:
        """Returns how the variables in a checkpoint differ from ours; None if they fit.

        Without this, TensorFlow would allocate whatever size the file states. Checksums tell of
        accidents only.
        """
        if _load_manifest(path)["fingerprint"] != self._fingerprint:
            return None  # `_load` says whose it is.
        prefix = path / _VARIABLES
        try:
            shapes = tf.train.load_checkpoint(str(prefix)).get_variable_to_shape_map()
        except _UNREADABLE as error:
            return f"its variables can't be read ({text.one_line(text.first_line(error))})"
        ours = {
            f"values/{i}/.ATTRIBUTES/VARIABLE_VALUE": v.shape.as_list()
            for i, v in enumerate(self._variables)
        } | {"_CHECKPOINTABLE_OBJECT_GRAPH": []}
        # A variable that is listed twice is stored once; `assert_consumed` finds what is missing.
        fits = all(ours.get(name) == shape for name, shape in shapes.items())
        return None if fits else "its variables have other shapes than this model's"

    def _load(self, path: pathlib.Path) -> Checkpoint:
        manifest = _load_manifest(path)
        if manifest["fingerprint"] != self._fingerprint:
            raise ConfigError(
                f"checkpoint {path} belongs to other frozen weights, other images, or other "
                "features of them; give the --weights, --data_dir and --cache_budget_gb with which "
                "the run was started. If its data set was of another version, it can't be resumed: "
                "--mode=evaluate and --mode=predict still take it, and another --model_dir trains "
                "anew."
            )
        if manifest["replicas"] != self._num_replicas:
            console.say(
                f"the checkpoint was written with {text.counted(manifest['replicas'], 'replica')}, "
                f"and the run resumes with {self._num_replicas}: its results will equal those of "
                "an uninterrupted run up to rounding, not to the bit."
            )
        values = tf.train.Checkpoint(values=self._variables)
        try:
            values.read(str(path / _VARIABLES)).assert_consumed()
        except _UNREADABLE as error:
            raise documents.refused(
                path, text.one_line(text.first_line(error)), "remove this checkpoint"
            ) from error
        return _read(path)

    def _not_finite(self) -> str | None:
        """Returns which of the model's weights are NaN or infinite; None if none is."""
        for variable in self._trained:
            if not np.isfinite(keras.ops.convert_to_numpy(variable)).all():
                return f"its weights {variable.path} are not finite"
        return None


def peek(folder: pathlib.Path) -> Checkpoint | None:
    """Reads the newest undamaged checkpoint, but for the variables; None if there is none."""
    for path in saved_in(folder):
        if _damage(path) is None:
            return _read(path)
    return None


def _read(path: pathlib.Path) -> Checkpoint:
    epoch, step = map(int, path.name.split("-"))
    return Checkpoint(Position(epoch, step), _load_states(path))


def saved_in(folder: pathlib.Path) -> list[pathlib.Path]:
    """Returns the checkpoints in a folder, newest first."""
    if not folder.is_dir():
        return []
    paths = (path for path in folder.iterdir() if run_directory.CHECKPOINT.fullmatch(path.name))
    return sorted(paths, reverse=True)


def _damage(path: pathlib.Path) -> str | None:
    """Returns what is wrong with a checkpoint; None if it is as it was written."""
    try:
        manifest = _load_manifest(path)
        _load_states(path)
    except documents.DocumentError as error:
        return str(error).rstrip(".")
    checksums, version = manifest["files"], manifest["format_version"]
    sizes = manifest.get("sizes", {})  # Earlier versions wrote none.
    if version != FORMAT_VERSION:
        return f"its format is {version}, and this version writes {FORMAT_VERSION}"
    for name, checksum in checksums.items():
        try:
            locations.require_name(name)
            size = (path / name).stat().st_size
            # Of another size, it need not be read: somebody may have blown it up.
            is_intact = size == sizes.get(name, size) and _checksum(path / name) == checksum
        except (OSError, locations.LocationError):
            return f"{text.shown(name)} is missing"
        if not is_intact:
            return f"{name} differs from what was written"
    return (
        None if {_STATE, f"{_VARIABLES}.index"} <= set(checksums) else "its manifest is incomplete"
    )


def _load_manifest(path: pathlib.Path) -> _Manifest:
    return documents.load(path / _MANIFEST, _Manifest, way_out=_WAY_OUT)


def _load_states(path: pathlib.Path) -> dict[str, Any]:
    limit = documents.LARGE_BYTES
    return documents.load(path / _STATE, dict[str, Any], way_out=_WAY_OUT, max_bytes=limit)


def _checksum(path: pathlib.Path) -> str:
    if not path.is_file():  # A pipe would never end.
        raise FileNotFoundError(path)
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
