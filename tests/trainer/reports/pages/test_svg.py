"""Matplotlib's figures as part of a page."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest

from tests.support.pages import reports
from trainer import reports as reports_package
from trainer.reports.pages import charts, svg


@charts.in_page_style
def figure(title="a chart", colour=charts.BLUE):
    found = charts.sheet(300, 200)
    axes = found.subplots()
    axes.plot([1, 2, 3], [1, 4, 2], "o-", color=colour, gid="line")
    axes.bar([1], [2], facecolor="none", edgecolor=charts.VERMILLION, hatch="//")
    axes.set_title(title)
    return found


def chart(**options):
    return svg.inline(figure(), "name", "what it shows", **options)


def test_it_is_well_formed_and_described():
    root = ET.fromstring(chart())
    assert root.tag == "svg"
    assert root.get("role") == "img"
    assert root.get("aria-label") == "what it shows"
    assert root.get("viewBox") == "0 0 300 200"


def test_colours_are_variables_of_the_style_sheet():
    found = chart()
    assert not re.search("#[0-9a-fA-F]{6}", found)
    style = (Path(reports_package.__file__).parent / "templates" / "style.css").read_text("utf-8")
    assert "var(--blue)" in found
    assert {f"--{name}:" for name in svg.COLOURS.values()} <= set(re.findall(r"--\w+:", style))


def test_a_colour_that_the_style_sheet_lacks_is_an_error():
    with pytest.raises(ValueError, match="no variable for #123456"):
        svg.inline(figure(colour="#123456"), "name", "label")


def test_text_is_text_in_the_font_of_the_page():
    found = chart()
    assert ">a chart</text>" in found
    assert "font-family" not in found


def test_there_is_no_inline_style_and_nothing_that_reaches_beyond_the_chart():
    found = chart()
    assert not re.search(r"\bstyle\b|<style|<metadata|http|<script", found)
    ids = set(re.findall(r'id="([^"]*)"', found))
    assert ids
    assert all(name.startswith("name-") for name in ids)
    assert set(re.findall(r'(?:url\(|href=")#([^")]*)', found)) <= ids


def test_equal_figures_give_equal_bytes_whatever_the_style_of_the_caller():
    with mpl.rc_context({"font.size": 30, "svg.fonttype": "path", "axes.facecolor": "red"}):
        other = chart()
    assert chart() == other


def test_a_tooltip_is_the_title_of_its_element():
    root = ET.fromstring(chart(titles={"line": "0.5 <b>"}))
    (titled,) = [element for element in root.iter() if element.get("id") == "name-line"]
    assert titled.findtext("title") == "0.5 <b>"


@pytest.mark.parametrize("name", [*reports.NAMES, "肺炎 $x$"])
def test_no_text_becomes_markup_or_turns_around(name):
    found = svg.inline(figure(name), "name", name, titles={"line": name})
    root = ET.fromstring(found)
    assert {element.tag for element in root.iter()} <= {
        "svg", "g", "path", "text", "defs", "use", "clipPath", "rect", "pattern", "title", "tspan"
    }  # fmt: skip
    assert not set("\u202e\x07\x1b") & set(found)


def test_the_box_is_where_the_panel_is():
    found = charts.rates(np.array([0, 1]), np.array([0, 1]), ("a", "b", "c"), [])
    root = ET.fromstring(svg.inline(found, "roc", "label", with_box=True))
    left, top, right, bottom = map(float, root.get("data-box").split())
    assert 0 < left < right <= 360
    assert right - left == pytest.approx(bottom - top, abs=0.2)
    (now,) = [element for element in root.iter() if element.get("id") == "roc-now"]
    (use,) = now.iter("use")
    assert (float(use.get("x")), float(use.get("y"))) == pytest.approx((left, bottom), abs=0.2)
