"""95 % intervals of the figures of a split.

    drawn = resampling.PatientBootstrap(table.patient_id)
    intervals.of(table, drawn)["roc_auc"]                    # (0.981, 0.993), or None

They say how far the figures of other patients from the same source may lie from these. They don't
cover what another source, another seed of the training, or the choice of the model would change.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.stats

from trainer.evaluation import resampling

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    import numpy.typing as npt

    from trainer.evaluation.predictions import Predictions
    from trainer.evaluation.resampling import PatientBootstrap

    Floats = npt.NDArray[np.floating[Any]]
    Decided = tuple[Predictions, npt.NDArray[np.intp]]

_OF_EXAMPLES = ("brier", "log_loss", "ece")
"""Means over all examples; what is left compares classes, and depends on the rarest."""
_NO_RATES = (*_OF_EXAMPLES, "mcc")
"""Figures that are no shares. The areas are: of pairs of examples, those in the right order."""
Interval = tuple[float, float] | None
"""Low and high end; None where there is nothing to say."""


def of(
    table: Predictions, drawn: PatientBootstrap, threshold: float | None = None
) -> dict[str, Interval]:
    """Returns the interval of every figure of `resampling.distributions`, by its name.

    Args:
      table: predictions.
      drawn: resamples of the same examples.
      threshold: as in `resampling.distributions`.
    """
    decided = table.predicted if threshold is None else table.decided(threshold)
    undrawn = resampling.PatientBootstrap.undrawn(table.patient_id)
    spread, own = (resampling.distributions(table, of, threshold) for of in (drawn, undrawn))
    values = {name: float(value[0]) for name, value in own.items()}
    return of_means(spread, values, [(table, decided)])


def of_means(
    means: Mapping[str, Floats], values: Mapping[str, float], models: Sequence[Decided]
) -> dict[str, Interval]:
    """Returns the interval of the mean of each figure over models of the same examples.

    Of one model, what `of` returns.

    Args:
      means: by figure: the mean over the models in each resample, [R].
      values: by figure: the mean over the models on the examples themselves.
      models: each with the classes that it decides for.
    """
    patients = patients_behind(means, models)
    counted = [_counted_by(table, decided) for table, decided in models]
    found = {}
    for name, spread in means.items():
        if name in _NO_RATES:
            found[name] = resampling.interval(spread, patients[name])
            continue
        is_share = name in counted[0]
        examples = min(
            int(of_model[name].sum()) if is_share else len(table)
            for (table, _), of_model in zip(models, counted, strict=True)
        )
        found[name] = rate(values[name], spread, patients[name], examples, is_share=is_share)
    return found


def rate(
    value: float, spread: Floats, patients: int, examples: int, *, is_share: bool = False
) -> Interval:
    """Returns the 95 % interval of a rate: a share of examples, or an area under a curve.

    Wilson's ("Probable inference, the law of succession, and statistical inference", JASA 22,
    1927), for the effective number of examples: so many independent ones as would give the variance
    of the resamples (Korn and Graubard, "Confidence intervals for proportions with small expected
    number of positive counts estimated from survey data", Survey Methodology 24, 1998), and with a
    quantile of Student's t for as many patients. Near 0 and 1, where good models lie, percentiles
    of the resamples are too short at the end that matters: the errors of a few patients are all
    that a bootstrap has seen.

    Few errors say little of how alike the errors of a patient are. To the variance of a share, one
    patient with and one without an error are added: where no error was seen, there are then about
    as many effective examples as patients.

    Args:
      value: the figure.
      spread: [R], the figure in each resample; NaN where it is undefined.
      patients: number of patients that it depends on.
      examples: number of examples that it depends on.
      is_share: whether it counts examples.

    Returns:
      Low and high end; None of fewer than two patients, or where the figure is undefined, or is in
      more than 5 % of the resamples.
    """
    defined = resampling.defined(spread)
    if patients < 2 or defined is None or not np.isfinite(value):
        return None
    variance = float(defined.var()) * patients / (patients - 1)
    middle = value
    if is_share:
        middle = (value * patients + 1) / (patients + 2)
        variance = variance * patients**2 + middle**2 + (1 - middle) ** 2
        variance /= (patients + 2) ** 2
    count = min(middle * (1 - middle) / variance, examples) if variance > 0 else patients
    return _wilson(value, count, float(scipy.stats.t.ppf(_UPPER, patients - 1)))


_UPPER = (1 + resampling.CONFIDENCE) / 2


def _wilson(value: float, count: float, quantile: float) -> tuple[float, float]:
    """Returns the ends of the shares that a value differs from by so many standard errors."""
    squared = quantile**2 / count
    centre = value + squared / 2
    reach = quantile * math.sqrt(value * (1 - value) / count + squared / (4 * count))
    low, high = (centre - reach) / (1 + squared), (centre + reach) / (1 + squared)
    # Rounding must not put the value itself outside.
    return min(max(low, 0.0), value), max(min(high, 1.0), value)


def patients_behind(names: Iterable[str], models: Sequence[Decided]) -> dict[str, int]:
    """Returns how many patients each figure depends on; of several models, the fewest."""
    names = tuple(names)
    of_models = [_patients_behind(names, *model) for model in models]
    return {name: min(found[name] for found in of_models) for name in names}


def _patients_behind(
    names: Iterable[str], table: Predictions, decided: npt.NDArray[np.intp]
) -> dict[str, int]:
    counted = _counted_by(table, decided)
    behind = {name: patients_of(table, rows) for name, rows in counted.items()}
    behind |= dict.fromkeys(_OF_EXAMPLES, patients_of(table))
    rarest = fewest_patients(table)
    return {name: behind.get(name, rarest) for name in names}


def patients_of(table: Predictions, rows: npt.NDArray[np.bool_] | slice = slice(None)) -> int:
    """Returns the number of patients of some examples."""
    return int(np.unique(table.patient_id[rows]).size)


def patients_by_class(table: Predictions) -> dict[str, int]:
    """Returns the number of patients with an example of each class; one can have both."""
    return {name: patients_of(table, table.label == k) for k, name in enumerate(table.class_names)}


def fewest_patients(table: Predictions) -> int:
    """Returns the number of patients of that class which has the fewest, of those that occur."""
    return min(filter(None, patients_by_class(table).values()))


def _counted_by(
    table: Predictions, decided: npt.NDArray[np.intp]
) -> Mapping[str, npt.NDArray[np.bool_]]:
    """Returns, for each figure that is a share of right decisions, the examples it counts."""
    found = {"accuracy": np.ones(len(table), bool)}
    if len(table.class_names) == 2:
        found["sensitivity"], found["specificity"] = table.label == 1, table.label == 0
        found["ppv"], found["npv"] = decided == 1, decided == 0
    return found
