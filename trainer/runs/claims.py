"""Whether a folder can become a run directory, and the sentences where it can't, or holds no model.

Said before TensorFlow is imported, and again when the directory is locked or downloaded. A new run
takes a folder that is empty or absent: among other files, its own could not be told from theirs.

    claims.require_free("model_dir", "~", contents.entries(path), own=claims.OF_RUN)
"""

from __future__ import annotations

import fnmatch
import os
import pathlib
import time
from typing import TYPE_CHECKING, TypedDict

import filelock

from trainer.errors import ConfigError, RunError
from trainer.storage import contents, documents, locations
from trainer.system import text

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable

    from trainer.config import Config

CONFIG, BEST_MODEL, PAGE = "config.json", "best.keras", "report.html"
OF_RUN = (
    CONFIG, BEST_MODEL, "changes.jsonl", "metrics.jsonl", "checkpoints/", "tensorboard/",
    "trained_on.json", "predictions_*.csv", "operating_point.json", "looks.jsonl", "report.json",
    "validation_sample.npz",
    PAGE, "curves.png", "confusion_matrix.png", "samples.png", "on_*/",
)  # fmt: skip
"""What a run writes, as patterns; names of folders end with a slash."""
OF_COMPARISON = ("comparison.*", "finished.json", "*-seed[0-9]*/")
"""What a comparison of backbones writes, beside what its runs do."""
_HARMLESS = (
    ".*", "lost+found/", "logs/", "log/", "wandb/", "mlruns/", "readme", "icon\r", "thumbs.db",
    "core.*", "*.lock", "predictions*.csv",
    "*.o[0-9]*", "*.e[0-9]*", "*.po[0-9]*", "*.pe[0-9]*", "events.out.tfevents.*",
    *(f"*.{suffix}" for suffix in (
        "log", "out", "err", "txt", "md", "json", "yaml", "yml", "toml", "ini", "cfg", "flags",
        "sh", "sbatch", "slurm", "pbs", "ipynb",
    )),
)  # fmt: skip
"""What shells, schedulers, file managers, trackers and people put beside a run before it begins:
logs (PBS and SGE write job.o17), options, notes. In small letters."""
_OF_SEARCH = ("trial.json", "oracle.json")
"""Of a search, whose folders belong to it alone."""
_SHOWN = 3
LOCK, OWNER = ".lock", ".owner.json"


class _Owner(TypedDict):
    """The process that has locked the directory, its host, and since when, in seconds of 1970."""

    process: documents.Count
    host: str
    since: documents.Seconds


def require_free(
    option: str, place: str, found: Iterable[str], own: Collection[str], way_out: str = ""
) -> None:
    """Raises ConfigError if a folder holds files that are neither its command's nor harmless.

    Args:
      option: the name of the option that names the folder.
      place: the folder, as the user named it.
      found: what it holds, as `contents.entries` returns it.
      own: patterns of what the command itself writes there.
      way_out: the flag that names a folder; empty: a folder inside.
    """
    other = [name for name in found if not _is_like(name, own) and not _is_harmless(name)]
    if not other:
        return
    listed = ", ".join(f"{text.one_line(name):.60}" for name in other[:_SHOWN])
    more = f" and {len(other) - _SHOWN} more" if other[_SHOWN:] else ""
    inside = text.quoted(f"{place.rstrip('/')}/run")
    raise ConfigError(
        f"{option} ({text.one_line(place)}) holds other files ({listed}{more}); give a new or "
        f"empty folder, such as {way_out or f'--{option}={inside}'}."
    )


def _is_harmless(name: str) -> bool:
    return name not in _OF_SEARCH and _is_like(name.lower(), _HARMLESS)


def _is_like(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def require_options(place: object, found: Collection[str]) -> None:
    """Raises RunError if a folder holds results of a run, and not its options.

    A run that began there would overwrite them.
    """
    if lost := contents.lost_options(str(place), found):
        raise RunError(lost)


def require_free_for_run(config: Config, found: Iterable[str]) -> None:
    """Raises ConfigError if the folder of a new run holds other files.

    The folders of data, cache and copies may be inside, where the user has named them so.
    """
    named = (
        config.data.data_dir,
        config.data.manual_dir,
        config.data.staging_dir,
        config.features.cache_dir,
        config.model.weights,
    )
    # A folder may be named by its place, or by a link that is inside and leads elsewhere.
    inside = [
        path.removeprefix(f"{place}/").partition("/")[0]
        for absolute in (os.path.realpath, os.path.abspath)
        for place in [_absolute(config.model_dir, absolute)]
        for path in (_absolute(other, absolute) for other in named if other)
        if path.startswith(f"{place}/")
    ]
    own = [*OF_RUN, *(f"{name}{end}" for name in inside for end in ("", "/"))]
    require_free("model_dir", config.model_dir, found, own)


def _absolute(path: str, absolute: Callable[[pathlib.Path], str]) -> str:
    if locations.is_url(path):
        return str(locations.parse(path))
    return absolute(pathlib.Path(path).expanduser()).rstrip("/")


def nothing_to_resume(place: object) -> str:
    """Returns what --resume=must says of a directory without a run."""
    return (
        f"model_dir ({place}) holds no run for --resume=must to resume; name another, or begin one "
        "with --resume=auto."
    )


def already_a_run(place: object) -> str:
    """Returns what --resume=never says of a directory with a run."""
    return (
        f"model_dir ({place}) already holds a run; name another, or resume it with --resume=auto."
    )


def damaged_model(place: object) -> str:
    """Returns what is said of a best.keras that is no archive of Keras."""
    return (
        f"{place} is not a readable model: it is not a .keras archive, which is a zip file, or is "
        "cut off; restore it from a copy, or train again with another --model_dir."
    )


def no_model_yet(place: object, path: pathlib.Path) -> str:
    """Returns what a command that needs a model says of a run that has none.

    Args:
      place: the run, as the user named it.
      path: its local folder.
    """
    if owner := held_by(path):
        return (
            f"the run at {place} is still training ({owner}), and has no model yet; wait until it "
            "has ended."
        )
    # Nobody knows who works on a run in a bucket.
    ended = ", unless it is still training" if "://" in str(place) else ""
    return f"the run at {place} has no model yet; run its command again to resume it{ended}."


def require_checkpoints(place: object, path: pathlib.Path) -> None:
    """Raises ConfigError if a run has results, and no checkpoint to go on from.

    It would begin anew, and overwrite them.

    Args:
      place: the run, as the user named it.
      path: its local folder.
    """
    results = contents.results_in(contents.entries(path))
    if not results or any((path / "checkpoints").glob("[0-9]*")):
        return
    has_model = BEST_MODEL in results
    way_out = other_uses(str(place)) if has_model else "name another --model_dir"
    raise ConfigError(
        f"{place}/checkpoints is missing, so the run can't go on; restore it from a copy, or "
        f"{way_out}."
    )


def other_uses(place: str = "") -> str:
    """Returns a clause: what a run with a model, that can't go on, is still good for.

    Args:
      place: the run, as the user named it, where that is known.
    """
    named = f" --model_dir={text.quoted(place)}" if place else ""
    evaluated = f"evaluate its {BEST_MODEL} with --mode=evaluate{named}"
    if locations.is_url(place):
        return f"{evaluated}, or name another --model_dir"
    return (
        f"{evaluated}, or start a new run from it with --weights={text.quoted(place or 'DIR')} and "
        "another --model_dir"
    )


def written_again(place: str) -> str:
    """Returns a clause: how a finished run writes what it has besides checkpoints once more.

    Args:
      place: the run, as the user named it.
    """
    config = f"{place.rstrip('/')}/{CONFIG}"
    return (
        "restore it from a copy, or evaluate the run anew with python -m trainer "
        f"--config_file={text.quoted(config)} --model_dir={text.quoted(place)} --resume=auto"
    )


def held_by(path: pathlib.Path) -> str:
    """Returns who works on the run in a folder, as `owner`; empty if nobody does."""
    if not (path / LOCK).exists():
        return ""
    try:  # Held for a moment only: a run that begins in it says that the directory is in use.
        with filelock.FileLock(path / LOCK).acquire(blocking=False):
            return ""
    except filelock.Timeout:
        return owner(path)
    except OSError:  # It may only be read, so that nobody trains in it from here.
        return ""


def owner(path: pathlib.Path) -> str:
    """Returns the process that has locked a folder, its host, and for how long."""
    try:
        found: _Owner = documents.load(path / OWNER, _Owner, way_out="remove it")
    except RunError:
        return "another process"
    minutes = int(time.time() - found["since"]) // 60
    since = f"{minutes} min" if minutes > 0 else "less than a minute"
    host = text.one_line(found["host"])
    return f"process {found['process']} on {host:.80}, for {since}"
