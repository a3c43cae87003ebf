"""How far probabilities can be taken at their word, and the temperature that mends them.

Of two classes, the probability of the positive class is compared with the share of examples that
are positive; of more, that of the predicted class with the share that is right.

    found = calibration.reliability(table)          # a row for each bin that is not empty
    temperature = calibration.fit_temperature(validation)
    calibration.scaled(table, temperature)          # the same table with softened probabilities
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt
import scipy.optimize

if TYPE_CHECKING:
    from trainer.evaluation.predictions import Predictions

    Floats = npt.NDArray[np.floating[Any]]

NUM_BINS = 15
"""As many as Guo et al. (2017) use."""
_MAX_LOG_TEMPERATURE = np.log(20.0)
_SMALLEST = float(np.finfo(np.float32).tiny)
"""Below it, the softmax has rounded a probability to 0; its logarithm would be infinite."""


@dataclasses.dataclass(frozen=True)
class Bin:
    """The examples whose probability lies in (low, high].

    Attributes:
      low: exclusive, but for the first bin.
      high: inclusive.
      examples: how many they are.
      mean_probability: their mean probability.
      share: the share of them that is positive; of more than two classes, that is right.
    """

    low: float
    high: float
    examples: int
    mean_probability: float
    share: float


@dataclasses.dataclass(frozen=True)
class Bins:
    """Each example's bin, probability and outcome, [N]."""

    index: npt.NDArray[np.intp]
    probability: Floats
    outcome: npt.NDArray[np.bool_]

    @classmethod
    def of(cls, table: Predictions) -> Self:
        """Puts finite probabilities into equal bins, as `sklearn.calibration` does."""
        if len(table.class_names) == 2:
            probability, outcome = table.probabilities[:, 1], table.label == 1
        else:
            probability, outcome = table.score, table.predicted == table.label
        edges = np.linspace(0, 1, NUM_BINS + 1)
        index = np.searchsorted(edges[1:-1], probability)
        return cls(index, probability, outcome)

    def gaps(self) -> Floats:
        """[N, B]: probability minus outcome, in the column of the example's bin."""
        found = np.zeros((len(self.index), NUM_BINS))
        found[np.arange(len(self.index)), self.index] = self.probability - self.outcome
        return found


def reliability(table: Predictions) -> tuple[Bin, ...]:
    """Returns the bins that hold examples; none where a probability is not finite."""
    if not np.isfinite(table.probabilities).all():
        return ()
    bins, edges = Bins.of(table), np.linspace(0, 1, NUM_BINS + 1)
    return tuple(
        Bin(
            float(edges[index]),
            float(edges[index + 1]),
            int(chosen.sum()),
            float(bins.probability[chosen].mean()),
            float(bins.outcome[chosen].mean()),
        )
        for index in range(NUM_BINS)
        if (chosen := bins.index == index).any()
    )


def expected_error(table: Predictions) -> float | None:
    """Returns the expected calibration error; None where a probability is not finite.

    The mean over examples of the difference between mean probability and share in their bin
    (Naeini, Cooper and Hauskrecht, "Obtaining well calibrated probabilities using Bayesian
    binning", AAAI 2015).
    """
    found = reliability(table)
    if not found:
        return None
    gaps = (of.examples * abs(of.mean_probability - of.share) for of in found)
    return sum(gaps) / len(table)


def normalised(probabilities: npt.ArrayLike) -> Floats:
    """Returns rows that sum to 1 in float64, [N, K].

    A softmax with an approximate reciprocal can exceed 1 slightly. To normalise a row keeps the
    small probability of a confident error, whereas 1 - p would round it to 0.
    """
    clipped = np.asarray(probabilities, np.float64).clip(0, 1)
    return clipped / clipped.sum(axis=1, keepdims=True)


def row_errors(table: Predictions) -> dict[str, Floats]:
    """Returns each example's share, [N], of the figures that are means: Brier score and log-loss.

    They are scikit-learn's: the Brier score of two classes is the positive class's squared error,
    of more the sum over classes; a probability counts as at least 2.2e-16 in the log-loss.
    """
    rows, label = np.arange(len(table)), table.label
    given = normalised(table.probabilities)
    smallest = np.finfo(np.float64).eps
    log_loss = -np.log(given[rows, label].clip(smallest, 1 - smallest))
    if len(table.class_names) == 2:
        brier = (table.probabilities[:, 1].clip(0, 1) - label) ** 2
    else:
        one_hot = np.eye(len(table.class_names))[label]
        brier = ((given - one_hot) ** 2).sum(axis=1)
    return {"brier": brier, "log_loss": log_loss}


def fit_temperature(table: Predictions) -> float | None:
    """Returns the temperature with the lowest log-loss (Guo et al., ICML 2017).

    Above 1, the model was too sure of itself. None where the examples don't determine it, or only
    beyond 1/20 and 20: where there are none, a probability is not finite, every prediction is
    right (the log-loss would fall for ever with the temperature), or no better than chance. Nor
    where it would raise the log-loss of `row_errors`, for which no error costs more than 36 nats:
    the probability of a true class was rounded to 0.

    Args:
      table: predictions on the validation split.
    """
    if not len(table) or not np.isfinite(table.probabilities).all():
        return None
    logits, rows = _logits(table.probabilities), np.arange(len(table))

    def log_loss(log_temperature: float) -> float:
        divided = logits / np.exp(log_temperature)
        top = divided.max(axis=1)
        partition = top + np.log(np.exp(divided - top[:, np.newaxis]).sum(axis=1))
        return float(np.mean(partition - divided[rows, table.label]))

    bounds = (-_MAX_LOG_TEMPERATURE, _MAX_LOG_TEMPERATURE)
    found = scipy.optimize.minimize_scalar(
        log_loss, bounds=bounds, method="bounded", options={"xatol": 1e-10}
    )
    # Not of a log-loss that is the same everywhere, as that of certain and right predictions.
    if not found.fun < (1 - 1e-9) * min(map(log_loss, bounds)):
        return None
    temperature = float(np.exp(found.x))
    after, before = (
        row_errors(of)["log_loss"].mean() for of in (scaled(table, temperature), table)
    )
    return temperature if after <= before else None


def scaled(table: Predictions, temperature: float) -> Predictions:
    """Returns the table with the logits divided by a temperature; the predictions stay."""
    return dataclasses.replace(table, probabilities=scale(table.probabilities, temperature))


def scale(probabilities: Floats, temperature: float) -> Floats:
    """Returns probabilities, [N, K], whose logits are divided by a temperature."""
    divided = _logits(probabilities) / temperature
    odds = np.exp(divided - divided.max(axis=1, keepdims=True))
    scaled_odds: Floats = odds / odds.sum(axis=1, keepdims=True)
    return scaled_odds


def _logits(probabilities: Floats) -> Floats:
    """Returns logits of the softmax, up to a constant in each row."""
    return np.log(np.maximum(normalised(probabilities), _SMALLEST))
