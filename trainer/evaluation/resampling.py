"""The bootstrap over patients: what a figure would be on other patients like these.

The images of a patient resemble each other, and so do the errors on them. A resample therefore
draws patients, each with all of their images: as many as there are, with replacement. To draw
images instead would count what one patient shows several times, and give intervals that are too
narrow (Field and Welsh, "Bootstrapping clustered data", J. R. Stat. Soc. B 69, 2007).

    drawn = resampling.PatientBootstrap(table.patient_id)
    spread = resampling.distributions(table, drawn)            # {"roc_auc": [R], ...}
    resampling.interval(spread["accuracy"], drawn.num_patients)    # (0.961, 0.983)

All resamples are computed together, with arrays: sums over patients for what is a function of
counts or means, and one sort per class for the areas under curves. Two tables of the same patients
get the same resamples, so that their differences are paired.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import scipy.stats

from trainer.evaluation import calibration

if TYPE_CHECKING:
    from collections.abc import Iterator

    from trainer.evaluation.predictions import Predictions

    Floats = npt.NDArray[np.floating[Any]]

CONFIDENCE, RESAMPLES = 0.95, 2000
_MIN_DEFINED = 0.95
"""Share of the resamples in which a figure must be defined, for an interval of it."""
_BLOCK_CELLS = 2_000_000
"""Resamples times examples that are held at once: 16 MB for each array of float64."""


class PatientBootstrap:
    """Resamples of patients, drawn once and used for every figure.

    Attributes:
      num_patients: number of distinct patients, P.
      resamples: number of resamples, R.
    """

    def __init__(
        self, patient_id: npt.NDArray[np.str_], *, resamples: int = RESAMPLES, seed: int = 0
    ) -> None:
        """Draws the resamples.

        Args:
          patient_id: [N], the patient of each example. Patients are drawn in the order of their
            names, so that the order of examples changes nothing.
          resamples: number of resamples.
          seed: of the draws.
        """
        patients, self._patient = np.unique(patient_id, return_inverse=True)
        self.num_patients, self.resamples = len(patients), resamples
        generator = np.random.default_rng(seed)
        # How often each patient is in each resample. A byte suffices: of thousands of patients,
        # none is drawn 256 times.
        self._counts = np.empty((resamples, self.num_patients), np.uint8)
        for row in self._counts:
            drawn = generator.integers(self.num_patients, size=self.num_patients)
            row[:] = np.bincount(drawn, minlength=self.num_patients)

    @classmethod
    def undrawn(cls, patient_id: npt.NDArray[np.str_]) -> PatientBootstrap:
        """Returns one resample that has each patient once: the figures of it are the data's own."""
        found = cls(patient_id, resamples=1)
        found._counts[:] = 1
        return found

    def restricted_to(self, rows: npt.NDArray[np.intp]) -> PatientBootstrap:
        """Returns the same resamples, for some of the examples alone.

        Args:
          rows: [M] indices of the examples, in any order.
        """
        part = object.__new__(PatientBootstrap)
        part.num_patients, part.resamples = self.num_patients, self.resamples
        part._counts, part._patient = self._counts, self._patient[rows]
        return part

    def sums(self, columns: Floats) -> Floats:
        """Returns the sum of each column, [N, C], over the examples of each resample: [R, C]."""
        by_patient = np.stack(
            [
                np.bincount(self._patient, weights=column, minlength=self.num_patients)
                for column in columns.T
            ],
            axis=1,
        )
        size = max(1, _BLOCK_CELLS // max(self.num_patients, 1))
        blocks = (
            self._counts[start : start + size].astype(np.float64) @ by_patient
            for start in range(0, self.resamples, size)
        )
        return np.concatenate(list(blocks))

    def weights(self, order: npt.NDArray[np.intp]) -> Iterator[npt.NDArray[np.uint8]]:
        """Yields how often each example is in each resample, in blocks [r, N].

        Args:
          order: [N] indices of the examples: the order of the columns.
        """
        patient = self._patient[order]
        size = max(1, _BLOCK_CELLS // max(len(order), 1))
        for start in range(0, self.resamples, size):
            yield self._counts[start : start + size][:, patient]


def interval(values: Floats, patients: float = math.inf) -> tuple[float, float] | None:
    """Returns the 95 % percentile interval of a figure.

    None where it is undefined in more than 5 % of the resamples, or the same in all of them: a
    bootstrap has nothing to say about errors of which it has seen none.

    The percentiles of few patients are too near to each other: by the factor of a variance with n
    instead of n - 1, and as normal quantiles are to those of Student's t. They are moved apart by
    as much (Hesterberg, "What teachers should know about the bootstrap", The American Statistician
    69, 2015): of ten patients, from the 2.5th to the 0.9th, of 1,000 to the
    2.48th.

    Args:
      values: [R], the figure in each resample; NaN where it is undefined.
      patients: number of patients that the figure depends on; without it, they are taken for many.
    """
    known = defined(values)
    if patients < 2 or known is None or np.ptp(known) == 0:
        return None
    outside = _outside(patients)
    low, high = np.quantile(known, [outside, 1 - outside])
    return float(low), float(high)


def defined(values: Floats) -> Floats | None:
    """Returns the resamples in which a figure is defined; None where they are less than 95 %."""
    known = values[np.isfinite(values)]
    return known if known.size >= _MIN_DEFINED * values.size else None


def _outside(patients: float) -> float:
    """Returns the share of the resamples that an interval leaves out at each end."""
    if math.isinf(patients):
        return (1 - CONFIDENCE) / 2
    quantile = scipy.stats.t.ppf((1 + CONFIDENCE) / 2, patients - 1)
    return float(scipy.stats.norm.sf(quantile * math.sqrt(patients / (patients - 1))))


def distributions(
    table: Predictions, drawn: PatientBootstrap, threshold: float | None = None
) -> dict[str, Floats]:
    """Returns every figure in each resample, [R]; NaN where it is undefined.

    Without a threshold, these are the figures of `metrics.compute`; those that need finite
    probabilities are left out where they are not finite. With one, only those of its decisions.

    Args:
      table: [N] predictions.
      drawn: resamples of the same N examples.
      threshold: the positive class of two is predicted from this probability on; None: the most
        probable class is.
    """
    decided = table.predicted if threshold is None else table.decided(threshold)
    found = decisions(table, decided, drawn)
    if threshold is None and np.isfinite(table.probabilities).all():
        found |= _of_probabilities(table, drawn) | _of_ranks(table, drawn)
    return found


def decisions(
    table: Predictions, decided: npt.NDArray[Any], drawn: PatientBootstrap
) -> dict[str, Floats]:
    """Returns the figures of the decided classes, [N] int, in each resample, [R]."""
    return of_decisions(drawn.sums(_cells(table, decided)), len(table.class_names))


def _cells(table: Predictions, decided: npt.NDArray[Any]) -> Floats:
    """Returns the cell of the confusion matrix that each example is in, one-hot, [N, K * K]."""
    num_classes = len(table.class_names)
    cells = np.zeros((len(table), num_classes**2))
    cells[np.arange(len(table)), table.label * num_classes + decided] = 1
    return cells


def of_decisions(cells: Floats, num_classes: int) -> dict[str, Floats]:
    """Returns the figures of confusion matrices; NaN where one is undefined.

    Of more than two classes, sensitivity, specificity, PPV, NPV and F1 are means over the classes
    that occur, each against the rest; NaN if that of one of them is.

    Args:
      cells: [R, K * K] counts, by true and then predicted class.
      num_classes: K.
    """
    matrix = cells.reshape(-1, num_classes, num_classes)
    total = matrix.sum(axis=(1, 2))
    true, predicted = matrix.sum(axis=2), matrix.sum(axis=1)
    hits = np.diagonal(matrix, axis1=1, axis2=2)
    occurs = true > 0
    misses, false_alarms = true - hits, predicted - hits
    rejections = total[:, np.newaxis] - true - false_alarms
    with np.errstate(invalid="ignore", divide="ignore"):
        of_class = {
            "sensitivity": hits / true,
            "specificity": rejections / (rejections + false_alarms),
            "ppv": hits / predicted,
            "npv": rejections / (rejections + misses),
            "f1": 2 * hits / (2 * hits + misses + false_alarms),
        }
        if num_classes == 2:
            found = {name: values[:, 1] for name, values in of_class.items()}
        else:
            found = {name: _mean(values, occurs) for name, values in of_class.items()}
        found["accuracy"] = hits.sum(axis=1) / total
        found["macro_recall"] = _mean(of_class["sensitivity"], occurs)
        found["mcc"] = _matthews(hits.sum(axis=1), true, predicted, total)
    return found


def _mean(values: Floats, occurs: npt.NDArray[np.bool_]) -> Floats:
    """Returns the mean over the classes that occur, [R]; NaN if a value of one of them is."""
    return np.where(occurs, values, 0).sum(axis=1) / occurs.sum(axis=1)


def _matthews(hits: Floats, true: Floats, predicted: Floats, total: Floats) -> Floats:
    """Returns Matthews' coefficient for K classes; 0 for a constant prediction, by convention."""
    covariance = hits * total - (true * predicted).sum(axis=1)
    spread = (total**2 - (predicted**2).sum(axis=1)) * (total**2 - (true**2).sum(axis=1))
    found = np.divide(covariance, np.sqrt(spread), out=np.zeros_like(total), where=spread > 0)
    return np.where((true > 0).sum(axis=1) > 1, found, np.nan)


def _of_probabilities(table: Predictions, drawn: PatientBootstrap) -> dict[str, Floats]:
    """Returns the figures that are means over examples, and the calibration error."""
    errors = calibration.row_errors(table)
    bins = calibration.Bins.of(table)
    sums = drawn.sums(np.column_stack([np.ones(len(table)), *errors.values(), bins.gaps()]))
    total, means, gaps = sums[:, 0], sums[:, 1 : 1 + len(errors)], sums[:, 1 + len(errors) :]
    with np.errstate(invalid="ignore"):
        found = {name: means[:, i] / total for i, name in enumerate(errors)}
        return found | {"ece": np.abs(gaps).sum(axis=1) / total}


def _of_ranks(table: Predictions, drawn: PatientBootstrap) -> dict[str, Floats]:
    """Returns the areas under curves: of the positive class, or the mean over all that occur."""
    num_classes = len(table.class_names)
    scored = [1] if num_classes == 2 else np.unique(table.label).tolist()
    areas = [_areas(table.label == k, table.probabilities[:, k], drawn) for k in scored]
    if num_classes == 2:
        occurs = np.ones((drawn.resamples, 1), bool)
    else:  # In some resamples, none of the patients of a rare class is drawn.
        occurs = drawn.sums(np.column_stack([table.label == k for k in scored]).astype(float)) > 0
    with np.errstate(invalid="ignore"):
        roc, pr = (_mean(np.column_stack([area[i] for area in areas]), occurs) for i in range(2))
    return {"roc_auc": roc, "pr_auc": pr}


def roc_auc(table: Predictions, drawn: PatientBootstrap) -> Floats:
    """Returns the ROC-AUC of the positive class of two in each resample, [R]."""
    return _areas(table.label == 1, table.probabilities[:, 1], drawn)[0]


def _areas(
    positive: npt.NDArray[np.bool_], score: Floats, drawn: PatientBootstrap
) -> tuple[Floats, Floats]:
    """Returns the area under the ROC curve and the average precision in each resample, [R]."""
    order = np.argsort(score, kind="stable")
    is_positive = positive[order]
    # Examples with equal scores are one step of both curves.
    last = np.flatnonzero(np.diff(score[order], append=np.inf))
    roc: list[Floats] = []
    pr: list[Floats] = []
    for weights in drawn.weights(order):
        positives = np.cumsum(weights * is_positive, axis=1, dtype=np.int32)[:, last]
        negatives = np.cumsum(weights * ~is_positive, axis=1, dtype=np.int32)[:, last]
        ranked = _Ranked(positives.astype(np.float64), negatives.astype(np.float64))
        roc.append(ranked.roc_auc())
        pr.append(ranked.average_precision())
    return np.concatenate(roc), np.concatenate(pr)


class _Ranked:
    """Positives and negatives by distinct score, cumulated from the lowest on, [r, G]."""

    def __init__(self, positives: Floats, negatives: Floats) -> None:
        self._below = positives, negatives
        self._step = np.diff(positives, prepend=0, axis=1)
        self._total = positives[:, -1], negatives[:, -1]

    def roc_auc(self) -> Floats:
        """[r]: the share of pairs in the right order; a pair of equal scores counts half."""
        negatives = self._below[1]
        middle = negatives - np.diff(negatives, prepend=0, axis=1) / 2
        with np.errstate(invalid="ignore"):
            return (self._step * middle).sum(axis=1) / (self._total[0] * self._total[1])

    def average_precision(self) -> Floats:
        """[r]: the mean precision over the positives, as scikit-learn defines it."""
        above = self._total[0][:, np.newaxis] - self._below[0] + self._step
        called = above + self._total[1][:, np.newaxis] - self._below[1]
        called += np.diff(self._below[1], prepend=0, axis=1)
        precision = np.divide(above, called, out=np.zeros_like(above), where=called > 0)
        with np.errstate(invalid="ignore"):
            area = (self._step * precision).sum(axis=1) / self._total[0]
        return np.where(self._total[1] > 0, area, np.nan)
