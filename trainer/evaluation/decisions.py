"""The figures of decisions: of the most probable class, or from a threshold on.

    decisions.at(table, point, drawn)                     # AtThreshold(figures=...)
    decisions.restate(table, None, 0.05, drawn).ppv       # PPV where 5 % are positive

A decision is a class for each example. Its figures need no probabilities.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from trainer.evaluation import intervals, resampling

if TYPE_CHECKING:
    from collections.abc import Mapping

    from trainer.evaluation.intervals import Interval
    from trainer.evaluation.operating_points import OperatingPoint
    from trainer.evaluation.predictions import Predictions
    from trainer.evaluation.resampling import PatientBootstrap

FIGURES = (
    "accuracy",
    "macro_recall",
    "sensitivity",
    "specificity",
    "ppv",
    "npv",
    "f1",
    "mcc",
)


@dataclasses.dataclass(frozen=True)
class AtThreshold:
    """The figures of the decisions at a threshold on the test split; None where undefined.

    Attributes:
      chosen: the operating point.
      figures: by name, as in `metrics.Metrics`.
      confusion_matrix: number of examples, [true][predicted].
      intervals: 95 % intervals of the figures.
    """

    chosen: OperatingPoint
    figures: dict[str, float | None]
    confusion_matrix: tuple[tuple[int, ...], ...]
    intervals: dict[str, Interval]


@dataclasses.dataclass(frozen=True)
class Restated:
    """PPV and NPV for another prevalence, by Bayes' rule, with their 95 % intervals."""

    ppv: float | None
    npv: float | None
    intervals: dict[str, Interval]


def at(table: Predictions, chosen: OperatingPoint, drawn: PatientBootstrap) -> AtThreshold:
    """Returns the figures of two classes at an operating point.

    Args:
      table: predictions.
      chosen: the operating point.
      drawn: resamples of the same examples.
    """
    cells = _confusion(table.label, table.decided(chosen.threshold))
    return AtThreshold(
        chosen,
        _figures_of(cells),
        tuple(tuple(row) for row in cells.tolist()),
        intervals.of(table, drawn, chosen.threshold),
    )


def restate(
    table: Predictions, threshold: float | None, prevalence: float, drawn: PatientBootstrap
) -> Restated:
    """Returns PPV and NPV of two classes for another prevalence.

    Args:
      table: predictions.
      threshold: the positive class is predicted from it on; None: where it is the most probable.
      prevalence: share of positives, above 0 and below 1.
      drawn: resamples of the same examples.
    """
    decided = table.predicted if threshold is None else table.decided(threshold)
    found = predictive_values(_figures_of(_confusion(table.label, decided)), prevalence)
    drawn_values = predictive_values(resampling.decisions(table, decided, drawn), prevalence)
    patients, exact = intervals.fewest_patients(table), _restated_ends(table, threshold, drawn)
    ends = {}
    for name, values in drawn_values.items():
        ends[name] = resampling.interval(values, patients)
        if ends[name] is None and exact is not None:
            # No error of a kind was seen, and PPV or NPV is 1 in every resample. How rare that
            # error can be is known: see `intervals.of`. Both rise with either recall.
            low, high = (predictive_values(of, prevalence)[name] for of in exact)
            ends[name] = None if low is None or high is None else (low, high)
    return Restated(**found, intervals=ends)


def _restated_ends(
    table: Predictions, threshold: float | None, drawn: PatientBootstrap
) -> list[dict[str, float]] | None:
    """Returns the low and the high ends of sensitivity and specificity; None without both."""
    found = intervals.of(table, drawn, threshold)
    ends = {name: found[name] for name in ("sensitivity", "specificity")}
    if None in ends.values():
        return None
    return [{name: of[side] for name, of in ends.items() if of} for side in (0, 1)]


def _confusion(label: npt.NDArray[Any], decided: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """Returns the confusion matrix of two classes, [true, predicted]."""
    return np.bincount(2 * label + decided, minlength=4).reshape(2, 2)


def _figures_of(cells: npt.NDArray[np.int64]) -> dict[str, float | None]:
    """Returns the figures of a confusion matrix of two classes."""
    found = resampling.of_decisions(cells.reshape(1, -1).astype(float), 2)
    values = {name: float(found[name][0]) for name in FIGURES}
    return {name: value if np.isfinite(value) else None for name, value in values.items()}


def predictive_values(figures: Mapping[str, Any], prevalence: float) -> dict[str, Any]:
    """Returns PPV and NPV for a prevalence, by Bayes' rule; NaN, or None for None, if undefined.

    Args:
      figures: sensitivity and specificity, numbers or arrays.
      prevalence: share of positives, above 0 and below 1.
    """
    sensitivity, specificity = figures["sensitivity"], figures["specificity"]
    if sensitivity is None or specificity is None:
        return {"ppv": None, "npv": None}
    hits, alarms = sensitivity * prevalence, (1 - specificity) * (1 - prevalence)
    passed, missed = specificity * (1 - prevalence), (1 - sensitivity) * prevalence
    found = {"ppv": _share(hits, alarms), "npv": _share(passed, missed)}
    if np.ndim(sensitivity):
        return found
    return {name: float(of) if np.isfinite(of) else None for name, of in found.items()}


def _share(part: Any, rest: Any) -> Any:
    total = np.asarray(part + rest, float)
    return np.divide(part, total, out=np.full_like(total, np.nan), where=total > 0)
