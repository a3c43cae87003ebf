"""What a search has on disk, checked before KerasTuner sees it: its trials, and the oracle's state.

KerasTuner believes its files. A trial's `tuner/configuration` becomes the name of a folder, and its
hyperparameters name classes.

    trial = saved.load_trial(folder / "trial_b0-r0-00" / "trial.json", oracle.get_space())
    state = saved.load_oracle(folder / "oracle.json", trials)
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Any, TypedDict

import keras_tuner
from keras_tuner.engine import trial as trial_lib

from trainer.errors import RunError
from trainer.storage import documents
from trainer.system import text
from tuner import records, statuses
from tuner.oracles.brackets import Slot
from tuner.space import SIGNIFICANT_DIGITS

if TYPE_CHECKING:
    import pathlib
    from collections.abc import Collection, Mapping

_WAY_OUT = "restore it from a copy, or choose another --project_name"
_STATUSES = (statuses.RUNNING, statuses.COMPLETED, statuses.FAILED)
_ROUNDED = 10.0 ** (1 - SIGNIFICANT_DIGITS)
"""By how much, as a fraction, a sampled number may lie beyond its range."""
_Ordinal = Annotated[int, documents.at_least(0)]
_ENTRIES = TypedDict(
    "_ENTRIES",
    {
        "tuner/epochs": _Ordinal,
        "tuner/initial_epoch": _Ordinal,
        "tuner/bracket": _Ordinal,
        "tuner/round": _Ordinal,
        "tuner/configuration": documents.Name,
    },
)


class _Chosen(TypedDict):
    """The part of KerasTuner's hyperparameters that a trial chooses."""

    values: dict[str, int | float | str]


class _Trial(TypedDict):
    """What is read of a trial's file."""

    trial_id: documents.Name
    hyperparameters: _Chosen
    status: Annotated[str, documents.one_of(*_STATUSES)]
    score: float | None
    best_step: documents.Count | None
    message: str | None


class OracleState(TypedDict):
    """What is read of the oracle's file."""

    ongoing_trials: dict[str, str]
    start_order: list[str]
    end_order: list[str]
    run_times: dict[str, documents.Count]
    retry_queue: list[str]
    tried_so_far: list[str]
    id_to_hash: dict[str, str | None]
    reached: dict[str, str]


def load_trial(path: pathlib.Path, space: keras_tuner.HyperParameters) -> trial_lib.Trial:
    """Reads a trial: its values, and how it ended.

    Args:
      path: its file, in its folder.
      space: the search space, which the file's own copy does not replace.

    Raises:
      RunError: when the file is damaged, or does not belong to this search.
    """
    limit = documents.LARGE_BYTES
    found: _Trial = documents.load(path, _Trial, way_out=_WAY_OUT, max_bytes=limit)
    space.values = found["hyperparameters"]["values"]
    try:
        documents.fit(space.values, _ENTRIES)
        _require_place(found["trial_id"], path, space.values)
        _require_values(space)
    except ValueError as error:
        raise documents.refused(path, f"it {error}", _WAY_OUT) from error
    trial = trial_lib.Trial(space, found["trial_id"], found["status"], found["message"])
    trial.score, trial.best_step = found["score"], found["best_step"]
    return trial


def _require_place(trial_id: str, path: pathlib.Path, values: Mapping[str, Any]) -> None:
    slot = Slot.of(trial_id)
    places = (slot.trial_id, slot.configuration)
    if places != (path.parent.name.removeprefix("trial_"), values["tuner/configuration"]):
        raise ValueError(f"is of trial {trial_id}, whose files are elsewhere")


def _require_values(space: keras_tuner.HyperParameters) -> None:
    for dimension in space.space:
        value = space.values.get(dimension.name)
        if value is None or not _is_of(dimension, value):
            raise ValueError(
                f"has {dimension.name} = {text.shown(value)}, which the search does not try"
            )


def _is_of(dimension: Any, value: int | float | str) -> bool:
    """Whether a value is of a KerasTuner dimension, but for the rounding of sampled numbers."""
    if isinstance(value, str) or isinstance(dimension.default, str):
        return value in getattr(dimension, "values", ())
    if isinstance(dimension, keras_tuner.engine.hyperparameters.Choice):
        return any(math.isclose(value, choice, rel_tol=_ROUNDED) for choice in dimension.values)
    low, high = dimension.min_value, dimension.max_value
    return bool(low - _ROUNDED * abs(low) <= value <= high + _ROUNDED * abs(high))


def load_oracle(path: pathlib.Path, trials: Collection[str]) -> dict[str, Any]:
    """Reads the oracle's state, without entries about trials that are not there.

    Args:
      path: the file.
      trials: ids of the trials on disk.

    Raises:
      RunError: when the file is damaged.
    """
    limit = documents.LARGE_BYTES
    state: OracleState = documents.load(path, OracleState, way_out=_WAY_OUT, max_bytes=limit)
    ongoing = {w: t for w, t in state["ongoing_trials"].items() if t in trials}
    order = [t for t in dict.fromkeys(state["end_order"]) if t in trials]
    read = {name: state[name] for name in OracleState.__required_keys__}  # type: ignore[literal-required]
    return {**read, "ongoing_trials": ongoing, "end_order": order}


def require_no_links(folder: pathlib.Path) -> None:
    """Raises RunError for a folder that is a link: what is written into it would be elsewhere."""
    runs = folder / records.RUNS
    for path in (runs, *runs.glob("*"), *folder.glob("trial_*"), folder / "tensorboard"):
        if path.is_symlink():
            raise RunError(
                f"{path} is a link, and nothing is written through it; replace it by a folder."
            )
