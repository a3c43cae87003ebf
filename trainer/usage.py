"""What the command line tells of itself: help, version, and the way out of a wrong turn.

usage.define_help("python -m trainer")          # --help, -h and --version, with exit code 0
usage.explain(error, flags.FLAGS, names)        # one sentence with value and way out
usage.mistyped("—lr=1", flags.FLAGS, names)     # a dash that is no hyphen: the same
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import io
import platform
import re
import sys
from typing import TYPE_CHECKING, Any

from absl import app, flags

from trainer.errors import ConfigError
from trainer.system import console, hints, text

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

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
_OF_SEVERAL = {
    "images": "separate files by commas, or quote a pattern: --images='scans/*.png'",
    "format": "separate formats by commas: --format=onnx,litert",
    "backbones": "separate names by commas: --backbones=vgg16,mobilenet_v2",
    "runs": "separate directories by commas: --runs=runs/a,runs/b",
}
"""By option: how to give it several values, which the shell made arguments of their own."""
_ABSENT = "not installed"
_SETS = {
    "config_file": "give one file: other flags override it",
    "recipe": "give one: other flags override it",
    "search": "name all dimensions in one, separated by commas: --search=neurons,dropout",
    "search_file": "give one file with all dimensions",
}
"""Flags whose first value would be lost as a whole if they were given twice, and the way out."""
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


def versions(*names: str) -> dict[str, str]:
    """Returns the versions of those that are installed; TensorFlow's wheels have several names."""
    other = {"tensorflow": ("tensorflow", "tensorflow-cpu", "tensorflow-tpu")}
    found = {name: _installed(*other.get(name, (name,))) for name in names}
    return {name: version for name, version in found.items() if version != _ABSENT}


def _installed(*names: str) -> str:
    for name in names:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            return importlib.metadata.version(name)
    return _ABSENT


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
    if option in _OF_SEVERAL and option in defined and argument not in _COMMANDS:
        return f"{shown}: --{option} takes one value; {_OF_SEVERAL[option]}."
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
