"""Corrects probabilities for classes that are more or less frequent than in training.

Method: the EM algorithm of M. Saerens, P. Latinne and C. Decaestecker, "Adjusting the Outputs of a
Classifier to New a Priori Probabilities: A Simple Procedure", Neural Computation 14(1), 2002. It
finds the shares of the classes under which the unlabelled outputs are most likely, and returns the
probabilities that belong to them.

    correction = prior_correction.correct(probabilities, [0.27, 0.73])
    correction.priors             # [K]: the estimated shares of the classes
    correction.probabilities      # [N, K]

It assumes label shift: the images of a class look as in training, and only the number of them
differs; and calibrated probabilities. Where the images themselves differ (`shift` tells), or a
model is overconfident, the estimate is biased, and the correction can make things worse.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

TOLERANCE = 1e-8
"""EM has converged when no share changes by more in an iteration."""
MAX_ITERATIONS = 10_000
"""EM converges linearly, and slowly where the classes overlap."""
ASSUMPTION = (
    "It assumes that the images of a class look as in training, and only their number differs."
)
_SUM_TOLERANCE = 1e-3  # Of float32 softmax outputs, and of shares that were rounded for reading.


@dataclasses.dataclass(frozen=True, eq=False)  # `==` on arrays gives an array, not a bool.
class Correction:
    """Probabilities under the classes' estimated shares.

    Attributes:
      probabilities: [N, K] float64; rows sum to 1. A row that was not finite is NaN.
      priors: [K] float64, the estimated shares, which sum to 1.
      iterations: of EM; MAX_ITERATIONS if it did not converge.
    """

    probabilities: npt.NDArray[np.float64]
    priors: npt.NDArray[np.float64]
    iterations: int

    @property
    def converged(self) -> bool:
        """Whether the shares have settled."""
        return self.iterations < MAX_ITERATIONS


def correct(probabilities: npt.ArrayLike, training_priors: npt.ArrayLike) -> Correction:
    """Estimates the shares of the classes and corrects the probabilities for them.

    Args:
      probabilities: [N, K] outputs of the model, K >= 2; rows that are not finite take no part.
      training_priors: [K] shares of the classes that the model was trained on, each above 0. A
        loss with balanced class weights has trained on equal shares, whatever was counted.

    Raises:
      ValueError: The shapes don't fit, there is no finite row, or an argument is no distribution.
    """
    outputs = np.asarray(probabilities, np.float64)
    training = np.asarray(training_priors, np.float64)
    _check(outputs, training)
    finite = np.isfinite(outputs).all(axis=1)
    if not finite.any():
        raise ValueError("There is no row of finite probabilities to estimate the shares from.")
    # In logarithms: a probability of 1e-300 over a share of 1e-10 would overflow as a ratio.
    ratios = _log(outputs[finite].clip(0, None)) - np.log(training / training.sum())
    priors, iterations = training / training.sum(), MAX_ITERATIONS
    for iteration in range(1, MAX_ITERATIONS + 1):
        before, priors = priors, _posteriors(ratios, priors).mean(axis=0)
        if np.abs(priors - before).max() <= TOLERANCE:
            iterations = iteration
            break
    corrected = np.full(outputs.shape, np.nan)
    corrected[finite] = _posteriors(ratios, priors)
    return Correction(corrected, priors, iterations)


def _posteriors(
    ratios: npt.NDArray[np.float64], priors: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Returns probabilities [N, K] from likelihoods up to a factor, log, and shares [K]."""
    joint = ratios + _log(priors)
    return np.exp(joint - np.logaddexp.reduce(joint, axis=1, keepdims=True))


def _log(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    # Not -inf, which is NaN in a row where each class is impossible by one of the two factors.
    return np.log(np.maximum(values, np.finfo(np.float64).tiny))


def _check(outputs: npt.NDArray[Any], training: npt.NDArray[Any]) -> None:
    if outputs.ndim != 2 or outputs.shape[1] < 2 or training.shape != outputs.shape[1:]:
        raise ValueError(
            f"probabilities must have shape [N, K], K >= 2, and training_priors [K]: they have "
            f"{outputs.shape} and {training.shape}."
        )
    if not (training > 0).all() or abs(training.sum() - 1) > _SUM_TOLERANCE:
        raise ValueError(
            f"training_priors must be above 0 and sum to 1, not {training.tolist()}; a class "
            "without a training example can't be corrected for."
        )
    finite = outputs[np.isfinite(outputs).all(axis=1)]
    wrong = (finite < -_SUM_TOLERANCE).any(axis=1) | (abs(finite.sum(axis=1) - 1) > _SUM_TOLERANCE)
    if wrong.any():
        raise ValueError(
            f"probabilities must sum to 1 in each row, and one row is {finite[wrong][0].tolist()}."
        )
