"""The command line, made from the fields of Config; the only module that reads absl's flags.

Values come from, each over the one before: the defaults, `--recipe`, `--config_file` (a run's
`config.json`, say), and the flags that were given.

    app.run(main, flags_parser=flags.parse)      # main gets a Command
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

MODULES = {
    "train": "trainer.commands.train",
    "evaluate": "trainer.commands.evaluate",
    "benchmark": "trainer.benchmarks.race",
    "selfcheck": "trainer.commands.selfcheck",
    "tpu_check": "trainer.tpu.check",
}
"""What does the work of each --mode; imported when it is asked for."""
MODES = tuple(MODULES)
MACHINES = ("strategy", "tpu", "num_virtual_devices", "local_workers", "data_service")
"""Options that say which machines work together."""
_FLAGS = flags.FLAGS  # noqa: TID251 -- The one place.


@dataclasses.dataclass(frozen=True)
class Command:
    """What the user asked for: one run, and what to do with it."""

    mode: str
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
        MODES,
        "train and judge a model; evaluate: judge the one in --model_dir again; benchmark: time "
        "training against plain Keras; selfcheck: compare the strategy with one device; "
        "tpu_check: compile the training step for --tpu_topology, without data and without a TPU",
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


def parse(argv: Sequence[str]) -> Command:
    """Parses the command line into a Command.

    Raises:
      ConfigError: for an unknown flag, a value out of its limits or an unreadable file.
      RunError: when a bucket with options can't be read.
    """
    given = _parse([*_option_names(), "model_dir"], argv)
    mode = _FLAGS["mode"].value
    if mode == "evaluate":
        _refuse_training_options(given)
    base = _load_base(_config_to_judge(given) if mode == "evaluate" else None)
    if mode != "evaluate":
        base.pop("model_dir", None)  # Of the run that the options come from.
    else:  # A model is judged on this machine, wherever it was trained.
        base = {name: value for name, value in base.items() if name not in MACHINES}
    config = config_lib.Config.from_flat({**base, **given})
    return Command(mode, config, _verbosity())


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
    given = _parse(_option_names(), argv)
    base = {name: value for name, value in _load_base(None).items() if name != "model_dir"}
    config = config_lib.Config.from_flat({**base, **given})
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


def _refuse_training_options(given: Mapping[str, Any]) -> None:
    """A saved model is judged as it is: options of its making would change nothing."""
    kept = {"model", "optimization", "features"}
    fixed = {field.name for group, field in config_lib.fields() if group in kept} | {"precision"}
    if given.get("local_workers"):
        raise errors.ConfigError("--mode=evaluate judges on one host: leave out --local_workers.")
    for name in given:
        if name in fixed:
            raise errors.ConfigError(
                f"{name} was fixed in training; --mode=evaluate takes it over."
            )


def _option_names() -> list[str]:
    return [field.name for _, field in config_lib.fields()]


def _config_to_judge(given: Mapping[str, Any]) -> str:
    """Returns where the options of a finished run are."""
    if not given.get("model_dir"):
        raise errors.ConfigError("--mode=evaluate needs the --model_dir of a trained run.")
    return f"{given['model_dir'].rstrip('/')}/config.json"


def _load_base(default_file: str | None) -> dict[str, Any]:
    """Reads the options that flags override: of --recipe and --config_file, or of a file."""
    if _FLAGS["recipe"].value and _FLAGS["config_file"].value:
        raise errors.ConfigError("recipe and config_file both say where to start; give one.")
    path = _FLAGS["config_file"].value or default_file
    recipe = _load_recipe(_FLAGS["recipe"].value)
    if path and locations.is_url(path):
        return recipe | _load_remote_options(path)
    return recipe | (load_options(pathlib.Path(path).expanduser()) if path else {})


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


def load_options(path: pathlib.Path) -> dict[str, Any]:
    """Reads a flat JSON object of options.

    Raises:
      ConfigError: when the file is missing or holds something else.
    """
    try:
        values = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise errors.ConfigError(f"no options at {path}: {error.strerror}.") from error
    except ValueError as error:
        raise errors.ConfigError(f"{path} is not JSON: {error}.") from error
    if not isinstance(values, dict):
        raise errors.ConfigError(f"{path} must hold one JSON object of options.")
    return values
