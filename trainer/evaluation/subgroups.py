"""Figures for groups of examples: by etiology, hospital, age or any other column.

    subgroups.by_column(table, "etiology", drawn)        # a Subgroup for each of its values

A model can be right on the whole and wrong for one group.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from trainer.evaluation import intervals, metrics
from trainer.system import text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from trainer.evaluation.intervals import Interval
    from trainer.evaluation.predictions import Predictions
    from trainer.evaluation.resampling import PatientBootstrap

MAX_GROUPS = 20
_QUARTERS = 4
_MAX_NUMBERS = 8
"""Distinct numbers up to which each is a group of its own."""
_FIGURES = ("accuracy", "sensitivity", "specificity", "roc_auc")


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


def by_column(table: Predictions, column: str, drawn: PatientBootstrap) -> tuple[Subgroup, ...]:
    """Returns the groups of a column, in the order of its values.

    Numbers are grouped by quarters if there are more than eight of them. Of more than 20 groups,
    the largest are kept, and the rest are one.

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
        found["roc_auc"] = intervals.of(compared, drawn.restricted_to(both)).get("roc_auc")
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
    numbers = _numbers(values)
    if numbers is not None and np.unique(numbers).size > _MAX_NUMBERS:
        yield from _quarters(numbers)
        return
    names, index, counts = np.unique(values, return_inverse=True, return_counts=True)
    if numbers is not None:  # As text, "10" would come before "9".
        order = np.argsort(names.astype(float), kind="stable")
    else:
        order = np.arange(len(names))
    largest = set(np.argsort(-counts, kind="stable")[:MAX_GROUPS].tolist())
    for place in order:
        if place in largest:
            yield str(names[place]) or "(empty)", np.flatnonzero(index == place)
    rest = np.flatnonzero(~np.isin(index, list(largest)))
    if rest.size:
        yield f"{text.counted(len(names) - len(largest), 'other value')}", rest


def _numbers(values: npt.NDArray[np.str_]) -> npt.NDArray[np.float64] | None:
    """Returns the values as numbers; None if one is not a finite number."""
    try:
        numbers = values.astype(float)
    except ValueError:
        return None
    return numbers if np.isfinite(numbers).all() else None


def _quarters(numbers: npt.NDArray[np.float64]) -> Iterator[tuple[str, npt.NDArray[np.intp]]]:
    inner = np.unique(np.quantile(numbers, np.arange(1, _QUARTERS) / _QUARTERS))
    index = np.searchsorted(inner, numbers)  # The upper end belongs to a quarter.
    for place in np.unique(index):
        rows = np.flatnonzero(index == place)
        low, high = numbers[rows].min(), numbers[rows].max()
        yield f"{text.plain(float(low))} to {text.plain(float(high))}", rows
