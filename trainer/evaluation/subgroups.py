"""Figures for groups of examples: by etiology, hospital, age or any other column.

    subgroups.by_column(table, "etiology", drawn)        # a Subgroup for each of its values

A model can be right on the whole and wrong for one group.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from trainer.evaluation import intervals, metrics, resampling
from trainer.system import text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from trainer.evaluation.intervals import Interval
    from trainer.evaluation.predictions import Predictions
    from trainer.evaluation.resampling import PatientBootstrap

MAX_GROUPS = 20
_QUARTERS = 4
_MAX_NUMBERS = 8
"""Distinct numbers up to which each is a group of its own."""
_EMPTY = "(empty)"
_FIGURES = ("accuracy", "sensitivity", "specificity", "roc_auc")
AGAINST_OTHERS = (
    "A group of one class is compared with all examples of the other class for its AUC."
)


@dataclasses.dataclass(frozen=True)
class Subgroup:
    """The figures of a group of examples; None where undefined.

    Attributes:
      name: the value of the column, or a range of values.
      examples: number of examples.
      patients: number of distinct patients.
      correct: number of examples whose most probable class is the true class.
      accuracy: their share.
      sensitivity: as in `metrics.Metrics`, within the group.
      specificity: see there.
      roc_auc: see there. Where all examples of a group are of one class of two, as for an etiology,
        they are compared with all examples of the other class.
      intervals: 95 % intervals of these figures, by name.
    """

    name: str
    examples: int
    patients: int
    correct: int
    accuracy: float
    sensitivity: float | None
    specificity: float | None
    roc_auc: float | None
    intervals: dict[str, Interval]

    @property
    def is_compared_with_others(self) -> bool:
        """Whether its AUC needs examples of other groups."""
        is_of_one_class = (self.sensitivity is None) != (self.specificity is None)
        return self.roc_auc is not None and is_of_one_class


def by_column(table: Predictions, column: str, drawn: PatientBootstrap) -> tuple[Subgroup, ...]:
    """Returns the groups of a column, in the order of its values.

    Numbers are grouped by quarters if there are more than eight of them; where the column is empty,
    examples are a group of their own. Of more than 20 texts, the most frequent are kept, and the
    rest are one group.

    Args:
      table: predictions, with that column.
      column: its name.
      drawn: resamples of the same examples.
    """
    return tuple(
        _group(table, name, rows, drawn) for name, rows in _partition(table.column(column))
    )


def _group(
    table: Predictions, name: str, rows: npt.NDArray[np.intp], drawn: PatientBootstrap
) -> Subgroup:
    part = table.take(rows)
    within = drawn.restricted_to(rows)
    scores, found = metrics.compute(part), intervals.of(part, within)
    roc_auc = scores.roc_auc
    if len(table.class_names) == 2 and np.unique(part.label).size == 1:
        # Only its AUC is defined against others: the other figures are of the group alone.
        both = np.union1d(rows, np.flatnonzero(table.label != part.label[0]))
        compared = table.take(both)
        roc_auc = metrics.figures(compared.label, compared.probabilities).roc_auc
        if roc_auc is not None:
            areas = resampling.roc_auc(compared, drawn.restricted_to(both))
            patients = intervals.fewest_patients(compared)
            found["roc_auc"] = intervals.rate(roc_auc, areas, patients, len(compared))
    return Subgroup(
        name=name,
        examples=len(part),
        patients=np.unique(part.patient_id).size,
        correct=int((part.predicted == part.label).sum()),
        accuracy=scores.accuracy,
        sensitivity=scores.sensitivity,
        specificity=scores.specificity,
        roc_auc=roc_auc,
        intervals={figure: found.get(figure) for figure in _FIGURES},
    )


def _partition(values: npt.NDArray[np.str_]) -> Iterator[tuple[str, npt.NDArray[np.intp]]]:
    """Yields the name and the rows of each group."""
    is_given = values != ""
    given, empty = np.flatnonzero(is_given), np.flatnonzero(~is_given)
    if empty.size:
        yield _EMPTY, empty
    if not given.size:
        return
    numbers = _numbers(values[given])
    if numbers is None:
        found = _by_value(values[given], key=str)
    elif np.unique(numbers).size > _MAX_NUMBERS:
        found = _quarters(numbers)
    else:  # As text, "10" would come before "9".
        found = _by_value(values[given], key=float)
    yield from ((name, given[rows]) for name, rows in found)


def _by_value(
    values: npt.NDArray[np.str_], *, key: Callable[[str], Any]
) -> Iterator[tuple[str, npt.NDArray[np.intp]]]:
    """Yields a group for each value, in the order of a key; of many, the rest is the last one."""
    names, index, counts = np.unique(values, return_inverse=True, return_counts=True)
    parts = np.split(np.argsort(index, kind="stable"), np.cumsum(counts)[:-1])
    rows = dict(zip(names.tolist(), parts, strict=True))
    by_size = sorted(rows, key=lambda name: -rows[name].size)
    for name in sorted(by_size[:MAX_GROUPS], key=key):
        yield name, rows[name]
    if others := by_size[MAX_GROUPS:]:
        rest = np.sort(np.concatenate([rows[name] for name in others]))
        yield text.counted(len(others), "other value"), rest


def _numbers(values: npt.NDArray[np.str_]) -> npt.NDArray[np.float64] | None:
    """Returns the values as numbers; None if there are none, or one is not a finite number."""
    try:
        numbers = values.astype(float)
    except ValueError:
        return None
    return numbers if numbers.size and np.isfinite(numbers).all() else None


def _quarters(numbers: npt.NDArray[np.float64]) -> Iterator[tuple[str, npt.NDArray[np.intp]]]:
    inner = np.unique(np.quantile(numbers, np.arange(1, _QUARTERS) / _QUARTERS))
    index = np.searchsorted(inner, numbers)  # The upper end belongs to a quarter.
    for place in np.unique(index):
        rows = np.flatnonzero(index == place)
        low, high = (text.plain(float(end(numbers[rows]))) for end in (np.min, np.max))
        yield low if low == high else f"{low} to {high}", rows
