"""The words and tables of a run's page, without the page."""

from __future__ import annotations

import pytest

from tests.support.pages import reports
from trainer.reports import paper
from trainer.reports.pages import cards, tables

DOCUMENT = reports.document(reports.table())


def test_intervals_are_written_in_the_unit_of_their_figure():
    assert tables.interval("accuracy", [0.965, 0.981]) == "96.5 to 98.1 %"
    assert tables.interval("mcc", [-0.01, 0.5]) == "−0.010 to 0.500"
    assert tables.interval("mcc", None) == tables.interval("mcc", [None, 0.5]) == ""


def test_the_headline_has_the_pair_at_both_thresholds():
    names = [card["name"] for card in tables.headline(DOCUMENT)]
    assert names == [
        "ROC-AUC",
        "Sensitivity at 0.5, PNEUMONIA positive",
        "Specificity at 0.5, PNEUMONIA positive",
        "Sensitivity at 0.431, the operating point",
        "Specificity at 0.431, the operating point",
        "Accuracy at 0.5, PNEUMONIA positive",
        "Macro recall at 0.5, PNEUMONIA positive",
    ]


def test_a_report_without_patients_by_class_says_nothing_of_them():
    assert tables.patients_by_class({"intervals": {"patients": 719}}) == ""


def test_areas_do_not_change_with_the_prior_of_two_classes():
    correction = {"priors": {"NORMAL": 0.3}, "figures": {"accuracy": 0.97, "mcc": None}}
    grid = tables.figures({**DOCUMENT, "prior_correction": correction})
    cells = {row[0]: row[-1] for row in grid.rows}
    assert (cells["ROC-AUC"], cells["PR-AUC"]) == ("unchanged", "unchanged")
    assert (cells["Accuracy"], cells["MCC"]) == ("97.00 %", "–")


def test_the_auc_of_a_group_of_one_class_is_explained():
    row = {"name": "virus", "sensitivity": 0.9, "specificity": None, "roc_auc": 0.9}
    words = tables.note_of_groups({"groups": {"rows": [row]}})
    assert words.startswith("A group of one class is compared with all examples of the other")
    mixed = {**row, "specificity": 0.8}
    assert tables.note_of_groups({"groups": {"rows": [mixed]}}) == ""


def test_an_index_whose_chance_is_not_known_stands_alone():
    pair = {"a": "validation", "b": "test", "score_psi": 0.031, "domain_auc": 0.531}
    grid = cards.shift({"shift": {"pairs": [pair]}})
    assert grid.rows == [["validation and test", "0.531", "0.031"]]


def test_a_first_look_is_told_apart_from_later_ones():
    words = [cards.looks({"looks": {"count": count}})["words"] for count in (1, 3)]
    assert "first look" in words[0]
    assert "looked at the test split 3 times" in words[1]
    assert cards.looks({}) is None


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"protocol": "paper"}, "by the same rule"),
        ({"protocol": "official"}, "Kaggle's test folder"),
        ({"protocol": "grouped", "is_phantom": True}, "drawn by a program"),
        ({"protocol": "csv"}, "other data or another split"),
        ({}, "other data or another split"),
    ],
)
def test_each_protocol_differs_from_the_papers_in_its_own_way(data, words):
    assert words in paper.caution(data)
    assert "not leak-free" in paper.caution(data)
