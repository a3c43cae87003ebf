"""Says what an error of the system means for a command: the option of the folder, and the way out.

    faults.explain(error, {"data_dir": "/a"})
    # "/a/x: Permission denied (in --data_dir); change its permissions, or name another --data_dir."

TensorFlow and HDF5 have errors of their own for the same; their messages hold the system's words.
"""

from __future__ import annotations

import errno
import os
import pathlib
import re
from typing import TYPE_CHECKING

from trainer.system import text

if TYPE_CHECKING:
    from collections.abc import Mapping

RESUMES = "the same command resumes from what is saved"
FREE = f"free some space, or name another --model_dir; {RESUMES}"
"""What to do where nothing can be written, and the system does not say why."""
_WAYS_OUT = {
    errno.EACCES: "change its permissions{or_another}",
    errno.EPERM: "change its owner or attributes{or_another}",
    errno.EROFS: "mount its disk for writing{or_another}",
    errno.ENOENT: f"put it back, or mount its disk again{{or_another}}; {RESUMES}",
    errno.ENOTDIR: "a file is where a folder belongs: move it away{or_another}",
    errno.EEXIST: "a file is where a folder belongs: move it away{or_another}",
    errno.EISDIR: "a folder is where a file belongs: move it away{or_another}",
    errno.ENAMETOOLONG: "give shorter paths{or_another}",
    errno.ELOOP: "its links lead in a circle: remove one{or_another}",
    errno.ENOSPC: f"free some space{{or_another}}; {RESUMES}",
    errno.EDQUOT: f"free some of your quota{{or_another}}; {RESUMES}",
    errno.EFBIG: f"raise the limit of a file's size (ulimit -f){{or_another}}; {RESUMES}",
    errno.EMFILE: f"raise the limit of open files (ulimit -n 4096); {RESUMES}",
    errno.ENFILE: f"end other programs, or raise the system's limit of open files; {RESUMES}",
    errno.ESTALE: f"mount its network file system again; {RESUMES}",
    errno.EIO: f"check its disk and the system's log{{or_another}}; {RESUMES}",
}
"""A clause for each error that a disk can cause."""
_WORDS = {os.strerror(number): number for number in _WAYS_OUT}
_OF_TENSORFLOW = re.compile(
    r"(?:(?:^|\}\} )(?P<path>[^;{}\n]+); )?(?P<words>" + "|".join(_WORDS) + ")"
)
_OF_HDF5 = re.compile(r"name = '(?P<path>[^']*)'.*error message = '(?P<words>[^']*)'")


def explain(error: OSError, folders: Mapping[str, str]) -> str:
    """Returns a sentence with the path, the option that it belongs to, and the way out.

    Args:
      error: of the system.
      folders: the folder of each option, by name; `~` stands for the home folder. A name in
        capitals is that of a variable. Where `model_dir` is empty, nothing is to be resumed.
    """
    error = _in_words(error) or error
    is_path = isinstance(error.filename, str | bytes | os.PathLike)
    path = os.fsdecode(error.filename) if is_path else ""
    option = _option_of(path, folders) if path else ""
    place = f" (in {_flag(option)})" if option else ""
    shown = f"{text.one_line(path)}: " if path else ""
    problem = f"{shown}{error.strerror or text.first_line(error)}{place}"
    clause = way_out(error, option)
    if not _is_saved(option, folders):
        clause = clause.removesuffix(f"; {RESUMES}")
    return f"{problem}{clause}."


def _flag(option: str) -> str:
    return option if option.isupper() else f"--{option}"


def _is_saved(option: str, folders: Mapping[str, str]) -> bool:
    """Whether the same command has something to resume from, as far as that is known."""
    if "model_dir" not in folders:  # In a bucket, or a search.
        return True
    run = _absolute(folders["model_dir"]) if folders["model_dir"] else None
    is_gone = option == "model_dir" and run is not None and not run.exists()
    return is_gone or (run is not None and any(run.glob("checkpoints/[0-9]*")))


def way_out(error: OSError, option: str = "") -> str:
    """Returns what to do about an error, a clause after a semicolon; empty if it isn't known.

    Args:
      error: of the system.
      option: the option that names its folder; empty if none does.
    """
    or_another = f", or name another {_flag(option)}" if option else ""
    clause = _WAYS_OUT.get(error.errno or 0, "").format(or_another=or_another)
    return f"; {clause}" if clause else ""


def of_library(error: Exception) -> OSError | None:
    """Returns the system's error that a library has put into words of its own; None if none."""
    is_tensorflows = type(error).__module__.startswith("tensorflow.")
    found = _OF_TENSORFLOW.search(str(error)) if is_tensorflows else None
    of_system = _as_error(found)
    if of_system is not None and of_system.filename is None:
        # What it is about is in the rest of the line.
        of_system.strerror = text.one_line(text.first_line(error)).rstrip(".")
    return of_system


def _in_words(error: OSError) -> OSError | None:
    return None if error.errno else _as_error(_OF_HDF5.search(str(error)))


def _as_error(found: re.Match[str] | None) -> OSError | None:
    if found is None or found["words"] not in _WORDS:
        return None
    return OSError(_WORDS[found["words"]], found["words"], found["path"])


def _option_of(path: str, folders: Mapping[str, str]) -> str:
    """Returns the option that names the innermost folder around a path, or one below the path."""
    place = _absolute(path)
    named = {option: _absolute(folder) for option, folder in folders.items() if folder}
    around = [x for x, folder in named.items() if folder == place or folder in place.parents]
    if around:
        return max(around, key=lambda option: len(named[option].parts))
    return next((x for x, folder in named.items() if place in folder.parents), "")


def _absolute(path: str) -> pathlib.Path:
    return pathlib.Path(os.path.abspath(os.path.expanduser(path)))  # noqa: PTH100, PTH111 -- Neither raises nor follows links.
