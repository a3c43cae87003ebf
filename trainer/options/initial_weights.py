"""Which file a run's initial weights come from; checked before TensorFlow is imported."""

from __future__ import annotations

import pathlib

from trainer import backbones
from trainer.errors import ConfigError
from trainer.options import unfreezing
from trainer.options.model import ALL_LAYERS, ModelOptions
from trainer.storage import locations
from trainer.system import text


def check(model: ModelOptions, model_dir: str = "", flag: str = "--weights=") -> None:
    """Checks what would end a run only after TensorFlow has loaded, or make it worthless.

    Not when a config is created: a finished run must open where its weights file is not.

    Args:
      model: the options of the network.
      model_dir: the directory of the run; may be empty.
      flag: what a user writes before the path of a file.

    Raises:
      ConfigError: for weights that don't exist, can't be, or are the run's own, for more layers
        than the backbone has or none with weights, and for a frozen backbone with random weights.
    """
    row, weights, unfrozen = (
        backbones.REGISTRY[model.backbone],
        model.weights,
        model.layers_to_unfreeze,
    )
    unfreezing.check(model)
    if weights == "imagenet" and not row.is_pretrained:
        raise ConfigError(
            f"{model.backbone} has no ImageNet weights; give --weights=none "
            f"--layers_to_unfreeze={ALL_LAYERS}."
        )
    if weights == "none" and row.is_pretrained and unfrozen != ALL_LAYERS:
        raise ConfigError(
            f"weights (none) with layers_to_unfreeze ({unfrozen}) would train a head on a random, "
            f"frozen {model.backbone}; give --layers_to_unfreeze={ALL_LAYERS}, or other --weights."
        )
    if weights not in ("imagenet", "none"):
        if for_resuming(model, model_dir) == weights:
            _check_weights_file(weights, flag)
        _check_other_run(weights, model_dir)


def path_of(weights: str) -> pathlib.Path:
    """Returns the file that `weights` names; of a run directory, its model."""
    path = pathlib.Path(weights).expanduser()
    return path / "best.keras" if path.is_dir() else path


def for_resuming(model: ModelOptions, model_dir: str) -> str:
    """Returns what a run's frozen layers can be built from where its file of weights is gone.

    A checkpoint holds what is trained. The rest is in the run's own model, if it has one; without
    batch norm there is no rest where all layers are trained.

    Returns:
      A value for `weights`: its own where the file is there, or nothing can stand in for it.
    """
    named = model.weights
    if named in ("imagenet", "none") or not model_dir or locations.is_url(model_dir):
        return named
    run = pathlib.Path(model_dir).expanduser()
    if path_of(named).is_file() or not any(run.glob("checkpoints/[0-9]*")):
        return named
    if (run / "best.keras").is_file():
        return str(run / "best.keras")
    has_frozen = (
        model.layers_to_unfreeze != ALL_LAYERS or backbones.REGISTRY[model.backbone].has_batch_norm
    )
    return named if has_frozen else "none"


def absence(path: pathlib.Path, flag: str = "--weights=") -> str:
    """Returns the message for a file of weights that isn't there."""
    if path.parent.is_dir() and path.name == "best.keras":
        return (
            f"weights ({path.parent}) has no best.keras: no run has finished there{_around(path)}."
        )
    return (
        f"weights file {path} does not exist; give {flag}PATH of one that does (a run whose "
        "frozen layers came from a file resumes with a copy of it, until it has a best.keras)."
    )


def _around(path: pathlib.Path) -> str:
    """Returns a clause that names the finished run around a folder, if it is in one."""
    runs = [folder for folder in path.parent.parents[:2] if (folder / "best.keras").is_file()]
    return f"; give --weights={text.quoted(str(runs[0]))}" if runs else ""


def _check_weights_file(weights: str, flag: str) -> None:
    path = path_of(weights)
    first, is_listed, value = weights.partition("=")
    if is_listed and first in backbones.REGISTRY and not path.exists():
        raise ConfigError(
            f"weights ({text.bare(weights):.200}) is a list, which is for --mode=compare; give "
            f"{text.quoted(f'{flag}{value}')}."
        )
    if not weights or path.suffix not in (".keras", ".h5"):
        raise ConfigError(
            f"weights ({text.bare(weights):.200}) must be imagenet, none, a .weights.h5, .h5 or "
            ".keras file, or a run directory."
        )
    if not path.is_file():
        raise ConfigError(absence(path, flag))


def _check_other_run(weights: str, model_dir: str) -> None:
    """Raises ConfigError if a run's initial weights would be its own model, however spelt."""
    if not model_dir or locations.is_url(model_dir):
        return
    model = path_of(weights)
    own = pathlib.Path(model_dir).expanduser()
    if model.name == "best.keras" and model.parent.resolve() == own.resolve():
        raise ConfigError(
            f"weights ({weights}) and model_dir ({model_dir}) are the same run: name another "
            "--model_dir to start from its model, or leave out --weights to resume it."
        )
