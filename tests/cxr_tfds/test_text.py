"""Names from elsewhere on a terminal, in a log and in a table."""

from __future__ import annotations

import csv
import io
import unicodedata

import hypothesis
import pytest
from hypothesis import strategies as st

from cxr_tfds import text

HOSTILE = "\x1b[2J\x07\r\n\t\u202e\u2066\u200b\x85\u2028\x9b\udcff"
TEXTS = st.text(st.sampled_from("ab'=+-@＝\\xnu0\n\t \x1b\u202e\udcff") | st.characters())


def control_characters(written: str) -> list[str]:
    return [
        char for char in written if unicodedata.category(char) in ("Cc", "Cf", "Cs", "Zl", "Zp")
    ]


def test_a_name_is_one_line_of_what_prints() -> None:
    shown = text.visible(f"a{HOSTILE}b")
    assert not control_characters(shown)
    assert shown.startswith(r"a\x1b[2J\x07\r\n\t\u202e\u2066")
    assert shown.endswith(r"\udcffb")


@pytest.mark.parametrize("name", ["Röntgen 胸部", "IM-0115-0001.jpeg", "a\u00a0b", "100 % = x"])
def test_an_ordinary_name_is_unchanged(name: str) -> None:
    assert text.visible(name) == text.printable(name) == text.cell(name) == name


def test_a_message_keeps_its_lines() -> None:
    assert text.printable("a\nb\tc\x1b") == "a\nb\tc\\x1b"


@hypothesis.given(TEXTS)
def test_a_cell_is_no_formula_and_reads_back(value: str) -> None:
    written = text.cell(value)
    assert not control_characters(written)
    assert not written.startswith(("=", "+", "-", "@", "＝", "＋", "－", "＠"))
    assert text.from_cell(written) == value


@hypothesis.given(st.lists(TEXTS, min_size=1))
def test_cells_survive_a_csv_file(values: list[str]) -> None:
    file = io.StringIO(newline="")
    csv.writer(file).writerow(map(text.cell, values))
    (row,) = csv.reader(io.StringIO(file.getvalue().encode("utf-8").decode("utf-8")))
    assert list(map(text.from_cell, row)) == values


@hypothesis.given(TEXTS)
def test_any_cell_can_be_read(written: str) -> None:
    text.from_cell(written)


def test_a_code_point_that_does_not_exist_is_left_as_it_is() -> None:
    assert text.from_cell(r"\Uffffffff") == r"\Uffffffff"


def test_many_names_are_counted() -> None:
    assert text.some(["a", "b\n", "c", "d", "e"]) == r"a, b\n, c and 2 more"
    assert text.some([]) == ""
    assert (text.counted(1, "file"), text.counted(1341, "file")) == ("1 file", "1,341 files")
