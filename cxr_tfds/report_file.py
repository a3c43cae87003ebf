"""The file that `--json` names: never the user's own, and whole or not at all. No TensorFlow.

path = report_file.parse("~/report.json", manual_dir="~/archive")    # ValueError: not this one
report_file.write(path, {"is_sound": True})
"""

from __future__ import annotations

import errno
import json
import os
import pathlib
import stat
from typing import TYPE_CHECKING, Any, Final

from etils import epath

from cxr_tfds import text

if TYPE_CHECKING:
    from collections.abc import Mapping

_MARKS: Final = frozenset({"images", "issues", "leaks", "is_sound"})
"""Fields of every report, by which an earlier one is known."""
_WAYS_OUT: Final = {
    **dict.fromkeys((errno.ENOSPC, errno.EFBIG, errno.EDQUOT), "free some space"),
    **dict.fromkeys((errno.ENOENT, errno.ENOTDIR), "create the folder first"),
}


def parse(option: str, manual_dir: str) -> epath.Path:
    """Returns the path that `--json` names, once it is clear that nothing is lost by writing it.

    Args:
      option: the value of `--json`; "~" is the home folder.
      manual_dir: the zip, or the folder with the zip or its files.

    Raises:
      ValueError: it is the archive or in its folder, is a folder, has no folder, or is a file that
        is no earlier report. The message is a clause.
    """
    if not option:
        raise ValueError("json is empty; give the name of a file, or leave --json out")
    path = epath.Path(option).expanduser()
    name = text.visible(option)
    if "://" not in option:
        _require_outside(pathlib.Path(path), pathlib.Path(manual_dir).expanduser(), name)
        if not pathlib.Path(path).parent.is_dir():
            where = text.visible(str(path.parent))
            raise ValueError(f"json ({name}) can't be written: create the folder {where} first")
    if path.is_dir():
        raise ValueError(
            f"json ({name}) is a folder; give a file, such as {name.rstrip('/')}/audit.json"
        )
    if not _is_stream(path) and path.exists() and not _is_report(path):
        raise ValueError(
            f"json ({name}) is a file that is no audit report, and would be overwritten; give "
            "another name, or move the file away"
        )
    return path


def write(path: epath.Path, value: Mapping[str, Any]) -> None:
    """Writes a report as JSON: a reader sees the earlier report or the new one, never a part.

    Raises:
      OSError: it can't be written; what was there before is unchanged.
    """
    report = json.dumps(value, indent=2) + "\n"
    if "://" in str(path):  # An object in a bucket appears whole.
        path.write_text(report)
    elif _is_stream(path):
        with pathlib.Path(path).open("a", encoding="utf-8") as file:
            file.write(report)
    else:
        _replace(pathlib.Path(path).resolve(), report)


def explain(error: OSError, option: str) -> str:
    """Returns a clause that names the report, says why it can't be written, and the way out."""
    way_out = _WAYS_OUT.get(error.errno or 0, "give another --json")
    reason = text.visible(error.strerror or str(error))
    return f"json ({text.visible(option)}) can't be written: {reason}; {way_out}"


def _require_outside(path: pathlib.Path, manual_dir: pathlib.Path, name: str) -> None:
    target, archive = path.resolve(), manual_dir.resolve()
    if target == archive and not archive.is_dir():
        raise ValueError(
            f"json ({name}) is the archive, and would be overwritten; give another name"
        )
    if archive.is_dir() and archive in target.parents:
        raise ValueError(
            f"json ({name}) is in manual_dir, where only the archive belongs; give a file elsewhere"
        )


def _is_stream(path: epath.Path) -> bool:
    """Whether it is a pipe or a device, such as /dev/stdout: nothing to lose, nothing to rename."""
    if "://" in str(path):
        return False
    local = pathlib.Path(path)
    if local.parts[:2] == ("/", "proc") or str(local).startswith(("/dev/std", "/dev/fd/")):
        return True
    return local.exists() and not stat.S_ISREG(local.stat().st_mode)


def _is_report(path: epath.Path) -> bool:
    """Whether a file is empty, as `mktemp` leaves it, or an earlier report."""
    try:
        with path.open("rb") as file:
            start = file.read(1)
        if start != b"{":
            return not start
        found = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(found, dict) and found.keys() >= _MARKS


def _replace(path: pathlib.Path, report: str) -> None:
    partial = path.with_name(f".audit-{os.getpid()}.partial")
    try:
        with partial.open("w", encoding="utf-8") as file:
            file.write(report)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
