"""The HTML page of a search."""

from __future__ import annotations

import dataclasses
import html.parser
import json
import math
import random
import re
import xml.etree.ElementTree as ET

import matplotlib as mpl
import pytest

from tests.support.searches import DIMENSIONS, VALUES, failed, large, search, trial, with_running
from tuner.reports import charts, importance, page, scales
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
    assert not {name for _, attrs in parser.found for name in attrs} & {"src", "href", "onload"}
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
    for svg in re.findall(r"<svg.*?</svg>", case[1]):
        root = ET.fromstring(svg)
        width, height = map(float, root.get("viewBox").split()[2:])
        for points in (line.get("points").split() for line in root.iter("polyline")):
            for x, y in (map(float, point.split(",")) for point in points):
                assert 0 <= x <= width
                assert 0 <= y <= height


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
    assert all(f"<td>{trial.trial_id}</td>" in text for trial in found.trials)


# Charts


def lines(svg):
    return [line.get("class") for line in ET.fromstring(svg).iter("polyline")]


def test_there_is_a_line_for_each_configuration_and_the_best_is_drawn_last():
    drawn = lines(charts.parallel_coordinates(large(54)))
    assert len(drawn) == 54
    assert drawn.count("trial failed") == 6
    assert drawn[-1] == "trial fifth0 best"


def test_the_lowest_loss_is_drawn_at_the_top():
    svg = ET.fromstring(charts.parallel_coordinates(large(27, direction="min")))
    ends = [float(line.get("points").split(",")[-1]) for line in svg.iter("polyline")]
    assert ends[-1] == min(ends)


def test_each_shade_has_a_fifth_of_the_configurations():
    shades = list(charts.fifths(search(*(trial(str(i), score=i) for i in range(10)))).values())
    assert shades == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]


def test_epochs_of_the_rung_below_are_dotted():
    found = large(27)
    promoted = [t for t in found.trials if t.rung == 2][:1]
    drawn = lines(charts.learning_curves(found, promoted, "label"))
    assert [kind.split()[:2] for kind in drawn] == [["trial", "old"], ["trial", "fifth0"]]


def test_the_best_score_so_far_only_rises():
    svg = ET.fromstring(charts.score_by_time(large(27)))
    points = next(line for line in svg.iter("polyline")).get("points").split()
    downs = [float(point.split(",")[1]) for point in points]
    assert downs == sorted(downs, reverse=True)


# Axes


def test_a_logarithmic_axis_has_powers_of_ten_at_equal_distances():
    ticks = scales.of_dimension(Dimension("x", "float", 1e-5, 1e-2, log=True)).ticks()
    assert [text for _, text in ticks] == ["1e-05", "0.0001", "0.001", "0.01"]
    assert [place for place, _ in ticks] == pytest.approx([0, 1 / 3, 2 / 3, 1])


def test_a_short_logarithmic_axis_has_ticks_in_between():
    ticks = scales.of_dimension(Dimension("x", "float", 0.1, 1.0, log=True)).ticks()
    assert [text for _, text in ticks] == ["0.1", "0.2", "0.5", "1"]


def test_a_choice_has_a_tick_for_each_value():
    ticks = scales.of_dimension(Dimension("x", "choice", choices=("none", "light"))).ticks()
    assert ticks == [(0.25, "none"), (0.75, "light")]


def test_whole_numbers_have_whole_ticks():
    ticks = scales.of_dimension(Dimension("x", "int", 1, 3)).ticks()
    assert [text for _, text in ticks] == ["1", "2", "3"]


@pytest.mark.parametrize("kind", ["int", "float"])
def test_an_axis_of_a_single_value_has_it_in_the_middle(kind):
    assert scales.of_dimension(Dimension("x", kind, 3, 3)).fraction(3) == 0.5


def test_a_single_bad_score_does_not_stretch_the_axis():
    scores = [0.9 + i / 1000 for i in range(50)]
    axis = scales.of_scores([*scores, 0.0], "max")
    assert axis.low > 0.8
    assert axis.fraction(0.0) == 0
    losses = scales.of_scores([*scores, 1e9], "min")
    assert losses.high < 1.1
    assert losses.fraction(0.9) > 0


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
