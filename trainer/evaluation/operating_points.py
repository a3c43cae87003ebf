"""The operating point: from which probability on the positive class of two is predicted.

It is chosen on the validation split alone, by a rule that the user names, and is then applied to
the test split and travels with the model. 0.5 is right only where both errors cost the same and
the classes are as frequent as in training.

    rule = evaluation.parse("sensitivity=0.95")
    point = operating_points.choose(validation, rule)      # OperatingPoint(threshold=0.31, ...)
    table.decided(point.threshold)
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from trainer.options import evaluation

if TYPE_CHECKING:
    from trainer.evaluation.predictions import Predictions
    from trainer.options.evaluation import Rule

_ROUNDING = 1e-12
"""Relative difference up to which two thresholds are equally good."""


@dataclasses.dataclass(frozen=True)
class OperatingPoint:
    """A chosen operating point.

    Attributes:
      rule: by which it was chosen, as text.
      threshold: the positive class is predicted where its probability is at least this.
      positive_class: name of the positive class.
      examples: number of examples of the validation split.
      sensitivity: on the validation split, as is `specificity`.
      specificity: see there.
    """

    rule: str
    threshold: float
    positive_class: str
    examples: int
    sensitivity: float
    specificity: float


def choose(validation: Predictions, rule: Rule) -> OperatingPoint | None:
    """Chooses the threshold between two probabilities of the validation split that fits best.

    Halfway between two of them: a threshold that is itself an output would decide by the rounding
    of another machine. Of equally good ones, that with more of what the rule holds is taken, and of
    these the one nearest to 0.5: no other is at least as good in both and better in one.

    Args:
      validation: predictions on the validation split.
      rule: what it must achieve.

    Returns:
      The point; None of more than two classes, where a class has no example, or where a probability
      is not finite.
    """
    label, score = validation.label, validation.probabilities[:, 1]
    if len(validation.class_names) != 2:
        return None
    if np.unique(label).size < 2 or not np.isfinite(validation.probabilities).all():
        return None
    thresholds, hits, alarms = _candidates(label, score)
    sensitivity, specificity = hits / hits.max(), 1 - alarms / alarms.max()
    best = np.arange(len(thresholds))
    for worth in _worths(rule, sensitivity, specificity, float(np.mean(label))):
        best = best[worth[best] >= worth[best].max() - _ROUNDING * abs(worth[best].max())]
    chosen = best[np.abs(thresholds[best] - 0.5).argmin()]
    return OperatingPoint(
        str(rule),
        float(thresholds[chosen]),
        validation.class_names[1],
        len(validation),
        float(sensitivity[chosen]),
        float(specificity[chosen]),
    )


def _candidates(
    label: npt.NDArray[Any], score: npt.NDArray[np.floating[Any]]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Returns thresholds, and how many positives and negatives reach each, [T].

    The first threshold, 0, is reached by all examples, and the last by none. Probabilities count as
    at least 0 and at most 1, as in `Predictions.decided`.
    """
    order = np.argsort(score)
    levels, first = np.unique(score[order].clip(0, 1), return_index=True)
    middles = (levels[1:] + levels[:-1]) / 2
    # Between neighbouring numbers there is none; the upper one divides them as well. Neighbours in
    # float32 count, in which a model may be served.
    is_between = middles.astype(np.float32) > levels[:-1].astype(np.float32)
    middles = np.where(is_between, middles, levels[1:])
    # Above the last one in float32 as well.
    last, beyond = np.float32(levels[-1]), (levels[-1] + 1) / 2
    if np.float32(beyond) <= last:
        beyond = float(np.nextafter(last, np.float32(2)))
    positives = np.cumsum(label[order][::-1])[::-1][first]
    reached = len(label) - first
    thresholds = np.concatenate([[0.0], middles, [beyond]])
    return thresholds, np.append(positives, 0), np.append(reached - positives, 0)


def _worths(
    rule: Rule,
    sensitivity: npt.NDArray[np.float64],
    specificity: npt.NDArray[np.float64],
    share: float,
) -> list[npt.NDArray[np.float64]]:
    """Returns how well each threshold fits the rule, the higher the better; what decides first."""
    if rule.kind == evaluation.COST:
        # In relation to the larger cost: sums of huge ones would be infinite.
        of_miss, of_alarm = (cost / max(rule.values) for cost in rule.values)
        positive = rule.prevalence or share
        missed, alarms = (1 - sensitivity) * positive, (1 - specificity) * (1 - positive)
        return [-(of_miss * missed + of_alarm * alarms)]
    if rule.kind == evaluation.YOUDEN:
        return [sensitivity + specificity]
    held, other = sensitivity, specificity
    if rule.kind == evaluation.SPECIFICITY:
        held, other = other, held
    return [np.where(held >= rule.values[0] - _ROUNDING, other, -1.0), held]
