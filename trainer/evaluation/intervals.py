"""95 % intervals of the figures of a split.

    drawn = resampling.PatientBootstrap(table.patient_id)
    intervals.of(table, drawn)["roc_auc"]                    # (0.981, 0.993), or None

They say how far the figures of other patients from the same source may lie from these. They don't
cover what another source, another seed of the training, or the choice of the model would change.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import scipy.stats

from trainer.evaluation import resampling

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt

    from trainer.evaluation.predictions import Predictions
    from trainer.evaluation.resampling import PatientBootstrap

Interval = tuple[float, float] | None
"""Low and high end; None where there is nothing to say."""


def of(
    table: Predictions, drawn: PatientBootstrap, threshold: float | None = None
) -> dict[str, Interval]:
    """Returns the interval of every figure of `resampling.distributions`, by its name.

    By the bootstrap over patients. Where no error, or nothing else, was seen, it has nothing to
    say; then a share gets the exact interval of Clopper and Pearson (Biometrika 26, 1934) for as
    many independent draws as there are patients.

    Args:
      table: predictions.
      drawn: resamples of the same examples.
      threshold: as in `resampling.distributions`.
    """
    spread = resampling.distributions(table, drawn, threshold)
    found = {name: resampling.interval(values) for name, values in spread.items()}
    decided = table.predicted if threshold is None else table.decided(threshold)
    for name, rows in _counted_by(table, decided).items():
        if found[name] is None:
            found[name] = _exact(decided[rows] == table.label[rows], table.patient_id[rows])
    return found


def _counted_by(
    table: Predictions, decided: npt.NDArray[np.intp]
) -> Mapping[str, npt.NDArray[np.bool_]]:
    """Returns, for each figure that is a share of right decisions, the examples it counts."""
    found = {"accuracy": np.ones(len(table), bool)}
    if len(table.class_names) == 2:
        found["sensitivity"], found["specificity"] = table.label == 1, table.label == 0
        found["ppv"], found["npv"] = decided == 1, decided == 0
    return found


def _exact(is_right: npt.NDArray[np.bool_], patient_id: npt.NDArray[np.str_]) -> Interval:
    """Returns the exact interval of a share that is 0 or 1; None for others."""
    if not is_right.size or is_right.any() != is_right.all():
        return None
    patients = np.unique(patient_id).size
    test = scipy.stats.binomtest(patients if is_right.all() else 0, patients)
    found = test.proportion_ci(resampling.CONFIDENCE, method="exact")
    return float(found.low), float(found.high)
