"""What the command line tells of itself: help, version, and the way out of a wrong turn.

usage.define_help("python -m trainer")          # --help, -h and --version, with exit code 0
usage.explain(error, flags.FLAGS, names)        # one sentence with value and way out
usage.nearest_option("lr", names)               # "; did you mean learning_rate?"
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import io
import pathlib
import platform
import re
import sys
from typing import TYPE_CHECKING, Any

from absl import app, flags

from trainer.system import console, text

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

SYNONYMS = {
    "lr": ("learning_rate",),
    "rate": ("learning_rate",),
    "epoch": ("max_epochs",),
    "epochs": ("max_epochs",),
    "num_epochs": ("max_epochs",),
    "bs": ("batch_size",),
    "batch": ("batch_size",),
    "model": ("backbone",),
    "arch": ("backbone",),
    "architecture": ("backbone",),
    "img_size": ("image_size",),
    "data": ("dataset", "data_dir"),
    "archive": ("manual_dir",),
    "output": ("model_dir", "directory"),
    "output_dir": ("model_dir", "directory"),
    "out_dir": ("model_dir", "directory"),
    "log_dir": ("model_dir", "directory"),
    "logdir": ("model_dir", "directory"),
    "run_dir": ("model_dir", "directory"),
    "model_dir": ("directory",),
    "search_dir": ("directory",),
    "config": ("config_file",),
    "trials": ("max_trials",),
    "gpus": ("strategy",),
    "device": ("strategy",),
    "dtype": ("precision",),
    "unfreeze": ("layers_to_unfreeze",),
    "early_stopping": ("patience",),
    "checkpoint_dir": ("model_dir",),
}
"""Names of the same option elsewhere; a command has one of those listed."""
NO_RUNS_SHOWN = 3
DEPTH = 3
"""Levels of folders in which a misnamed run is looked for."""
FOLDERS_READ = 500
"""How many folders are read for it at most."""
_BAD_VALUE = re.compile(r"flag --(?P<name>[\w-]+)=(?P<value>.*?): ", re.DOTALL)
_WANTED = {"bool": "true or false", "int": "a whole number", "float": "a number"}


def define_help(command: str) -> None:
    """Defines --version, and help flags that end with exit code 0: absl's end with 1."""
    app.define_help_flags()
    for kind in (app.HelpFlag, app.HelpshortFlag, app.HelpfullFlag, app.HelpXMLFlag):
        flag = _printing(kind)()
        flag.allow_override = True
        flags.DEFINE_flag(flag)
    flags.DEFINE_flag(_VersionFlag(command))


def _printing(kind: type[Any]) -> type[Any]:
    """Returns absl's flag, which prints and exits, so that it exits with 0."""

    class Printing(kind):
        def parse(self, arg: Any) -> None:
            printed = io.StringIO()
            try:
                with contextlib.redirect_stdout(printed):
                    super().parse(arg)
            except SystemExit:
                console.say(printed.getvalue().rstrip())
                sys.exit(0)

    return Printing


class _VersionFlag(flags.BooleanFlag):
    """--version: prints the version and exits."""

    def __init__(self, command: str) -> None:
        super().__init__("version", default=False, help="show the version and exit")
        self._command = command

    def parse(self, arg: Any) -> None:
        """Prints the version, unless the value is false."""
        if self._parse(arg):
            console.say(version(self._command))
            sys.exit(0)


def version(command: str) -> str:
    """Returns the command with its version and those of what decides results."""
    frameworks = (("tensorflow", "tensorflow-cpu", "tensorflow-tpu"), ("keras",))
    found = [f"{names[0]} {_installed(*names)}" for names in frameworks]
    parts = [f"python {platform.python_version()}", *found]
    return f"{command} {_installed('cxr-trainer')} ({', '.join(parts)})"


def _installed(*names: str) -> str:
    for name in names:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            return importlib.metadata.version(name)
    return "not installed"


def nearest_option(name: str, known: Collection[str]) -> str:
    """Returns a clause that names the option that was meant; empty if none is near."""
    other = [option for option in SYNONYMS.get(name.lower(), ()) if option in known]
    return f"; did you mean {other[0]}?" if other else text.nearest(name, known)


def explain(error: flags.Error, defined: flags.FlagValues, names: Collection[str]) -> str:
    """Returns a sentence for what absl found wrong with a flag.

    Args:
      error: raised by absl.
      defined: all flags, absl's own included.
      names: the command's own flags; only these are suggested.
    """
    if isinstance(error, flags.UnrecognizedFlagError):
        hint = nearest_option(error.flagname, names).replace("mean ", "mean --")
        return f"unknown option --{error.flagname}{hint or '; --help lists them all.'}"
    found = _BAD_VALUE.match(str(error))
    if found is None:
        return text.one_line(str(error)).rstrip(".") + "."
    flag = defined[found["name"]]
    choices = list(getattr(flag.parser, "enum_values", ()))
    wanted = _WANTED.get(flag.flag_type(), "a valid value")
    hint = "."
    if choices:
        wanted, hint = f"one of {', '.join(choices)}", text.nearest(found["value"], choices) or "."
    return f"{found['name']} ({text.one_line(found['value'])}) must be {wanted}{hint}"


def unexpected(argument: str, defined: flags.FlagValues, names: Iterable[str]) -> str:
    """Returns a sentence about an argument without dashes, and the options it may stand for."""
    head, sign, value = argument.partition("=")
    meant = [
        f"--{name}={text.quoted(argument)}" for name in names if _is_choice(defined[name], argument)
    ]
    if sign and head in names:
        meant = [f"--{head}={text.quoted(value)}"]
    hint = f"; did you mean {' or '.join(meant)}?" if meant else "."
    return f"unexpected argument {argument!r}; options start with --{hint}"


def _is_choice(flag: flags.Flag, argument: str) -> bool:
    return argument in getattr(flag.parser, "enum_values", ())


def no_run_at(folder: str) -> str:
    """Returns a sentence: there is no run in the folder, and where some are nearby."""
    if "://" in folder:
        return f"there is no run at {folder}; train one, or name its --model_dir."
    path = pathlib.Path(folder).expanduser()
    if path.is_file():
        return f"model_dir ({folder}) is a file; name the run's directory."
    runs = sorted(_runs_below(path)) or [p for p in path.absolute().parents if _is_run(p)]
    if not runs:
        missing = "" if path.is_dir() else ", which does not exist"
        return f"there is no run at {folder}{missing}; train one, or name its --model_dir."
    named = ", ".join(text.quoted(str(run)) for run in runs[:NO_RUNS_SHOWN])
    more = f" and {len(runs) - NO_RUNS_SHOWN} more" if len(runs) > NO_RUNS_SHOWN else ""
    return f"there is no run at {folder}; --model_dir may be {named}{more}."


def _runs_below(top: pathlib.Path) -> Iterator[pathlib.Path]:
    """Yields runs, from the top down; reads at most so many folders that it ends at once."""
    level = [top]
    left = FOLDERS_READ
    for _ in range(DEPTH):
        found = []
        for folder in level[:left]:
            with contextlib.suppress(OSError):  # It does not exist, or may not be read.
                found += [path for path in folder.iterdir() if path.is_dir()]
        left -= min(len(level), left)
        yield from filter(_is_run, found)
        level = [folder for folder in found if not _is_run(folder)]


def _is_run(folder: pathlib.Path) -> bool:
    names = ("config.json", "metrics.jsonl", "best.keras")
    return (folder / names[0]).is_file() and any((folder / name).exists() for name in names[1:])
