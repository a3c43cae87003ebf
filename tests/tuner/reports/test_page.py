"""The HTML page of a search."""

from __future__ import annotations

import dataclasses
import html.parser
import json
import math
import random
import re
import xml.etree.ElementTree as ET
from typing import Any

import matplotlib as mpl
import pytest

from tests.support.searches import DIMENSIONS, VALUES, failed, large, search, trial, with_running
from tuner.reports import charts, importance, page
from tuner.space import Dimension

HOSTILE = "</style><script>alert(1)</script>\"'&\x00\udcff"
CASES = {
    "empty": search(planned_trials=54),
    "one": search(trial()),
    "failed": search(failed("a", HOSTILE), failed("b")),
    "running": with_running(large(18)),
    "loss": large(27, direction="min"),
    "single": search(
        *(trial(str(i), score=i / 8, values={"neurons": 64}) for i in range(8)),
        dimensions=(Dimension("neurons", "int", 64, 64),),
    ),
    "random": search(*(trial(str(i), bracket=None, rung=None, score=i / 30) for i in range(12))),
    "none": search(trial(values={}), dimensions=()),
    "diverged": search(
        trial("a", score=math.nan, curve=[{"epoch": 1, "val_auc": math.inf}]),
        trial("b", score=0.5),
        failed("c", ended_at=None),
    ),
    "hundreds": large(138),
}


@pytest.fixture(params=CASES, scope="module")
def case(request, tmp_path_factory):
    """A search and its page, which is written once for all tests that read it."""
    found = CASES[request.param]
    return found, written(found, tmp_path_factory.mktemp("page"))


class Outline(html.parser.HTMLParser):
    """Collects elements and texts; fails if an element is not closed."""

    def __init__(self):
        super().__init__()
        self.found, self.open, self.texts = [], [], []

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


def outline(text):
    parser = Outline()
    parser.feed(text)
    parser.close()
    assert not parser.open
    return parser


def written(found, folder):
    page.write(found, folder / "report.html")
    return (folder / "report.html").read_text("utf-8")


def test_the_page_is_well_formed_and_loads_nothing_external(case):
    parser = outline(case[1])
    assert not {tag for tag, _ in parser.found} & {"script", "link", "img", "iframe", "object"}
    assert not {name for _, attrs in parser.found for name in attrs} & {"src", "onload", "style"}
    assert all(attrs.get("href", "#")[0] == "#" for _, attrs in parser.found)
    assert "default-src 'none'" in str(parser.found)


def test_no_number_is_nan_or_infinite(case):
    assert not re.search(r"\b(nan|inf|None)\b", case[1].replace("loss is nan", ""))


def test_equal_results_give_equal_bytes(case, tmp_path):
    found, text = case
    with mpl.rc_context({"axes.formatter.limits": (0, 0), "font.size": 20}):
        assert written(dataclasses.replace(found), tmp_path) == text


def test_every_chart_has_a_description(case):
    svgs = [attrs for tag, attrs in outline(case[1]).found if tag == "svg"]
    assert all(len(a.get("aria-label", "")) > 20 or a.get("aria-hidden") for a in svgs)


def test_every_mark_lies_within_its_chart(case):
    for svg in re.findall(r"<svg class=.chart.*?</svg>", case[1]):
        root = ET.fromstring(svg)
        width, height = map(float, root.get("viewBox").split()[2:])
        paths = [path for mark in root.iter("g") if mark.find("title") is not None for path in mark]
        for path in paths:
            numbers = [float(number) for number in re.findall(r"-?[\d.]+", path.get("d", ""))]
            assert all(0 <= x <= width for x in numbers[::2])
            assert all(0 <= y <= height for y in numbers[1::2])


def test_each_line_has_a_tooltip_with_trial_score_and_values(tmp_path):
    titles = re.findall(r"<title>(.*?)</title>", written(search(trial("b1", score=0.5)), tmp_path))
    assert titles.count("b1: 0.5000 after epoch 1; neurons=320, learning_rate=0.0003, "
                        "layers_to_unfreeze=4, augmentation=light, dropout=0.25") >= 3  # fmt: skip


def test_text_of_the_data_can_not_become_markup(tmp_path):
    values = {**VALUES, "augmentation": HOSTILE}
    dimensions = tuple(
        dataclasses.replace(d, choices=("light", HOSTILE)) if d.name == "augmentation" else d
        for d in DIMENSIONS
    )
    found = search(
        trial("a" + HOSTILE, values=values),
        failed("b", HOSTILE),
        dimensions=dimensions,
        name=HOSTILE,
        facts={HOSTILE: HOSTILE},
    )
    parser = outline(written(found, tmp_path))
    assert "script" not in {tag for tag, _ in parser.found}
    assert sum("<script>alert(1)</script>" in text for text in parser.texts) >= 6
    assert "\x00" not in "".join(parser.texts)


def test_the_page_has_the_facts_and_the_best_values(tmp_path):
    texts = outline(written(large(), tmp_path)).texts
    best = large().best
    for text in ("paper, 224 x 224", "vgg16", f"val_auc {best.score:.4f}", "b2-r0-13"):
        assert text in texts
    assert str(best.values["neurons"]) in texts


def test_a_search_without_success_has_no_best_configuration(tmp_path):
    text = written(search(failed("a"), failed("b")), tmp_path)
    assert "there is no best configuration" in text
    assert text.count("out of memory: 2 GiB") >= 2


def test_every_trial_is_on_the_leaderboard(tmp_path):
    found = with_running(large(138))
    text = written(found, tmp_path)
    assert len(found.trials) > 200
    assert all(f'<th scope="row">{trial.trial_id}</th>' in text for trial in found.trials)


# Charts


def lines(chart: charts.Chart) -> list[Any]:
    """The lines that have a tooltip, in the order in which they are drawn."""
    return [line for axes in chart.figure.axes for line in axes.lines if line.get_gid()]


def test_there_is_a_line_for_each_configuration_and_the_best_is_drawn_last():
    drawn = lines(charts.parallel_coordinates(large(54)))
    assert len(drawn) == 54
    assert sum(line.get_color() == charts.FAILED for line in drawn) == 6
    assert sum(line.is_dashed() for line in drawn) == 6
    assert drawn[-1].get_linewidth() == max(line.get_linewidth() for line in drawn)


@pytest.mark.parametrize("direction", ["max", "min"])
def test_the_best_score_is_drawn_at_the_top(direction):
    drawn = lines(charts.parallel_coordinates(large(27, direction=direction)))
    ends = [line.get_ydata()[-1] for line in drawn]
    assert ends[-1] == max(ends)


def test_each_shade_has_a_fifth_of_the_configurations():
    shades = list(charts.fifths(search(*(trial(str(i), score=i) for i in range(10)))).values())
    assert shades == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]


def test_epochs_of_the_rung_below_are_dotted():
    found = large(27)
    promoted = [t for t in found.trials if t.rung == 2][:1]
    drawn = lines(charts.learning_curves(found, promoted, "name", "label"))
    assert [line.get_gid() for line in drawn] == ["old-0", "new-0"]
    assert [line.is_dashed() for line in drawn] == [True, False]
    assert drawn[0].get_xdata()[-1] == drawn[1].get_xdata()[0]


def test_the_best_score_so_far_only_rises():
    found = large(27)
    scores = [score for _, score in charts.best_so_far(found.finished, found)]
    assert len(scores) > 1
    assert scores == sorted(scores)
    assert scores[-1] == found.best.score


# Axes


def ticks(dimension: Dimension) -> list[tuple[str, float]]:
    """The texts of a dimension's axis, each with its place: 0 is the foot, 1 the top."""
    value = dimension.choices[0] if dimension.choices else dimension.low
    found = search(trial(values={dimension.name: value}), dimensions=(dimension,))
    axis = charts.parallel_coordinates(found).figure.axes[1]
    places = axis.transAxes.inverted().transform(
        [axis.transData.transform((0, place)) for place in axis.get_yticks()]
    )[:, 1]
    texts = [label.get_text() for label in axis.get_yticklabels()]
    shown = zip(texts, places.round(9).tolist(), strict=True)
    return [(text, place) for text, place in shown if 0 <= place <= 1]


def test_a_logarithmic_axis_has_powers_of_ten_at_equal_distances():
    found = ticks(Dimension("x", "float", 1e-5, 1e-2, log=True))
    assert [text for text, _ in found] == ["1e-05", "0.0001", "0.001", "0.01"]
    assert [place for _, place in found] == pytest.approx([0, 1 / 3, 2 / 3, 1])


def test_a_short_logarithmic_axis_has_ticks_in_between():
    found = ticks(Dimension("x", "float", 0.1, 1.0, log=True))
    assert [text for text, _ in found] == ["0.1", "0.2", "0.5", "1"]


def test_a_choice_has_a_tick_for_each_value():
    assert ticks(Dimension("x", "choice", choices=("none", "light"))) == [
        ("none", pytest.approx(0.25)),
        ("light", pytest.approx(0.75)),
    ]


def test_whole_numbers_have_whole_ticks():
    assert [text for text, _ in ticks(Dimension("x", "int", 1, 3))] == ["1", "2", "3"]


@pytest.mark.parametrize("kind", ["int", "float"])
def test_an_axis_of_a_single_value_has_it_in_the_middle(kind):
    found = search(trial(values={"x": 3}), dimensions=(Dimension("x", kind, 3, 3),))
    (line,) = lines(charts.parallel_coordinates(found))
    assert line.get_ydata()[0] == pytest.approx(0.5)


def test_a_single_bad_score_does_not_stretch_the_axis():
    scores = [0.9 + i / 1000 for i in range(50)]
    low, high = charts.score_limits([*scores, 0.0], "max")
    assert 0.8 < low < high
    low, high = charts.score_limits([*scores, 1e9], "min")
    assert low < 0.9
    assert high < 1.1


# Importance


def informed(count, seed=0):
    """Configurations whose score depends only on the learning rate."""
    rng = random.Random(seed)
    trials = []
    for i in range(count):
        exponent = rng.uniform(-5, -2)
        values = {**VALUES, "learning_rate": 10**exponent, "dropout": rng.uniform(0, 0.6)}
        trials.append(trial(str(i), values=values, score=1 + exponent / 10))
    return search(*trials)


def test_the_dimension_that_the_score_depends_on_is_the_most_important():
    found = importance.measure(informed(40))
    assert next(iter(found.shares)) == "learning_rate"
    assert found.shares["learning_rate"][0] > 10 * abs(found.shares["dropout"][0])
    assert found.shares["neurons"] == (0, 0)
    assert found.out_of_bag_r2 > 0.9
    assert not found.is_weak


def test_importance_of_noise_comes_with_a_warning(tmp_path):
    noise = random.Random(0)
    found = informed(40)
    trials = tuple(dataclasses.replace(t, score=noise.random()) for t in found.trials)
    text = written(dataclasses.replace(found, trials=trials), tmp_path)
    assert "the bars mean little" in text


def test_importance_is_of_configurations_not_of_trials():
    found = large(27)
    scored = [t for t in found.configurations if t.has_score]
    assert importance.measure(found).configurations == len(scored) < len(found.ranked)


@pytest.mark.parametrize(("count", "is_measured"), [(9, False), (10, True)])
def test_too_few_configurations_are_not_measured(count, is_measured, tmp_path):
    found = informed(count)
    assert (importance.measure(found) is not None) == is_measured
    assert ("too few to measure" in written(found, tmp_path)) != is_measured


def test_equal_scores_have_nothing_to_attribute(tmp_path):
    found = search(*(trial(str(i)) for i in range(12)))
    assert importance.measure(found) is None
    assert "nothing to attribute" in written(found, tmp_path)


def test_a_name_of_json_is_data(tmp_path):
    facts = {"config": json.dumps({"a": [1, "<b>"]})}
    assert "&lt;b&gt;" in written(search(trial(), facts=facts), tmp_path)
