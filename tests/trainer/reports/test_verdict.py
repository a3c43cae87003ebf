"""The verdict: the last lines that a command prints."""

from __future__ import annotations

import dataclasses

import pytest

from tests.support import tables
from trainer.evaluation.assessment import Assessment
from trainer.options import EvaluationOptions
from trainer.reports import verdict

REASONS = ("Accuracy is low.", "NORMAL is never predicted.")


def test_each_reason_has_a_line() -> None:
    assert verdict.lines(REASONS, colour=False) == [
        "DO NOT USE THIS MODEL: Accuracy is low.",
        "DO NOT USE THIS MODEL: NORMAL is never predicted.",
    ]


def test_a_reason_is_red_in_colour() -> None:
    (line,) = verdict.lines(REASONS[:1], colour=True)
    assert line == "\x1b[1;31mDO NOT USE THIS MODEL: Accuracy is low.\x1b[0m"


def test_a_name_in_a_reason_is_no_control_sequence() -> None:
    (line,) = verdict.lines(["\x1b[2J is never\npredicted."], colour=False)
    assert line.isprintable()


def test_the_verdict_is_one_line_that_counts_the_other_reasons() -> None:
    assert verdict.first_line(REASONS, colour=False) == (
        "DO NOT USE THIS MODEL: Accuracy is low. (and 1 more above)"
    )


@pytest.mark.parametrize(
    ("notices", "words"), [(0, ""), (1, "; 1 note above"), (2, "; 2 notes above")]
)
def test_the_verdict_counts_the_notes(notices: int, words: str) -> None:
    line = verdict.first_line((), notices=notices, colour=True)
    assert line == f"Guard: nothing found against this model{words}."


def test_notes_are_counted_beside_the_reasons() -> None:
    line = verdict.first_line(REASONS, notices=1, colour=False)
    assert line.endswith("Accuracy is low. (and 1 more and 1 note above)")
    line = verdict.first_line(REASONS[:1], notices=2, colour=False)
    assert line.endswith("Accuracy is low. (and 2 notes above)")


def rows(*rules: str) -> list[dict[str, dict[str, str]]]:
    return [{"settings": {"operating_point": rule}} for rule in rules]


def test_the_first_look_is_this_one() -> None:
    assert verdict.looks("test", rows("youden")) == (
        "Looks at the test split by this run: 1, this one."
    )


def test_looks_are_counted_by_rule() -> None:
    assert verdict.looks("test", rows("youden", "sensitivity=0.95", "youden")) == (
        "Looks at the test split by this run: 3 (2 with youden, 1 with sensitivity=0.95). To "
        "choose between them makes the figures optimistic."
    )


@pytest.mark.parametrize(
    "forged", [{}, {"operating_point": None}, {"operating_point": "\x1b" * 999}]
)
def test_a_forged_look_is_one_short_line(forged: dict[str, object]) -> None:
    found = verdict.looks("test", [{"settings": forged}, *rows("youden")])
    assert found.isprintable()
    assert len(found) < 250


def test_an_interval_that_says_nothing_is_a_dash() -> None:
    assert verdict.interval(None) == "–"
    assert verdict.interval((0.5, 0.75)) == "0.5000 to 0.7500"


def assessed(num_classes: int = 2, patients: int = 60) -> Assessment:
    test, validation = (
        tables.study(seed, patients=patients, num_classes=num_classes) for seed in (1, 2)
    )
    return Assessment(test, validation, EvaluationOptions())


def test_the_headline_has_each_figure_with_its_interval_and_the_patients() -> None:
    subject = assessed()
    first, second, third, fourth = verdict.headline(subject)
    low, high = subject.intervals["accuracy"] or (0, 0)
    assert first == (
        f"accuracy {100 * subject.metrics.accuracy:.2f} % ({100 * low:.2f} to {100 * high:.2f}) of "
        f"{len(subject.test)} test examples of 60 patients"
    )
    assert second.startswith("macro recall ")
    assert "; ROC-AUC 0." in second
    assert third.endswith(" at 0.5")
    assert subject.point is not None
    assert fourth.endswith(f" at the operating point {subject.point.chosen.threshold:.3f} (youden)")


def test_without_an_operating_point_the_headline_has_three_lines() -> None:
    assert len(verdict.headline(Assessment(assessed().test, None, EvaluationOptions()))) == 3


def test_three_classes_have_a_headline() -> None:
    lines = verdict.headline(assessed(num_classes=3))
    assert len(lines) == 3
    assert lines[2].endswith(" for the most probable class")


@pytest.mark.parametrize("value", [0.0, float("nan")])
def test_what_is_undefined_is_said_to_be(value: float) -> None:
    test = dataclasses.replace(assessed().test.take([0, 0]), probabilities=[[1 - value, value]] * 2)
    lines = verdict.headline(Assessment(test, None, EvaluationOptions()))
    assert "ROC-AUC undefined" in lines[1]
