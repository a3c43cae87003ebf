"""The page of a run as a browser shows it: from disk, without a network."""

from __future__ import annotations

import numpy as np
import pytest
import sklearn.metrics

from cxr_tfds import phantoms
from tests.support.pages import browsers, reports
from trainer.evaluation import predictions
from trainer.reports.pages import page, pictures

pytestmark = pytest.mark.browser

TABLE = reports.table()
HOSTILE = reports.hostile_table()
THREE = reports.table(classes=("NORMAL", "BACTERIA", "VIRUS"))
RED = ["NORMAL is never predicted, but is the true class of 133 of 400 examples."]
RUNS = ("good", "red", "hostile", "three", "bare", "live")
POINT = 0.43127
BATCH = 40


def drawn(rows):
    """Phantom radiographs for the rows."""
    records = phantoms.records()
    images = np.stack([phantoms.render(records[row % BATCH]) for row in rows])
    return pictures.Pictures(rows, images)


def write(path, document, table):
    samples = drawn(predictions.choose_samples(table))
    errors = drawn(pictures.worst_errors(table))
    page.write(path, document, table, samples=samples, errors=errors)


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """A page of each kind, by name."""
    folder = tmp_path_factory.mktemp("pages")
    found = {name: folder / f"{name}.html" for name in RUNS}
    good = reports.document(TABLE, notices=["The test split differs from train."])
    write(found["good"], good, TABLE)
    metrics = {**good["metrics"], "warnings": RED}
    write(found["red"], {**good, "metrics": metrics}, TABLE)
    write(found["hostile"], reports.hostile_document(HOSTILE), HOSTILE)
    write(found["three"], reports.document(THREE), THREE)
    page.write(found["bare"], {}, TABLE)
    live = page.Live(reports.history(3), epochs=9, run=good["run"], left_s=75.0)
    page.write_live(found["live"], live)
    return found


@pytest.mark.parametrize("name", RUNS)
def test_the_page_asks_for_nothing_and_has_no_error(browser, pages, name):
    with browsers.opened(browser, pages[name]) as (_, notes):
        assert notes.said == []


@pytest.mark.parametrize("scheme", browsers.SCHEMES)
@pytest.mark.parametrize("width", browsers.WIDTHS)
@pytest.mark.parametrize("name", RUNS)
def test_nothing_is_wider_than_the_window(browser, pages, name, width, scheme):
    assert browsers.overflow_of(browser, pages[name], width, scheme) <= 0


@pytest.mark.parametrize("scheme", browsers.SCHEMES)
@pytest.mark.parametrize("name", RUNS)
def test_nothing_grave_hinders_readers(browser, pages, name, scheme):
    faults = browsers.grave_faults_of(browser, pages[name], scheme)
    # A page that shows how training goes loads itself again; it says so.
    assert [fault for fault in faults if not fault.startswith("meta-refresh: ")] == []


# Names of a hundred characters in every cell need more.
@pytest.mark.parametrize("name", [name for name in RUNS if name != "hostile"])
def test_it_prints_on_few_pages(browser, pages, name):
    with browsers.opened(browser, pages[name]) as (shown, _):
        assert 1 <= browsers.printed_pages(shown) <= 8


def test_dark_mode_is_dark_and_charts_follow_it(browser, pages):
    colours = []
    for scheme in browsers.SCHEMES:
        with browsers.opened(browser, pages["good"], color_scheme=scheme) as (shown, _):
            script = "of => getComputedStyle(document.querySelector(of[0]))[of[1]]"
            ways = (("body", "backgroundColor"), (".chart text", "fill"))
            colours.append([shown.evaluate(script, list(way)) for way in ways])
    assert colours[0][0] == "rgb(255, 255, 255)"
    assert colours[0][0] != colours[1][0]
    assert colours[0][1] != colours[1][1]


def test_hostile_names_are_text(browser, pages):
    with browsers.opened(browser, pages["hostile"]) as (shown, notes):
        body = shown.inner_text("body")
        assert "document.title='run'" in body
        assert shown.title() != "run"
        assert notes.said == []
    assert "\u202e" not in body
    assert "\x07" not in body
    assert "\\u202e" in body


# The slider


def slide(shown, threshold):
    shown.locator("#threshold").fill(str(threshold))


def figures(shown):
    """What the slider's panel shows: cells and rates."""
    rates = {
        name: shown.locator(f"[data-rate={name}]").inner_text()
        for name in ("sensitivity", "specificity", "ppv", "npv", "accuracy", "f1")
    }
    cells = [
        int(shown.locator(f"[data-cell={name}]").inner_text()) for name in ("tn", "fp", "fn", "tp")
    ]
    return rates, cells


def expected(threshold):
    """The same from scikit-learn."""
    label, positive = TABLE.label, TABLE.probabilities[:, 1] >= threshold

    def percent(value):
        return f"{100 * value:.2f} %" if np.isfinite(value) else "–"

    options = {"zero_division": np.nan}
    recall, precision = sklearn.metrics.recall_score, sklearn.metrics.precision_score
    rates = {
        "sensitivity": percent(recall(label, positive, **options)),
        "specificity": percent(recall(label, positive, pos_label=0, **options)),
        "ppv": percent(precision(label, positive, **options)),
        "npv": percent(precision(label, positive, pos_label=0, **options)),
        "accuracy": percent(sklearn.metrics.accuracy_score(label, positive)),
        "f1": f"{sklearn.metrics.f1_score(label, positive):.4f}",
    }
    return rates, sklearn.metrics.confusion_matrix(label, positive).ravel().tolist()


@pytest.mark.parametrize("threshold", [0.0, 0.1, 0.37, 0.5, 0.9])
def test_the_slider_shows_what_scikit_learn_computes(browser, pages, threshold):
    with browsers.opened(browser, pages["good"]) as (shown, _):
        slide(shown, threshold)
        assert figures(shown) == expected(threshold)


def test_the_button_of_the_operating_point_is_exact(browser, pages):
    with browsers.opened(browser, pages["good"]) as (shown, _):
        shown.locator("[data-threshold=point]").click()
        assert figures(shown) == expected(POINT)
        assert shown.locator("#threshold-value").inner_text() == "0.431"
        assert shown.locator("[data-threshold=point]").get_attribute("aria-pressed") == "true"
        shown.locator("[data-threshold='0.5']").click()
        assert figures(shown) == expected(0.5)


def test_keys_move_the_slider(browser, pages):
    with browsers.opened(browser, pages["good"]) as (shown, _):
        shown.get_by_label("Threshold of the probability").focus()
        shown.keyboard.press("ArrowRight")
        assert shown.locator("#threshold-value").inner_text() == "0.501"
        assert "sensitivity" in shown.locator("#threshold").get_attribute("aria-valuetext")
        shown.keyboard.press("Home")
        assert shown.locator("#threshold-value").inner_text() == "0.000"


def test_a_prevalence_restates_the_predictive_values_by_bayes_rule(browser, pages):
    label, positive = TABLE.label == 1, TABLE.probabilities[:, 1] >= 0.5
    sensitivity, specificity = positive[label].mean(), (~positive[~label]).mean()
    share = 0.05
    hits, alarms = sensitivity * share, (1 - specificity) * (1 - share)
    with browsers.opened(browser, pages["good"]) as (shown, _):
        shown.get_by_label("Prevalence where").fill("5")
        rates, _ = figures(shown)
        assert rates["ppv"] == f"{100 * hits / (hits + alarms):.2f} %"
        assert rates["sensitivity"] == f"{100 * sensitivity:.2f} %"
        shown.get_by_label("Prevalence where").fill("")
        assert figures(shown) == expected(0.5)


def test_a_printed_page_tells_the_prevalence_of_its_predictive_values(browser, pages):
    with browsers.opened(browser, pages["good"]) as (shown, _):
        assert not shown.locator("#prevalence-used").inner_text()
        shown.get_by_label("Prevalence where").fill("5")
        shown.emulate_media(media="print")
        assert "PPV and NPV are those at a prevalence of 5 %." in shown.locator("main").inner_text()
        assert not shown.get_by_label("Prevalence where").is_visible()


@pytest.mark.parametrize("value", ["150", "-3", "1e9"])
def test_a_prevalence_that_is_none_is_told_and_changes_nothing(browser, pages, value):
    with browsers.opened(browser, pages["good"]) as (shown, _):
        shown.get_by_label("Prevalence where").fill(value)
        assert figures(shown) == expected(0.5)
        assert shown.locator("#prevalence-used").inner_text().startswith("A prevalence is from 0")


def test_the_threshold_moves_on_the_charts(browser, pages):
    def places(shown):
        marks = shown.locator("[id*='-now']").all()
        return [mark.get_attribute("transform") for mark in marks]

    with browsers.opened(browser, pages["good"]) as (shown, _):
        before = places(shown)
        slide(shown, 0.95)
        after = places(shown)
    assert len(before) == 4
    assert all(old != new for old, new in zip(before, after, strict=True))


def test_without_a_script_the_table_of_thresholds_remains(browser, pages):
    with browsers.opened(browser, pages["good"], java_script_enabled=False) as (shown, _):
        assert not shown.locator("#slider").is_visible()
        row = shown.locator("#thresholds tr", has_text="operating point").last.inner_text()
    assert expected(POINT)[0]["sensitivity"] in row


def test_over_two_classes_have_no_slider(browser, pages):
    with browsers.opened(browser, pages["three"]) as (shown, _):
        assert shown.locator("#slider").count() == 0
        assert shown.locator("#classes tbody tr").count() == 3
        assert shown.locator("#confusion tbody tr").count() == 3


def test_the_command_can_be_copied(browser, pages):
    options = {"permissions": ["clipboard-read", "clipboard-write"]}
    with browsers.opened(browser, pages["good"], **options) as (shown, _):
        shown.get_by_role("button", name="Copy command").click()
        shown.get_by_text("Copied").wait_for()
        copied = shown.evaluate("navigator.clipboard.readText()")
    assert copied == reports.document(TABLE)["run"]["command"]
