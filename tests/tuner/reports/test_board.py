"""The progress table of a running search."""

from __future__ import annotations

import dataclasses

import pytest

from tests.support.searches import failed, large, search, trial, with_running
from tuner import statuses
from tuner.reports import board
from tuner.reports.board import Board, Totals

RUNGS = {(1, 0): 2, (0, 0): 2, (1, 1): 1}
TABLE = """\
2 of 5 trials finished, best val_auc 0.7500, 1 failed, about 2 min 00 s left
best     a after 1 epoch: neurons=320, learning_rate=0.0003,
         layers_to_unfreeze=4, augmentation=light, dropout=0.25
bracket  1  rung 0: 0/2  rung 1: 0/1
bracket  0  rung 0: 2/2
running  c  epoch 2 of 6: neurons=320, learning_rate=0.0003, layers_to_unfreeze…"""

LINE = (
    "trial a: val_auc 0.7500 after 1 epoch, took 8 s (neurons=320, learning_rate=0.0003, "
    "layers_to_unfreeze=4, augmentation=light, dropout=0.25)"
)


def halfway():
    running = trial(
        "c", status=statuses.RUNNING, score=None, rung=1, bracket=1, first_epoch=1, epochs=6,
        curve=[{"epoch": 2, "val_auc": 0.5}], ended_at=None, seconds=0.0,
    )  # fmt: skip
    return search(trial("a"), failed("b"), running)


def test_the_table_has_best_progress_running_trials_and_time_left():
    table = board.format_table(halfway(), Totals(5, 17, RUNGS), width=80)
    assert table == TABLE


@pytest.mark.parametrize("width", [1, 20, 39, 79, 200])
def test_no_line_is_wider_than_the_terminal(width):
    table = board.format_table(with_running(large(27), 12), Totals(60, 300, RUNGS), width=width)
    assert max(map(len, table.splitlines())) <= width


def test_an_empty_search_shows_only_its_plan():
    table = board.format_table(search(), Totals(5, 17), width=80)
    assert table == "0 of 5 trials finished, 0 failed, time left unknown"


def test_many_running_trials_are_counted():
    table = board.format_table(with_running(large(9), 12), Totals(60), width=80)
    assert table.count("\nrunning") == 9
    assert table.endswith("running  and 4 more")


@pytest.mark.parametrize(("workers", "left"), [(1, 120.0), (2, 60.0)])
def test_time_left_is_epochs_to_come_times_the_mean_epoch(workers, left):
    # 17 epochs planned, 1 trained in 8 s, 1 by a running trial.
    assert board.seconds_left(halfway(), Totals(5, 17, workers=workers)) == left


def test_time_left_counts_only_epochs_that_a_trial_trained_itself():
    promoted = trial("a", first_epoch=3, epochs=7, seconds=8.0)
    assert board.seconds_left(search(promoted), Totals(5, 10)) == 6 * 2.0


def test_no_time_is_left_when_all_trials_have_finished():
    assert board.seconds_left(search(trial("a"), failed("b")), Totals(2, 40)) == 0


@pytest.mark.parametrize("totals", [Totals(5), Totals(5, 40)])
def test_time_left_is_unknown_without_a_plan_or_an_epoch(totals):
    assert board.seconds_left(search(failed("a")), totals) is None


def test_the_table_is_redrawn_in_place_on_a_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "81")
    printed = []
    shown = Board(
        5, "val_auc", planned_epochs=17, planned_rungs=RUNGS, is_terminal=True, say=printed.append
    )
    shown.update(halfway())
    shown.update(halfway())
    shown.update(dataclasses.replace(halfway(), trials=()))
    assert printed[0] == TABLE
    assert len(printed) == 2, "an unchanged table is not drawn again"
    assert printed[1].startswith("\x1b[6A\r\x1b[J0 of 5 trials")


def test_a_table_higher_than_the_terminal_is_cut(monkeypatch):
    monkeypatch.setenv("COLUMNS", "81")
    monkeypatch.setenv("LINES", "4")
    printed = []
    Board(5, "val_auc", is_terminal=True, say=printed.append).update(with_running(large(9), 8))
    assert printed[0].count("\n") == 2


def test_without_a_terminal_each_finished_trial_is_logged_once():
    printed = []
    shown = Board(5, "val_auc", planned_epochs=17, is_terminal=False, say=printed.append)
    shown.update(search(trial("a")))
    shown.update(halfway())
    shown.update(halfway())
    assert [line for line in printed if line.startswith("trial")] == [
        LINE,
        "trial b failed after 8 s: out of memory: 2 GiB",
    ]
    assert printed[-1] == (
        "  2 of 5 trials finished, best val_auc 0.7500, 1 failed, about 2 min 00 s left"
    )
    assert "\x1b" not in "".join(printed)


def test_a_finished_search_has_no_time_left():
    printed = []
    Board(1, "val_auc", is_terminal=False, say=printed.append).update(search(trial("a")))
    assert printed[-1] == "  1 of 1 trial finished, best val_auc 0.7500, 0 failed"


def test_trials_that_ended_before_a_resume_are_not_logged_again():
    printed = []
    shown = Board(5, "val_auc", is_terminal=False, say=printed.append)
    shown.resume(search(trial("a")))
    shown.update(search(trial("a")))
    assert not printed


def test_a_failure_has_one_line_without_control_characters():
    line = board.format_line(failed("b", "crashed: one\n\x1b[2Jtwo"), "val_auc")
    assert line == "trial b failed after 8 s: crashed: one \\x1b[2Jtwo"
