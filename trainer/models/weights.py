"""The backbone's weights: downloaded from ImageNet, read from a file, or random. No fallback.

weights.load(backbone, config.model)
"""

from __future__ import annotations

import os
import pathlib
import warnings
import zipfile
from typing import TYPE_CHECKING

import filelock
import keras

from trainer import backbones
from trainer.errors import ConfigError, RunError
from trainer.system import sockets, text

if TYPE_CHECKING:
    import numpy as np

    from trainer.options import ModelOptions

DOWNLOAD_TIMEOUT_S = 30


def load(backbone: keras.Model, config: ModelOptions) -> None:
    """Loads the weights that the config names into the backbone, without any fallback.

    Raises:
      ConfigError: when small_cnn is to have ImageNet weights, or a file has another suffix.
      RunError: when they can't be downloaded, don't exist or don't fit.
    """
    if config.weights == "imagenet":
        backbone.set_weights(_download_imagenet(config.backbone))
    elif config.weights != "none":
        path = pathlib.Path(config.weights).expanduser()
        _load_file(backbone, config.backbone, path)


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
            "--weights=PATH, or train from random weights with --weights=none."
        ) from error


def _downloads() -> filelock.FileLock:
    """Returns a lock for downloads: processes of one machine would write the same file at once."""
    home = pathlib.Path(os.environ.get("KERAS_HOME", "~/.keras")).expanduser()
    if not os.access(home, os.W_OK):
        home = pathlib.Path("/tmp/.keras")
    home.mkdir(parents=True, exist_ok=True)
    return filelock.FileLock(home / ".cxr-trainer.lock")


def _load_file(backbone: keras.Model, name: str, path: pathlib.Path) -> None:
    if not path.is_file():
        raise RunError(f"weights file {path} does not exist; give --weights=PATH of one that does.")
    if path.suffix not in {".keras", ".h5"}:
        raise ConfigError(f"weights ({path}) must be a .weights.h5, .h5 or .keras file.")
    try:
        with warnings.catch_warnings():
            # Keras only warns about layers that the file lacks, and leaves them at random weights.
            warnings.simplefilter("error", UserWarning)
            if path.suffix == ".keras":
                backbone.set_weights(_weights_of_saved_model(path, name))
            else:
                backbone.load_weights(path)
    except (ValueError, OSError, KeyError, TypeError, UserWarning, zipfile.BadZipFile) as error:
        raise RunError(
            f"weights file {path} does not fit {name}: {text.first_line(error)}."
        ) from error


def _weights_of_saved_model(path: pathlib.Path, name: str) -> list[np.ndarray]:
    """Returns the backbone's weights from a saved backbone or a saved model that contains one."""
    saved = keras.saving.load_model(path, compile=False, safe_mode=True)
    inner = [layer for layer in saved.layers if layer.name == name]
    return (inner[0] if inner else saved).get_weights()
