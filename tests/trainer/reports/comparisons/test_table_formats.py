"""A table in each form: what it shows, and that no name becomes markup, a formula or a command."""

from __future__ import annotations

import csv
import io
import re

import pytest

from trainer.reports.comparisons import table_formats

HOSTILE = ["=1+1", "<b>&", "a|b", r"\input{x}", "50 % & #1_x^2 ~ $y$ {z}", "[v]", "\x1b[2J", "`x`"]
TABLE = table_formats.ReportTable(
    "Title", ("model", "accuracy"), (("vgg16", "96.90"), ("small", 5), ("b", None)), ("A note.",)
)


@pytest.fixture
def hostile():
    rows = tuple((name, name) for name in HOSTILE)
    return table_formats.ReportTable("<i>_", ("model & co", "x|y"), rows, ("100 % <b>",))


def test_text_is_aligned():
    assert TABLE.to_text().splitlines() == [
        "Title", "  model  accuracy", "  vgg16     96.90", "  small         5", "  b             –",
        "A note.",
    ]  # fmt: skip


def test_several_columns_of_names_are_aligned_to_the_left():
    table = table_formats.ReportTable(
        "", ("a", "b", "c"), (("x", "y", "z"), ("xx", "yy", "zz")), num_names=2
    )
    assert table.to_text().splitlines()[2] == "  x   y    z"
    assert "| --- | --- | ---: |" in table.to_markdown()
    assert r"\begin{tabular}{llr}" in table.to_latex()


def test_csv_has_numbers_as_they_are_and_no_formula(hostile):
    table = table_formats.ReportTable(
        "", ("model", "value"), (("=1+1", -0.1), ("a", 1 / 3), ("b", None))
    )
    rows = list(csv.reader(io.StringIO(table.to_csv(), newline="")))
    assert rows == [["model", "value"], ["'=1+1", "-0.1"], ["a", repr(1 / 3)], ["b", ""]]
    for row in csv.reader(io.StringIO(hostile.to_csv(), newline="")):
        assert not any(cell.startswith(("=", "+", "-", "@")) for cell in row)


def test_no_form_has_control_characters(hostile):
    forms = (
        hostile.to_text(), hostile.to_csv(), hostile.to_markdown(), hostile.to_latex(),
        hostile.to_html(),
    )  # fmt: skip
    assert not any("\x1b" in form for form in forms)


def test_markdown_has_as_many_cells_as_columns(hostile):
    lines = [line for line in hostile.to_markdown().splitlines() if line.startswith("|")]
    assert len(lines) == 2 + len(HOSTILE)
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in lines} == {3}
    assert "<b>" not in hostile.to_markdown().replace(r"\<b", "")


def test_latex_escapes_every_special_character(hostile):
    latex = hostile.to_latex()
    body = latex[latex.index(r"\midrule") : latex.index(r"\bottomrule")]
    assert r"\textbackslash{}input\{x\}" in body
    assert r"50 \% \& \#1\_x\textasciicircum{}2 \textasciitilde{} \$y\$ \{z\}" in body
    assert "{[}v{]}" in body
    assert not re.search(r"(?<!\\)[%#_]", body)
    # One & between the two cells of each row.
    rows = body.strip().splitlines()[1:]
    assert {len(re.findall(r"(?<!\\)&", row)) for row in rows} == {1}
    for command in ("toprule", "midrule", "bottomrule"):
        assert rf"\{command}" in latex


def test_html_escapes(hostile):
    html = hostile.to_html()
    assert "<b>" not in html
    assert "&lt;b&gt;&amp;" in html
    assert "<caption>&lt;i&gt;_</caption>" in html


def test_a_row_of_another_length_is_refused():
    with pytest.raises(ValueError, match="a row has 1 cells, and there are 2 columns"):
        table_formats.ReportTable("", ("a", "b"), (("x",),))
