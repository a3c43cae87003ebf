"""The tests of areas under ROC curves, against published figures and sums over all pairs."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import scipy.stats

from trainer.evaluation.pairs import delong

OVARIAN = """
3.0 5.8 10 0  3.2 6.3  5 1  3.9 6.8  3 1  2.8 4.8  6 0  3.2 5.8  3 1  0.9 4.0  5 0  2.5 5.7  8 0
1.6 5.6  5 1  3.8 5.7  5 1  3.7 6.7  6 1  3.2 5.4  4 1  3.8 6.6  6 1  4.1 6.6  5 1  3.6 5.7  5 1
4.3 7.0  4 1  3.6 6.7  4 0  2.3 4.4  6 1  4.2 7.6  4 0  4.0 6.6  6 0  3.5 5.8  6 1  3.8 6.8  7 1
3.0 4.7  8 0  4.5 7.4  5 1  3.7 7.4  5 1  3.1 6.6  6 1  4.1 8.2  6 1  4.3 7.0  5 1  4.3 6.5  4 1
3.2 5.1  5 1  2.6 4.7  6 1  3.3 6.8  6 0  1.7 4.0  7 0  3.7 6.1  5 1  3.3 6.3  7 1  4.2 7.7  6 1
3.5 6.2  5 1  2.9 5.7  9 0  2.1 4.8  7 1  2.8 6.2  8 0  4.0 7.0  7 1  3.3 5.7  6 1  3.7 6.9  5 1
3.6 6.6  5 1
"""
"""Albumin, total protein, Krebs-Goplerud score and outcome of the 43 patients of DeLong, DeLong and
Clarke-Pearson (1988) in whom all three were measured: the example "Comparing Receiver Operating
Characteristic Curves" of the LOGISTIC procedure in the SAS/STAT User's Guide."""
ROWS = np.array(OVARIAN.split(), float).reshape(-1, 4)
OUTCOME = ROWS[:, 3].astype(int)
ALBUMIN, PROTEIN, SCORE = ROWS[:, 0], ROWS[:, 1], 10 - ROWS[:, 2]


@pytest.mark.parametrize(
    ("marker", "printed"),
    [
        (ALBUMIN, [0.7366, 0.7258, 0.0108, 0.0953, -0.1761, 0.1976, 0.0127, 0.9102]),
        (PROTEIN, [0.6478, 0.7258, -0.0780, 0.1046, -0.2830, 0.1271, 0.5554, 0.4561]),
    ],
    ids=["albumin", "total protein"],
)
def test_the_example_of_the_authors_has_its_published_figures(marker, printed):
    """Against the Krebs-Goplerud score: areas, difference, error, limits, chi-square, p-value."""
    found = delong.compare(OUTCOME, [marker], [SCORE])
    low, high = found.interval
    figures = [found.difference, found.variance**0.5, low, high, found.z**2, found.p_value]
    assert [round(value, 4) for value in (*found.areas, *figures)] == printed


def test_all_three_areas_of_the_example_together_have_the_published_test():
    """The chi-square with two degrees of freedom, 2.5340, needs the covariance of two tests."""
    tests = [delong.compare(OUTCOME, [marker], [SCORE]) for marker in (ALBUMIN, PROTEIN)]
    between = delong.compare(OUTCOME, [ALBUMIN], [PROTEIN]).variance
    covariance = (tests[0].variance + tests[1].variance - between) / 2
    matrix = [[tests[0].variance, covariance], [covariance, tests[1].variance]]
    differences = np.array([test.difference for test in tests])
    chi_square = differences @ np.linalg.solve(matrix, differences)
    assert round(chi_square, 4) == 2.5340
    assert round(scipy.stats.chi2.sf(chi_square, 2), 4) == 0.2817


def _order(positive: float, negative: float) -> float:
    return float(positive > negative) + 0.5 * float(positive == negative)


def _by_pairs(label, a, b, clusters) -> tuple[float, float]:
    """The difference and its variance, by sums over all pairs: Obuchowski (1997), equations 4-6."""
    positives, negatives = np.flatnonzero(label == 1), np.flatnonzero(label == 0)
    num_positive, num_negative = len(positives), len(negatives)

    def better(i: int, j: int) -> float:
        return _order(a[i], a[j]) - _order(b[i], b[j])

    total = sum(better(i, j) for i, j in itertools.product(positives, negatives))
    difference = total / (num_positive * num_negative)
    x = dict.fromkeys(clusters, 0.0)
    y = dict.fromkeys(clusters, 0.0)
    for i in positives:
        x[clusters[i]] += sum(better(i, j) for j in negatives) / num_negative - difference
    for j in negatives:
        y[clusters[j]] += sum(better(i, j) for i in positives) / num_positive - difference
    with_positive = len({clusters[i] for i in positives})
    with_negative = len({clusters[j] for j in negatives})
    s10 = with_positive / ((with_positive - 1) * num_positive) * sum(v**2 for v in x.values())
    s01 = with_negative / ((with_negative - 1) * num_negative) * sum(v**2 for v in y.values())
    s11 = len(x) / (len(x) - 1) * sum(x[name] * y[name] for name in x)
    variance = s10 / num_positive + s01 / num_negative + 2 * s11 / (num_positive * num_negative)
    return difference, variance


def _drawn(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[str]]:
    """Thirty examples of ten patients, some of whom have both classes; scores with ties."""
    chance = np.random.default_rng(seed)
    label = np.arange(30) % 3 % 2
    a, b = (np.round(chance.normal(label * 0.7), 1) for _ in range(2))
    return label, a, b, [f"p{number}" for number in chance.integers(10, size=30)]


@pytest.mark.parametrize("seed", range(5))
def test_clustered_variances_are_obuchowskis(seed):
    label, a, b, clusters = _drawn(seed)
    found = delong.compare(label, [a], [b], np.array(clusters))
    assert (found.difference, found.variance) == pytest.approx(_by_pairs(label, a, b, clusters))
    assert found.clusters == len(set(clusters))


def test_patients_with_one_image_each_give_delongs_variance():
    label, a, b, _ = _drawn(0)
    alone = delong.compare(label, [a], [b], np.array([f"p{i}" for i in range(30)]))
    assert alone.variance == pytest.approx(delong.compare(label, [a], [b]).variance)


def test_an_image_that_each_patient_has_twice_adds_no_certainty():
    label, a, b, _ = _drawn(1)
    twice = [np.repeat(column, 2) for column in (label, a, b)]
    once = delong.compare(label, [a], [b])
    clustered = delong.compare(twice[0], [twice[1]], [twice[2]], np.repeat(np.arange(30), 2))
    independent = delong.compare(twice[0], [twice[1]], [twice[2]])
    assert clustered.variance == pytest.approx(once.variance)
    assert independent.variance < 0.55 * once.variance


def test_four_examples_worked_by_hand():
    """Positives 3 and 1, negatives 2 and 0: areas 3/4 and 1; differences of placements -1/2, 0."""
    found = delong.compare(
        np.array([1, 1, 0, 0]), [np.array([3, 1, 2, 0])], [np.array([3, 2, 1, 0])]
    )
    assert found.areas == (0.75, 1.0)
    # Positives: 0 and -1/2, of variance 1/8; negatives the same; each divided by two.
    assert found.variance == pytest.approx(1 / 8)
    assert found.z == pytest.approx(-0.25 / 0.125**0.5)


def test_a_mean_over_seeds_is_compared_by_mean_placements():
    """The same scores twice are one score; two seeds average."""
    label, a, b, clusters = _drawn(2)
    once = delong.compare(label, [a], [b], np.array(clusters))
    assert delong.compare(label, [a, a], [b, b], np.array(clusters)) == once
    mixed = delong.compare(label, [a, b], [b, b], np.array(clusters))
    assert mixed.difference == pytest.approx(once.difference / 2)
    assert mixed.variance == pytest.approx(once.variance / 4)


def test_equal_scores_do_not_differ():
    label, a, _, _ = _drawn(3)
    same = delong.compare(label, [a], [a])
    assert (same.difference, same.z, same.p_value, same.interval) == (0, 0, 1, None)


def test_the_order_of_seeds_is_no_difference():
    label = np.array([0] * 8 + [1] * 7)
    rng = np.random.default_rng(0)
    seeds = [rng.random(15).round(3) for _ in range(3)]
    for turned in (seeds[1:] + seeds[:1], seeds[::-1]):
        found = delong.compare(label, seeds, turned)
        assert (found.p_value, found.interval) == (1, None)


def test_a_difference_without_variance_has_no_test():
    label = np.array([1, 1, 0, 0])
    found = delong.compare(label, [label], [np.zeros(4)])
    assert (found.difference, found.z, found.p_value, found.interval) == (0.5, None, None, None)


@pytest.mark.parametrize(
    ("label", "scores"),
    [([1, 1, 1], [1, 2, 3]), ([1, 0, 0], [1, 2, 3]), ([1, 1, 0, 0], [1, np.nan, 2, 3])],
    ids=["one class", "one positive", "not a number"],
)
def test_what_defines_no_variance_has_no_test(label, scores):
    assert delong.compare(np.array(label), [np.array(scores)], [np.array(scores)]) is None
