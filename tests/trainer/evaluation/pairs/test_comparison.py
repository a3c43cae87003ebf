"""Models compared in pairs, on examples worked by hand."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest
import scipy.stats
import sklearn.metrics

from tests.support.tables import CLASSES, LABEL, POSITIVE, predictions_of
from trainer.errors import ConfigError
from trainer.evaluation import intervals, resampling
from trainer.evaluation.pairs import comparison
from trainer.evaluation.pairs.compared_models import ComparedModel
from trainer.evaluation.pairs.comparison import McNemar
from trainer.evaluation.predictions import Predictions

OTHER = (0.1, 0.6, 0.7, 0.9, 0.8, 0.4, 0.6, 0.2)
"""Right where `POSITIVE` is: examples 0, 3, 4; alone: 6. `POSITIVE` alone: 1, 5."""


def _model(name="a", positive=POSITIVE, **columns) -> ComparedModel:
    return ComparedModel(name, {0: dataclasses.replace(predictions_of(LABEL, positive), **columns)})


@pytest.fixture
def drawn():
    return resampling.PatientBootstrap(_model().patient_id, resamples=200)


@pytest.mark.parametrize(
    ("only_a", "only_b", "p_value"),
    [
        (2, 1, 1.0),
        (5, 0, 2 / 2**5),
        (1, 7, 2 * (1 + 8) / 2**8),
        (3, 3, 1.0),
        (0, 0, 1.0),
    ],
)
def test_mcnemars_p_value_is_binomial(only_a, only_b, p_value):
    assert McNemar(only_a, only_b).p_value == pytest.approx(p_value)


def test_a_pair_counts_who_alone_is_right(drawn):
    found = comparison.pair(_model(), _model("b", OTHER), drawn)
    assert found.mcnemar == {0: McNemar(2, 1)}
    assert found.mcnemar_at_point == {}


def test_each_is_decided_at_its_own_operating_point(drawn):
    """At 0.35, a is right in all but 2 and 7; at 0.65, b in all but 2, 5, 6 and 7."""
    a = dataclasses.replace(_model(), thresholds={0: 0.35})
    b = dataclasses.replace(_model("b", OTHER), thresholds={0: 0.65})
    found = comparison.pair(a, b, drawn)
    assert found.mcnemar_at_point == {0: McNemar(2, 0)}
    assert found.differences["accuracy_at_point"].value == pytest.approx(6 / 8 - 4 / 8)
    assert found.differences["sensitivity_at_point"].value == pytest.approx(4 / 5 - 2 / 5)


def test_a_point_that_one_seed_lacks_is_nobodys(drawn):
    tables = dict(enumerate([predictions_of(LABEL, POSITIVE)] * 2))
    a = ComparedModel("a", tables, {0: 0.35})
    assert not a.has_points
    assert comparison.pair(a, a, drawn).mcnemar_at_point == {}


def test_differences_are_those_of_the_figures(drawn):
    a, b = _model(), _model("b", OTHER)
    found = comparison.pair(a, b, drawn)
    own = [comparison.summarise(side, drawn) for side in (a, b)]
    for name, difference in found.differences.items():
        assert difference.value == pytest.approx(own[0][name].mean - own[1][name].mean)
    areas = [sklearn.metrics.roc_auc_score(LABEL, scores) for scores in (POSITIVE, OTHER)]
    assert found.differences["roc_auc"].value == pytest.approx(areas[0] - areas[1])
    assert found.area.areas == pytest.approx(areas)


def test_the_bootstrap_is_paired(drawn):
    """Equal models differ by nothing in every resample, so that nothing can be said of it."""
    found = comparison.pair(_model(), _model("b"), drawn)
    assert {difference.value for difference in found.differences.values()} == {0}
    assert {difference.interval for difference in found.differences.values()} == {None}


def test_the_order_of_examples_changes_nothing(drawn):
    shuffled = predictions_of(LABEL, OTHER).take(np.random.default_rng(0).permutation(8))
    a = _model()
    found = comparison.pair(a, ComparedModel("b", {0: shuffled}), drawn)
    assert found.to_json() == comparison.pair(a, _model("b", OTHER), drawn).to_json()
    comparison.require_same_examples([a, ComparedModel("b", {0: shuffled})])


def test_patients_are_the_clusters():
    patients = np.array(list("aabbccdd"))
    a, b = (_model(n, p, patient_id=patients) for n, p in (("a", POSITIVE), ("b", OTHER)))
    found = comparison.pair(a, b, resampling.PatientBootstrap(a.patient_id))
    assert (found.area.clusters, found.delong.clusters) == (4, 8)
    assert found.area.variance != pytest.approx(found.delong.variance)


def test_seeds_are_averaged_and_paired(drawn):
    first, second = predictions_of(LABEL, POSITIVE), predictions_of(LABEL, OTHER)
    a, b = ComparedModel("a", {0: first, 1: second}), ComparedModel("b", {1: first, 2: first})
    found = comparison.summarise(a, drawn)["accuracy"]
    assert found.values == (5 / 8, 4 / 8)
    assert found.mean == pytest.approx(4.5 / 8)
    assert found.spread == pytest.approx(math.sqrt(0.5) / 8)
    assert found.span == (4 / 8, 5 / 8)
    assert found.interval[0] < found.mean < found.interval[1]
    pair = comparison.pair(a, b, drawn)
    assert pair.seeds == (1,)
    assert pair.mcnemar == {1: McNemar(1, 2)}


def test_a_mean_of_an_undefined_figure_is_undefined(drawn):
    tables = {0: predictions_of(LABEL, POSITIVE), 1: predictions_of(LABEL, [0.9] * 8)}
    found = comparison.summarise(ComparedModel("a", tables), drawn)["npv"]
    assert found.values[1] is None
    assert (found.mean, found.spread) == (None, None)


def test_figures_of_outputs_that_are_not_numbers_are_left_out(drawn):
    broken = _model("b", [math.nan, *OTHER[1:]])
    found = comparison.pair(_model(), broken, drawn)
    assert (found.area, found.delong) == (None, None)
    assert "roc_auc" not in found.differences
    assert "accuracy" in found.differences


def _of_three(name: str, shift: int) -> ComparedModel:
    """27 examples of three classes; the last nine may have their neighbour's as most probable."""
    number = np.arange(27)
    label = number % 3
    probabilities = np.full((27, 3), 0.2)
    probabilities[number, (label + shift * (number > 17)) % 3] = 0.6
    names = np.array([f"{i:02}" for i in number])
    table = Predictions(("A", "B", "C"), names, names, names, label, probabilities)
    return ComparedModel(name, {0: table})


def test_three_classes_have_mcnemars_test_and_intervals_alone():
    a, b = _of_three("a", 0), _of_three("b", 1)
    found = comparison.pair(a, b, resampling.PatientBootstrap(a.patient_id))
    assert (found.area, found.delong) == (None, None)
    assert found.mcnemar == {0: McNemar(9, 0)}
    # Of 9 x 18 pairs a class, b has 6 x 15 right and 3 x 3 wrong; the other 63 are equal.
    assert found.differences["roc_auc"].value == pytest.approx(1 - (90 + 63 / 2) / 162)
    assert found.differences["roc_auc"].interval[0] > 0


def test_a_pair_is_json(drawn):
    found = comparison.pair(_model(), _model("b", OTHER), drawn).to_json()
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_models_without_a_common_seed_are_no_pair(drawn):
    other = ComparedModel("b", {5: predictions_of(LABEL, OTHER)})
    with pytest.raises(ValueError, match="no seed in common"):
        comparison.pair(_model(), other, drawn)


def test_holms_p_values_are_those_of_the_textbook():
    """Holm (1979): the smallest times three, the next times two, and never below the one before."""
    assert comparison.holm([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])
    assert comparison.holm([0.4, None, 0.9]) == [0.8, None, 0.9]


def _names(last: str) -> np.ndarray:
    return np.array([*(f"{i:04}" for i in range(7)), last])


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"file_name": _names("x\x1b")}, r"2 differ in name, label or patient, such as 0007;"),
        ({"label": np.array([0, 0, 0, 1, 1, 1, 1, 0])}, r"1 differ in .*, such as 0007; evaluate"),
        ({"patient_id": np.array(list("abcdefgh"))}, r"8 differ in .*, such as 0000; evaluate"),
        ({"class_names": ("NORMAL", "COVID")}, r"b has the classes NORMAL, COVID, and a NORMAL, P"),
    ],
    ids=["file name", "label", "patient", "classes"],
)
def test_other_examples_or_classes_are_refused(columns, message):
    with pytest.raises(ConfigError, match=message) as raised:
        comparison.require_same_examples([_model(), _model("b", OTHER, **columns)])
    assert "\x1b" not in str(raised.value)


def test_a_part_of_the_examples_is_refused():
    part = ComparedModel("b", {0: predictions_of(LABEL, POSITIVE).take(range(6))})
    with pytest.raises(ConfigError, match="2 differ in name, label or patient, such as 0006"):
        comparison.require_same_examples([_model(), part])


def test_the_classes_of_the_tables_are_these():
    assert _model().first.class_names == CLASSES


def _numbered(positive, patients: int) -> Predictions:
    names = np.array([f"p{i % patients}" for i in range(8)])
    return dataclasses.replace(predictions_of(LABEL, positive), patient_id=names)


@pytest.mark.parametrize(
    "positive", [POSITIVE, OTHER, tuple(0.1 + 0.8 * label for label in LABEL)],
    ids=["some errors", "more errors", "no error"],
)  # fmt: skip
@pytest.mark.parametrize("threshold", [None, 0.65])
def test_a_models_intervals_are_those_of_its_own_evaluation(positive, threshold):
    """Also where no error was seen."""
    table = _numbered(positive, 5)
    drawn = resampling.PatientBootstrap(table.patient_id)
    of = ComparedModel("a", {0: table}, {} if threshold is None else {0: threshold})
    found = comparison.summarise(of, drawn)
    ending = "" if threshold is None else "_at_point"
    for name, ends in intervals.of(table, drawn, threshold).items():
        assert found[f"{name}{ending}"].interval == (ends and pytest.approx(ends)), name
    assert any(summary.interval for summary in found.values())


def test_seeds_without_an_error_have_the_interval_of_as_many_examples_as_patients(drawn):
    right = predictions_of(LABEL, [0.1 + 0.8 * label for label in LABEL])
    found = comparison.summarise(ComparedModel("a", {0: right, 1: right}), drawn)["accuracy"]
    assert found.interval == pytest.approx((8 / (8 + scipy.stats.t.ppf(0.975, 7) ** 2), 1.0))


def test_a_difference_allows_for_few_patients():
    tables = [_numbered(positive, 4) for positive in (POSITIVE, OTHER)]
    a, b = (ComparedModel(name, {0: t}) for name, t in zip("ab", tables, strict=True))
    drawn = resampling.PatientBootstrap(a.patient_id)
    found = comparison.pair(a, b, drawn).differences["accuracy"].interval
    apart = a.figures(drawn)["accuracy"][0] - b.figures(drawn)["accuracy"][0]
    assert found == resampling.interval(apart, 4)
    assert found != resampling.interval(apart)


def test_a_model_of_several_pairs_is_resampled_once(drawn, monkeypatch):
    calls = []
    own = resampling.distributions
    monkeypatch.setattr(
        resampling, "distributions", lambda *given: calls.append(given) or own(*given)
    )
    sides = [_model("a"), _model("b", OTHER), _model("c", OTHER[::-1])]
    for side in sides:
        comparison.summarise(side, drawn)
    for a, b in ((0, 1), (0, 2), (1, 2)):
        comparison.pair(sides[a], sides[b], drawn)
    assert len(calls) == 2 * len(sides)  # The examples themselves, and the resamples.
