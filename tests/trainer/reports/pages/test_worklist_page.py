"""The page of a worklist, without a browser."""

from __future__ import annotations

import base64
import dataclasses
import html
import html.parser
import io
import re
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from tests.support.pages import policies, reports, worklists
from trainer.reports.pages import worklist_flags, worklist_page
from trainer.reports.pages.worklist_page import ListedFile, Thumbnail

FILES = worklists.files()
VOID = ("meta", "img", "input", "wbr")


def written(folder, rows=FILES, pictures=None, **changes):
    path = folder / "worklist.html"
    worklist_page.write(path, worklists.summary(rows, **changes), rows, pictures or {})
    return path.read_text("utf-8")


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    return written(tmp_path_factory.mktemp("page"), pictures=worklists.thumbnails(FILES[:5]))


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    rows, path = worklists.hostile_files(), tmp_path_factory.mktemp("page") / "worklist.html"
    pictures = worklists.thumbnails(rows, overlays=True)
    worklist_page.write(path, worklists.hostile_summary(rows), rows, pictures)
    return path.read_text("utf-8")


def plain(page):
    """The text of a page, without markup."""
    body = page.partition("<main>")[2].partition("</main>")[0]
    body = re.sub("<(?:wbr|/?b)>", "", body)
    return " ".join(html.unescape(re.sub("<[^>]*>", " ", body)).split())


def elements(page):
    """All elements, each of which is closed."""
    unclosed, found = [], []

    class Balance(html.parser.HTMLParser):
        def handle_starttag(self, tag, attrs):
            found.append((tag, dict(attrs)))
            if tag not in VOID:
                unclosed.append(tag)

        def handle_startendtag(self, tag, attrs):
            found.append((tag, dict(attrs)))

        def handle_endtag(self, tag):
            assert unclosed.pop() == tag

    parser = Balance()
    parser.feed(page)
    parser.close()
    assert unclosed == []
    return found


def section(page, name):
    return page.partition(f'<section id="{name}"')[2].partition("</section>")[0]


def listed(page):
    """The file names of the list, in its order."""
    heads = re.findall(
        r'<th scope="row"[^>]*>(.*?)<', section(page, "worklist").replace("<wbr>", "")
    )
    return list(map(html.unescape, heads))


def image_of(source):
    return PIL.Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2])))


# One file that loads nothing


@pytest.mark.parametrize("name", ["good", "hostile"])
def test_it_is_well_formed_and_loads_nothing(name, request):
    for tag, attributes in elements(request.getfixturevalue(name)):
        assert tag not in ("link", "iframe", "object", "base", "form")
        assert not {name for name in attributes if name.startswith("on") or name == "style"}
        assert attributes.get("href", "#").startswith("#")
        assert attributes.get("src", "data:image/jpeg;").startswith("data:image/jpeg;")


def test_only_its_own_style_and_script_may_run(good):
    policies.assert_only_own_parts_run(good)


def test_equal_input_gives_equal_bytes(good, tmp_path):
    assert written(tmp_path, pictures=worklists.thumbnails(FILES[:5])) == good


# What it says


def test_the_most_urgent_is_first_whatever_the_order_of_the_rows(tmp_path):
    names = [row.file for row in FILES if row.status == "read"]
    assert listed(written(tmp_path, FILES[::-1])) == names


def test_a_row_has_score_probability_prediction_distance_and_size(good):
    row = next(row for row in FILES if row.flags == ("unlike_training_data",))
    cells = next(line for line in good.splitlines() if f">{row.rank}<" in line)
    said = plain(f"<main>{cells}</main>")
    assert f"{row.score:.4f}" in said
    assert f"{100 * row.calibrated_probability:.2f} %" in said
    assert "PNEUMONIA" in said
    assert said.endswith("1.31")
    assert f"{row.width} × {row.height} px" in said
    assert "Unlike the training data" in said
    assert "Distance 1.31 of the threshold." in said


def test_the_bar_reaches_to_the_score_and_its_mark_is_the_operating_point(tmp_path):
    row = ListedFile(1, "a.png", score=0.25, predicted="NORMAL")
    page = section(written(tmp_path, [row]), "worklist")
    assert '<rect width="25" height="6"/><path d="M43.1 0v6"/>' in page


@pytest.mark.parametrize("score", [None, float("nan"), float("inf")])
def test_an_undefined_score_is_a_dash_without_a_bar(tmp_path, score):
    page = section(written(tmp_path, [ListedFile(1, "a.png", score=score)]), "worklist")
    assert 'class="score">–<' in page
    assert "<svg" not in page


def test_no_operating_point_and_no_temperature_are_told(tmp_path):
    row = ListedFile(1, "a.png", score=0.25, predicted="NORMAL")
    page = written(tmp_path, [row], threshold=None, temperature=None, rule="")
    assert "none: the most probable class is predicted" in plain(page)
    assert "Ordered by the score of PNEUMONIA, highest first." in plain(page)
    assert "<path" not in section(page, "worklist")
    assert "Calibrated" not in plain(page)


def test_of_over_two_classes_none_may_be_positive(tmp_path):
    row = ListedFile(1, "a.png", score=0.25, predicted="VIRUS")
    names = ("NORMAL", "BACTERIA", "VIRUS")
    page = written(
        tmp_path, [row], class_names=names, positive_class=None, threshold=None, rule=None
    )
    assert "positive class –" in plain(page)
    assert "NORMAL, BACTERIA, VIRUS" in plain(page)
    assert 'id="positive"' not in page
    assert "data-positive" not in section(page, "worklist")


def test_columns_without_content_are_left_out(tmp_path):
    page = section(written(tmp_path, [ListedFile(1, "a.png", score=0.25)]), "worklist")
    heads = re.findall(r'<th scope="col"[^>]*>(.*?)<', page)
    assert heads == ["Rank", "File", "Predicted", "Score"]


def test_the_facts_and_counts_of_the_worklist(good):
    said = plain(good)
    for words in (
        "runs/a",
        "sensitivity=0.95: 0.4313, chosen on validation",
        "1.310",
        "CC BY 4.0",
        "2234b422eecd253e",
        "NORMAL, PNEUMONIA",
        "--mode=predict",
        "2026-11-30 08:18",
        "62 files",
        "Not a medical device.",
        "worklist.csv and worklist.jsonl",
    ):
        assert words in said
    assert re.search("read 60 unreadable 2 predicted PNEUMONIA ([0-9]+) ", said)


def test_a_model_that_must_not_be_used_is_told_first(tmp_path, good):
    said = plain(written(tmp_path, warnings=[worklists.WARNING]))
    begin = f"Worklist of a 2026-11-30 08:18 · 62 files DO NOT USE THIS MODEL: {worklists.WARNING}"
    assert said.startswith(begin)
    assert "DO NOT USE" not in plain(good)


@pytest.mark.parametrize("key", worklist_flags.FLAGS)
def test_each_flag_is_explained_and_counted(good, key):
    flag = worklist_flags.FLAGS[key]
    count = 2 if key == "unreadable" else sum(key in row.flags for row in FILES)
    legend = plain(f"<main>{section(good, 'flags')}</main>")
    assert f"{flag.label} {count} files {flag.meaning} What to do: {flag.advice}" in legend
    assert flag.gravity in worklist_flags.GRAVITIES


def test_a_flag_that_is_not_known_is_shown_as_it_is(tmp_path):
    rows = [ListedFile(1, "a.png", score=0.5, flags=("upside down",))]
    page = written(tmp_path, rows)
    assert "upside down" in plain(page)
    assert 'data-flags="upside_down"' in page


def test_flags_differ_by_more_than_colour(good):
    marks = set(re.findall(r'class="flag (\w+)"><span aria-hidden="true">(.)</span> \w', good))
    assert marks == {("grave", "✗"), ("caution", "⚠"), ("plain", "=")}


def test_unreadable_files_have_a_section_with_reasons_and_no_rank(good):
    said = plain(f"<main>{section(good, 'unreadable')}</main>")
    assert "2 unreadable files" in said
    assert "inbox/broken0.jpg Empty file." in said
    assert "Rank" not in said
    assert not {row.file for row in FILES if row.status == "unreadable"} & set(listed(good))


# None, and many


@pytest.mark.parametrize("count", [0, 3])
def test_where_nothing_was_read_it_says_so_and_has_no_list(tmp_path, count):
    rows = worklists.files(0, unreadable=count)
    page = written(tmp_path, rows)
    words = "No file could be read" if count else "No file was given."
    assert words in plain(page)
    assert not section(page, "worklist")
    assert bool(section(page, "unreadable")) == bool(count)
    assert 'href="#worklist"' not in page


def test_of_more_files_than_the_page_takes_it_has_the_most_urgent(tmp_path, monkeypatch):
    monkeypatch.setattr(worklist_page, "MAX_ROWS", 10)
    rows = worklists.files(30, unreadable=12)
    page = written(tmp_path, rows[::-1], read=99_990, unreadable=1_234)
    assert listed(page) == [row.file for row in rows[:10]]
    assert "The first 10 of 99,990 files; worklist.csv has all" in plain(page)
    assert "The first 10 of 1,234 unreadable files; worklist.csv has all" in plain(page)


def test_a_part_of_the_rows_is_told_to_be_one(tmp_path):
    page = written(tmp_path, FILES, read=100_000)
    assert "The first 60 of 100,000 files; worklist.csv has all" in plain(page)


def test_a_full_page_is_small(tmp_path):
    rows = worklists.files(worklist_page.MAX_ROWS)
    pictures = worklists.thumbnails(rows[: worklist_page.MAX_PICTURES], overlays=True)
    assert len(written(tmp_path, rows, pictures)) < 3_000_000


# Images


def test_images_are_lazy_and_have_descriptions(good):
    found = [attributes for tag, attributes in elements(good) if tag == "img"]
    assert [of["alt"] for of in found] == [f"Image, rank {rank}" for rank in range(1, 6)]
    assert {of["loading"] for of in found} == {"lazy"}


@pytest.mark.parametrize(
    ("height", "width", "shown"),
    [(2000, 1000, (48, 96)), (1000, 2000, (96, 48)), (None, None, (96, 96)), (1, 10**6, (96, 8))],
)
def test_an_image_has_the_shape_of_the_original(tmp_path, height, width, shown):
    row = ListedFile(1, "a.png", score=0.1, predicted="NORMAL", height=height, width=width)
    grey = np.zeros((224, 224), np.uint8)
    pair = Thumbnail(grey, np.zeros((224, 224, 3), np.uint8))
    page = written(tmp_path, [row], {1: pair})
    images = [attributes for tag, attributes in elements(page) if tag == "img"]
    assert [of["alt"] for of in images] == ["Image, rank 1", "Heat for NORMAL, rank 1"]
    for of in images:
        assert (int(of["width"]), int(of["height"])) == shown
        stored = image_of(of["src"]).size
        assert max(stored) == 128
        assert stored[0] > stored[1] if shown[0] > shown[1] else stored[0] <= stored[1]
    assert [image_of(of["src"]).mode for of in images] == ["L", "RGB"]


@pytest.mark.parametrize(("heatmap", "said"), list(worklist_page.METHODS.items()))
def test_each_heat_map_says_of_which_class_it_is(tmp_path, heatmap, said):
    pictures = worklists.thumbnails(FILES, overlays=True)
    page = written(tmp_path, FILES, pictures, heatmap=heatmap)
    alts = [attributes["alt"] for tag, attributes in elements(page) if tag == "img"][1::2]
    read = [row for row in FILES if row.status == "read"]
    assert alts == [f"Heat for {row.predicted}, rank {row.rank}" for row in read]
    assert {"Heat for NORMAL, rank 60", "Heat for PNEUMONIA, rank 1"} <= set(alts)
    assert plain(page).count("heat for NORMAL") == sum(row.predicted == "NORMAL" for row in read)
    assert f"heat by {said} for its predicted class" in plain(page)
    assert "Heat for NORMAL is what lowered the score." in plain(page)


def test_only_the_first_images_are_shown_and_those_of_no_file_ignored(tmp_path, monkeypatch):
    monkeypatch.setattr(worklist_page, "MAX_PICTURES", 2)
    page = written(tmp_path, FILES, worklists.thumbnails([*FILES[:4], ListedFile(999, "other")]))
    assert page.count("<img ") == 2
    assert "Of the list, 2 images are shown." in plain(page)


@pytest.mark.parametrize(
    ("image", "overlay"),
    [
        (np.zeros((4, 4), np.float32), None),
        (np.zeros((4, 4, 1), np.uint8), None),
        (np.zeros((0, 4), np.uint8), None),
        (np.zeros((4, 4), np.uint8), np.zeros((4, 4), np.uint8)),
        (np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3), np.float32)),
    ],
)
def test_an_image_of_another_kind_is_refused(image, overlay):
    with pytest.raises(ValueError, match="not uint8"):
        Thumbnail(image, overlay)


# Hostile text


def test_names_stay_text(hostile):
    tags = [tag for tag, _ in elements(hostile)]
    assert tags.count("script") == 1
    assert tags.count("style") == 1
    assert "<img src=x" not in hostile
    said = plain(hostile)
    assert "<script>document.title='run'</script>" in said
    assert "$x$ \\(y\\) {{ 7 * 7 }} {% raw %}" in said


def test_control_characters_and_marks_of_direction_are_visible(hostile):
    for char in ("\x07", "\x1b", "\u202e", "\u2066", "\u200f", "\ud800"):
        assert char not in hostile
        assert char.encode("unicode_escape").decode() in plain(hostile)


def test_long_names_are_shortened_in_the_middle(tmp_path):
    name = f"begin{'n' * 10_000}end.png"
    row = ListedFile(1, name, score=0.5, notes=(name,), flags=(name,), predicted=name)
    page = written(tmp_path, [row, dataclasses.replace(row, status="unreadable")])
    assert "n" * 201 not in page
    assert re.search("begin(nnn+)…(nnn+)end.png", plain(page))


def test_no_text_is_dropped_where_it_is_short(tmp_path):
    for name in (*reports.NAMES, "a_b/c_d//e__.png", "_", "/"):
        page = written(tmp_path, [ListedFile(1, name, score=0.5)])
        (shown,) = listed(page)
        assert shown == worklist_page.text.visible(name)


def test_the_documentation_explains_each_flag():
    page = (Path(__file__).parents[4] / "docs" / "predicting.md").read_text("utf-8")
    rows = re.findall(r"^\| `(\w+)` \| .+ \| .+ \|$", page.partition("## Flags")[2], re.MULTILINE)
    assert rows == list(worklist_flags.FLAGS)
