"""The operating point: what each rule chooses, on examples worked by hand."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import hypothesis
import numpy as np
import pytest
import sklearn.metrics
from hypothesis import strategies as st

from tests.support import tables
from tests.support.tables import LABEL, POSITIVE, predictions_of
from trainer.evaluation import operating_points
from trainer.options import evaluation

if TYPE_CHECKING:
    from trainer.evaluation.predictions import Predictions


def choose(table: Predictions, rule: str) -> operating_points.OperatingPoint:
    found = operating_points.choose(table, evaluation.parse(rule))
    assert found is not None
    return found


# By falling probability: .9+ .8+ .7+ .6- .4+ .3+ .2- .1-, five positives and three negatives.
# Thresholds between them, with sensitivity and specificity:
#   .95  0    1       .85  1/5  1       .75  2/5  1       .65  3/5  1      .5  3/5  2/3
#   .35  4/5  2/3     .25  1    2/3     .15  1    1/3     0    1    0
BY_HAND = {
    "youden": (0.25, 1, 2 / 3),  # 1 + 2/3 is the largest sum.
    "sensitivity=1": (0.25, 1, 2 / 3),
    "sensitivity=0.9": (0.25, 1, 2 / 3),
    "sensitivity=0.8": (0.25, 1, 2 / 3),  # As specific as .35, and more sensitive.
    "sensitivity=0.6": (0.65, 3 / 5, 1),
    "sensitivity=0.1": (0.65, 3 / 5, 1),  # Several have specificity 1; this one is nearest to .5.
    "specificity=1": (0.65, 3 / 5, 1),
    "specificity=0.9": (0.65, 3 / 5, 1),
    "specificity=0.5": (0.25, 1, 2 / 3),
    "specificity=0.3": (0.25, 1, 2 / 3),
    "cost=1:1": (0.25, 1, 2 / 3),  # One false alarm.
    "cost=1:10": (0.65, 3 / 5, 1),  # Two missed.
    "cost=1:2": (0.65, 3 / 5, 1),  # Two missed cost as much as one alarm at .25: nearer to a half.
    "cost=2:1": (0.25, 1, 2 / 3),
    "cost=1e300:1": (0.25, 1, 2 / 3),  # No miss, and of those the fewest alarms.
    "cost=1:1e300": (0.65, 3 / 5, 1),
    "cost=1e308:1e308": (0.25, 1, 2 / 3),  # Sums of them are infinite in float64.
    "cost=1e-300:1e-300": (0.25, 1, 2 / 3),
    "cost=0.1:0.2": (0.65, 3 / 5, 1),
}


@pytest.mark.parametrize("rule", BY_HAND)
def test_a_rule_chooses_the_point_worked_by_hand(rule: str) -> None:
    found = choose(predictions_of(LABEL, POSITIVE), rule)
    assert (found.threshold, found.sensitivity, found.specificity) == pytest.approx(BY_HAND[rule])


def test_costs_are_added_up_at_the_prevalence_that_is_given() -> None:
    """Five in eight are positive here; where one in a hundred is, alarms cost the most."""
    rule = evaluation.EvaluationOptions(operating_point="cost=10:1", prevalence=0.01).rule
    found = operating_points.choose(predictions_of(LABEL, POSITIVE), rule)
    assert found is not None
    assert (found.threshold, found.specificity) == pytest.approx((0.65, 1))
    assert found.rule == "cost=10:1 at a prevalence of 0.01"
    assert choose(predictions_of(LABEL, POSITIVE), "cost=10:1").threshold == pytest.approx(0.25)


def test_a_point_says_whence_it_is() -> None:
    found = choose(predictions_of(LABEL, POSITIVE), "sensitivity=0.90")
    assert (found.rule, found.positive_class, found.examples) == ("sensitivity=0.9", "PNEUMONIA", 8)


ANY = st.sampled_from(list(BY_HAND)) | st.builds(
    lambda kind, least: f"{kind}={least:.4f}",
    st.sampled_from(["sensitivity", "specificity"]),
    st.floats(0.001, 1),
)
PROBABILITIES = st.lists(st.floats(0, 1, width=32) | st.floats(0, 1), min_size=1, max_size=6)
OF_TWO = st.builds(
    lambda negative, positive: predictions_of(
        [0] * len(negative) + [1] * len(positive),
        negative + positive,
        ["x"] * len(negative + positive),
    ),
    PROBABILITIES,
    PROBABILITIES,
)
"""Tables with examples of both classes, and with ties."""


@hypothesis.given(table=OF_TWO, rule=ANY)
@hypothesis.settings(deadline=None)
def test_the_decisions_have_the_sensitivity_and_specificity_that_the_point_names(
    table: Predictions, rule: str
) -> None:
    found = choose(table, rule)
    recalls = sklearn.metrics.recall_score(
        table.label, table.decided(found.threshold), average=None
    )
    assert recalls.tolist() == pytest.approx([found.specificity, found.sensitivity], abs=1e-12)


@hypothesis.given(table=OF_TWO, rule=ANY)
@hypothesis.settings(deadline=None)
def test_the_decisions_are_the_same_in_float32(table: Predictions, rule: str) -> None:
    """A threshold is no output, unless two outputs are neighbours."""
    found = choose(table, rule)
    outputs = np.unique(table.probabilities[:, 1])
    hypothesis.assume((np.diff(outputs) > 1e-6).all())
    served = table.probabilities[:, 1].astype(np.float32) >= np.float32(found.threshold)
    assert served.tolist() == table.decided(found.threshold).astype(bool).tolist()


@hypothesis.given(table=OF_TWO, least=st.floats(0.001, 1))
@hypothesis.settings(deadline=None)
def test_what_a_rule_asks_for_is_reached(table: Predictions, least: float) -> None:
    assert choose(table, f"sensitivity={least!r}").sensitivity >= least - 1e-9
    assert choose(table, f"specificity={least!r}").specificity >= least - 1e-9


def test_equal_probabilities_are_never_parted() -> None:
    found = choose(predictions_of([0, 1, 0, 1], [0.3, 0.3, 0.3, 0.7]), "youden")
    assert (found.threshold, found.sensitivity, found.specificity) == (0.5, 0.5, 1)


def test_where_all_probabilities_are_equal_all_or_none_are_positive() -> None:
    table = predictions_of([0, 1], [0.4, 0.4])
    assert choose(table, "sensitivity=0.95").threshold == 0
    assert choose(table, "specificity=0.95").threshold == pytest.approx(0.7)


def test_a_negative_with_probability_1_is_below_the_threshold_that_calls_none() -> None:
    found = choose(predictions_of([0, 1], [1.0, 0.2]), "specificity=1")
    assert found.sensitivity == 0
    assert np.float32(found.threshold) > np.float32(1)


def test_neighbours_in_float64_are_parted() -> None:
    low = 0.3
    high = np.nextafter(low, 1)
    table = predictions_of([0, 1], [low, high])
    found = choose(table, "youden")
    assert table.decided(found.threshold).tolist() == [0, 1]


def test_a_probability_that_exceeds_1_by_rounding_counts_as_1() -> None:
    table = predictions_of([0, 1], [1 + 1e-7, 0.2])
    assert table.decided(choose(table, "specificity=1").threshold).tolist() == [0, 0]


@pytest.mark.parametrize("label", [[0, 0, 0], [1, 1, 1], []])
def test_one_class_has_no_operating_point(label: list[int]) -> None:
    table = predictions_of(label, [0.1, 0.5, 0.9][: len(label)])
    assert operating_points.choose(table, evaluation.Rule("youden")) is None


def test_three_classes_have_no_operating_point() -> None:
    table = tables.study(0, patients=9, num_classes=3)
    assert operating_points.choose(table, evaluation.Rule("youden")) is None


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_not_finite_has_no_operating_point(value: float) -> None:
    table = predictions_of([0, 1, 1], [0.1, 0.9, value])
    assert operating_points.choose(table, evaluation.Rule("youden")) is None


def test_youden_is_the_largest_sum_on_the_curve_of_scikit_learn() -> None:
    table = tables.study(1, patients=200)
    found = choose(table, "youden")
    alarms, hits, _ = sklearn.metrics.roc_curve(table.label, table.probabilities[:, 1])
    expected = (hits - alarms).max() + 1
    assert found.sensitivity + found.specificity == pytest.approx(expected, rel=1e-12)


@hypothesis.given(table=OF_TWO, rule=ANY)
@hypothesis.settings(deadline=None, max_examples=100)
def test_no_threshold_is_as_good_in_both_recalls_and_better_in_one(
    table: Predictions, rule: str
) -> None:
    found = choose(table, rule)
    label = table.label
    for threshold in (0.0, *np.unique(table.probabilities[:, 1]), 1.5):
        decided = table.decided(float(threshold))
        both = (np.mean(decided[label == 1] == 1), np.mean(decided[label == 0] == 0))
        chosen = (found.sensitivity, found.specificity)
        worse = [a < b - 1e-9 for a, b in zip(both, chosen, strict=True)]
        better = [a > b + 1e-9 for a, b in zip(both, chosen, strict=True)]
        assert any(worse) or not any(better)
