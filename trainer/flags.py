"""The command line, generated from the fields of Config; the only module that reads absl flags.

Values come from these sources, each overriding the one before: the defaults; `--recipe` or
`--config_file` (for example the `config.json` of a run); flags on the command line.

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
from trainer import errors, option_groups
from trainer.storage import locations

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_FLAGS = flags.FLAGS  # noqa: TID251 -- The only place.


@dataclasses.dataclass(frozen=True)
class Mode:
    """A value of --mode.

    Attributes:
      name: the value.
      module: the module whose `run(config)` implements the mode; imported only when it runs.
      help: a clause for --help.
      needs_run: whether the mode uses the finished run in --model_dir, with the options of this
        run.
      trains: whether the mode trains from --weights.
    """

    name: str
    module: str
    help: str
    needs_run: bool = False
    trains: bool = False

    def run(self, config: config_lib.Config) -> Any:
        """Runs the mode. Only now TensorFlow is imported: --help and usage errors stay fast."""
        return importlib.import_module(self.module).run(config)


MODES = {
    mode.name: mode
    for mode in (
        Mode("train", "trainer.commands.train", "train a model and evaluate it", trains=True),
        Mode(
            "evaluate",
            "trainer.commands.evaluate",
            "evaluate the trained model in --model_dir, optionally on another --dataset",
            needs_run=True,
        ),
        Mode(
            "benchmark", "trainer.benchmarks.race", "time training against plain Keras", trains=True
        ),
        Mode(
            "selfcheck",
            "trainer.commands.selfcheck",
            "check that --strategy computes on this machine what one device computes",
        ),
        Mode(
            "tpu_check",
            "trainer.tpu.check",
            "compile the training step for --tpu_topology, without a TPU and without data",
        ),
    )
}


@dataclasses.dataclass(frozen=True)
class TrainerCommand:
    """The parsed command line: the options of a run, and what to do with them."""

    mode: Mode
    config: config_lib.Config
    verbosity: int


def define() -> None:
    """Defines the flags of `python -m trainer`."""
    define_options()
    flags.DEFINE_string(
        "model_dir",
        "",
        "run directory, local or gs://…; empty: a new runs/<dataset>-<backbone>-<time>",
    )
    flags.DEFINE_enum(
        "mode",
        "train",
        list(MODES),
        "; ".join(f"{mode.name}: {mode.help}" for mode in MODES.values()),
    )


def define_options() -> None:
    """Defines a flag for every option of a run, and --recipe and --config_file."""
    for _, field in config_lib.fields():
        define_option(field.name, field.default, field.metadata["option"])
    flags.DEFINE_enum("recipe", None, _recipes(), "named set of options; other flags override it")
    flags.DEFINE_string(
        "config_file",
        None,
        "JSON file of options, such as the config.json of a run; local or gs://…; other flags "
        "override it",
    )


def define_option(name: str, default: Any, option: option_groups.Option) -> None:
    """Defines the flag of one option. Config checks its limits, also for options from a file."""
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
      ConfigError: for an unknown flag, an invalid value or an unreadable file.
      RunError: when options are in a bucket that can't be read.
    """
    given = _parse([*_option_names(), "model_dir"], argv)
    mode = MODES[_FLAGS["mode"].value]
    config = _config_of_run(mode, given) if mode.needs_run else _config_of(given)
    if mode.trains:
        config_lib.check_before_training(config.model)
    return TrainerCommand(mode, config, _verbosity())


def parse_options(
    argv: Sequence[str], others: Sequence[str]
) -> tuple[config_lib.Config, dict[str, Any], int]:
    """Parses the command line of another command that also accepts the options of a run.

    Args:
      argv: the whole command line.
      others: names of the command's own flags.

    Returns:
      The config, the values of the command's own flags, and the verbosity.

    Raises:
      ConfigError: for an unknown flag, an invalid value or an unreadable file.
      RunError: when options are in a bucket that can't be read.
    """
    config = _config_of(_parse(_option_names(), argv))
    return config, {name: _FLAGS[name].value for name in others}, _verbosity()


def _parse(names: Sequence[str], argv: Sequence[str]) -> dict[str, Any]:
    """Parses the command line; returns the values of those flags of `names` that are on it."""
    try:
        rest = _FLAGS(list(argv))[1:]
    except flags.Error as error:
        raise errors.ConfigError(" ".join(str(error).split())) from error
    if rest:
        raise errors.ConfigError(f"unexpected argument {rest[0]!r}; options start with --.")
    # Only flags that were given: a default must not override a recipe or a file.
    return {name: _FLAGS[name].value for name in names if _FLAGS[name].present}


def _verbosity() -> int:
    """Returns the verbosity; WARNING by default, as TFDS logs a line for each split it reads."""
    verbosity = _FLAGS["verbosity"]
    return logging.WARNING if verbosity.using_default_value else verbosity.value


def _config_of(given: Mapping[str, Any]) -> config_lib.Config:
    """Returns the config from --recipe or --config_file, overridden by the given flags."""
    recipe, path = _FLAGS["recipe"].value, _FLAGS["config_file"].value
    if recipe and path:
        raise errors.ConfigError("--recipe and --config_file exclude each other; give only one.")
    base = _load_recipe(recipe) | (load_options(path) if path else {})
    base.pop("model_dir", None)  # It names the run that the options come from, not the new one.
    return config_lib.Config.from_flat({**base, **given})


def _config_of_run(mode: Mode, given: Mapping[str, Any]) -> config_lib.Config:
    """Returns the config of the finished run in --model_dir, overridden by the given flags."""
    for name in ("recipe", "config_file"):
        if _FLAGS[name].value:
            raise errors.ConfigError(
                f"--mode={mode.name} uses the run's own options; leave out --{name}."
            )
    if not given.get("model_dir"):
        raise errors.ConfigError(
            f"--mode={mode.name} needs a finished run; give its directory as --model_dir."
        )
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
    # Imported only here: Google's client library takes most of a second to import.
    files = importlib.import_module("trainer.storage.bucket").Bucket(url.bucket)
    stored = files.stat(url.name)
    if stored is None:
        raise errors.ConfigError(f"can't read options from {path}: there is no such object.")
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
      path: a local file, or an object in a bucket (`gs://…`).

    Raises:
      ConfigError: when the file is missing or is not a JSON object.
      RunError: when the bucket can't be read.
    """
    if locations.is_url(str(path)):
        return _load_remote_options(str(path))
    file = pathlib.Path(path).expanduser()
    try:
        values = json.loads(file.read_text("utf-8"))
    except OSError as error:
        raise errors.ConfigError(f"can't read options from {path}: {error.strerror}.") from error
    except ValueError as error:
        raise errors.ConfigError(f"{path} is not JSON: {error}.") from error
    if not isinstance(values, dict):
        raise errors.ConfigError(f"{path} must hold one JSON object of options.")
    return values
