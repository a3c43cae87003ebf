"""Which runs --mode=compare trains, each with its weights; known before TensorFlow loads.

    for run in planned_runs.plan(comparison, model, first_seed=0):
        run.name, run.model.weights              # "vgg16-seed0", "imagenet"

One `--weights` for several backbones is `imagenet` or `none`; a folder with a file for each, named
after it (`vgg16_notop.weights.h5`); or a list such as `vgg16=FILE,mobilenet_v2=imagenet`.
"""

from __future__ import annotations

import dataclasses
import pathlib
import re
from typing import TYPE_CHECKING

from trainer import backbones
from trainer.errors import ConfigError
from trainer.options import initial_weights
from trainer.options.model import ALL_LAYERS
from trainer.storage import contents, locations
from trainer.system import text

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from trainer.options.comparison import ComparisonOptions
    from trainer.options.model import ModelOptions

_FORMS = (
    "imagenet, none, a folder with a file for each backbone, named after it, or a list such as "
    "vgg16=FILE,mobilenet_v2=imagenet"
)
_SUFFIXES = (".h5", ".keras")


@dataclasses.dataclass(frozen=True)
class PlannedRun:
    """A run that a comparison trains.

    Attributes:
      backbone: the registry's name.
      seed: of the run.
      model: the options of its network.
    """

    backbone: str
    seed: int
    model: ModelOptions

    @property
    def name(self) -> str:
        """The name of its folder."""
        return f"{self.backbone}-seed{self.seed}"


def plan(comparison: ComparisonOptions, model: ModelOptions, first_seed: int) -> list[PlannedRun]:
    """Returns the runs in the order in which they train: all backbones with a seed, then the next.

    So a comparison that is stopped early has something of each.

    Raises:
      ConfigError: for weights that don't say which file is whose.
    """
    models = networks(model, comparison.backbone_names)
    seeds = range(first_seed, first_seed + comparison.seeds)
    return [PlannedRun(name, seed, of) for seed in seeds for name, of in models.items()]


def networks(model: ModelOptions, names: Sequence[str]) -> dict[str, ModelOptions]:
    """Returns the options of each backbone's network.

    A backbone with random weights trains all its layers, whatever the others do: frozen, it would
    compute nothing of use.

    Raises:
      ConfigError: for weights that don't say which file is whose.
    """
    found = {}
    for name, weights in _weights(model.weights, names).items():
        unfrozen = model.layers_to_unfreeze
        if weights == "none" and backbones.REGISTRY[name].is_pretrained:
            unfrozen = ALL_LAYERS
        found[name] = dataclasses.replace(
            model, backbone=name, weights=weights, layers_to_unfreeze=unfrozen
        )
    return found


def check(
    comparison: ComparisonOptions,
    model: ModelOptions,
    first_seed: int,
    model_dir: str,
    given: Mapping[str, object],
) -> None:
    """Checks what a comparison is given.

    Args:
      comparison: its options.
      model: the options of all networks.
      first_seed: the seed of each backbone's first run.
      model_dir: the folder of all runs; may be empty.
      given: the options that are on the command line.

    Raises:
      ConfigError: when there is nothing to compare, or options contradict each other.
    """
    if comparison.runs:
        _check_runs(comparison.run_dirs, model_dir)
        return
    if not comparison.backbones:
        raise ConfigError(
            "--mode=compare needs --backbones=A,B, to train and compare them, or --runs=A,B, "
            "to compare finished runs."
        )
    if "backbone" in given:
        raise ConfigError(
            f"backbone ({given['backbone']}) and backbones ({comparison.backbones}) contradict "
            "each other; name all of them in --backbones."
        )
    if "local_workers" in given:
        raise ConfigError(
            f"local_workers ({given['local_workers']}) starts other processes, and --mode=compare "
            "trains each run in one of its own; leave it out."
        )
    _require_local(model_dir)
    for run in plan(comparison, model, first_seed):
        own = f"{model_dir}/{run.name}" if model_dir else ""
        initial_weights.check(run.model, own, f"--weights={run.backbone}=")


def _require_local(model_dir: str) -> None:
    if "://" in model_dir:
        raise ConfigError(
            f"model_dir ({text.one_line(model_dir):.200}) must be a local folder for "
            "--mode=compare; copy it into the bucket when it has ended."
        )


def _check_runs(dirs: Sequence[str], model_dir: str) -> None:
    """Checks that finished runs differ, and that none of them would get the tables.

    Raises:
      ConfigError: when not.
    """
    _require_local(model_dir)
    for place in dirs:
        try:
            locations.check(place)
        except locations.LocationError as error:
            raise ConfigError(f"runs ({text.one_line(place):.200}) {error}.") from error
    require_distinct(dirs)
    if model_dir and contents.results_in(contents.entries(pathlib.Path(model_dir).expanduser())):
        raise ConfigError(
            f"model_dir ({text.one_line(model_dir):.200}) is a run's own directory; name another "
            "folder for the tables, or leave it out."
        )


def require_distinct(dirs: Sequence[str]) -> None:
    """Raises ConfigError if two of some run directories are the same folder, however spelt."""
    places = [locations.resolved(path) for path in dirs]
    for path, place in zip(dirs, places, strict=True):
        if places.count(place) > 1:
            raise ConfigError(f"runs ({text.one_line(path):.200}) names one run twice.")


def _weights(weights: str, names: Sequence[str]) -> dict[str, str]:
    """Returns the weights of each backbone."""
    if weights in ("imagenet", "none"):
        return dict.fromkeys(names, weights)
    if "=" in weights and not pathlib.Path(weights).expanduser().exists():
        return _listed(weights, names)
    path = pathlib.Path(weights).expanduser()
    if path.is_dir() and not (path / "best.keras").is_file():
        return {name: _file_of(name, path) for name in names}
    if len(names) == 1:
        return {names[0]: weights}
    raise ConfigError(
        f"weights ({text.one_line(weights):.200}) can't be of {len(names)} backbones; give "
        f"{_FORMS}."
    )


def _listed(weights: str, names: Sequence[str]) -> dict[str, str]:
    """Returns the weights in a list; those of backbones that it leaves out are ImageNet's."""
    found: dict[str, str] = {}
    for part in weights.split(","):
        name, sign, value = (piece.strip() for piece in part.partition("="))
        if name not in names or not sign or not value:
            raise ConfigError(
                f"weights ({text.one_line(part):.200}) must be BACKBONE=WEIGHTS, of one of "
                f"{', '.join(names)}; give {_FORMS}."
            )
        if name in found:
            raise ConfigError(f"weights names {name} twice.")
        found[name] = value
    return {name: found.get(name, "imagenet") for name in names}


def _file_of(name: str, folder: pathlib.Path) -> str:
    """Returns the one file in a folder that is named after a backbone."""
    files = sorted(file for file in folder.iterdir() if file.suffix in _SUFFIXES)
    own = [file for file in files if _plain(file.name).startswith(_plain(name))]
    if len(own) == 1:
        return str(own[0])
    problem = (
        f"has {' and '.join(text.visible(file.name) for file in own[:2])} for {name}"
        if own
        else f"has no file named after {name} ({name}*.h5)"
    )
    first = f"{name}={own[0] if own else 'FILE'}"
    raise ConfigError(
        f"weights ({text.one_line(str(folder)):.200}) {problem}; name each backbone's, beginning "
        f"with --weights={text.quoted(first)}, separated by commas ({name}=none is random; what "
        "you leave out is ImageNet's)."
    )


def _plain(name: str) -> str:
    """Returns letters and digits alone: Keras writes efficientnetv2-b0."""
    return re.sub(r"[^a-z0-9]", "", name.lower())
