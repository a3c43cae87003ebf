"""Figures by group: who is in which, and what is compared with what."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import hypothesis
import numpy as np
import pytest
import sklearn.metrics
from hypothesis import strategies as st

from tests.support import tables
from tests.support.tables import LABEL, POSITIVE, predictions_of
from trainer.evaluation import metrics, subgroups
from trainer.evaluation.resampling import PatientBootstrap

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trainer.evaluation.predictions import Predictions


def groups(table: Predictions, column: str) -> tuple[subgroups.Subgroup, ...]:
    drawn = PatientBootstrap(table.patient_id, resamples=100)
    return subgroups.by_column(table, column, drawn)


def grouped(values: Sequence[str]) -> dict[str, int]:
    """The number of examples by the name of the group, for examples with these values."""
    size = len(values)
    table = dataclasses.replace(
        predictions_of([0, 1] * size, [0.1, 0.9] * size, ["x"] * 2 * size).take(range(size)),
        others={"column": np.array(values, str)},
    )
    return {group.name: group.examples for group in groups(table, "column")}


def test_groups_by_etiology_are_those_worked_by_hand() -> None:
    found = groups(predictions_of(LABEL, POSITIVE), "etiology")
    assert [(g.name, g.examples, g.patients, g.correct, g.accuracy) for g in found] == [
        ("bacteria", 2, 2, 2, 1),
        ("normal", 3, 3, 2, 2 / 3),
        ("virus", 3, 3, 1, 1 / 3),
    ]


def test_a_group_of_one_class_has_only_that_classs_recall() -> None:
    bacteria, normal, virus = groups(predictions_of(LABEL, POSITIVE), "etiology")
    assert (bacteria.sensitivity, bacteria.specificity) == (1, None)
    assert (normal.sensitivity, normal.specificity) == (None, 2 / 3)
    assert (virus.sensitivity, virus.specificity) == (1 / 3, None)


def test_the_area_of_a_group_of_one_class_is_against_all_of_the_other() -> None:
    bacteria, normal, virus = groups(predictions_of(LABEL, POSITIVE), "etiology")
    assert bacteria.roc_auc == 1  # .9 .8 against .1 .2 .6.
    assert virus.roc_auc == pytest.approx(7 / 9)  # .7 .4 .3: the last two are below .6.
    assert normal.roc_auc == metrics.compute(predictions_of(LABEL, POSITIVE)).roc_auc


def test_a_group_of_both_classes_is_compared_within_itself() -> None:
    table = tables.study(1, patients=60)
    half = np.where(np.arange(len(table)) % 2, "a", "b")
    table = dataclasses.replace(table, others={"half": half})
    first, _ = groups(table, "half")
    part = half == "a"
    assert first.roc_auc == sklearn.metrics.roc_auc_score(
        table.label[part], table.probabilities[part, 1]
    )


def test_a_groups_figures_have_the_intervals_of_its_own_patients() -> None:
    table = tables.study(1, patients=60)
    for group in groups(table, "etiology"):
        low, high = group.intervals["accuracy"] or (1, 0)
        assert low < group.accuracy < high
        low, high = group.intervals["roc_auc"] or (1, 0)
        assert low < (group.roc_auc or 0) < high


def test_a_table_of_one_class_has_no_area() -> None:
    (group,) = groups(predictions_of([1, 1], [0.9, 0.2], ["virus"] * 2), "etiology")
    assert group.roc_auc is group.intervals["roc_auc"] is None


def test_three_classes_have_groups_too() -> None:
    table = tables.study(2, patients=60, num_classes=3)
    found = groups(table, "etiology")
    assert sum(group.examples for group in found) == len(table)


def test_outputs_that_are_not_finite_leave_areas_undefined() -> None:
    table = predictions_of([0, 1, 0, 1], [0.1, np.nan, 0.2, 0.9], ["a", "a", "b", "b"])
    first, second = groups(table, "etiology")
    assert first.roc_auc is None
    assert second.roc_auc == 1


def test_groups_by_label_have_the_names_of_the_classes() -> None:
    found = groups(predictions_of(LABEL, POSITIVE), "label")
    assert [(group.name, group.examples) for group in found] == [("NORMAL", 3), ("PNEUMONIA", 5)]


def test_a_column_that_is_not_there_is_named() -> None:
    with pytest.raises(ValueError, match="There is no column hospital in the predictions"):
        groups(predictions_of(LABEL, POSITIVE), "hospital")


# Names and numbers


def test_few_numbers_are_groups_in_the_order_of_numbers() -> None:
    assert list(grouped(["10", "9", "9", "100"])) == ["9", "10", "100"]


def test_many_numbers_are_grouped_by_quarters() -> None:
    ages = [str(age) for age in range(1, 101)]
    assert grouped(ages) == {"1 to 25": 25, "26 to 50": 25, "51 to 75": 25, "76 to 100": 25}


def test_a_quarter_that_one_number_fills_is_no_second_group() -> None:
    found = grouped(["1"] * 90 + [str(number) for number in range(2, 12)])
    assert found == {"1": 90, "2 to 11": 10}


def test_numbers_with_gaps_are_grouped_by_quarters_with_the_gaps_apart() -> None:
    ages = [str(age) for age in range(1, 101)] + [""] * 7
    assert grouped(ages) == {
        "(empty)": 7, "1 to 25": 25, "26 to 50": 25, "51 to 75": 25, "76 to 100": 25,
    }  # fmt: skip


@pytest.mark.parametrize("other", ["nan", "inf", "1e999", "12 years"])
def test_what_is_no_finite_number_makes_the_column_text(other: str) -> None:
    found = grouped([*map(str, range(10)), other])
    assert len(found) == 11
    assert other in found


def test_of_many_texts_the_most_frequent_are_kept_and_the_rest_is_one_group() -> None:
    values = [f"hospital {i:02}" for i in range(30)]
    found = grouped(values + values[5:25])
    assert list(found) == [*values[5:25], "10 other values"]
    assert found["10 other values"] == 10


def test_21_texts_leave_one_other_value() -> None:
    assert "1 other value" in grouped([f"hospital {i:02}" for i in range(21)])


def test_an_empty_text_has_a_name() -> None:
    assert grouped(["a", "", "a"]) == {"(empty)": 1, "a": 2}


def test_a_column_that_is_empty_throughout_is_one_group() -> None:
    assert grouped(["", ""]) == {"(empty)": 2}


HOSTILE = ["=1+1", "\x1b[2J", "<script>", "\u202e", "None", "a\nb"]


def test_hostile_names_stay_the_text_they_are() -> None:
    assert set(grouped(HOSTILE)) == set(HOSTILE)


VALUES = (
    st.lists(st.integers(-99, 99).map(str) | st.just(""), min_size=1, max_size=40)
    | st.lists(st.floats(-1e6, 1e6).map(str), min_size=1, max_size=40)
    | st.lists(tables.TEXT, min_size=1, max_size=40)
)


@hypothesis.given(values=VALUES)
@hypothesis.settings(deadline=None)
def test_every_example_is_in_exactly_one_group(values: list[str]) -> None:
    parts = [rows.tolist() for _, rows in subgroups._partition(np.array(values, str))]
    assert sorted(row for rows in parts for row in rows) == list(range(len(values)))


@hypothesis.given(values=VALUES)
@hypothesis.settings(deadline=None)
def test_equal_values_are_in_one_group(values: list[str]) -> None:
    parts = [set(rows.tolist()) for _, rows in subgroups._partition(np.array(values, str))]
    for value in set(values):
        own = {row for row, of in enumerate(values) if of == value}
        assert sum(bool(own & rows) for rows in parts) == 1
