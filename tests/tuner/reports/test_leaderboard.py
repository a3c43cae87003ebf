"""The leaderboard of a search, `leaderboard.csv`."""

from __future__ import annotations

import csv
import dataclasses

from tests.support.searches import failed, large, search, trial
from tuner import statuses
from tuner.reports import leaderboard

TEXT = """\
rank,trial,configuration,status,score,bracket,rung,epochs,seconds,\
neurons,learning_rate,layers_to_unfreeze,augmentation,dropout,reason
1,b,b,COMPLETED,0.875,,,3,8.0,320,0.0003,4,light,0.25,
2,a,a,COMPLETED,0.75,0,0,1,8.0,320,0.0003,4,light,0.25,
,c,c,FAILED,,0,0,1,8.0,320,0.0003,4,light,0.25,"crashed: a, ""b"" c"
,d,d,RUNNING,,0,0,1,8.0,320,0.0003,4,light,0.25,
"""


def written(results, folder):
    leaderboard.write(results, folder / "leaderboard.csv")
    return (folder / "leaderboard.csv").read_bytes().decode()


def test_the_board_has_a_row_for_every_trial_the_best_first(tmp_path):
    found = search(
        trial("d", status=statuses.RUNNING, score=None),
        failed("c", 'crashed: a,\n"b"\tc'),
        trial("a"),
        trial("b", score=0.875, epochs=3, bracket=None, rung=None),
    )
    assert written(found, tmp_path) == TEXT


def test_an_empty_search_has_only_a_header(tmp_path):
    assert written(search(), tmp_path) == TEXT.partition("\n")[0] + "\n"


def test_neither_time_nor_the_order_of_trials_changes_the_ranking(tmp_path):
    found = large(27)
    turned = dataclasses.replace(found, trials=tuple(reversed(found.trials)))
    assert written(found, tmp_path) == written(turned, tmp_path)


def test_two_hundred_trials_are_read_back(tmp_path):
    found = large(138)
    rows = list(csv.DictReader(written(found, tmp_path).splitlines()))
    assert len(rows) == len(found.trials) >= 199
    assert [row["rank"] for row in rows if row["rank"]] == [
        str(rank) for rank in range(1, len(found.ranked) + 1)
    ]
    assert float(rows[0]["score"]) == found.best.score


def test_a_reason_that_is_not_valid_unicode_is_escaped(tmp_path):
    text = written(search(failed(reason="failed: \udcff\x00 odd")), tmp_path)
    assert r"failed: \udcff\x00 odd" in text


def test_no_cell_is_a_formula_or_has_control_characters(tmp_path):
    text = written(search(failed(reason="=cmd|' /C calc'!A0\x1b[2J\u202e")), tmp_path)
    reason = next(csv.DictReader(text.splitlines()))["reason"]
    assert reason == r"'=cmd|' /C calc'!A0\x1b[2J\u202e"


def test_no_temporary_file_is_left(tmp_path):
    written(search(trial()), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["leaderboard.csv"]
