"""The page of a run, without a browser."""

from __future__ import annotations

import base64
import html
import html.parser
import json
import math
import re

import matplotlib as mpl
import numpy as np
import PIL.Image
import pytest

from tests.support.pages import policies, reports
from tests.support.tables import predictions_of
from trainer.evaluation import predictions
from trainer.reports.pages import page, pictures, templating

TABLE = reports.table()
DOCUMENT = reports.document(TABLE)
REASON = "NORMAL is never predicted, but is the true class of 133 of 400 examples."


def images(rows, side=48):
    """Pictures of the rows, from a seed."""
    rng = np.random.default_rng(0)
    return pictures.Pictures(rows, rng.integers(0, 256, (len(rows), side, side, 1), np.uint8))


def written(folder, document=DOCUMENT, table=TABLE):
    shown = {
        "samples": images(predictions.choose_samples(table)),
        "errors": images(pictures.worst_errors(table)),
    }
    page.write(folder / "report.html", document, table, **shown)
    return (folder / "report.html").read_text("utf-8")


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    return written(tmp_path_factory.mktemp("page"))


def plain(text):
    """The text of a page, without markup."""
    body = text.partition("<main>")[2].partition("</main>")[0]
    return " ".join(html.unescape(re.sub("<[^>]*>", " ", body)).split())


class Balance(html.parser.HTMLParser):
    """Fails if an element is not closed; collects all elements."""

    VOID = ("meta", "img", "input")

    def __init__(self):
        super().__init__()
        self.open, self.found = [], []

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def elements(text):
    parser = Balance()
    parser.feed(text)
    parser.close()
    assert parser.open == []
    return parser.found


# One file that loads nothing


def test_it_is_well_formed_and_loads_nothing(good):
    found = elements(good)
    for tag, attributes in found:
        assert tag not in ("link", "iframe", "object", "base", "form")
        assert not {name for name in attributes if name.startswith("on") or name == "style"}
        assert attributes.get("href", "#").startswith("#")
        assert attributes.get("src", "data:image/jpeg;").startswith("data:image/jpeg;")
    assert len(good) < 3_000_000


def test_only_its_own_style_and_script_may_run(good):
    policies.assert_only_own_parts_run(good)


def test_equal_input_gives_equal_bytes(good, tmp_path):
    with mpl.rc_context({"font.size": 30, "axes.facecolor": "red"}):
        assert written(tmp_path) == good


def test_each_chart_and_image_has_a_description_with_numbers(good):
    found = elements(good)
    labels = [of["aria-label"] for tag, of in found if tag == "svg"]
    assert len(labels) >= 9
    assert all(re.search(r"\d", label) for label in labels)
    alts = [of["alt"] for tag, of in found if tag == "img"]
    assert all("true class" in alt and "with probability 0." in alt for alt in alts)


# What it says


def test_the_order_of_the_sections(good):
    names = re.findall(r'<section id="(\w+)"', good)
    assert names == [
        "figures", "paper", "training", "thresholds", "probabilities", "groups", "samples",
        "errors", "shift", "looks", "data", "model", "command",
    ]  # fmt: skip


def test_a_model_that_passes_gets_a_calm_line(good):
    assert 'class="verdict calm"' in good
    assert 'role="alert"' not in good
    assert "Guard: nothing found against this model. Its outputs are finite" in plain(good)
    assert "not a medical device" in plain(good)


def test_what_the_guard_says_comes_first_and_notices_directly_below(tmp_path):
    document = {
        **DOCUMENT,
        "metrics": {**DOCUMENT["metrics"], "warnings": [REASON]},
        "notices": ["The test split differs from train."],
        "shared_patient_images": 100,
    }
    text = plain(written(tmp_path, document))
    places = [
        text.index(words)
        for words in ("Do not use this model.", REASON, "The test split differs", "(25.00 %) share",
                      "ROC-AUC")
    ]  # fmt: skip
    assert places == sorted(places)
    assert "nothing found" not in text


def test_the_headline_has_the_figures_with_their_intervals(good):
    metrics = DOCUMENT["metrics"]
    low, high = DOCUMENT["intervals"]["metrics"]["accuracy"]
    text = plain(good)
    assert (
        f"Accuracy at 0.5 {100 * metrics['accuracy']:.2f} % {100 * low:.1f} to {100 * high:.1f} %"
    ) in text
    assert (
        "PNEUMONIA is the positive class. In small type and in parentheses: "
        "95 % intervals, from 2,000 resamples of 719 patients (patients by class: NORMAL 412, "
        "PNEUMONIA 412)."
    ) in text


def test_a_corrected_prior_is_told_with_its_shares_and_its_assumption(tmp_path):
    correction = {
        "priors": {"NORMAL": 0.269, "PNEUMONIA": 0.731},
        "training_priors": {"NORMAL": 0.258, "PNEUMONIA": 0.742},
        "figures": {"accuracy": 0.97},
    }
    text = plain(written(tmp_path, {**DOCUMENT, "prior_correction": correction}))
    assert "NORMAL 26.90 % (training 25.80 %), PNEUMONIA 73.10 % (training 74.20 %)" in text
    assert "assumes that the images of a class look as in training" in text


def test_the_intervals_of_reliability_are_said_to_be_by_image(good):
    assert "95 %, images as independent" in good


def test_the_papers_rows_and_the_difference_of_protocols_are_told(good):
    text = plain(good)
    for name, accuracy, recall in (
        ("VGG16", "94.40", 92),
        ("InceptionResNetV2", "71.88", 49),
        ("MobileNetV2", "72.76", 50),
    ):
        assert f"{name}, Lee & Abuan {accuracy} % {recall} %" in text
    assert "not leak-free" in text
    assert "splits by patient" in text


def test_the_epoch_where_unfrozen_layers_join_is_marked(good, tmp_path):
    assert "The head trains alone for 2 epochs" in plain(good)
    assert "layers join" in good
    run = DOCUMENT["run"]
    for change in ({"layers_to_unfreeze": "0"}, {"weights": "none"}, {"head_epochs": 99}):
        changed = {**run, "config": {**run["config"], **change}}
        assert "layers join" not in live(tmp_path, run=changed)


def test_a_learning_rate_is_drawn_where_it_changes_and_named_where_it_does_not(good, tmp_path):
    assert "Learning rate by epoch" in good
    assert "in every epoch" not in plain(good)
    constant = live(tmp_path, history={**DOCUMENT["history"], "learning_rate": [1e-3] * 8})
    assert "Learning rate by epoch" not in constant
    assert "Learning rate: 0.001 in every epoch." in plain(constant)


def test_the_counts_of_the_slider_are_those_of_the_predictions(good):
    island = json.loads(re.search(r'id="counts">(.*?)</script>', good)[1])
    assert len(island["tp"]) == len(island["fp"]) == 1001
    assert island["tp"][0] == island["positives"] == int(TABLE.label.sum())
    assert island["point"]["threshold"] == DOCUMENT["operating_point"]["threshold"]


def test_the_worst_errors_are_the_surest_wrong_ones():
    rows = pictures.worst_errors(TABLE)
    wrong = TABLE.predicted != TABLE.label
    assert wrong[rows].all()
    assert TABLE.score[rows].tolist() == sorted(TABLE.score[wrong], reverse=True)[: len(rows)]


def test_kaggles_images_have_licence_and_citation(good, tmp_path):
    assert "CC BY 4.0" in plain(good)
    assert plain(good).count("children of one to five years, from Guangzhou") == 2
    phantom = {**DOCUMENT, "data": {**DOCUMENT["data"], "is_phantom": True}}
    text = plain(written(tmp_path, phantom))
    assert "CC BY" not in text
    assert "Kermany" not in text
    assert "Guangzhou" not in text


def test_over_two_classes_have_a_table_of_classes_and_no_slider(tmp_path):
    table = reports.table(classes=("NORMAL", "BACTERIA", "VIRUS"))
    text = written(tmp_path, reports.document(table), table)
    assert "Each class against the rest" in text
    assert 'id="slider"' not in text
    assert 'id="confusion"' in text


def test_the_shift_is_told_beside_chance_and_without_an_interval(good):
    text = plain(good)
    assert "validation and test 0.531 0.031 (0.034 by chance)" in text
    assert "a warning needs 0.25 above that" in text
    assert "a warning needs 0.638 or more" in text
    assert "0.571" not in text


# What may be missing


PARTS = ("metrics", "intervals", "history", "data", "run")
"""Those without which other parts must do."""
MISSING = {
    "all absent": {},
    "all null": dict.fromkeys(DOCUMENT),
    "schema 3": {key: DOCUMENT[key] for key in ("split", "metrics", "history", "data", "run")},
    **{f"no {name}": {**DOCUMENT, name: None, "calibration": None} for name in PARTS},
}


@pytest.mark.parametrize("document", MISSING.values(), ids=MISSING)
def test_parts_may_be_missing(document, tmp_path):
    page.write(tmp_path / "report.html", document, TABLE)
    text = (tmp_path / "report.html").read_text("utf-8")
    elements(text)
    assert not re.search(r"\b(None|nan|NaN|inf|Undefined)\b", plain(text))


def test_numbers_may_be_undefined(tmp_path):
    def without_numbers(value):
        if isinstance(value, dict):
            return {key: without_numbers(item) for key, item in value.items()}
        return None if isinstance(value, float) else value

    document = {
        **without_numbers(DOCUMENT),
        "history": {"loss": [None, 0.5], "val_loss": [None] * 2},
    }
    document["calibration"] = None
    text = written(tmp_path, document)
    assert not re.search(r"\b(None|nan|NaN|inf)\b", plain(text))


@pytest.mark.parametrize(
    ("label", "positive"),
    [([0, 1], [math.nan, 0.5]), ([1, 1, 1], [0.25, 0.75, 1.0]), ([0], [0.25]), ([0, 1], [0, 1])],
    ids=["not finite", "one class", "one example", "perfect"],
)
def test_odd_predictions_have_a_page(label, positive, tmp_path):
    table = predictions_of(label, positive)
    page.write(tmp_path / "report.html", reports.document(TABLE), table)
    elements((tmp_path / "report.html").read_text("utf-8"))


def test_ties_at_one_half_are_told(good, tmp_path):
    assert "equally probable" not in plain(good)
    page.write(tmp_path / "report.html", {}, predictions_of([0, 1, 1], [0.5, 0.25, 0.75]))
    text = plain((tmp_path / "report.html").read_text("utf-8"))
    assert "equally probable for 1 of the examples" in text


# Hostile text


def test_no_text_becomes_markup_or_turns_around(tmp_path):
    table = reports.hostile_table()
    text = written(tmp_path, reports.hostile_document(table), table)
    scripts = [of for tag, of in elements(text) if tag == "script"]
    assert scripts == [{"type": "application/json", "id": "counts"}, {}]
    assert text.count("onerror") == text.count("&lt;img src=x onerror=alert(1)&gt;")
    assert not set("\u202e\x07\x1b") & set(text)
    assert "=cmd()" in plain(text)


def test_an_island_can_not_be_left():
    names = [*reports.NAMES, "</script>", "<!--", "\udcff"]
    island = templating.island({"names": names})
    assert not set(island) & set("<>&'")
    assert json.loads(island)["names"][0] == reports.NAMES[0]


def test_an_undefined_variable_is_an_error():
    with pytest.raises(templating.jinja2.UndefinedError):
        templating.render("trainer.reports", "live.html.j2", {})


# Images


def test_images_are_small_grey_jpegs():
    rows = np.arange(2)
    large = pictures.Pictures(rows, np.zeros((2, 2000, 1000), np.uint8))
    first = pictures.describe(large, TABLE)[0]
    data = base64.b64decode(first["source"].partition(",")[2])
    with PIL.Image.open(pictures.io.BytesIO(data)) as image:
        assert (image.format, image.mode, image.size) == ("JPEG", "L", (128, 256))
    assert (first["width"], first["height"]) == (128, 256)


@pytest.mark.parametrize(
    "wrong", [np.zeros((2, 8, 8, 3), np.uint8), np.zeros((2, 8, 8)), np.zeros((3, 8, 8), np.uint8)]
)
def test_other_images_are_refused(wrong):
    with pytest.raises(ValueError, match="images"):
        pictures.Pictures(np.arange(2), wrong)


# While it trains


def live(folder, **changes):
    fields = {"history": reports.history(3), "epochs": 9, "run": DOCUMENT["run"], "left_s": 75.0}
    page.write_live(folder / "report.html", page.Live(**fields | changes))
    return (folder / "report.html").read_text("utf-8")


def test_the_page_of_a_run_that_trains_loads_itself_again(tmp_path):
    text = live(tmp_path)
    elements(text)
    assert '<meta http-equiv="refresh" content="10">' in text
    assert "Training : epoch 3 of at most 9, at most 1 min 15 s left." in plain(text)
    assert "python -m trainer" in plain(text)
    assert text.count('role="img"') == 4


def test_the_page_of_a_run_that_has_stopped_does_not(tmp_path):
    text = live(tmp_path, refresh_s=None, status="stopped", left_s=None)
    assert 'http-equiv="refresh"' not in text
    assert "Stopped : epoch 3 of at most 9." in plain(text)


def test_a_run_has_a_page_before_its_first_epoch(tmp_path):
    assert "No epoch has ended yet." in live(tmp_path, history={}, left_s=None)


def test_epochs_after_the_last_are_not_marked(tmp_path):
    assert "layers join" not in live(tmp_path, history=reports.history(2))
    assert "layers join" in live(tmp_path, history=reports.history(3))
