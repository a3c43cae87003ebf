"""The ledger of looks at a test split: what it counts, and what it refuses."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import json
import types
from typing import TYPE_CHECKING

import pytest

from trainer.data.pipeline import Data
from trainer.errors import RunError
from trainer.options import DataOptions, EvaluationOptions
from trainer.runs import looks
from trainer.runs.run_directory import RunDirectory

if TYPE_CHECKING:
    import pathlib

YOUDEN, SENSITIVE = EvaluationOptions(), EvaluationOptions(operating_point="sensitivity=0.95")


def data(fingerprint: str = "f0", dataset: str = "grouped") -> Data:
    """Data of which TFDS knows no more than the fingerprint."""
    info = types.SimpleNamespace(
        metadata={"fingerprint": fingerprint}, splits={}, config_name=dataset
    )
    return Data(types.SimpleNamespace(info=info), DataOptions(dataset=dataset), resize_to=None)


@pytest.fixture
def directory(tmp_path: pathlib.Path) -> RunDirectory:
    return RunDirectory(tmp_path)


def look(options: EvaluationOptions = YOUDEN, date: str = "2026-11-30 10:00") -> looks.Look:
    return looks.Look("evaluate", options, {"date": date})


def test_a_run_that_was_never_evaluated_has_no_looks(directory: RunDirectory) -> None:
    assert looks.load(directory) == []


def test_each_look_is_counted_with_its_settings(directory: RunDirectory) -> None:
    assert len(looks.record(directory, look(), data())) == 1
    rows = looks.record(directory, look(SENSITIVE), data())
    assert [row["settings"] for row in rows] == [
        dataclasses.asdict(YOUDEN),
        dataclasses.asdict(SENSITIVE),
    ]


def test_a_look_says_when_how_and_at_what(directory: RunDirectory) -> None:
    (row,) = looks.record(directory, look(), data())
    assert row == {
        "date": "2026-11-30 10:00",
        "mode": "evaluate",
        "dataset": "grouped",
        "fingerprint": "f0",
        "settings": dataclasses.asdict(YOUDEN),
    }


def test_looks_at_other_data_are_kept_and_not_counted(directory: RunDirectory) -> None:
    looks.record(directory, look(), data())
    assert len(looks.record(directory, look(), data("f1", "official"))) == 1
    assert len(looks.record(directory, look(), data())) == 2
    assert [row["fingerprint"] for row in looks.load(directory)] == ["f0", "f1", "f0"]


def test_this_look_is_the_last(directory: RunDirectory) -> None:
    for date in ("2026-11-30", "2026-11-29"):
        rows = looks.record(directory, look(date=date), data())
    assert [row["date"] for row in rows] == ["2026-11-30", "2026-11-29"]


def test_another_host_counts_its_look_and_writes_nothing(directory: RunDirectory) -> None:
    other = dataclasses.replace(look(), is_chief=False)
    assert len(looks.record(directory, other, data())) == 1
    assert looks.load(directory) == []


def test_looks_of_several_commands_at_once_are_all_counted(directory: RunDirectory) -> None:
    def record(name: str) -> None:
        for _ in range(10):
            looks.record(directory, look(), data(name))

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        list(pool.map(record, ["f0", "f1", "f0", "f1"]))
    assert len(looks.load(directory)) == 40


DAMAGED = {
    "nothing of ours": "x\n",
    "cut off": '{"date": "a", "mode": "eval',
    "a list": "[]\n",
    "no settings": '{"date": "a", "mode": "m", "dataset": "d", "fingerprint": "f"}\n',
    "a path": json.dumps(
        {"date": "a", "mode": "m", "dataset": "../d", "fingerprint": "f", "settings": {}}
    ),
    "control characters": json.dumps(
        {"date": "a", "mode": "\x1b[2J", "dataset": "d", "fingerprint": "f", "settings": {}}
    ),
    "an empty line": "\n\n",
}


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_ledger_is_told_in_a_line_and_left_as_it_is(
    directory: RunDirectory, content: str
) -> None:
    path = directory.path / looks.LOOKS
    path.write_text(content)
    with pytest.raises(
        RunError, match=r"looks\.jsonl can't be read \(line 1 .*; restore it from"
    ) as e:
        looks.record(directory, look(), data())
    assert str(e.value).isprintable()
    assert path.read_text() == content
