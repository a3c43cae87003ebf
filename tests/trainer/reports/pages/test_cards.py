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
        "Sensitivity at 0.5",
        "Specificity at 0.5",
        "Sensitivity at 0.431, the operating point",
        "Specificity at 0.431, the operating point",
        "Accuracy at 0.5",
        "Macro recall at 0.5",
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
    assert words in paper.caution({"data": data})
    assert "not leak-free" in paper.caution({"data": data})


def leaking(protocol="grouped", patients=0, images=0):
    return {
        "data": {"protocol": protocol},
        "shared_patient_images": patients,
        "shared_images": images,
    }


@pytest.mark.parametrize(
    ("document", "words"),
    [
        (leaking(), "by patient; leak-free"),
        (leaking(images=None), "by patient; leak-free"),
        (leaking(patients=None), "by patient"),
        (leaking(patients=3), "by patient; shares patients with training"),
        (leaking(images=3), "by patient; shares images with training"),
        (leaking("official"), "Kaggle's test folder"),
        (leaking("official", 3), "Kaggle's test folder; shares patients with training"),
        (leaking("paper", 3), "by image; not leak-free"),
        ({"data": {"protocol": "grouped", "is_phantom": True}}, "drawn images"),
        ({}, "unknown"),
    ],
)
def test_only_a_split_that_shares_nothing_is_leak_free(document, words):
    assert paper.split_of(document) == words
    is_said_to_leak = "optimistic, too" in paper.caution(document)
    assert is_said_to_leak == ("shares" in words)


def test_a_model_of_another_split_is_not_said_to_be_trained_by_the_papers_rule():
    document = leaking("paper", 3) | {"trained_on": {"name": "grouped", "fingerprint": "77"}}
    assert "by the same rule" not in paper.caution(document)
    assert "shares patients between training and test" in paper.caution(document)


SHARING = "3 of 400 test images (0.75 %) share a patient with train: the figures are optimistic."


@pytest.mark.parametrize(("reasons", "notes"), [([SHARING], 0), (["Accuracy is low."], 1), ([], 1)])
def test_shared_patients_are_told_once_at_the_head(reasons, notes):
    metrics = {"examples": 400, "warnings": reasons}
    found = cards.verdict({"metrics": metrics, "shared_patient_images": 3})
    assert len(found["notices"]) == notes
    assert "; 1 note below." in found["calm"] or not notes


def test_the_data_card_tells_of_identical_images():
    def told(count):
        changed = {**DOCUMENT, "shared_images": count}
        return cards.data(changed)["identical images"]

    assert told(0) == "no test image is also an image of train or validation"
    assert told(4) == "4 of 400 test images (1.00 %) are also images of train or validation"
    assert told(None) == "not measured"


ELSEWHERE = {**DOCUMENT, "trained_on": {"name": "phantom", "fingerprint": "77" * 32}}


def test_an_evaluation_elsewhere_says_what_the_model_was_trained_on():
    assert cards.is_elsewhere(ELSEWHERE)
    card = cards.data(ELSEWHERE)
    assert card["evaluated on"] == "cxr_tfds/grouped/2.0.0"
    assert "data set" not in card
    assert card["trained on"] == cards.model(ELSEWHERE)["trained on"]
    assert card["trained on"] == "phantom, fingerprint 7777777777777777"
    assert cards.splits(ELSEWHERE).heads[0] == "evaluated on"
    assert "Guangzhou" not in cards.limits(ELSEWHERE)[0]
    assert "Guangzhou" in card["patients"]


def test_a_runs_own_evaluation_and_an_older_report_are_not_elsewhere():
    own = {"name": "grouped", "fingerprint": DOCUMENT["data"]["fingerprint"]}
    for document in ({**DOCUMENT, "trained_on": own}, DOCUMENT, {**DOCUMENT, "trained_on": None}):
        assert not cards.is_elsewhere(document)
        assert cards.splits(document).heads[0] == "split"
        assert "trained on" not in cards.data(document)
        assert "Guangzhou" in cards.limits(document)[0]
    assert "trained on" not in cards.model(DOCUMENT)


def test_the_temperature_is_said_not_to_be_applied():
    assert cards.model(DOCUMENT)["temperature"] == "1.310, not applied to the output"
    assert cards.model({})["temperature"] == "none fitted"


def test_without_an_operating_point_two_classes_are_told_at_one_half():
    plain = cards.model({**DOCUMENT, "operating_point": None})["operating point"]
    assert plain == "none chosen: at 0.5"
    assert cards.model({})["operating point"] == "none chosen: the most probable class"
