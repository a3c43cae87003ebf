"""The command line, made from the fields of Config; the only module that reads absl's flags.

Values come from, each over the one before: the defaults, `--recipe`, `--config_file` (a run's
`config.json`, say), and the flags that were given.

    app.run(main, flags_parser=flags.parse)      # main gets a TrainerCommand
"""

from __future__ import annotations

import dataclasses
import importlib.resources
import json
import pathlib
import tempfile
from typing import TYPE_CHECKING, Any

from absl import flags, logging

from trainer import config as config_lib
from trainer import errors, options
from trainer.storage import locations

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_FLAGS = flags.FLAGS  # noqa: TID251 -- The one place.


@dataclasses.dataclass(frozen=True)
class Mode:
    """What `python -m trainer` can do: a value of --mode.

    Attributes:
      name: the value.
      module: has `run(config)`; imported when it is asked for.
      help: a clause for --help.
      needs_run: whether it starts from the finished run in --model_dir, with that run's options.
    """

    name: str
    module: str
    help: str
    needs_run: bool = False

    def run(self, config: config_lib.Config) -> Any:
        """Does it; imports TensorFlow, which --help and typing errors don't wait for."""
        return importlib.import_module(self.module).run(config)


MODES = {
    mode.name: mode
    for mode in (
        Mode("train", "trainer.commands.train", "train a model and evaluate it"),
        Mode(
            "evaluate",
            "trainer.commands.evaluate",
            "evaluate the model in --model_dir again, on any --dataset",
            needs_run=True,
        ),
        Mode("benchmark", "trainer.benchmarks.race", "time training against plain Keras"),
        Mode("selfcheck", "trainer.commands.selfcheck", "compare the strategy with one device"),
        Mode(
            "tpu_check",
            "trainer.tpu.check",
            "compile the training step for --tpu_topology, without data and without a TPU",
        ),
    )
}


@dataclasses.dataclass(frozen=True)
class TrainerCommand:
    """What the user asked for: one run, and what to do with it."""

    mode: Mode
    config: config_lib.Config
    verbosity: int


def define() -> None:
    """Defines the flags of `python -m trainer`."""
    define_options()
    flags.DEFINE_string(
        "model_dir",
        "",
        "the run's directory, a folder or gs://…; empty: a new one, runs/<data>-<backbone>-<time>",
    )
    flags.DEFINE_enum(
        "mode",
        "train",
        list(MODES),
        "; ".join(f"{mode.name}: {mode.help}" for mode in MODES.values()),
    )


def define_options() -> None:
    """Defines a flag for every option of a run, and those that say where options come from."""
    for _, field in config_lib.fields():
        define_option(field.name, field.default, field.metadata["option"])
    flags.DEFINE_enum("recipe", None, _recipes(), "a named set of options; flags override it")
    flags.DEFINE_string(
        "config_file", None, "a JSON file of options, e.g. a run's config.json; flags override it"
    )


def define_option(name: str, default: Any, option: options.Option) -> None:
    """Defines the flag of one option; its limits are checked by Config, in one place."""
    if option.choices:
        flags.DEFINE_enum(name, default, option.choices, option.help)
    elif isinstance(default, bool):
        flags.DEFINE_boolean(name, default, option.help)
    elif isinstance(default, int):
        flags.DEFINE_integer(name, default, option.help)
    elif isinstance(default, float):
        flags.DEFINE_float(name, default, option.help)
    else:
        flags.DEFINE_string(name, default, option.help)


def parse(argv: Sequence[str]) -> TrainerCommand:
    """Parses the command line.

    Raises:
      ConfigError: for an unknown flag, a value out of its limits or an unreadable file.
      RunError: when a bucket with options can't be read.
    """
    given = _parse([*_option_names(), "model_dir"], argv)
    mode = MODES[_FLAGS["mode"].value]
    config = _config_of_run(mode, given) if mode.needs_run else _config_of(given)
    return TrainerCommand(mode, config, _verbosity())


def parse_options(
    argv: Sequence[str], others: Sequence[str]
) -> tuple[config_lib.Config, dict[str, Any], int]:
    """Parses the command line of another command that takes a run's options as well.

    Args:
      argv: all of it.
      others: names of the command's own flags.

    Returns:
      The config, the values of the others, and the verbosity.

    Raises:
      ConfigError: for an unknown flag, a value out of its limits or an unreadable file.
      RunError: when a bucket with options can't be read.
    """
    config = _config_of(_parse(_option_names(), argv))
    return config, {name: _FLAGS[name].value for name in others}, _verbosity()


def _parse(names: Sequence[str], argv: Sequence[str]) -> dict[str, Any]:
    """Parses, and returns those of `names` that were given."""
    try:
        rest = _FLAGS(list(argv))[1:]
    except flags.Error as error:
        raise errors.ConfigError(" ".join(str(error).split())) from error
    if rest:
        raise errors.ConfigError(f"unexpected argument {rest[0]!r}; options start with --.")
    return {name: _FLAGS[name].value for name in names if _FLAGS[name].present}


def _verbosity() -> int:
    """Warnings only, unless the user asks: TFDS alone logs a line for each split that is read."""
    verbosity = _FLAGS["verbosity"]
    return logging.WARNING if verbosity.using_default_value else verbosity.value


def _config_of(given: Mapping[str, Any]) -> config_lib.Config:
    """Returns the config of what --recipe and --config_file say, and of the flags over it."""
    recipe, path = _FLAGS["recipe"].value, _FLAGS["config_file"].value
    if recipe and path:
        raise errors.ConfigError("recipe and config_file both say where to start; give one.")
    base = _load_recipe(recipe) | (load_options(path) if path else {})
    base.pop("model_dir", None)  # Of the run that the options come from.
    return config_lib.Config.from_flat({**base, **given})


def _config_of_run(mode: Mode, given: Mapping[str, Any]) -> config_lib.Config:
    """Returns the config of the finished run in --model_dir, and of the flags over it."""
    for name in ("recipe", "config_file"):
        if _FLAGS[name].value:
            raise errors.ConfigError(f"--mode={mode.name} takes the run's options: no --{name}.")
    if not given.get("model_dir"):
        raise errors.ConfigError(f"--mode={mode.name} needs the --model_dir of a trained run.")
    config_lib.check_after_training(given)
    saved = load_options(f"{given['model_dir'].rstrip('/')}/config.json")
    return config_lib.Config.from_flat(saved).for_finished_run(given)


def _option_names() -> list[str]:
    return [field.name for _, field in config_lib.fields()]


def _load_remote_options(path: str) -> dict[str, Any]:
    """Reads options from a bucket."""
    try:
        url = locations.parse(path)
    except locations.LocationError as error:
        raise errors.ConfigError(f"{path} {error}.") from error
    # Only now: the library takes most of a second to import.
    files = importlib.import_module("trainer.storage.bucket").Bucket(url.bucket)
    stored = files.stat(url.name)
    if stored is None:
        raise errors.ConfigError(f"no options at {path}: no such object.")
    with tempfile.TemporaryDirectory() as folder:
        local = pathlib.Path(folder) / "config.json"
        files.download(stored, local)
        return load_options(local)


def _recipes() -> list[str]:
    folder = importlib.resources.files("trainer") / "recipes"
    return sorted(file.name.removesuffix(".json") for file in folder.iterdir())


def _load_recipe(name: str | None) -> dict[str, Any]:
    if name is None:
        return {}
    recipe = importlib.resources.files("trainer") / "recipes" / f"{name}.json"
    return dict(json.loads(recipe.read_text("utf-8")))


def load_options(path: str | pathlib.Path) -> dict[str, Any]:
    """Reads a flat JSON object of options.

    Args:
      path: a file, or an object `gs://…`.

    Raises:
      ConfigError: when the file is missing or holds something else.
      RunError: when the bucket can't be read.
    """
    if locations.is_url(str(path)):
        return _load_remote_options(str(path))
    file = pathlib.Path(path).expanduser()
    try:
        values = json.loads(file.read_text("utf-8"))
    except OSError as error:
        raise errors.ConfigError(f"no options at {path}: {error.strerror}.") from error
    except ValueError as error:
        raise errors.ConfigError(f"{path} is not JSON: {error}.") from error
    if not isinstance(values, dict):
        raise errors.ConfigError(f"{path} must hold one JSON object of options.")
    return values
