"""Initial weights: downloaded from ImageNet, read from a file or run, or random. No fallback.

    origin = weights.load(backbone, config.model)
    weights.load_head(head, origin)     # "weights: backbone and head of runs/a/best.keras."

A file gives its backbone, whatever else is in it. The head is taken only from models of the
trainer: which class another's output stands for is not known.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
from typing import TYPE_CHECKING, Any

import filelock

from trainer import backbones, options
from trainer.errors import ConfigError, RunError
from trainer.models import archive, stored
from trainer.options import initial_weights
from trainer.system import environment, sockets, text

if TYPE_CHECKING:
    from collections.abc import Mapping

    import keras
    import numpy as np

    from trainer.options import ModelOptions

DOWNLOAD_TIMEOUT_S = 30
RANDOM_AND_FROZEN = (
    "weights: random, and layers are frozen; --layers_to_unfreeze=all trains them all."
)
WAY_OUT = "download it again, or restore it from a copy"
"""What to do with a damaged file."""
LAST_LAYER = "probabilities"
"""The name of the head's softmax layer, in every model of the trainer."""


@dataclasses.dataclass(frozen=True)
class Origin:
    """Where weights come from.

    Attributes:
      text: a sentence for the user; empty if the option says it all.
      path: the file; None if there is none.
      head: the weights of the trained head in the file, by layer; empty if there is none.
    """

    text: str = ""
    path: pathlib.Path | None = None
    head: Mapping[str, list[np.ndarray]] = dataclasses.field(default_factory=dict)


def load(backbone: keras.Model, config: ModelOptions) -> Origin:
    """Loads the weights that the config names into the backbone, without any fallback.

    Raises:
      ConfigError: when small_cnn is to have ImageNet weights.
      RunError: when they can't be downloaded, don't exist, don't fit or are not finite.
    """
    if config.weights == "imagenet":
        backbone.set_weights(_download_imagenet(config.backbone))
        return Origin()
    if config.weights == "none":
        is_frozen = config.layers_to_unfreeze != options.ALL_LAYERS
        return Origin(RANDOM_AND_FROZEN if is_frozen else "")
    path = initial_weights.path_of(config.weights)
    if not path.is_file():
        raise RunError(initial_weights.absence(path))
    try:
        with archive.weights(path) as file:
            return _load_file(backbone, config.backbone, path, stored.read(file))
    except (ValueError, OSError, KeyError, TypeError, RuntimeError) as error:
        reason = text.first_line(error)
        raise RunError(f"weights file {path} can't be used: {reason}; {WAY_OUT}.") from error


def load_head(head: keras.Model, origin: Origin) -> str:
    """Loads the trained head of the same file, if it fits; returns a sentence on what was taken."""
    if not origin.head:
        return origin.text
    wanted = {layer.name: layer for layer in head.layers if layer.weights}
    difference = _head_difference(wanted, origin.head)
    if difference:
        return f"weights: backbone of {origin.path}; its head {difference}: the head is new."
    for name, layer in wanted.items():
        layer.set_weights(origin.head[name])
    return f"weights: backbone and head of {origin.path}."


def _download_imagenet(name: str) -> list[np.ndarray]:
    """Returns the ImageNet weights, which Keras downloads or finds in its own cache."""
    if name == "small_cnn":
        raise ConfigError("small_cnn has no ImageNet weights; give --weights=none.")
    try:
        # Keras's download has no time limit of its own and would hang on a silent network.
        with sockets.default_timeout(DOWNLOAD_TIMEOUT_S), _downloads():
            constructor = backbones.REGISTRY[name].load_constructor()
            return constructor(weights="imagenet", include_top=False).get_weights()
    except Exception as error:
        # Keras wraps what urllib raises in a bare Exception.
        raise RunError(
            f"ImageNet weights of {name} can't be downloaded ({text.first_line(error)}). Either "
            "download the file named in that message on a connected machine and give "
            "--weights=PATH, or train from random weights with --weights=none "
            "--layers_to_unfreeze=all."
        ) from error


def _downloads() -> filelock.FileLock:
    """Returns a lock for downloads: processes of one machine would write the same file at once."""
    home = pathlib.Path(os.environ.get("KERAS_HOME", "~/.keras")).expanduser()
    if not os.access(home, os.W_OK):
        # Keras then downloads to /tmp/.keras, where others could have put a link for our lock.
        home = environment.private_folder()
    return filelock.FileLock(home / ".cxr-trainer.lock")


def _load_file(
    backbone: keras.Model, name: str, path: pathlib.Path, models: stored.Models
) -> Origin:
    found = stored.match(backbone, models)
    if found is None:
        raise RunError(f"weights file {path} {_misfit(backbone, name, models)}")
    backbone.set_weights(stored.values(backbone, found))
    taken = {id(layer) for layer in found}
    others = [x for layers in models.values() for x in layers if id(x) not in taken]
    said = f"weights: backbone of {path}"
    if LAST_LAYER in {layer.name for layer in others}:
        head = {x.name: [stored.value_of(x, i) for i in range(len(x.arrays))] for x in others}
        return Origin(path=path, head=head)
    if others:
        names = ", ".join(layer.name for layer in others[:3]) + (" ..." if others[3:] else "")
        said += f"; its other layers ({names}) are not the trainer's: the head is new"
    return Origin(f"{said}.", path)


def _misfit(backbone: keras.Model, name: str, models: stored.Models) -> str:
    """Returns the rest of a sentence that says why a file has no such backbone."""
    if not models:
        return f"holds no layers with weights; give a file of {name}."
    names = {layer.name for layers in models.values() for layer in layers}
    likely = [other for other, row in backbones.REGISTRY.items() if row.landmark in names]
    if likely and name not in likely:
        return f"looks like {likely[0]}; give a file of {name}, or --backbone={likely[0]}."
    reason = stored.difference(backbone, models)
    if reason:
        return (
            f"does not fit {name}: {reason}; give a file of {name} itself, not of one with another "
            "width, depth or input."
        )
    shown = ", ".join(sorted(names)[:3])
    return f"holds no {name}, but layers named {shown} ...; give a file of {name}."


def _head_difference(wanted: Mapping[str, Any], found: Mapping[str, list[np.ndarray]]) -> str:
    """Returns how a file's head differs from this run's, as a clause; empty if it fits."""
    theirs, ours = _dense_shapes(found), {n: tuple(x.kernel.shape) for n, x in wanted.items()}
    if theirs == ours:
        return ""
    if None in theirs.values() or set(theirs) - set(ours) - {f"dense_{i}" for i in range(99)}:
        return "is not one of the trainer"
    if theirs[LAST_LAYER][-1] != ours[LAST_LAYER][-1]:
        return f"tells {theirs[LAST_LAYER][-1]} classes apart, this data {ours[LAST_LAYER][-1]}"
    if len(theirs) != len(ours):
        return f"has {len(theirs) - 1} dense layers, this run's {len(ours) - 1}"
    first = min(ours)  # dense_1 sorts before the others, and before `probabilities`.
    if theirs[first][0] != ours[first][0]:
        return (
            f"takes {theirs[first][0]} features, this run's {ours[first][0]} (--pooling, "
            "--image_size)"
        )
    return f"has {theirs[first][-1]} neurons, this run's {ours[first][-1]}"


def _dense_shapes(head: Mapping[str, list[np.ndarray]]) -> dict[str, Any]:
    """Returns the shape of each dense layer's kernel; None for a layer of another kind."""
    shapes: dict[str, Any] = {}
    for name, arrays in head.items():
        is_dense = [array.ndim for array in arrays] == [2, 1]
        shapes[name] = arrays[0].shape if is_dense else None
    return shapes
