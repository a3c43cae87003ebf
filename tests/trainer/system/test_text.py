"""Text of libraries in our own messages."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import trainer
import tuner
from trainer.system import text


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("\n  no such layer.\nHint: look it up.\n"), "no such layer"),
        (ValueError(), "ValueError"),
        (ValueError("  \n"), "ValueError"),
        (ValueError("{{function_node __wrapped__SaveV2}} full [Op:SaveV2] name: "), "full name:"),
        ("INTERNAL: a message without its error.", "INTERNAL: a message without its error"),
    ],
)
def test_the_first_line_of_an_error_says_what_it_is(error, line):
    assert text.first_line(error) == line


def test_a_library_that_quotes_a_whole_file_is_cut():
    assert text.first_line("x" * 200_000) == "x" * 1000 + "…"
    assert text.first_line("x" * 1000) == "x" * 1000


def test_control_characters_and_undecodable_bytes_are_made_visible():
    assert text.printable("a\x00b\udcff\tc") == "a\\x00b\\udcff\tc"


@pytest.mark.parametrize(
    ("number", "typed"),
    [(2**32, "4294967296"), (2.0**32, "4294967296"), (-1.0, "-1"), (1e-05, "1e-5"), (0.25, "0.25"),
     (1e20, "1e20"), (1.5e-10, "1.5e-10"), (0, "0")],
)  # fmt: skip
def test_a_number_is_shown_as_users_type_it(number, typed):
    assert text.plain(number) == typed
    assert float(typed) == number


def test_one_line_has_single_spaces():
    assert text.one_line(" a\n\tb  c ") == "a b c"


def test_a_value_that_one_does_not_see_is_in_quotes():
    assert text.bare("vgg16") == "vgg16"
    assert text.bare("vgg16 ") == '"vgg16 "'
    assert text.bare("a\n") == '"a\\n"'


_SENTENCE_IN_BRACKETS = re.compile(
    r"\(\{(?:error|problem|str\(error\)|text\.one_line\((?:str\()?(?:error|problem).*?\)+)\}\)"
)


def test_no_message_has_a_sentence_with_its_full_stop_in_brackets():
    """`text.clause` and `text.first_line` take the stop away."""
    folders = [Path(trainer.__file__).parent, Path(tuner.__file__).parent]
    sources = {path: path.read_text("utf-8") for top in folders for path in top.rglob("*.py")}
    assert not [str(path) for path, found in sources.items() if _SENTENCE_IN_BRACKETS.search(found)]


def test_a_clause_has_no_full_stop():
    assert text.clause(ValueError("--help lists\nthem all.")) == "--help lists them all"
