"""EM finds the shares of the classes in unlabelled outputs, and corrects the outputs for them."""

from __future__ import annotations

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from trainer.evaluation.shifts import prior_correction


def _outputs(shares, training, *, count=4000, seed=0) -> np.ndarray:
    """The Bayes-optimal outputs under `training` shares, for examples drawn with other `shares`."""
    rng = np.random.default_rng(seed)
    classes = len(shares)
    label = rng.choice(classes, count, p=shares)
    x = rng.standard_normal((count, classes)) + 1.5 * np.eye(classes)[label]
    likelihood = np.exp(1.5 * x)  # Of unit Gaussians at 1.5 on each axis, up to a common factor.
    joint = likelihood * np.asarray(training)
    return joint / joint.sum(axis=1, keepdims=True)


def test_an_example_worked_by_hand():
    """65 of 100 outputs are 0.8, the others 0.2, and training had equal shares.

    A share s of positives gives 0.8 with probability 0.2 + 0.6 s: s = (0.65 - 0.2) / 0.6 = 0.75.
    Bayes: 0.8 * 0.75 / (0.8 * 0.75 + 0.2 * 0.25) = 12/13, and 0.15 / (0.15 + 0.2) = 3/7.
    """
    positive = np.array([0.8] * 65 + [0.2] * 35)
    found = prior_correction.correct(np.stack([1 - positive, positive], axis=1), [0.5, 0.5])
    assert found.converged
    np.testing.assert_allclose(found.priors, [0.25, 0.75], atol=1e-6)
    np.testing.assert_allclose(found.probabilities[0], [1 / 13, 12 / 13], atol=1e-6)
    np.testing.assert_allclose(found.probabilities[-1], [4 / 7, 3 / 7], atol=1e-6)


def test_the_first_iteration_is_the_mean_output(monkeypatch):
    monkeypatch.setattr(prior_correction, "MAX_ITERATIONS", 1)
    found = prior_correction.correct([[0.9, 0.1], [0.6, 0.4]], [0.5, 0.5])
    np.testing.assert_allclose(found.priors, [0.75, 0.25])
    assert not found.converged
    assert found.iterations == 1


@pytest.mark.parametrize(
    ("training", "shares"),
    [
        ([0.27, 0.73], [0.27, 0.73]),
        ([0.27, 0.73], [0.60, 0.40]),
        ([0.5, 0.5], [0.95, 0.05]),
        ([0.2, 0.3, 0.5], [0.6, 0.3, 0.1]),
        ([0.25, 0.25, 0.25, 0.25], [0.05, 0.15, 0.3, 0.5]),
    ],
)
def test_it_recovers_the_shares_after_a_label_shift(training, shares):
    found = prior_correction.correct(_outputs(shares, training), training)
    assert found.converged
    np.testing.assert_allclose(found.priors, shares, atol=0.025)
    np.testing.assert_allclose(found.probabilities.mean(axis=0), found.priors, atol=1e-6)


def test_corrected_outputs_are_those_of_the_right_shares():
    training, shares = [0.27, 0.73], [0.7, 0.3]
    found = prior_correction.correct(_outputs(shares, training), training)
    np.testing.assert_allclose(found.probabilities, _outputs(shares, shares), atol=0.03)


def test_corrected_outputs_have_a_smaller_log_loss():
    training, shares = np.array([0.1, 0.9]), [0.8, 0.2]
    outputs = _outputs(shares, training)
    found = prior_correction.correct(outputs, training)
    label = np.random.default_rng(0).choice(2, len(outputs), p=shares)  # As `_outputs` draws it.
    before, after = (
        -np.log(table[np.arange(len(label)), label]).mean()
        for table in (outputs, found.probabilities)
    )
    assert after < 0.8 * before


def test_certain_outputs_are_neither_nan_nor_changed():
    """Softmax rounds to 0 and 1, and a share may become 0."""
    found = prior_correction.correct([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0]], [0.5, 0.5])
    np.testing.assert_allclose(found.priors, [1, 0], atol=1e-6)
    np.testing.assert_allclose(found.probabilities, [[1, 0]] * 3, atol=1e-6)


def test_tiny_probabilities_over_tiny_shares_do_not_overflow():
    tiny = 1e-300
    found = prior_correction.correct([[1.0, tiny], [tiny, 1.0]], [1 - 1e-12, 1e-12])
    assert np.isfinite(found.probabilities).all()
    np.testing.assert_allclose(found.priors, [0.5, 0.5], atol=1e-6)


def test_rows_that_are_not_finite_take_no_part():
    outputs = _outputs([0.6, 0.4], [0.3, 0.7], count=200)
    broken = outputs.copy()
    broken[::10] = np.nan
    broken[5, 0] = np.inf
    kept = np.isfinite(broken).all(axis=1)
    found = prior_correction.correct(broken, [0.3, 0.7])
    alone = prior_correction.correct(outputs[kept], [0.3, 0.7])
    np.testing.assert_array_equal(found.priors, alone.priors)
    np.testing.assert_array_equal(found.probabilities[kept], alone.probabilities)
    assert np.isnan(found.probabilities[~kept]).all()


@hypothesis.given(
    rows=st.lists(st.lists(st.floats(0, 1), min_size=3, max_size=3), min_size=1, max_size=20),
    training=st.lists(st.floats(0.01, 1), min_size=3, max_size=3),
)
@hypothesis.settings(deadline=None, max_examples=50)
def test_whatever_comes_in_distributions_come_out(rows, training):
    outputs = np.array(rows) + 1e-9
    outputs /= outputs.sum(axis=1, keepdims=True)
    found = prior_correction.correct(outputs, np.array(training) / sum(training))
    np.testing.assert_allclose(found.probabilities.sum(axis=1), 1)
    assert found.priors.sum() == pytest.approx(1)
    assert (found.probabilities >= 0).all()
    assert (found.priors >= 0).all()


@pytest.mark.parametrize(
    ("probabilities", "training", "message"),
    [
        ([[0.5, 0.5]], [0.3, 0.3, 0.4], r"\(1, 2\) and \(3,\)"),
        ([0.5, 0.5], [0.5, 0.5], "shape"),
        ([[1.0]], [1.0], "K >= 2"),
        ([[0.5, 0.5]], [0.0, 1.0], "above 0"),
        ([[0.5, 0.5]], [27, 73], "sum to 1"),
        ([[0.5, 0.5]], [np.nan, 0.5], "above 0"),
        ([[2.5, -1.5]], [0.5, 0.5], r"\[2.5, -1.5\]"),
        ([[3.0, 4.0]], [0.5, 0.5], r"\[3.0, 4.0\]"),
        ([[np.nan, 0.5]], [0.5, 0.5], "no row"),
        (np.zeros((0, 2)), [0.5, 0.5], "no row"),
    ],
)
def test_what_is_no_distribution_is_refused(probabilities, training, message):
    with pytest.raises(ValueError, match=message):
        prior_correction.correct(probabilities, training)
