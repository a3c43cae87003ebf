"""Tests whether two areas under ROC curves differ, where the same examples were scored by both.

DeLong, DeLong and Clarke-Pearson ("Comparing the areas under two or more correlated receiver
operating characteristic curves", Biometrics 44, 1988) get the variance of the difference from
placement values: the share of negatives that a positive's score exceeds, and the share of positives
that exceed a negative's. They take all examples for independent. The images of a patient are not:
Obuchowski ("Nonparametric analysis of clustered ROC curve data", Biometrics 53, 1997) sums the
placement values of each patient first. Where every patient has one image, the two are the same.

    test = delong.compare(label, [scores_a], [scores_b], patient_id)
    test.difference, test.p_value, test.interval

Placement values come from midranks, in O(N log N) (Sun and Xu, IEEE Signal Processing Letters 21,
2014). With several scores a side, such as those of several seeds, the means of the areas are
compared: a mean of areas has the mean placement values.
"""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import scipy.special
import scipy.stats

from trainer.evaluation import resampling

if TYPE_CHECKING:
    from collections.abc import Sequence

    Floats = npt.NDArray[np.float64]
    Scores = npt.NDArray[np.floating[Any]]

_ROUNDING = 1e-12
"""Placement values that differ by less are equal."""


@dataclasses.dataclass(frozen=True)
class AreaTest:
    """Two areas under ROC curves of the same examples, and a test of their difference.

    Attributes:
      areas: of a and of b.
      variance: of the difference of the areas.
      clusters: the number of independent units: patients, or else examples.
    """

    areas: tuple[float, float]
    variance: float
    clusters: int

    @property
    def difference(self) -> float:
        """The area of a less that of b."""
        return self.areas[0] - self.areas[1]

    @property
    def z(self) -> float | None:
        """The difference in standard errors; None where these are 0, and the difference is not."""
        if self.variance > 0:
            return self.difference / math.sqrt(self.variance)
        return 0.0 if self.difference == 0 else None

    @property
    def p_value(self) -> float | None:
        """Two-sided, by the normal distribution; None where `z` is."""
        return None if self.z is None else float(2 * scipy.special.ndtr(-abs(self.z)))

    @property
    def interval(self) -> tuple[float, float] | None:
        """The 95 % interval of the difference, by the normal distribution; None of no variance.

        Two models without an error, or without a difference, are not proved equal.
        """
        if self.variance == 0:
            return None
        quantile = scipy.special.ndtri((1 + resampling.CONFIDENCE) / 2)
        width = float(quantile) * math.sqrt(self.variance)
        return self.difference - width, self.difference + width

    def to_json(self) -> dict[str, Any]:
        """Returns areas, difference, variance, z, p-value and interval."""
        return {
            "areas": list(self.areas),
            "difference": self.difference,
            "variance": self.variance,
            "z": self.z,
            "p_value": self.p_value,
            "interval": None if self.interval is None else list(self.interval),
            "clusters": self.clusters,
        }


def compare(
    label: npt.NDArray[Any],
    a: Sequence[Scores],
    b: Sequence[Scores],
    clusters: npt.NDArray[Any] | None = None,
) -> AreaTest | None:
    """Tests the difference of the mean areas of two sides.

    Args:
      label: [N], 1 for a positive example, 0 for a negative one.
      a: scores [N] of one or more models; a higher score means that positive is more probable.
      b: those of the other side.
      clusters: [N], the patient of each example; None: examples are independent.

    Returns:
      The test; None where a score is not finite, or fewer than two clusters have a positive, or a
      negative, example.
    """
    positive = np.asarray(label) == 1
    if not all(np.isfinite(scores).all() for scores in (*a, *b)):
        return None
    groups = np.arange(len(positive)) if clusters is None else clusters
    names, group = np.unique(groups, return_inverse=True)
    if min(np.unique(group[positive]).size, np.unique(group[~positive]).size) < 2:
        return None
    sides = [_placements(positive, side) for side in (a, b)]
    areas = [float(side[positive].mean()) for side in sides]
    difference = sides[0] - sides[1]
    difference[np.abs(difference) < _ROUNDING] = 0  # Of means of the same values in another order.
    variance = _variance(positive, difference, group)
    # Rounding may leave a variance of 0 just below it.
    return AreaTest((areas[0], areas[1]), max(variance, 0.0), len(names))


def _placements(positive: npt.NDArray[np.bool_], side: Sequence[Scores]) -> Floats:
    """Returns the placement value of each example, [N], as the mean over the side's scores."""
    values = [_placement(positive, np.asarray(scores, np.float64)) for scores in side]
    return np.asarray(np.mean(values, axis=0))


def _placement(positive: npt.NDArray[np.bool_], scores: Floats) -> Floats:
    """Returns the share of examples of the other class that each is in the right order with, [N].

    A pair of equal scores counts half. An example's midrank among all, less that among its own
    class, is the number of examples of the other class below it.
    """
    found = np.empty(len(scores))
    overall = scipy.stats.rankdata(scores)
    for own in (positive, ~positive):
        below = overall[own] - scipy.stats.rankdata(scores[own])
        share = below / (len(scores) - own.sum())
        found[own] = share if own is positive else 1 - share
    return found


def _variance(
    positive: npt.NDArray[np.bool_], difference: Floats, group: npt.NDArray[np.intp]
) -> float:
    """Returns the variance of a difference of areas: Obuchowski's equations 4 to 6.

    Args:
      positive: [N], whether an example is.
      difference: [N], placement values of a less those of b.
      group: [N], the index of each example's cluster.
    """
    area = difference[positive].mean()
    num_clusters = group.max() + 1
    parts = []  # By class: by how much each cluster's sum exceeds what its size lets one expect.
    for own in (positive, ~positive):
        deviations = np.where(own, difference - area, 0.0)
        sums = np.bincount(group, weights=deviations, minlength=num_clusters) / own.sum()
        occurs = np.unique(group[own]).size
        parts.append((sums, occurs / (occurs - 1)))
    (x, x_factor), (y, y_factor) = parts
    both = num_clusters / (num_clusters - 1)
    return float(x_factor * (x @ x) + y_factor * (y @ y) + 2 * both * (x @ y))
