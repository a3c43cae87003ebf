"""The command line, generated from the fields of Config; the only module that reads absl flags.

Values come from these sources, each overriding the one before: the defaults; `--recipe` or
`--config_file` (for example the `config.json` of a run); flags on the command line.

    app.run(main, flags_parser=flags.parse)      # main gets a TrainerCommand
"""

from __future__ import annotations

import dataclasses
import importlib
from typing import TYPE_CHECKING, Any

from absl import flags, logging

from trainer import config as config_lib
from trainer import effects, errors, option_groups, usage
from trainer.options import initial_weights, planned_runs, unfreezing
from trainer.storage import contents, documents, locations, option_files
from trainer.system import text

if TYPE_CHECKING:
    import pathlib
    from collections.abc import Collection, Mapping, Sequence

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
            "predict",
            "trainer.commands.predict",
            "score --images with the model in --model_dir; writes a worklist, most urgent first",
            needs_run=True,
        ),
        Mode(
            "explain",
            "trainer.commands.explain",
            "the same with a heat map of each file",
            needs_run=True,
        ),
        Mode(
            "export",
            "trainer.commands.export",
            "write the model in --format for other runtimes, and check what each computes",
            needs_run=True,
        ),
        Mode(
            "compare",
            "trainer.commands.compare",
            "train --backbones with several seeds and compare them, or compare finished --runs",
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


OF_FILES = ("recipe", "config_file")
"""Flags that name a set of options."""


@dataclasses.dataclass(frozen=True)
class TrainerCommand:
    """The parsed command line: the options of a run, and what to do with them."""

    mode: Mode
    config: config_lib.Config
    verbosity: int
    notes: tuple[str, ...] = ()
    """Lines to print before the mode runs: what was given in vain."""


@dataclasses.dataclass(frozen=True)
class Parsed:
    """The command line of another command that also accepts the options of a run.

    Attributes:
      config: all options of a run.
      given: those options that are on the command line, by name.
      others: the command's own flags, by name.
      verbosity: of absl's logging.
      notes: lines to print first.
    """

    config: config_lib.Config
    given: Mapping[str, Any]
    others: Mapping[str, Any]
    verbosity: int
    notes: tuple[str, ...]


def define() -> None:
    """Defines the flags of `python -m trainer`."""
    usage.define_help("trainer")
    define_options()
    flags.DEFINE_string(
        "model_dir",
        "",
        "run directory, local or gs://…; empty: a new runs/<dataset>-<backbone>-<time>; of "
        "--mode=compare, the local folder of all its runs and tables",
    )
    modes = "; ".join(f"{mode.name}: {mode.help}" for mode in MODES.values())
    define_option("mode", "train", option_groups.Option(modes, choices=tuple(MODES)))


def define_options() -> None:
    """Defines a flag for every option of a run, and --recipe and --config_file."""
    for _, field in config_lib.fields():
        define_option(field.name, field.default, field.metadata["option"])
    recipes = option_groups.Option(
        "named set of options; quickstart: small_cnn on phantom, without any data; paper: the "
        "settings of the paper; other flags override it",
        choices=tuple(option_files.recipes()),
    )
    define_option("recipe", None, recipes)
    flags.DEFINE_string(
        "config_file",
        None,
        "JSON file of options, such as the config.json of a run; local or gs://…; other flags "
        "override it",
    )


def define_option(name: str, default: Any, option: option_groups.Option) -> None:
    """Defines the flag of one option. Config checks its limits, also for options from a file."""
    shown = option.full_help(default)
    if option.choices:
        flags.DEFINE_enum(name, default, option.choices, option.help)
        # absl joins the choices without a space, and then breaks the line within one of them.
        _FLAGS[name].help = f"<{' | '.join(option.choices)}>: {option.help}"
    elif isinstance(default, bool):
        flags.DEFINE_boolean(name, default, shown)
    elif isinstance(default, int):
        flags.DEFINE_integer(name, default, shown)
    elif isinstance(default, float):
        flags.DEFINE_float(name, default, shown)
    else:
        flags.DEFINE_string(name, default, shown)


def parse(argv: Sequence[str]) -> TrainerCommand:
    """Parses the command line.

    Raises:
      ConfigError: for an unknown flag, an invalid value or an unreadable file.
      RunError: when options are in a bucket that can't be read.
    """
    given = _parse([*_option_names(), "model_dir"], argv, others=("mode",))
    mode = MODES[_FLAGS["mode"].value]
    config = _config_of_run(mode, given) if mode.needs_run else _config_of(given)
    name = _mode_of_effects(mode, config)
    notes = (*usage.repeated(_FLAGS), *check_effects(given, config, name))
    if mode.name == "compare":
        planned_runs.check(
            config.comparison, config.model, config.runtime.seed, config.model_dir, given
        )
    elif mode.trains:
        initial_weights.check(config.model, config.model_dir)
    elif not mode.needs_run:
        unfreezing.check(config.model)
    return TrainerCommand(mode, config, _verbosity(), notes)


def _mode_of_effects(mode: Mode, config: config_lib.Config) -> str:
    """Returns the mode by which options are used; some modes have two ways to work."""
    if mode.name == "compare" and config.comparison.runs:
        return effects.COMPARED_RUNS
    if mode.name == "evaluate" and config.inference.images:
        return effects.EVALUATED_IMAGES
    return mode.name


def check_effects(
    given: Mapping[str, Any],
    config: config_lib.Config,
    mode: str,
    searched: Collection[str] = (),
) -> tuple[str, ...]:
    """Returns a line for each value that changes nothing.

    Args:
      given: the options that are on the command line.
      config: all options.
      mode: of the trainer; `search` for a search.
      searched: options that take several values in turn.

    Raises:
      ConfigError: for a value on the command line that can only be a mistake.
    """
    values, defaults = config.to_flat(), config_lib.Config().to_flat()
    effects.refuse(given, values, mode, searched)
    return tuple(effects.lines(given, values, defaults, mode, searched))


def parse_options(argv: Sequence[str], others: Sequence[str]) -> Parsed:
    """Parses the command line of another command that also accepts the options of a run.

    Args:
      argv: the whole command line.
      others: names of the command's own flags.

    Raises:
      ConfigError: for an unknown flag, an invalid value or an unreadable file.
      RunError: when options are in a bucket that can't be read.
    """
    given = _parse(_option_names(), argv, others)
    values = {name: _FLAGS[name].value for name in others}
    return Parsed(_config_of(given), given, values, _verbosity(), usage.repeated(_FLAGS))


def _parse(names: Sequence[str], argv: Sequence[str], others: Sequence[str] = ()) -> dict[str, Any]:
    """Parses the command line; returns the values of those flags of `names` that are on it.

    Args:
      names: the flags whose values are wanted.
      argv: the whole command line.
      others: the command's other flags, which may have been meant by an unknown name.
    """
    own = [*names, *others, *OF_FILES]
    if wrong := usage.mistyped(argv[1:], _FLAGS, own):
        raise errors.ConfigError(wrong)
    try:
        # absl's short name of --help is ?; that of every other program is h.
        rest = _FLAGS(["--help" if argument == "-h" else argument for argument in argv])[1:]
    except flags.Error as error:
        raise errors.ConfigError(usage.explain(error, _FLAGS, own)) from error
    except ValueError as error:  # absl's, for a value after --no….
        raise errors.ConfigError(f"{text.first_line(error)}.") from error
    if rest:
        raise errors.ConfigError(usage.unexpected(rest[0], argv[1:], _FLAGS, own))
    for name in own:
        if wrong := usage.swallowed(name, _FLAGS[name].value):
            raise errors.ConfigError(wrong)
    usage.repeated(_FLAGS)  # Before a file is read in vain.
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
    base = option_files.load_recipe(recipe) | (load_options(path) if path else {})
    base.pop("model_dir", None)  # It names the run that the options come from, not the new one.
    return config_lib.Config.from_flat({**base, **given})


def _config_of_run(mode: Mode, given: Mapping[str, Any]) -> config_lib.Config:
    """Returns the config of the finished run in --model_dir, overridden by the given flags."""
    for name in OF_FILES:
        if _FLAGS[name].value:
            raise errors.ConfigError(
                f"--mode={mode.name} uses the run's own options; leave out --{name}."
            )
    if not given.get("model_dir"):
        raise errors.ConfigError(
            f"--mode={mode.name} needs a finished run; give its directory as --model_dir."
        )
    folder = given["model_dir"].rstrip("/") or "/"
    found = option_files.entries(folder)
    if "config.json" not in found:
        config_lib.check_after_training(given)
        raise errors.ConfigError(contents.no_run_at(folder, found))
    return _load_saved(f"{folder}/config.json").for_finished_run(given)


def _option_names() -> list[str]:
    return [field.name for _, field in config_lib.fields()]


def load_options(path: str | pathlib.Path) -> dict[str, Any]:
    """Reads a flat JSON object of options.

    Args:
      path: a local file, or an object in a bucket (`gs://…`).

    Raises:
      ConfigError: when the file is missing, is not a JSON object, or names an unknown option.
      RunError: when the bucket can't be read.
    """
    values = option_files.load(path)
    try:
        config_lib.check_names(values)
    except errors.ConfigError as error:
        local = None if locations.is_url(str(path)) else option_files.local(path)
        if local and contents.is_beside_options(local):
            raise errors.ConfigError(contents.no_file_of_options(str(path), local)) from error
        raise errors.ConfigError(f"{path}: {error}") from error
    return values


def _load_saved(path: str) -> config_lib.Config:
    """Reads the options of a run; no user writes them, so that a fault in them is damage."""
    way_out = "restore it from a copy"
    with option_files.on_disk(path) as file:
        values: dict[str, Any] = documents.load(file, dict[str, Any], way_out=way_out)
    return config_lib.of_saved(values, path, way_out)
