"""The guard: each reason fires where it should, and is silent where it should not."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from tests.support import tables
from tests.support.tables import LABEL, POSITIVE, predictions_of, predictions_with_matrix
from trainer.evaluation import guards

INCEPTION = (
    "Accuracy 71.88 % (1053 of 1465) is not above the 72.97 % (1069 of 1465) of always predicting "
    "PNEUMONIA."
)
MOBILENET = (
    "Accuracy 72.76 % (1066 of 1465) is not above the 72.97 % (1069 of 1465) of always predicting "
    "PNEUMONIA."
)


@pytest.mark.parametrize(
    ("matrix", "reasons"),
    [
        (((340, 56), (26, 1043)), ()),
        (((2, 394), (18, 1051)), (INCEPTION,)),
        (((1, 395), (4, 1065)), (MOBILENET,)),
    ],
    ids=["VGG16", "InceptionResNetV2", "MobileNetV2"],
)
def test_two_of_the_papers_three_models_must_not_be_used(
    matrix: tuple[tuple[int, int], tuple[int, int]], reasons: tuple[str, ...]
) -> None:
    assert guards.of_outputs(predictions_with_matrix(matrix)) == reasons


def test_accuracy_at_the_baseline_fires() -> None:
    (reason,) = guards.of_outputs(predictions_of(LABEL, POSITIVE))
    assert reason.startswith("Accuracy 62.50 % (5 of 8) is not above the 62.50 % (5 of 8) of")


def test_one_right_answer_above_the_baseline_is_silent() -> None:
    assert guards.of_outputs(predictions_with_matrix(((2, 2), (1, 5)))) == ()


def test_a_class_that_is_never_predicted_fires() -> None:
    table = tables.study(0, patients=90, num_classes=3)
    constant = np.tile([0.5, 0.5, 0.0], (len(table), 1))
    table = dataclasses.replace(table, probabilities=constant)
    reasons = guards.of_outputs(table)
    assert [reason.split(" is never")[0] for reason in reasons[1:]] == ["B", "C"]


def test_a_class_that_never_occurs_may_remain_unpredicted() -> None:
    assert not any("never" in of for of in guards.of_outputs(predictions_of([1, 1], [0.9, 0.8])))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_an_output_that_is_not_finite_fires(value: float) -> None:
    found = guards.of_outputs(predictions_of([0, 1, 1, 0], [0.1, 0.9, 0.8, value]))
    assert found == ("The outputs for 1 of 4 examples are NaN or infinite.",)


# Chance


@pytest.mark.parametrize("interval", [None, (0.501, 0.9), (0.9, 1.0)])
def test_an_area_above_chance_is_silent(interval: tuple[float, float] | None) -> None:
    assert guards.of_interval(interval) == ()


@pytest.mark.parametrize("interval", [(0.47, 0.61), (0.5, 0.7), (0.3, 0.5)])
def test_an_interval_that_includes_chance_fires(interval: tuple[float, float]) -> None:
    low, high = interval
    assert guards.of_interval(interval) == (
        f"The 95 % interval of ROC-AUC ({low:.3f} to {high:.3f}) includes 0.5, that of chance.",
    )


def test_an_area_below_chance_fires_and_says_so() -> None:
    assert guards.of_interval((0.2, 0.4)) == (
        "ROC-AUC is below 0.5 (95 % interval 0.200 to 0.400).",
    )


def test_a_model_that_guesses_is_found_by_its_interval() -> None:
    table = tables.study(0, patients=60)
    order = np.random.default_rng(0).permutation(len(table))
    guessed = dataclasses.replace(table, probabilities=table.probabilities[order])
    assert any("includes 0.5" in reason for reason in guards.of_table(guessed))


def test_a_model_that_has_learnt_is_not() -> None:
    assert guards.of_table(tables.study(0, patients=60, effect=0.5)) == ()


# Sharing


def test_shared_patients_and_images_fire_with_their_counts() -> None:
    patients, images = guards.of_sharing(761, 3, 1465, "train or validation")
    assert patients == (
        "761 of 1465 test images (51.95 %) share a patient with train or validation: the figures "
        "are optimistic."
    )
    assert images == (
        "3 of 1465 test images (0.20 %) are also images of train or validation: the figures are "
        "optimistic."
    )


def test_a_split_of_its_own_patients_is_silent() -> None:
    assert guards.of_sharing(0, 0, 1465, "train or validation") == ()
