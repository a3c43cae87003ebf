"""The ranking and grouping of trials."""

from __future__ import annotations

import math
import subprocess
import sys

import pytest

from tests.support.searches import failed, search, trial, with_running
from tuner import statuses
from tuner.reports import formats


def ids(trials):
    return [trial.trial_id for trial in trials]


def test_the_highest_score_is_first_where_higher_is_better():
    found = search(trial("a", score=0.5), trial("b", score=0.75), trial("c", score=0.25))
    assert ids(found.ranked) == ["b", "a", "c"]
    assert found.best.trial_id == "b"


def test_the_lowest_score_is_first_where_lower_is_better():
    found = search(trial("a", score=0.5), trial("b", score=0.25), direction="min")
    assert ids(found.ranked) == ["b", "a"]


def test_of_equal_scores_the_one_with_fewer_epochs_is_first_then_the_id_decides():
    found = search(trial("c", epochs=3), trial("b", epochs=1), trial("a", epochs=3))
    assert ids(found.ranked) == ["b", "a", "c"]


@pytest.mark.parametrize("score", [None, math.nan, math.inf, -math.inf])
def test_a_trial_without_a_finite_score_is_not_ranked(score):
    assert not search(trial(score=score)).ranked


def test_failed_and_running_trials_are_not_ranked_even_with_a_score():
    found = search(failed("a", score=0.9), trial("b", status=statuses.RUNNING, score=0.9))
    assert not found.ranked
    assert found.best is None


def test_a_score_of_zero_is_a_score():
    assert search(trial(score=0.0)).best.score == 0.0


def test_failures_are_in_the_order_of_their_ids():
    assert ids(search(failed("b"), trial("c"), failed("a")).failures) == ["a", "b"]


def test_finished_trials_are_in_the_order_of_their_ends():
    found = search(
        trial("a", ended_at=9.0), failed("b", ended_at=3.0), trial("c", status=statuses.RUNNING)
    )
    assert ids(found.finished) == ["b", "a"]


def test_a_configuration_is_its_last_rung_although_an_earlier_one_ties():
    promoted = {"configuration": "x", "score": 0.75}
    found = search(trial("r0", epochs=1, **promoted), trial("r1", epochs=3, **promoted))
    assert ids(found.configurations) == ["r1"]
    assert found.best.trial_id == "r0"


def test_a_configuration_that_failed_in_a_later_rung_has_its_earlier_score():
    found = search(trial("r0", configuration="x"), failed("r1", configuration="x", epochs=3))
    assert ids(found.configurations) == ["r0"]


def test_configurations_without_a_score_come_last():
    found = search(failed("a"), trial("c", score=0.5), trial("b", score=0.25))
    assert ids(found.configurations) == ["c", "b", "a"]


def test_points_are_finite_and_ordered_by_epoch():
    curve = [{"epoch": 2, "val_auc": 0.5}, {"epoch": 1, "val_auc": math.nan}, {"epoch": 3}]
    assert trial(curve=curve).points("val_auc") == [(2, 0.5)]
    assert trial(curve=curve).epochs_done == 3


def test_a_trial_without_a_curve_is_at_its_first_epoch():
    assert trial(curve=[], first_epoch=3).epochs_done == 3


def test_running_trials_are_listed():
    assert len(with_running(search(trial()), 2).running) == 2


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min 00 s"),
        (3599.6, "1 h 00 min"),
        (3725, "1 h 02 min"),
    ],
)
def test_durations_have_their_two_largest_units(seconds, text):
    assert formats.duration(seconds) == text


@pytest.mark.parametrize("name", ["results", "formats", "leaderboard", "board", "page"])
def test_reports_do_not_load_tensorflow(name):
    code = f"import sys, tuner.reports.{name}; sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("value", [None, math.nan, math.inf])
def test_an_undefined_epoch_is_no_point_of_a_curve(value):
    found = trial(curve=[{"epoch": 1, "val_auc": 0.5}, {"epoch": 2, "val_auc": value}])
    assert found.points("val_auc") == [(1, 0.5)]
