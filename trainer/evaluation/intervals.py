"""95 % intervals of the figures of a split.

    drawn = resampling.PatientBootstrap(table.patient_id)
    intervals.of(table, drawn)["roc_auc"]                    # (0.981, 0.993), or None

They say how far the figures of other patients from the same source may lie from these. They don't
cover what another source, another seed of the training, or the choice of the model would change.
"""

from __future__ import annotations

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
    decided = table.predicted if threshold is None else table.decided(threshold)
    spread = resampling.distributions(table, drawn, threshold)
    return of_means(spread, [(table, decided)])


def of_means(means: Mapping[str, Floats], models: Sequence[Decided]) -> dict[str, Interval]:
    """Returns the interval of the mean of each figure over models of the same examples.

    Of one model, what `of` returns.

    Args:
      means: by figure: the mean over the models in each resample, [R].
      models: each with the classes that it decides for.
    """
    patients = patients_behind(means, models)
    found = {name: resampling.interval(values, patients[name]) for name, values in means.items()}
    counted = [_counted_by(table, decided) for table, decided in models]
    for name in counted[0]:
        if name in found and found[name] is None and patients[name]:
            right = [
                decided[of_model[name]] == table.label[of_model[name]]
                for (table, decided), of_model in zip(models, counted, strict=True)
            ]
            found[name] = _exact(np.concatenate(right), patients[name])
    return found


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


def _exact(is_right: npt.NDArray[np.bool_], patients: int) -> Interval:
    """Returns the exact interval of a share that is 0 or 1; None for others."""
    if not is_right.size or is_right.any() != is_right.all():
        return None
    test = scipy.stats.binomtest(patients if is_right.all() else 0, patients)
    found = test.proportion_ci(resampling.CONFIDENCE, method="exact")
    return float(found.low), float(found.high)
