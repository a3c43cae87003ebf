"""Tables of predictions for tests: by hand, by confusion matrix, and drawn by hypothesis."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import numpy.typing as npt
from hypothesis import strategies as st

from trainer.evaluation.predictions import Predictions

CLASSES = ("NORMAL", "PNEUMONIA")

# Eight examples worked by hand: label, p(PNEUMONIA), hence prediction and cell.
#   0  .1 -> N  TN      1  .9 -> P  TP
#   0  .2 -> N  TN      1  .8 -> P  TP
#   0  .6 -> P  FP      1  .7 -> P  TP
#                       1  .4 -> N  FN
#                       1  .3 -> N  FN
# TN 2, FP 1, FN 2, TP 3; three NORMAL, five PNEUMONIA.
LABEL = (0, 0, 0, 1, 1, 1, 1, 1)
POSITIVE = (0.1, 0.2, 0.6, 0.9, 0.8, 0.7, 0.4, 0.3)
HISTORY = {
    "loss": [0.5, 0.25, 0.125],
    "val_loss": [0.5, 0.25, 0.375],
    "accuracy": [0.75, 0.875, 0.9375],
    "val_accuracy": [0.75, 0.9, 0.85],
}
"""Three epochs, of which the second is the best by validation loss."""
ETIOLOGY = ("normal", "normal", "normal", "bacteria", "bacteria", "virus", "virus", "virus")


def predictions_of(
    label: npt.ArrayLike, positive: npt.ArrayLike, etiology: npt.ArrayLike | None = None
) -> Predictions:
    """Predictions of these labels and p(PNEUMONIA), named by number; etiologies as by hand."""
    label, positive = np.asarray(label, int), np.asarray(positive, float)
    numbers = [f"{i:04}" for i in range(len(label))]
    return Predictions(
        class_names=CLASSES,
        file_name=np.array(numbers, str),
        patient_id=np.array(numbers, str),
        etiology=np.array(ETIOLOGY[: len(label)] if etiology is None else etiology, str),
        label=label,
        probabilities=np.stack([1 - positive, positive], axis=1),
    )


def predictions_with_matrix(matrix: tuple[tuple[int, int], tuple[int, int]]) -> Predictions:
    """Predictions that have this confusion matrix."""
    label = np.repeat([0, 0, 1, 1], np.ravel(matrix))
    predicted = np.repeat([0, 1, 0, 1], np.ravel(matrix))
    return predictions_of(label, 0.1 + 0.8 * predicted, np.where(label, "virus", "normal"))


# What NumPy's fixed-width strings can hold: no surrogates, no NUL at the end.
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)


@st.composite
def tables(draw: st.DrawFn) -> Predictions:
    """Up to eight examples as a float32 model may give them, not all finite."""
    positive = draw(st.lists(st.floats(0, 1, width=32) | st.just(math.nan), max_size=8))
    size = len(positive)
    columns = [draw(st.lists(TEXT, min_size=size, max_size=size)) for _ in range(3)]
    probabilities = np.array([[np.float32(1) - p, p] for p in positive], np.float32)
    return Predictions(
        class_names=CLASSES,
        file_name=np.array(columns[0], str),
        patient_id=np.array(columns[1], str),
        etiology=np.array(columns[2], str),
        label=np.array(draw(st.lists(st.integers(0, 1), min_size=size, max_size=size)), np.int32),
        probabilities=probabilities.reshape(size, 2),
    )


def study(
    seed: int,
    *,
    patients: int,
    num_classes: int = 2,
    effect: float = 1.5,
    levels: int = 0,
    separation: float = 1.4,
) -> Predictions:
    """A simulated study: 1 to 8 images of each patient, whose outputs resemble each other.

    Args:
      seed: of what is drawn.
      patients: how many.
      num_classes: a patient is of one class; of two, the second has 60 %.
      effect: standard deviation between patients on the scale of logits; within one, it is 1.
      levels: how many distinct probabilities each class has, about; 0: as many as there are images.
      separation: of the classes on that scale: 1.4 gives an ROC-AUC of 0.78, 4 of 0.987.
    """
    generator = np.random.default_rng(seed)
    shares = (0.4, 0.6) if num_classes == 2 else np.full(num_classes, 1 / num_classes)
    of_patient = generator.choice(num_classes, size=patients, p=shares)
    patient = np.repeat(np.arange(patients), generator.integers(1, 9, patients))
    label = of_patient[patient]
    logits = separation * np.eye(num_classes)[label]
    logits += generator.normal(0, effect, (patients, num_classes))[patient]
    logits += generator.normal(0, 1, logits.shape)
    odds = np.exp(np.round(logits * levels) / levels if levels else logits)
    names = np.array([f"{i:06}" for i in range(len(label))])
    return Predictions(
        class_names=CLASSES if num_classes == 2 else tuple("ABCDEFGH"[:num_classes]),
        file_name=names,
        patient_id=np.array([f"p{i:06}" for i in patient]),
        etiology=np.where(label == 0, "normal", np.where(patient % 2, "bacteria", "virus")),
        label=label,
        probabilities=odds / odds.sum(axis=1, keepdims=True),
    )


def in_float32(table: Predictions) -> Predictions:
    """The same predictions as a float32 model gives them."""
    return dataclasses.replace(table, probabilities=table.probabilities.astype(np.float32))
