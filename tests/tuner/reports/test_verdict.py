"""Which searches have a result that must not be used."""

from __future__ import annotations

import pytest

from tests.support.searches import failed, search, trial
from tuner.reports import page, verdict

COUNTS = {"NORMAL": 27, "PNEUMONIA": 73}


def _reasons(accuracy, auc, **changes):
    row = {"epoch": 1, "val_loss": 0.5, "val_accuracy": accuracy, "val_auc": auc}
    found = trial(score=auc, curve=[row])
    return verdict.reasons(search(found, class_counts=COUNTS, **changes))


def test_a_model_above_baseline_and_chance_may_be_used():
    assert _reasons(0.74, 0.9) == ()


@pytest.mark.parametrize("accuracy", [0.73, 0.27, 0.0])
def test_accuracy_at_or_below_the_majority_is_worthless(accuracy):
    (reason,) = _reasons(accuracy, 0.9)
    assert "is not above the 73.00 % (73 of 100) of always predicting PNEUMONIA" in reason


def test_chance_is_worthless():
    (reason,) = _reasons(0.9, 0.5)
    assert reason == "The best trial's val_auc 0.5000 is not above 0.5, that of chance."


def test_the_epoch_of_the_score_counts_and_not_the_last():
    rows = [
        {"epoch": 1, "val_accuracy": 0.9, "val_auc": 0.95},
        {"epoch": 2, "val_accuracy": 0.73, "val_auc": 0.6},
    ]
    assert not verdict.reasons(search(trial(score=0.95, curve=rows, epochs=2), class_counts=COUNTS))


def test_a_search_of_failures_names_their_causes():
    found = search(failed("a", "diverged: nan"), failed("b", "diverged: inf"))
    assert verdict.reasons(found) == ("No trial has a score: 2 trials failed (diverged: 2).",)


def test_a_search_that_has_just_begun_has_no_verdict():
    assert not verdict.reasons(search(planned_trials=3))


def test_a_missing_class_is_named():
    one_class = {"NORMAL": 0, "PNEUMONIA": 9}
    reasons = verdict.reasons(search(trial(score=0.7), class_counts=one_class))
    assert reasons == ("The validation split has no example of NORMAL.",)
    assert "no example of NORMAL" in verdict.undefined("val_auc", one_class)
    assert not verdict.undefined("val_loss", one_class)


def test_the_guard_of_refitted_runs_counts():
    found = search(trial(score=0.7), refit_warnings=["In refit/a/seed-0: broken."])
    assert verdict.reasons(found) == ("In refit/a/seed-0: broken.",)


def test_the_page_shows_the_verdict_first(tmp_path):
    page.write(search(failed("a", "diverged: <nan>")), tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text()
    assert (
        '<p class="verdict red" role="alert">DO NOT USE THIS RESULT: No trial has a score' in text
    )
    assert text.index('role="alert"') < text.index("<dl>")


def test_a_terminal_shows_it_in_red():
    assert verdict.warning("x", colour=True) == "\x1b[1;31mDO NOT USE THIS RESULT: x\x1b[0m"
    assert verdict.warning("x", colour=False) == "DO NOT USE THIS RESULT: x"
