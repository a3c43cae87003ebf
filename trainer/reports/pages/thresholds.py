"""What each threshold of the positive class's probability gives: the numbers behind the slider.

Positive is predicted where the probability is at least the threshold. The counts at 1,001
thresholds say everything that the slider shows; their size does not depend on the number of
examples.

    counts = thresholds.count(predictions, operating_point=0.43)
    counts.at(0.5).sensitivity
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from trainer.evaluation.predictions import Predictions

STEPS = 1000
_SHOWN = (0.1, 0.25, 0.5, 0.75, 0.9)


@dataclasses.dataclass(frozen=True)
class Rates:
    """The confusion matrix at a threshold, and its rates; one without a denominator is None."""

    threshold: float
    tp: int
    fp: int
    fn: int
    tn: int

    @property
    def sensitivity(self) -> float | None:
        """Share of the positive examples that are predicted positive."""
        return _ratio(self.tp, self.tp + self.fn)

    @property
    def specificity(self) -> float | None:
        """Share of the negative examples that are predicted negative."""
        return _ratio(self.tn, self.tn + self.fp)

    @property
    def ppv(self) -> float | None:
        """Positive predictive value."""
        return _ratio(self.tp, self.tp + self.fp)

    @property
    def npv(self) -> float | None:
        """Negative predictive value."""
        return _ratio(self.tn, self.tn + self.fn)

    @property
    def accuracy(self) -> float | None:
        """Share of the examples that are predicted correctly."""
        return _ratio(self.tp + self.tn, self.tp + self.fp + self.fn + self.tn)

    @property
    def f1(self) -> float | None:
        """F1 of the positive class."""
        return _ratio(2 * self.tp, 2 * self.tp + self.fp + self.fn)


@dataclasses.dataclass(frozen=True)
class Counts:
    """True and false positives at each threshold.

    Attributes:
      positives: Number of examples of the positive class.
      negatives: Number of the others.
      tp: True positives at 0, 0.001, …, 1.
      fp: False positives at the same thresholds.
      operating_point: The rates at the operating point; None without one.
    """

    positives: int
    negatives: int
    tp: tuple[int, ...]
    fp: tuple[int, ...]
    operating_point: Rates | None

    def at(self, threshold: float) -> Rates:
        """Returns the rates at one of the 1,001 thresholds, or at the operating point."""
        point = self.operating_point
        if point is not None and threshold == point.threshold:
            return point
        step = round(threshold * STEPS)
        return _rates(threshold, self.tp[step], self.fp[step], self.positives, self.negatives)

    def shown(self) -> list[Rates]:
        """Returns the rows of the table that is there without a script."""
        own = [self.operating_point.threshold] if self.operating_point else []
        return [self.at(threshold) for threshold in sorted({*_SHOWN, *own})]

    def to_json(self) -> dict[str, Any]:
        """Returns what the slider's script reads."""
        point = self.operating_point
        return {
            "positives": self.positives,
            "negatives": self.negatives,
            "tp": self.tp,
            "fp": self.fp,
            "point": point and {"threshold": point.threshold, "tp": point.tp, "fp": point.fp},
        }


def count(predictions: Predictions, operating_point: float | None = None) -> Counts | None:
    """Counts at all thresholds; None unless there are two classes and all outputs are finite."""
    if len(predictions.class_names) != 2 or not len(predictions):
        return None
    positive = predictions.probabilities[:, 1]
    if not np.isfinite(predictions.probabilities).all():
        return None
    sick, healthy = (np.sort(positive[predictions.label == label]) for label in (1, 0))
    grid = np.arange(STEPS + 1) / STEPS
    tp, fp = (len(of) - np.searchsorted(of, grid) for of in (sick, healthy))
    point = None
    if operating_point is not None and np.isfinite(operating_point):
        hits, alarms = (int((of >= operating_point).sum()) for of in (sick, healthy))
        point = _rates(operating_point, hits, alarms, len(sick), len(healthy))
    return Counts(len(sick), len(healthy), tuple(tp.tolist()), tuple(fp.tolist()), point)


def _rates(threshold: float, tp: int, fp: int, positives: int, negatives: int) -> Rates:
    return Rates(float(threshold), tp, fp, positives - tp, negatives - fp)


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None
