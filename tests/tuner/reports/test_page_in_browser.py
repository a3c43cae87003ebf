"""The page of a search as a browser shows it: from disk, without a network."""

from __future__ import annotations

import dataclasses

import pytest

from tests.support.pages import browsers, reports
from tests.support.searches import DIMENSIONS, VALUES, failed, large, search, trial, with_running
from tuner.reports import page

pytestmark = pytest.mark.browser

_CHOICES = tuple(
    dataclasses.replace(d, choices=("light", *reports.NAMES)) if d.name == "augmentation" else d
    for d in DIMENSIONS
)
SEARCHES = {
    "empty": search(planned_trials=54),
    "large": with_running(large(54)),
    "hostile": search(
        *(trial(n, values={**VALUES, "augmentation": n}, score=0.7) for n in reports.NAMES),
        failed("b", reports.HOSTILE),
        dimensions=_CHOICES,
        name=reports.HOSTILE,
        facts=dict.fromkeys(reports.NAMES, reports.HOSTILE),
    ),
}


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """The page of each search, by name."""
    folder = tmp_path_factory.mktemp("pages")
    found = {name: folder / f"{name}.html" for name in SEARCHES}
    for name, path in found.items():
        page.write(SEARCHES[name], path)
    return found


@pytest.mark.parametrize("name", SEARCHES)
def test_the_page_asks_for_nothing_and_has_no_error(browser, pages, name):
    with browsers.opened(browser, pages[name]) as (shown, notes):
        assert notes.said == []
        assert shown.title().startswith("Hyperparameter search: ")


@pytest.mark.parametrize("scheme", browsers.SCHEMES)
@pytest.mark.parametrize("width", browsers.WIDTHS)
@pytest.mark.parametrize("name", SEARCHES)
def test_nothing_is_wider_than_the_window(browser, pages, name, width, scheme):
    assert browsers.overflow_of(browser, pages[name], width, scheme) <= 0


@pytest.mark.parametrize("scheme", browsers.SCHEMES)
@pytest.mark.parametrize("name", SEARCHES)
def test_nothing_grave_hinders_readers(browser, pages, name, scheme):
    assert browsers.grave_faults_of(browser, pages[name], scheme) == []


@pytest.mark.parametrize("name", SEARCHES)
def test_it_prints_on_few_pages(browser, pages, name):
    with browsers.opened(browser, pages[name]) as (shown, _):
        assert 1 <= browsers.printed_pages(shown) <= 8


def test_hostile_names_are_text(browser, pages):
    with browsers.opened(browser, pages["hostile"]) as (shown, notes):
        body = shown.inner_text("body")
        assert notes.said == []
    assert "document.title='run'" in body
    assert "\u202e" not in body
