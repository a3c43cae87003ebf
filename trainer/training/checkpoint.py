"""The state of a training run on disk: whole and checked, or not there at all.

checkpoints/
  00003-000040/                         after 3 epochs and 40 steps of the next
    variables.index, variables.data-*   all that a step changes, in TensorFlow's own format
    state.json                          what the callbacks remember
    manifest.json                       SHA-256 of each of the others, hash of what does not change

A checkpoint is written under another name, synced and renamed. `restore` takes the newest that is
sound, and says so where it passes a damaged one.

    checkpoints = checkpoint.Checkpoints(folder, variables, fingerprint, keep=2)
    checkpoints.save(Position(3, 40), callback_states={...})
    checkpoints.restore()         # Checkpoint(position, callback_states), or None: there is none
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import shutil
from typing import TYPE_CHECKING, Any

import keras
import tensorflow as tf
from absl import logging

from trainer.errors import ConfigError, DiskError, RunError
from trainer.storage import files
from trainer.system import console
from trainer.training.driver import Position

if TYPE_CHECKING:
    import pathlib
    from collections.abc import Mapping, Sequence

FORMAT_VERSION = 2
"""Raise it by hand whenever the meaning of a checkpoint changes."""
_MANIFEST, _STATE, _VARIABLES = "manifest.json", "state.json", "variables"


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """Where a run was, and what its callbacks remembered."""

    position: Position
    callback_states: Mapping[str, Any]


class Checkpoints:
    """The folder of a run's checkpoints, and the variables that they hold."""

    def __init__(
        self,
        folder: pathlib.Path,
        variables: Sequence[Any],
        fingerprint: str,
        *,
        keep: int,
        num_replicas: int = 1,
    ) -> None:
        """Takes the folder; makes nothing yet.

        Args:
          folder: of one run.
          variables: Keras's or TensorFlow's, all that training changes, in the same order always.
          fingerprint: of what training does not change and a checkpoint leaves out: frozen
            weights, data, and whether features of which layer are trained on.
          keep: how many of the newest checkpoints stay.
          num_replicas: that train; with another number, sums round otherwise.
        """
        self._folder = folder
        self._variables = [v.value if isinstance(v, keras.Variable) else v for v in variables]
        self._fingerprint = fingerprint
        self._keep = keep
        self._num_replicas = num_replicas

    def save(self, position: Position, callback_states: Mapping[str, Any]) -> pathlib.Path:
        """Writes a checkpoint, removes those that are too old, and returns its manifest.

        Raises:
          DiskError: when it can't be written; the checkpoints before it are still there.
        """
        if not self._folder.is_dir():
            files.require_folder(self._folder.parent)
            self._folder.mkdir()
        target = self._folder / f"{position.epoch:05d}-{position.step:06d}"
        with files.replacing_folder(target) as partial:
            self._write(partial / _VARIABLES)
            files.save_json(partial / _STATE, callback_states)
            checksums = {path.name: _checksum(path) for path in sorted(partial.iterdir())}
            manifest = {
                "format_version": FORMAT_VERSION,
                "fingerprint": self._fingerprint,
                "replicas": self._num_replicas,
                "files": checksums,
            }
            files.save_json(partial / _MANIFEST, manifest)
        for old in self._saved()[self._keep :]:
            shutil.rmtree(old, ignore_errors=True)  # What is left of it is found out when read.
        return target / _MANIFEST

    def restore(self) -> Checkpoint | None:
        """Puts the newest sound checkpoint into the variables.

        Raises:
          ConfigError: when it is of a run with other frozen weights or other data.
          RunError: when there are checkpoints and none of them is sound.
        """
        damages: dict[pathlib.Path, str] = {}
        for path in self._saved():
            damage = _damage(path)
            if damage is None:
                found = self._load(path)
                for damaged in damages:  # Else they would count as the newest, and push out others.
                    shutil.rmtree(damaged, ignore_errors=True)
                return found
            logging.warning("Checkpoint %s is damaged: %s.", path, damage)
            damages[path] = damage
        if damages:
            raise RunError(
                f"no checkpoint in {self._folder} is whole ({next(iter(damages.values()))}); name "
                "another --model_dir, or remove this one to start anew."
            )
        return None

    def _write(self, prefix: pathlib.Path) -> None:
        try:
            tf.train.Checkpoint(values=self._variables).write(str(prefix))
        except (tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.CancelledError):
            raise  # Nothing of the disk: hosts add up their metrics here, and one of them is gone.
        except tf.errors.OpError as error:  # What the system said of a full disk, among others.
            raise DiskError(f"a checkpoint can't be written: {error.message}.") from error

    def _load(self, path: pathlib.Path) -> Checkpoint:
        manifest = json.loads((path / _MANIFEST).read_text("utf-8"))
        if manifest["fingerprint"] != self._fingerprint:
            raise ConfigError(
                f"checkpoint {path} belongs to other frozen weights, other images, or other "
                "features of them; give the --weights, --data_dir and --cache_budget_gb that the "
                "run began with."
            )
        if manifest["replicas"] != self._num_replicas:
            console.say(
                f"{manifest['replicas']} replica(s) wrote the checkpoint and {self._num_replicas} "
                "go on: results will agree to rounding with an uninterrupted run, not to the bit."
            )
        values = tf.train.Checkpoint(values=self._variables)
        values.read(str(path / _VARIABLES)).assert_consumed()
        epoch, step = map(int, path.name.split("-"))
        return Checkpoint(Position(epoch, step), json.loads((path / _STATE).read_text("utf-8")))

    def _saved(self) -> list[pathlib.Path]:
        """The checkpoints, newest first."""
        if not self._folder.is_dir():
            return []
        paths = (path for path in self._folder.iterdir() if re.fullmatch(r"\d+-\d+", path.name))
        return sorted(paths, reverse=True)


def _damage(path: pathlib.Path) -> str | None:
    """Says what is wrong with a checkpoint; None where it is as it was written."""
    try:
        manifest = json.loads((path / _MANIFEST).read_text("utf-8"))
        checksums, version = dict(manifest["files"]), manifest["format_version"]
    except (OSError, ValueError, KeyError, TypeError):
        return f"{_MANIFEST} is missing or unreadable"
    if version != FORMAT_VERSION:
        return f"its format is {version}, not {FORMAT_VERSION}"
    for name, checksum in checksums.items():
        try:
            found = _checksum(path / name)
        except OSError:
            return f"{name} is missing"
        if found != checksum:
            return f"{name} is not what was written"
    return (
        None if {_STATE, f"{_VARIABLES}.index"} <= set(checksums) else "its manifest is incomplete"
    )


def _checksum(path: pathlib.Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
