"""JSON is read within limits and against a shape; what does not fit is told in one line."""

from __future__ import annotations

import json
import math
import os
from typing import Annotated, NotRequired, TypedDict

import pytest

from trainer.errors import RunError
from trainer.storage import documents, locations


class Record(TypedDict):
    name: documents.Name
    counts: list[documents.Count]
    scores: dict[str, documents.Number]
    way: Annotated[str, documents.one_of("up", "down")]
    share: NotRequired[float | None]


VALID = {"name": "a-1", "counts": [0, 3], "scores": {"auc": 0.5, "loss": None}, "way": "up"}


def _read(path, content, shape=Record, **limits):
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return documents.load(path, shape, way_out="restore it", **limits)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "record.json"


def test_a_valid_record_is_read(path):
    assert _read(path, VALID | {"share": 1}) == VALID | {"share": 1.0}


def test_what_a_later_version_wrote_is_left_alone(path):
    assert _read(path, VALID | {"new": [1]})["new"] == [1]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "it is empty"),
        (b"{", "it is not JSON (Expecting property name"),
        (b"[" * 100_000, "it is nested more than 32 deep"),
        (b'{"a":' * 50 + b"1" + b"}" * 50, "it is nested more than 32 deep"),
        (b'"' + b'\\"' * 500_000, "it is not JSON (Unterminated string"),
        (b"\xff\xfe{", "it is not UTF-8 text (byte 0xff at 0)"),
        (b'{"a": 1, "a": 2}', 'it is not JSON ("a" is given twice)'),
        (b'{"a": NaN}', "it has NaN, which is not JSON"),
        (b'{"a": 1e999}', "it has the number 1e999, which is too large"),
        (b"1" * 5000, "it has an integer of 5000 digits"),
        (b'"\\ud800"', "it has text that is not Unicode"),
        (b"[]", "it has [], not an object"),
        ({}, "it lacks name"),
        (VALID | {"name": "../x"}, 'it has name = "../x", which is not a plain name'),
        (VALID | {"name": "a\0b"}, 'it has name = "a\\u0000b", which is not a plain name'),
        (VALID | {"name": 3}, "it has name = 3, not a text"),
        (VALID | {"counts": [1, True]}, "it has counts[1] = true, not an integer"),
        (VALID | {"counts": [1, -1]}, "it has counts[1] = -1, which is less than 0"),
        (VALID | {"scores": {"\x1b[2J": "x"}}, 'it has scores."\\u001b[2J" = "x", not an integer'),
        (VALID | {"way": "\x1b[31m"}, "which is not one of up, down"),
        (VALID | {"share": []}, "it has share = [], not a number"),
    ],
)
def test_what_does_not_fit_is_told_in_a_line(path, content, problem):
    with pytest.raises(documents.DocumentError) as raised:
        _read(path, content)
    message = str(raised.value)
    assert f"record.json can't be read ({problem}" in message or problem in message
    assert message.endswith("; restore it.")
    assert message.isprintable()
    assert not raised.value.is_missing


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (os.mkfifo, "it is not a regular file"),
        (os.mkdir, "Is a directory"),
        (lambda path: path.symlink_to("/dev/zero"), "it is not a regular file"),
        (lambda path: path.symlink_to(path), "Too many levels of symbolic links"),
        (lambda path: os.close(os.open(path, os.O_CREAT)) or os.truncate(path, 1 << 36), "bytes"),
    ],
)
def test_another_kind_of_file_never_hangs_the_reader(path, make, problem):
    make(path)
    with pytest.raises(RunError, match=problem):
        documents.load(path, dict, way_out="restore it")


def test_a_missing_file_is_known_as_such(path):
    with pytest.raises(documents.DocumentError, match="No such file") as raised:
        documents.load(path, dict, way_out="restore it")
    assert raised.value.is_missing


def test_a_mark_before_the_text_is_skipped(path):
    assert _read(path, b"\xef\xbb\xbf[1]", list[int]) == [1]


def test_undecodable_bytes_of_a_path_are_kept(path):
    assert _read(path, ["\udcff"], list[str]) == ["\udcff"]


def test_rows_may_hold_nan_and_the_damaged_one_is_named(path):
    path.write_text('{"a": NaN}\n{"a": 1}\n')
    rows = documents.load_rows(path, dict[str, documents.Number], way_out="restore it")
    assert math.isnan(rows[0]["a"])
    path.write_text('{"a": 1}\n\n{"a": 1}\n')
    with pytest.raises(RunError, match=r"can't be read \(line 2 is empty\)"):
        documents.load_rows(path, dict[str, documents.Number], way_out="restore it")


@pytest.mark.parametrize(
    "name", ["", ".", "..", "a/b", "a\\b", "C:x", "a\nb", "a\0", "\x9b", "x" * 256, "é" * 128]
)
def test_a_name_that_leads_elsewhere_is_refused(name):
    with pytest.raises(locations.LocationError):
        locations.require_name(name)


@pytest.mark.parametrize("name", ["a", "on_paper_0f3a", ".partial", "b0-r1-03", "x" * 255, "é"])
def test_a_plain_name_is_accepted(name):
    locations.require_name(name)
