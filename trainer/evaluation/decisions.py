"""The figures of decisions: of the most probable class, or from a threshold on.

    decisions.at(table, point, drawn)                     # AtThreshold(figures=...)
    decisions.restate(table, None, 0.05, drawn).ppv       # PPV where 5 % are positive

A decision is a class for each example. Its figures need no probabilities.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt
import scipy.special

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
    figures = _figures_of(_confusion(table.label, decided))
    found, ends = predictive_values(figures, prevalence), intervals.of(table, drawn, threshold)
    recalls = [_Recall.of(figures[name], ends[name]) for name in ("sensitivity", "specificity")]
    spans: dict[str, Interval] = {}
    for name, (own, other), share in (
        ("ppv", recalls, prevalence),
        ("npv", recalls[::-1], 1 - prevalence),
    ):
        if found[name] is None or own is None or other is None:
            spans[name] = None
        else:
            spans[name] = _restated_interval(own, other, share)
    return Restated(**found, intervals=spans)


@dataclasses.dataclass(frozen=True)
class _Recall:
    """Sensitivity or specificity, with the ends of its interval."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, value: float | None, ends: Interval) -> Self | None:
        return None if value is None or ends is None else cls(value, *ends)


def _restated_interval(own: _Recall, other: _Recall, share: float) -> tuple[float, float]:
    """Returns the interval of a restated PPV or NPV, from those of the recalls.

    Its odds are a ratio of two shares of different patients: of PPV, sensitivity to the share of
    false alarms. The distances of their logarithms to their ends add as standard errors do (Zou and
    Donner, "Construction of confidence limits about effect measures: a general approach",
    Statistics in Medicine 27, 2008).

    Args:
      own: the recall of the class that is called.
      other: that of the other class.
      share: the class's share of the examples.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        hits = np.log([own.value, own.low, own.high])
        alarms = np.log([1 - other.value, 1 - other.high, 1 - other.low])
        if own.value > 0 and other.value < 1:
            ratio = hits[0] - alarms[0]
            low = ratio - np.hypot(hits[0] - hits[1], alarms[2] - alarms[0])
            high = ratio + np.hypot(hits[2] - hits[0], alarms[0] - alarms[1])
        else:  # One of them was never seen: both at their ends.
            low, high = hits[1] - alarms[2], hits[2] - alarms[1]
        ends = scipy.special.expit(np.array([low, high]) + scipy.special.logit(share))
    return float(ends[0]), float(ends[1])


def _confusion(label: npt.NDArray[Any], decided: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """Returns the confusion matrix of two classes, [true, predicted]."""
    return np.bincount(2 * label + decided, minlength=4).reshape(2, 2)


def _figures_of(cells: npt.NDArray[np.int64]) -> dict[str, float | None]:
    """Returns the figures of a confusion matrix of two classes."""
    found = resampling.of_decisions(cells.reshape(1, -1).astype(float), 2)
    values = {name: float(found[name][0]) for name in FIGURES}
    return {name: value if np.isfinite(value) else None for name, value in values.items()}


def predictive_values(
    figures: Mapping[str, float | None], prevalence: float
) -> dict[str, float | None]:
    """Returns PPV and NPV for a prevalence, by Bayes' rule; None if undefined.

    Args:
      figures: sensitivity and specificity.
      prevalence: share of positives, above 0 and below 1.
    """
    sensitivity, specificity = figures["sensitivity"], figures["specificity"]
    if sensitivity is None or specificity is None:
        return {"ppv": None, "npv": None}
    hits, alarms = sensitivity * prevalence, (1 - specificity) * (1 - prevalence)
    passed, missed = specificity * (1 - prevalence), (1 - sensitivity) * prevalence
    return {"ppv": _share(hits, alarms), "npv": _share(passed, missed)}


def _share(part: float, rest: float) -> float | None:
    return part / (part + rest) if part + rest > 0 else None
