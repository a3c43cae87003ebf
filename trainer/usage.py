"""What the command line tells of itself: help, version, and the way out of a wrong turn.

usage.define_help("python -m trainer")          # --help, -h and --version, with exit code 0
usage.explain(error, flags.FLAGS, names)        # one sentence with value and way out
usage.mistyped("—lr=1", flags.FLAGS, names)     # a dash that is no hyphen: the same
"""

from __future__ import annotations

import contextlib
import fnmatch
import importlib.metadata
import io
import os
import pathlib
import platform
import re
import sys
from typing import TYPE_CHECKING, Any

from absl import app, flags

from trainer.errors import ConfigError
from trainer.system import console, hints, text

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

NO_RUNS_SHOWN = 3
DEPTH = 3
"""Levels of folders in which a misnamed run is looked for."""
FOLDERS_READ = 500
"""How many folders are read for it at most."""
_RESULTS = (
    "best.keras", "report.json", "predictions_test.csv", "metrics.jsonl", "trained_on.json",
    "checkpoints/", "on_*/",
)  # fmt: skip
"""What a run has earned, as patterns: never overwritten where its options are missing."""
_OF_EVERY_COMMAND = ("help", "version", "verbosity")
_COMMANDS = (
    "eval",
    "fit",
    "predict",
    "run",
    "start",
    "test",
    "validate",
    "resume",
    "check",
    "bench",
)
"""Words that are commands of other programs, and name a mode here."""
_SETS = {
    "config_file": "give one file: other flags override it",
    "recipe": "give one: other flags override it",
    "search": "name all dimensions in one, separated by commas: --search=neurons,dropout",
    "search_file": "give one file with all dimensions",
}
"""Flags whose first value would be lost as a whole if they were given twice, and the way out."""
_OPTIONS_FILE = "give the path of a JSON file of options, such as the config.json of a run"
_FLAGS_FILE = "give the path of a file with a flag on each line"
_READ_EACH_TIME = ("flagfile", "undefok")
_LISTED = "--help lists them all."
_BOOLEANS = ("true", "false", "yes", "no", "on", "off", "0", "1")
_DASHES = "‐‑‒–—―−﹣－"
_QUOTES = "“”„‟‘’‚‛«»"
_NO_VALUE = re.compile(r"^Missing value for flag --?(?P<name>[\w-]+)|^--(?P<file>flagfile) with no")
_UNREAD_FILE = re.compile(r"flagfile: (?:\[Errno \d+\] )?(?P<reason>.*?): '(?P<path>.*)'")
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
                # absl names the file that defines the flags, which is of no use to a reader.
                text_of_help = re.sub(r"\n\S*__main__\.py:(?=\n)", "", printed.getvalue())
                console.say(text_of_help.rstrip())
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


def explain(error: flags.Error, defined: flags.FlagValues, names: Collection[str]) -> str:
    """Returns a sentence for what absl found wrong with a flag.

    Args:
      error: raised by absl.
      defined: all flags, absl's own included.
      names: the command's own flags; only these are suggested.
    """
    if isinstance(error, flags.UnrecognizedFlagError):
        hint = hints.option(error.flagname, [*names, *_OF_EVERY_COMMAND], "--")
        return f"unknown option --{text.one_line(error.flagname)}{hint or f'; {_LISTED}'}"
    line = text.one_line(str(error))
    if unread := _UNREAD_FILE.search(line):
        return f"flagfile ({unread['path']}) can't be read: {unread['reason']}; {_FLAGS_FILE}."
    if missing := _NO_VALUE.search(line):
        name = missing["name"] or missing["file"]
        dashes = "-" if len(name) == 1 else "--"
        wanted = _wanted(defined[name]) if name in defined else "a file of options"
        return f"{dashes}{name} needs a value: {wanted}."
    found = _BAD_VALUE.match(str(error))
    if found is None:
        return line.rstrip(".") + "."
    name, value = found["name"], text.bare(found["value"])
    flag = defined[name]
    shown = f"{name} ({value})" if value else f"{name} is empty; it"
    choices = list(getattr(flag.parser, "enum_values", ()))
    if choices:
        return f"{shown} {hints.choice(name, value, choices)}"
    meant = hints.number(name, value, is_whole=flag.flag_type() == "int")
    return f"{shown} must be {_wanted(flag)}{meant}"


def _wanted(flag: flags.Flag) -> str:
    """Returns what the value of an option is."""
    choices = getattr(flag.parser, "enum_values", ())
    if choices:
        return f"one of {', '.join(choices)}"
    return _WANTED.get(flag.flag_type(), f"give --{flag.name}=VALUE")


def mistyped(argv: Sequence[str], defined: flags.FlagValues, names: Collection[str]) -> str:
    """Returns a sentence about what a text editor, or a shell, made of an option; or nothing.

    Args:
      argv: the arguments, without the command.
      defined: all flags.
      names: the command's own flags.
    """
    for argument in argv:
        shown = text.one_line(argument)
        if argument.startswith(tuple(_DASHES)):
            name, sign, value = argument.lstrip(_DASHES + "-").partition("=")
            near = [name] if name in defined else hints.options(name, names)
            meant = " or ".join(f"--{text.one_line(other + sign + value)}" for other in near)
            hint = f"; did you mean {meant}?" if meant else "."
            return f"{shown!r} starts with a long dash instead of two hyphens{hint}"
        head, _, value = argument.partition("=")
        quoted = value if head.startswith("-") else argument
        if quoted.startswith(tuple(_QUOTES)):
            return f"{shown!r} has typographic quotes, which are part of the value; write ' or \"."
    return ""


def repeated(defined: flags.FlagValues) -> tuple[str, ...]:
    """Returns a line for each flag that was given more than once; the last value is used.

    Scripts rely on it: they give values of their own, and then those of their user.

    Raises:
      ConfigError: for a flag with a set of options: one set would be dropped as a whole.
    """
    found = [name for name in defined if defined[name].present > 1 and name not in _READ_EACH_TIME]
    for name in found:
        if name in _SETS:
            raise ConfigError(f"--{name} is given more than once; {_SETS[name]}.")
    return tuple(
        f"--{name} is given {defined[name].present} times; the last value is used: "
        f"{text.one_line(str(defined[name].value)):.200}."
        for name in found
    )


def swallowed(name: str, value: Any) -> str:
    """Returns a sentence if an option without a value took the next option for it; or nothing."""
    if not isinstance(value, str) or not re.match(r"--[a-z]", value):
        return ""
    return f"--{name} needs a value, and {text.one_line(value)} follows it; give --{name}=VALUE."


def unexpected(
    argument: str, argv: Sequence[str], defined: flags.FlagValues, names: Collection[str]
) -> str:
    """Returns a sentence about an argument without dashes, and the options it may stand for.

    Args:
      argument: that absl left over.
      argv: all of them.
      defined: all flags.
      names: the command's own flags.
    """
    shown = f"unexpected argument {text.one_line(argument)!r}"
    files = [part.partition("=")[2] for part in argv if part.lstrip("-").startswith("flagfile=")]
    if argument.startswith("{") and argument not in argv and files:
        file = text.one_line(files[0])
        return f"flagfile ({file}) is JSON; give --config_file={text.quoted(file)}."
    place = argv.index(argument) if argument in argv else 0  # It may be in a --flagfile.
    before = [part for part in argv[:place] if part.startswith("-")]
    option = before[-1].lstrip("-").partition("=")[0] if before else ""
    meant = _options_meant(argument, defined, names)
    if meant:
        return f"{shown}; options start with --; did you mean {' or '.join(meant)}?"
    if option in defined and defined[option].boolean and argument.lower() in _BOOLEANS:
        return f"{shown}; write --{option}={argument.lower()}, or --no{option} for false."
    if option in defined and argument not in _COMMANDS:
        return f"{shown}: --{option} takes one value; put one with spaces in quotes."
    return f"{shown}; options start with --; {_LISTED}"


def _options_meant(argument: str, defined: flags.FlagValues, names: Collection[str]) -> list[str]:
    head, sign, value = argument.partition("=")
    if sign:
        return [f"--{head}={text.quoted(value)}"] if head in names else []
    if argument in _OF_EVERY_COMMAND:
        return [f"--{argument}"]
    choices = {name: getattr(defined[name].parser, "enum_values", ()) for name in names}
    found = [f"--{name}={text.quoted(argument)}" for name in names if argument in choices[name]]
    if not found and "mode" in names:
        modes = hints.values("mode", argument, choices["mode"])
        found = [f"--mode={mode}" for mode in modes if argument in _COMMANDS]
    return found


def entries(path: pathlib.Path) -> list[str]:
    """Returns the names in a folder, those of folders with a slash; none if it can't be read.

    A folder for results of a run is left out while it is empty: a bucket has no such folders.
    """
    names: list[str] = []
    with contextlib.suppress(OSError), os.scandir(path) as found:
        names = sorted(f"{entry.name}{'/' if entry.is_dir() else ''}" for entry in found)
    return [n for n in names if not (n[-1] == "/" and results_in([n]) and _is_empty(path / n))]


def _is_empty(folder: pathlib.Path) -> bool:
    with contextlib.suppress(OSError), os.scandir(folder) as found:
        return next(found, None) is None
    return False


def results_in(found: Collection[str]) -> list[str]:
    """Returns those names in a folder, as `entries` returns them, that are results of a run."""
    return [name for name in found if any(fnmatch.fnmatchcase(name, like) for like in _RESULTS)]


def lost_options(folder: str, found: Collection[str]) -> str:
    """Returns a sentence if a folder holds results of a run without its options; or nothing.

    Args:
      folder: as the user named it.
      found: what it holds, as `entries` returns it.
    """
    left = results_in(found)
    if not left or "config.json" in found:
        return ""
    return (
        f"{folder.rstrip('/')}/config.json is missing beside {' and '.join(left[:2])} of a run; "
        "restore it from a copy, or name another --model_dir."
    )


def no_run_at(folder: str, found: Collection[str] = ()) -> str:
    """Returns a sentence: there is no run in the folder, and why, or where some are nearby.

    Args:
      folder: as the user named it.
      found: what it holds, as `entries` returns it.
    """
    if lost := lost_options(folder, found):
        return lost
    if "search.json" in found:
        return _search_at(folder, found)
    if "://" in folder:
        return f"there is no run at {folder}; train one, or give the directory of one."
    path = pathlib.Path(folder).expanduser()
    if path.is_file():
        return f"model_dir ({folder}) is a file; name the run's directory."
    runs = sorted(_runs_below(path)) or [p for p in path.absolute().parents if _is_run(p)]
    if not runs:
        missing = "" if path.is_dir() else ", which does not exist"
        return f"there is no run at {folder}{missing}; train one, or give the directory of one."
    named = ", ".join(text.quoted(str(run)) for run in runs[:NO_RUNS_SHOWN])
    more = f" and {len(runs) - NO_RUNS_SHOWN} more" if len(runs) > NO_RUNS_SHOWN else ""
    return f"there is no run at {folder}; give the directory of one: {named}{more}."


def _search_at(folder: str, found: Collection[str]) -> str:
    """Returns a sentence about a search that was taken for a run."""
    place = folder.rstrip("/")
    refitted = sorted(_runs_below(pathlib.Path(place).expanduser() / "refit"))
    if refitted:
        way_out = f"its best, trained again, is --model_dir={text.quoted(str(refitted[0]))}"
    elif "best_config.json" in found:
        best = f"{place}/best_config.json"
        way_out = f"train its best first: --config_file={text.quoted(best)} --model_dir=DIR"
    else:
        way_out = "it has no best trial yet: run its command again to resume it"
    return f"model_dir ({folder}) is a search, not a run; {way_out}."


def is_beside_options(path: pathlib.Path) -> bool:
    """Whether a file is another one of a run or a search, whose options are beside it."""
    of_both = (("config.json", "config.json"), ("best_config.json", "search.json"))
    return any(path.name != own and (path.parent / mark).is_file() for own, mark in of_both)


def no_file_of_options(shown: str, path: pathlib.Path) -> str:
    """Returns a sentence about a folder, or another file of a run, that was given as --config_file.

    Args:
      shown: as the user named it.
      path: the same, on this machine.
    """
    folder = path if path.is_dir() else path.parent
    is_search = (folder / "search.json").is_file()
    of_file = "is a search's own file" if is_search else "is no file of options"
    of_folder = "is a search's folder" if is_search else "is a folder"
    kind = of_folder if path.is_dir() else of_file
    named = pathlib.Path(shown)
    found = [
        str(place / name)
        for place, folder in ((named, path), (named.parent, path.parent))
        for name in ("config.json", "best_config.json")
        if (folder / name).is_file()
    ]
    missing = "it has no best trial yet: run it to its end" if is_search else _OPTIONS_FILE
    way_out = f"give {text.quoted(found[0])}" if found else missing
    return f"config_file ({shown}) {kind}; {way_out}."


def options_near(shown: str, path: pathlib.Path) -> str:
    """Returns the end of a sentence about a file of options that is missing.

    Args:
      shown: as the user named it.
      path: the same, on this machine.
    """
    near: list[str] = []
    with contextlib.suppress(OSError):
        near = hints.near(path.name, [other.name for other in path.parent.glob("*.json")])
    if near:
        return f"did you mean {text.quoted(str(pathlib.Path(shown).parent / near[0]))}?"
    return f"{_OPTIONS_FILE}."


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
