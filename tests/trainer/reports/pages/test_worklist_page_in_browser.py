"""The page of a worklist as a browser shows it: from disk, without a network."""

from __future__ import annotations

import pytest

from tests.support.pages import browsers, worklists
from trainer.reports.pages import worklist_page

pytestmark = pytest.mark.browser

FILES = worklists.files()
READ = [row for row in FILES if row.status == "read"]
POSITIVE = [row.file for row in READ if row.predicted == "PNEUMONIA"]
PAGES = ("good", "red", "hostile", "empty", "full")


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """A page of each kind, by name."""
    folder = tmp_path_factory.mktemp("pages")
    found = {name: folder / f"{name}.html" for name in PAGES}
    pictures = worklists.thumbnails(FILES[:20])
    worklist_page.write(found["good"], worklists.summary(FILES), FILES, pictures)
    red = worklists.summary(FILES, warnings=[worklists.WARNING])
    worklist_page.write(found["red"], red, FILES, worklists.thumbnails(FILES[:20], overlays=True))
    rows = worklists.hostile_files()
    pictures = worklists.thumbnails(rows, overlays=True)
    worklist_page.write(found["hostile"], worklists.hostile_summary(rows), rows, pictures)
    worklist_page.write(found["empty"], worklists.summary([]), [], {})
    rows = worklists.files(worklist_page.MAX_ROWS)
    pictures = worklists.thumbnails(rows[: worklist_page.MAX_PICTURES], overlays=True)
    worklist_page.write(found["full"], worklists.summary(rows, read=99_990), rows, pictures)
    return found


def shown_files(page):
    """The file names of the list that are visible, in its order."""
    return [head.split("\n")[0] for head in page.locator("#rows tr:visible th").all_inner_texts()]


@pytest.mark.parametrize("name", PAGES)
def test_the_page_asks_for_nothing_and_has_no_error(browser, pages, name):
    with browsers.opened(browser, pages[name]) as (_, notes):
        assert notes.said == []


@pytest.mark.parametrize("scheme", browsers.SCHEMES)
@pytest.mark.parametrize("width", browsers.WIDTHS)
@pytest.mark.parametrize("name", PAGES)
def test_nothing_is_wider_than_the_window(browser, pages, name, width, scheme):
    assert browsers.overflow_of(browser, pages[name], width, scheme) <= 0


# A thousand rows take axe a minute, and have nothing that sixty do not have.
@pytest.mark.parametrize("scheme", browsers.SCHEMES)
@pytest.mark.parametrize("name", [name for name in PAGES if name != "full"])
def test_nothing_grave_hinders_readers(browser, pages, name, scheme):
    assert browsers.grave_faults_of(browser, pages[name], scheme) == []


@pytest.mark.parametrize("width", browsers.WIDTHS)
def test_the_list_is_a_table_to_a_screen_reader_at_every_width(browser, pages, width):
    size = {"width": width, "height": 900}
    with browsers.opened(browser, pages["good"], viewport=size) as (page, _):
        table = page.get_by_role("table", name=f"{len(READ)} files")
        assert table.get_by_role("row").count() == len(READ) + 1
        assert table.get_by_role("columnheader").count() == 8
        assert table.get_by_role("rowheader").count() == len(READ)


def test_a_full_page_opens_fast(browser, pages):
    with browsers.opened(browser, pages["full"]) as (page, _):
        timing = "performance.timing.loadEventEnd - performance.timing.navigationStart"
        assert page.evaluate(timing) < 5_000
        page.get_by_label("File or note").fill("virus_999.jpeg")
        assert shown_files(page) == ["inbox/person999_virus_999.jpeg"]


def test_hostile_names_are_text(browser, pages):
    with browsers.opened(browser, pages["hostile"]) as (page, notes):
        body = page.inner_text("body")
        assert page.title() != "run"
        assert notes.said == []
    assert "document.title='run'" in body
    assert "\\u202e" in body
    assert "\u202e" not in body


# The filters


def test_words_choose_files_by_name_and_note(browser, pages):
    with browsers.opened(browser, pages["good"]) as (page, _):
        page.get_by_label("File or note").fill("PERSON7_ jpeg")
        assert shown_files(page) == ["inbox/person7_virus_7.jpeg"]
        assert page.get_by_role("status").inner_text() == "Filtered: 1 of 60 files shown."
        page.get_by_label("File or note").fill("corners are brighter")
        assert shown_files(page) == [row.file for row in READ if "inverted" in row.flags]


def test_a_flag_chooses_the_files_that_have_it(browser, pages):
    lateral = [row.file for row in READ if "lateral" in row.flags]
    with browsers.opened(browser, pages["good"]) as (page, _):
        flags = page.get_by_label("Flags", exact=True)
        flags.select_option(f"Lateral view ({len(lateral)})")
        assert shown_files(page) == lateral
        flags.select_option("with a flag")
        assert shown_files(page) == [row.file for row in READ if row.flags]
        flags.select_option("without a flag")
        assert shown_files(page) == [row.file for row in READ if not row.flags]


def test_filters_add_up_and_one_button_ends_them(browser, pages):
    wanted = [row.file for row in READ if row.flags and row.file in POSITIVE]
    with browsers.opened(browser, pages["good"]) as (page, _):
        page.get_by_label("Only predicted PNEUMONIA").check()
        assert shown_files(page) == POSITIVE
        page.get_by_label("Flags", exact=True).select_option("with a flag")
        assert shown_files(page) == wanted
        page.get_by_role("button", name="Show all").click()
        assert len(shown_files(page)) == len(READ)
        assert not page.get_by_label("Only predicted PNEUMONIA").is_checked()
        assert not page.get_by_role("status").inner_text()


def test_keys_are_enough(browser, pages):
    with browsers.opened(browser, pages["good"]) as (page, _):
        page.get_by_label("File or note").focus()
        page.keyboard.type("person1_")
        assert len(shown_files(page)) == 1
        for key in ("Tab", "Tab", "Tab", "Enter"):
            page.keyboard.press(key)
        assert len(shown_files(page)) == len(READ)
        page.keyboard.press("Shift+Tab")
        page.keyboard.press("Space")
        assert shown_files(page) == POSITIVE


def test_without_a_script_all_files_are_there_and_no_filter(browser, pages):
    with browsers.opened(browser, pages["good"], java_script_enabled=False) as (page, _):
        assert not page.locator("#filters").is_visible()
        assert page.locator("#rows tr:visible").count() == len(READ)
        assert page.get_by_text("Empty file.").is_visible()


# Print


def test_a_printed_page_repeats_the_heads_breaks_no_row_and_has_all_images(browser, pages):
    with browsers.opened(browser, pages["red"]) as (page, _):
        page.wait_for_function("[...document.images].every((one) => one.loading === 'eager')")
        page.emulate_media(media="print")
        style = "of => getComputedStyle(document.querySelector(of[0]))[of[1]]"
        assert page.evaluate(style, ["#rows tr", "breakInside"]) == "avoid"
        assert page.evaluate(style, ["thead", "display"]) == "table-header-group"
        assert page.evaluate("[...document.images].every((one) => one.naturalWidth > 0)")
        assert 2 <= browsers.printed_pages(page) <= 8


def test_a_printed_page_tells_that_it_is_filtered(browser, pages):
    with browsers.opened(browser, pages["good"]) as (page, _):
        page.get_by_label("Only predicted PNEUMONIA").check()
        page.emulate_media(media="print")
        assert not page.get_by_label("File or note").is_visible()
        assert page.get_by_role("status").is_visible()
