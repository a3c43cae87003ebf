"""What a folder that a user names holds: a run, a part of one, a search, options, or none of these.

contents.entries(path)                     # ["best.keras", "checkpoints/", "config.json"]
contents.no_run_at("runs", found)          # "there is no run at runs; give the directory of one: …"
contents.lost_options("half", found)       # "half/config.json is missing beside best.keras …"
"""

from __future__ import annotations

import contextlib
import fnmatch
import os
import pathlib
from typing import TYPE_CHECKING

from trainer.system import hints, text

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

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
_OPTIONS_FILE = "give the path of a JSON file of options, such as the config.json of a run"


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
