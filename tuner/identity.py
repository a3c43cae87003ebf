"""The identity of a search: every input that its results depend on.

It is saved with the search, so that a resumed search never mixes trials of different options.

began = identity.agree(settings, identity.of(base, settings, space, data.fingerprint))
"""

from __future__ import annotations

import hashlib
import importlib
import pathlib
import time
from typing import TYPE_CHECKING, Annotated, Any, NotRequired, TypedDict

from trainer import config as config_lib
from trainer.errors import ConfigError
from trainer.storage import documents, files
from trainer.system import console, text
from tuner.settings import FILE

if TYPE_CHECKING:
    from trainer.config import Config
    from tuner.settings import Settings
    from tuner.space import Space

SETTINGS = ("algorithm", "objective", "factor", "hyperband_iterations", "max_trials", "search_seed")
"""Settings that determine which trials a search has; others, such as `workers`, may change."""
GROWING = ("hyperband_iterations", "max_trials")
"""Those of them that may be raised later: the trials so far are the first of the larger search."""


class _SavedIdentity(TypedDict):
    """The identity that is saved: every option, and what is used before all are compared."""

    began: documents.Seconds
    max_epochs: Annotated[int, documents.at_least(1)]
    hyperband_iterations: Annotated[int, documents.at_least(1)]
    batch_size: NotRequired[Annotated[int, documents.at_least(0)]]


def of(base: Config, settings: Settings, space: Space, fingerprint: str) -> dict[str, Any]:
    """Returns every input that the results of a search depend on, by name.

    Args:
      base: config of every trial, apart from the searched options.
      settings: of the search.
      space: the search space.
      fingerprint: of the data.
    """
    options = {
        field.name: getattr(getattr(base, group), field.name)
        for group, field in config_lib.fields()
        if field.metadata["option"].of_result
    }
    for dimension in space.dimensions:
        options.pop(dimension.name)
    return {
        "space": str(space),
        **{name: getattr(settings, name) for name in SETTINGS},
        **options,
        "data": fingerprint,
        "code": _hash_of_sources(),
    }


def load(settings: Settings) -> dict[str, Any] | None:
    """Returns the saved identity of a search; None for a new search.

    A search without a trial is new: its first command may have failed for one of its options.

    Raises:
      RunError: when the file can't be read, is missing beside trials, or is something else.
    """
    path = settings.folder / FILE
    has_trials = any(settings.folder.glob("trial_*"))
    if not has_trials and not path.exists():
        return None
    way_out = "restore it from a copy, or choose another --project_name"
    # Read in any case: a search.json of something else would be written over.
    found: dict[str, Any] = documents.load(path, _SavedIdentity, way_out=way_out)
    return found if has_trials else None


def agree(settings: Settings, identity: dict[str, Any]) -> float:
    """Saves the identity of a new search; of a resumed one, checks that it has at most grown.

    Returns:
      The time at which the search began, in seconds since 1970.

    Raises:
      ConfigError: when it has shrunk or changed otherwise, with the differences.
      RunError: when the saved identity can't be read.
    """
    saved = load(settings)
    if saved is None:
        began = time.time()
        files.save_json(settings.folder / FILE, {**identity, "began": began})
        return began
    for name in _grown(settings, saved, identity):
        console.say(
            f"the search in {settings.folder} goes on: {name} {saved[name]} -> {identity[name]}."
        )
        saved[name] = identity[name]
        files.save_json(settings.folder / FILE, saved)
    console.say(f"resuming the search in {settings.folder}.")
    return float(saved["began"])


def require_same_options(base: Config, settings: Settings) -> None:
    """Compares a search to resume by its options, before TensorFlow is imported and data opened.

    Raises:
      ConfigError: when the search has shrunk or changed otherwise, with the differences.
      RunError: when the saved identity can't be read.
    """
    saved = load(settings)
    if saved is None or settings.dry_run:
        return
    identity = of(base, settings, settings.space_for(base), "")
    # `agree` compares these: they are known once data, device or steps are.
    later = {
        "data": True,
        "precision": base.runtime.precision == "auto",
        "batch_size": not base.data.batch_size,
        "max_epochs": settings.budget_minutes,
        "hyperband_iterations": settings.budget_minutes,
    }
    known = {name: value for name, value in identity.items() if not later.get(name)}
    _grown(settings, saved, known)


def _grown(settings: Settings, saved: dict[str, Any], identity: dict[str, Any]) -> list[str]:
    """Returns the settings by which a search is larger than the saved one, the same otherwise.

    Raises:
      ConfigError: when it has shrunk or changed otherwise, with the differences.
    """
    changed = [name for name in identity if identity[name] != saved.get(name)]
    if not set(changed) <= set(GROWING):
        listed = ", ".join(f"{n} {saved.get(n)!r:.200} -> {identity[n]!r:.200}" for n in changed)
        raise ConfigError(
            f"{settings.folder} holds another search ({listed}); choose another --project_name, or "
            "undo the change."
        )
    for name in changed:
        before, now = saved.get(name), identity[name]
        if not isinstance(before, int) or now < before:
            raise ConfigError(
                f"{name} ({now}) is less than the {text.shown(before)} of the search in "
                f"{settings.folder}, which can only grow; give as many or more, or choose "
                "another --project_name."
            )
    return changed


def _hash_of_sources() -> str:
    """Returns a hash of our sources: scores of different code versions are not comparable."""
    digest = hashlib.sha256()
    for package in ("cxr_tfds", "trainer", "tuner"):
        # By name: what their `__init__` imports for type checkers is not imported with them.
        folder = pathlib.Path(importlib.import_module(package).__path__[0])
        for path in sorted(folder.rglob("*.py")):
            digest.update(f"{path.relative_to(folder.parent)}\n".encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()[:16]
