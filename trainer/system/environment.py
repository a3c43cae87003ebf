"""What must be there before a command starts: the interpreter, the packages, the streams.

Imports the standard library alone, and runs in older Pythons: it tells what is missing.

    with environment.required("trainer"):
        from absl import app      # Missing: one line that says how to activate the environment.
"""

from __future__ import annotations

import contextlib
import errno
import importlib.util
import os
import pathlib
import sys
import tempfile
import warnings
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

OLDEST = (3, 11)
_INTERRUPTED = 130


@contextlib.contextmanager
def required(command: str) -> Iterator[None]:
    """Exits with one line if Python is too old, or if an import in the block fails."""
    if sys.version_info < OLDEST:
        running, oldest = (".".join(map(str, v[:2])) for v in (sys.version_info, OLDEST))
        sys.exit(f"{command}: needs Python {oldest} or newer, not {running}; {_way_out()}.")
    try:
        yield
    except ImportError as error:
        missing = error.__cause__ or error  # Of cxr_tfds, which says the same to its own users.
        if not isinstance(missing, ModuleNotFoundError):
            raise
        sys.exit(f"{command}: {sys.executable} has no package {missing.name}; {_way_out()}.")
    except KeyboardInterrupt:
        sys.exit(_INTERRUPTED)


def _way_out() -> str:
    root = pathlib.Path(__file__).resolve().parents[2]
    if (root / ".venv" / "bin" / "activate").exists():
        return f"activate the environment: source {root}/.venv/bin/activate"
    return (
        "create an environment in the clone and activate it: make .venv && source "
        '.venv/bin/activate; or install: pip install ".[cpu]" (or gpu, tpu)'
    )


def has_tensorflow() -> bool:
    """Whether TensorFlow is installed; does not import it."""
    return importlib.util.find_spec("tensorflow") is not None


def prepare() -> None:
    """Prepares the process of a command: streams that can be written to, and no plot windows.

    A closed standard stream becomes the null device: its number would go to the next file that is
    opened, and what libraries print would end up in it. Characters that the terminal's encoding
    lacks are replaced.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # Takes the lowest free number, which is this one.
        if getattr(sys, name) is None:
            mode = "r" if name == "stdin" else "w"
            setattr(sys, name, open(number, mode, encoding="utf-8", closefd=False))  # noqa: SIM115 -- For the whole process.
    if sys.stdout.errors in ("strict", "surrogateescape"):
        sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr]
    # A notebook's value reaches the commands that it starts; Matplotlib refuses what it can't load.
    os.environ["MPLBACKEND"] = "agg"


def show_warnings() -> None:
    """Shows warnings that PYTHONWARNINGS or -W make errors: libraries raise some when imported.

    For commands, whose processes run no code of their user; also in the processes that they start.
    """
    if all(_shown(option) == option.strip() for option in sys.warnoptions):
        return
    sys.stderr.write(
        "PYTHONWARNINGS or -W makes errors of warnings; they are shown instead, as libraries warn "
        "when they are imported.\n"
    )
    sys.warnoptions[:] = [_shown(option) for option in sys.warnoptions]
    given = os.environ.get("PYTHONWARNINGS", "")
    os.environ["PYTHONWARNINGS"] = ",".join(_shown(option) for option in given.split(","))
    _show_errors()


@contextlib.contextmanager
def warnings_shown() -> Iterator[None]:
    """Shows warnings that are to be errors while libraries start: theirs are not the user's.

    Before and after the block, the filters are those of the program that imports us.
    """
    if not any(row[0] == "error" for row in warnings.filters):
        yield  # Filters that libraries add when they are imported stay.
        return
    with warnings.catch_warnings():
        _show_errors()
        yield


def _show_errors() -> None:
    shown = [("default" if row[0] == "error" else row[0], *row[1:]) for row in warnings.filters]
    warnings.resetwarnings()  # It also makes Python forget what it knows of the old filters.
    warnings.filters[:] = shown  # type: ignore[index]


def _shown(option: str) -> str:
    action, colon, rest = option.strip().partition(":")
    return f"default{colon}{rest}" if action and "error".startswith(action) else option.strip()


DATA_VARIABLE = "TFDS_DATA_DIR"
OF_LIBRARIES = {
    "KERAS_HOME": ".keras",
    "MPLCONFIGDIR": "matplotlib",
    DATA_VARIABLE: "tensorflow_datasets",
}
"""Variables that name the folders of libraries, with the folder's name in the private one."""


def prepare_home() -> None:
    """Gives libraries a private folder where there is no home directory that can be written.

    They would otherwise make a folder named ~ in the working directory, share /tmp/.keras with
    everybody, warn at every start, or fail. What is set already stays, and so do a data set that
    can be read, and a folder in the home directory that can be written, as one that a container
    mounts there.
    """
    if not pathlib.PurePath(
        os.environ.get("HOME", "/")
    ).is_absolute():  # Empty, it would be read as /.
        del os.environ["HOME"]
    try:
        home = pathlib.Path.home()
    except RuntimeError:
        home = _private_or_exit()
        os.environ["HOME"] = str(home)
    if _can_be_written(home):
        return
    private = _private_or_exit()
    for variable, name in OF_LIBRARIES.items():
        own = home / name
        if not os.access(own / "cxr_tfds", os.R_OK):
            # Keras would pass by its own folder, if the one around it can't be written.
            folder = own if _can_be_written(own) else private / name
            os.environ.setdefault(variable, str(folder))


def _private_or_exit() -> pathlib.Path:
    try:
        return private_folder()
    except OSError as error:
        sys.exit(
            f"no home directory can be written, and {error.filename} can't be used instead "
            f"({error.strerror}); set HOME to a folder of yours."
        )


def cache_folder() -> pathlib.Path:
    """Returns the folder for what can be computed or downloaded again: ~/.cache/cxr-trainer.

    Where the home directory is unknown or can't be written, as in many containers, it is a folder
    of this user in the temporary folder.
    """
    try:
        folder = pathlib.Path.home() / ".cache" / "cxr-trainer"
    except RuntimeError:
        return private_folder()
    return folder if _can_be_written(folder) else private_folder()


def _can_be_written(folder: pathlib.Path) -> bool:
    """Whether a folder can be written, or made."""
    # Path.exists() raises in a folder of another user.
    existing = next(path for path in (folder, *folder.parents) if os.access(path, os.F_OK))
    return os.access(existing, os.W_OK)


def data_option(data_dir: str) -> str:
    """Returns the option, or the variable, that names the folder of data sets.

    Args:
      data_dir: the option's value; empty where it is not given.
    """
    named = os.environ.get(DATA_VARIABLE, "")
    is_users = named and not data_dir and not is_makeshift(pathlib.Path(named))
    return DATA_VARIABLE if is_users else "data_dir"


def is_makeshift(folder: pathlib.Path) -> bool:
    """Whether a folder is used because there is no home directory that can be written."""
    return _private_name() in folder.parts


def _private_name() -> str:
    return f"cxr-trainer-{os.getuid() if hasattr(os, 'getuid') else 'user'}"


def private_folder() -> pathlib.Path:
    """Returns a folder of this user alone: anybody may write to the temporary folder around it."""
    folder = pathlib.Path(tempfile.gettempdir()) / _private_name()
    folder.mkdir(mode=0o700, exist_ok=True)
    status = folder.lstat()
    is_ours = not hasattr(os, "getuid") or status.st_uid == os.getuid()
    if folder.is_symlink() or not is_ours or (os.name == "posix" and status.st_mode & 0o077):
        raise PermissionError(errno.EPERM, "belongs to another user, or others may write", folder)
    return folder


_BACKEND = "tensorflow"
_unused_backend = ""


def choose_backend() -> None:
    """Chooses TensorFlow for Keras, in this process and those that it starts."""
    global _unused_backend  # noqa: PLW0603 -- The environment is global too.
    given = os.environ.get("KERAS_BACKEND", "")
    if given not in ("", _BACKEND):
        _unused_backend = given
    os.environ["KERAS_BACKEND"] = _BACKEND


def unused_backend() -> str:
    """Returns a line if the user's KERAS_BACKEND is another than the one that is used."""
    if not _unused_backend:
        return ""
    shown = _unused_backend.encode("unicode_escape").decode("ascii")
    return f"KERAS_BACKEND ({shown:.40}) is not used: the trainer runs on TensorFlow."


def quiet_tensorflow() -> None:
    """Silences what TensorFlow's C++ code logs below errors, unless the user has set its level.

    Two lines about oneDNN remain: TensorFlow 2.21 writes them while its library is loaded, where no
    level holds. To drop them, standard error would have to be filtered, and a crash then loses the
    line that explains it, as on a CPU without AVX.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
