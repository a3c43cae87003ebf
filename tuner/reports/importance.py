"""The importance of each dimension for the score: permutation importance of a random forest.

    found = importance.measure(results)
    found.shares["learning_rate"]    # (mean, standard deviation) of the decrease of R²

Method: L. Breiman, Random Forests, Machine Learning 45 (2001), section 10.
"""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Any

import numpy as np
import sklearn.ensemble
import sklearn.inspection

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tuner.reports.results import SearchResults
    from tuner.space import Dimension

MIN_CONFIGURATIONS = 10
_WEAK_R2 = 0.2
_TREES = 100
REPEATS = 20
"""Shuffles of each dimension."""
_SEED = 0


@dataclasses.dataclass(frozen=True)
class Importance:
    """Permutation importances, and the quality of the forest behind them.

    Attributes:
      configurations: Number of configurations that the forest was fitted to.
      shares: By dimension, mean and standard deviation of the decrease of R² when its values are
        shuffled among the configurations; the largest mean first.
      out_of_bag_r2: R² of predictions by trees that have not seen the configuration: 1 is perfect,
        0 no better than the mean of all scores.
    """

    configurations: int
    shares: Mapping[str, tuple[float, float]]
    out_of_bag_r2: float

    @property
    def is_weak(self) -> bool:
        """Whether the forest predicts scores little better than their mean does."""
        return self.out_of_bag_r2 < _WEAK_R2


def measure(results: SearchResults) -> Importance | None:
    """Fits a forest to the configurations, each with the score of its last rung.

    Args:
      results: The search; configurations without a score are left out.

    Returns:
      None when an importance would be meaningless: with fewer than MIN_CONFIGURATIONS scores, if
      all scores are equal, or without dimensions.
    """
    trials = [trial for trial in results.configurations if trial.has_score]
    target = np.array([trial.score for trial in trials], np.float64)
    if len(trials) < MIN_CONFIGURATIONS or np.ptp(target) == 0 or not results.dimensions:
        return None
    dimensions = results.dimensions
    inputs = np.array(
        [[_coordinate(d, trial.values[d.name]) for d in dimensions] for trial in trials]
    )
    forest = sklearn.ensemble.RandomForestRegressor(_TREES, oob_score=True, random_state=_SEED)
    forest.fit(inputs, target)
    found = sklearn.inspection.permutation_importance(
        forest, inputs, target, n_repeats=REPEATS, random_state=_SEED
    )
    spans = zip(found.importances_mean.tolist(), found.importances_std.tolist(), strict=True)
    shares = dict(zip([dimension.name for dimension in dimensions], spans, strict=True))
    by_size = sorted(shares.items(), key=lambda item: (-item[1][0], item[0]))
    return Importance(len(trials), dict(by_size), float(forest.oob_score_))


def _coordinate(dimension: Dimension, value: Any) -> float:
    """Returns a value as a number at which the forest can split: its logarithm, or its place."""
    if dimension.choices:
        return dimension.choices.index(value)
    return math.log10(value) if dimension.log else float(value)
