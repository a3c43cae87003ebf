"""The guard: reasons why a model, or what was measured of it, must not be used.

    guards.of_outputs(table)               # sentences; none if the model may be used
    guards.of_interval((0.47, 0.61))
    guards.of_sharing(3, 12, 1309, "train or validation")

A run for which one of them fires ends with exit code 3.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import numpy as np

from trainer.evaluation import intervals, resampling
from trainer.system import text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from trainer.evaluation.predictions import Predictions

CHANCE = 0.5
"""ROC-AUC of a model that has learnt nothing."""


def of_outputs(table: Predictions) -> tuple[str, ...]:
    """Returns what the outputs alone show."""
    return tuple(itertools.chain(_non_finite(table), _baseline(table), _unpredicted(table)))


def of_table(table: Predictions) -> tuple[str, ...]:
    """Returns what predictions alone show, the interval of their ROC-AUC included."""
    found = intervals.of(table, resampling.PatientBootstrap(table.patient_id))
    return (*of_outputs(table), *of_interval(found.get("roc_auc")))


def of_interval(roc_auc: tuple[float, float] | None) -> tuple[str, ...]:
    """Fires when the 95 % interval of the ROC-AUC includes that of chance.

    Args:
      roc_auc: the interval; None where there is none.
    """
    if roc_auc is None or roc_auc[0] > CHANCE:
        return ()
    low, high = roc_auc
    if high < CHANCE:
        return (f"ROC-AUC is below {CHANCE} (95 % interval {low:.3f} to {high:.3f}).",)
    shown = f"({low:.3f} to {high:.3f})"
    return (f"The 95 % interval of ROC-AUC {shown} includes {CHANCE}, that of chance.",)


def of_sharing(patients: int, images: int, examples: int, others: str) -> tuple[str, ...]:
    """Fires when the split shares patients or identical images with those that decided the model.

    Args:
      patients: number of the split's examples whose patient is in another split.
      images: number of its examples that are also there, pixel for pixel.
      examples: number of its examples.
      others: the other splits, such as "train or validation".
    """
    counted = {"share a patient with": patients, "are also images of": images}
    return tuple(
        f"{count} of {examples} test images ({text.percent(count / examples)}) {verb} {others}: "
        "the figures are optimistic."
        for verb, count in counted.items()
        if count
    )


def _non_finite(table: Predictions) -> Iterator[str]:
    broken = int((~np.isfinite(table.probabilities)).any(axis=1).sum())
    if broken:
        yield f"The outputs for {broken} of {len(table)} examples are NaN or infinite."


def _baseline(table: Predictions) -> Iterator[str]:
    total = len(table)
    correct = int((table.predicted == table.label).sum())
    counts = np.bincount(table.label)
    baseline = int(counts.max())
    if correct <= baseline:
        yield (
            f"Accuracy {text.percent(correct / total)} ({correct} of {total}) is not above the "
            f"{text.percent(baseline / total)} ({baseline} of {total}) of always predicting "
            f"{table.class_names[counts.argmax()]}."
        )


def _unpredicted(table: Predictions) -> Iterator[str]:
    num_classes = len(table.class_names)
    predicted = np.bincount(table.predicted, minlength=num_classes)
    true = np.bincount(table.label, minlength=num_classes)
    for name, of_class, count in zip(table.class_names, predicted, true, strict=True):
        if count and not of_class:
            yield (
                f"{name} is never predicted, but is the true class of {count} of {len(table)} "
                "examples."
            )
