"""The warning that validation can't stand for test: drawn by a shift, and not by chance."""

from __future__ import annotations

import dataclasses
import json

import keras
import numpy as np
import pytest
import sklearn.metrics
import tensorflow as tf

from cxr_tfds import phantoms
from trainer.data import statistics
from trainer.evaluation.shifts import shift
from trainer.models import classifier
from trainer.options import ModelOptions
from trainer.training import outputs

SEEDS = 20
EXPOSURES = {"none": (1.0, 1.0), "gamma": (1.4, 1.0), "gain": (1.0, 0.85)}
"""Gamma and gain that the film is exposed with."""
PATIENTS = {"small": (25, 25), "as a tenth and a quarter": (45, 115)}
"""In validation and test; each has one to five images."""


def _draw(seed: int, patients: int, *, name: str = "", images: int = 3, d: float = 0.0):
    """A sample of correlated images of patients, moved by `d` standard deviations."""
    rng = np.random.default_rng(seed)
    owner = np.repeat(np.arange(patients), rng.integers(1, images + 1, patients))
    x = rng.standard_normal((patients, 12))[owner] + rng.standard_normal((len(owner), 12))
    x = x / np.sqrt(2) + d
    found = dict(zip(statistics.NAMES, x[:, 8:].T, strict=True))
    found["saturated"] = found["saturated"].clip(0, None)
    ids = np.array([f"{name or seed}-{i}" for i in owner])
    return shift.Sample(1 / (1 + np.exp(-x[:, 0])), x[:, :8].astype(np.float32), found, ids)


@pytest.fixture(scope="module")
def radiographs() -> dict[str, shift.Sample]:
    """Phantoms of 160 patients, seen by a random network, under each exposure."""
    chosen = set(sorted({record.patient_id for record in phantoms.records()})[::4][:160])
    records = [record for record in phantoms.records() if record.patient_id in chosen]
    images = np.stack([phantoms.render(record) for record in records])[..., np.newaxis]
    keras.utils.set_random_seed(0)
    options = ModelOptions(
        backbone="small_cnn", weights="none", image_size=128, neurons=8, pooling="avg"
    )
    network = classifier.build(options, images.shape[1:], 2)
    model = outputs.with_features(network.whole, network.trunk)
    measured = tf.function(lambda batch: tf.map_fn(statistics._measure, batch, tf.float32))
    samples = {}
    for name, (gamma, gain) in EXPOSURES.items():
        film = np.clip(255 * gain * (images / 255) ** gamma, 0, 255).astype(np.uint8)
        blocks = [model(film[i : i + 64]) for i in range(0, len(film), 64)]
        probabilities, features = (np.concatenate(parts) for parts in zip(*blocks, strict=True))
        columns = dict(zip(statistics.NAMES, measured(film).numpy().T, strict=True))
        ids = np.array([record.patient_id for record in records])
        samples[name] = shift.Sample(shift.scores_of(probabilities), features, columns, ids)
    return samples


def _take(sample: shift.Sample, patients: np.ndarray) -> shift.Sample:
    rows = np.isin(sample.patient_id, patients)
    found = {name: values[rows] for name, values in sample.statistics.items()}
    return shift.Sample(sample.scores[rows], sample.features[rows], found, sample.patient_id[rows])


def _measure(samples: dict[str, shift.Sample], exposure: str, size: str, seed: int) -> shift.Shift:
    """Deals the patients to validation and test, which has been exposed in another way."""
    drawn = np.random.default_rng(seed).permutation(np.unique(samples["none"].patient_id))
    validation, test = np.split(drawn[: sum(PATIENTS[size])], [PATIENTS[size][0]])
    taken = _take(samples["none"], validation), _take(samples[exposure], test)
    return shift.measure(None, *taken, seed=seed)


@pytest.mark.parametrize("size", PATIENTS)
def test_no_unshifted_test_set_draws_the_warning(radiographs, size):
    found = [_measure(radiographs, "none", size, seed) for seed in range(SEEDS)]
    assert [result.warning for result in found] == [""] * SEEDS
    assert [result.note for result in found] == [""] * SEEDS


@pytest.mark.parametrize(
    ("exposure", "size"),
    [
        ("gain", "small"),
        pytest.param("gamma", "as a tenth and a quarter", marks=pytest.mark.slow),
    ],
)
def test_another_exposure_draws_the_warning(radiographs, exposure, size):
    found = [_measure(radiographs, exposure, size, seed).warning for seed in range(SEEDS)]
    assert sum(bool(warning) for warning in found) == SEEDS


def test_the_warning_says_what_differs_and_what_to_do(radiographs):
    warning = _measure(radiographs, "gain", "as a tenth and a quarter", 0).warning
    assert warning.startswith("validation can't stand for test: a classifier tells their images")
    for part in (
        "ROC-AUC 0.",
        "a warning needs 0.638 or more",
        "the mean grey level is",
        "operating point",
        "epoch",
    ):
        assert part in warning
    assert "interval" not in warning
    assert warning.endswith("like those that the model will see.")
    assert warning.count(". ") == 0


def test_a_worked_example_of_the_index():
    """Deciles of 0 .. 99 are 9, 19, …; the other split has 20 in the lowest bin, none in the next.

    With one added to each of ten bins, p = 11/110, and q = 21/110, 1/110, 11/110 (eight times).
    """
    reference = np.arange(100)
    other = np.concatenate([np.arange(10), np.arange(10), np.arange(20, 100)])
    expected = (21 - 11) / 110 * np.log(21 / 11) + (1 - 11) / 110 * np.log(1 / 11)
    assert shift.stability.index(reference, other) == pytest.approx(expected)


def test_equal_splits_have_no_index():
    values = np.random.default_rng(0).standard_normal(200)
    assert shift.stability.index(values, values) == pytest.approx(0)
    assert shift.stability.index(values, values[::-1]) == pytest.approx(0)


def test_values_on_either_side_of_a_constant_are_seen():
    """A share of saturated pixels that is 0 in all reference images has one decile."""
    zeros = np.zeros(50)
    assert shift.stability.index(zeros, zeros) == 0
    assert shift.stability.index(zeros, zeros + 0.1) > 3
    assert shift.stability.index(zeros, zeros - 0.1) > 3


def test_the_index_is_expected_to_be_what_theory_says():
    """Ten bins and one image a patient: 9 (1/n + 1/m)."""
    a, b = _draw(1, 150, images=1), _draw(2, 300, images=1)
    found = shift.measure(None, a, b).pairs[0]
    assert found.expected_psi["level"] == pytest.approx(9 * (1 / 150 + 1 / 300), rel=0.15)


def test_images_of_one_patient_raise_what_is_expected():
    one, ten = (
        shift.measure(None, *(_repeat(_draw(seed, 40, images=1), times) for seed in (1, 2)))
        for times in (1, 10)
    )
    # By the formula it would fall to a tenth; copies are no more information.
    assert ten.pairs[0].expected_psi["level"] > 0.8 * one.pairs[0].expected_psi["level"]
    assert ten.warning == ""


def _repeat(sample: shift.Sample, times: int) -> shift.Sample:
    found = {name: np.repeat(values, times) for name, values in sample.statistics.items()}
    rows = np.repeat(np.arange(len(sample)), times)
    return shift.Sample(sample.scores[rows], sample.features[rows], found, sample.patient_id[rows])


def test_the_auc_is_that_of_scikit_learn_and_the_interval_holds_it():
    a, b = _draw(1, 60, d=0.4), _draw(2, 90)
    rng = np.random.default_rng(0)
    units, is_of_a = shift._units(a, b)
    scores = np.concatenate([a.statistics["level"], b.statistics["level"]]).round(1)  # Ties.
    is_of_b = ~is_of_a[units]
    aucs = shift._resampled_aucs(scores, is_of_b, units, rng)
    assert aucs[0] == pytest.approx(sklearn.metrics.roc_auc_score(is_of_b, scores))
    assert np.quantile(aucs[1:], 0.025) < aucs[0] < np.quantile(aucs[1:], 0.975)


def test_the_interval_of_copies_is_no_narrower():
    def width(times: int) -> float:
        a, b = (_repeat(_draw(seed, 60, images=1), times) for seed in (1, 2))
        units, is_of_a = shift._units(a, b)
        scores = np.concatenate([a.scores, b.scores])
        rng = np.random.default_rng(0)
        return shift._resampled_aucs(scores, ~is_of_a[units], units, rng)[1:].std()

    assert width(10) == pytest.approx(width(1), rel=1e-6)


def test_the_classifier_scores_no_patient_that_it_was_fitted_on():
    """A feature that names the patient tells copies of an image apart, and nothing else."""
    a, b = (_repeat(_draw(seed, 40, images=1), 8) for seed in (1, 2))
    assert shift.measure(None, a, b).pairs[0].domain_auc < 0.65


def test_a_shift_of_features_alone_is_found():
    b = _draw(2, 120)
    moved = dataclasses.replace(b, features=b.features + np.float32(0.8))
    found = shift.measure(None, _draw(1, 80), moved)
    assert found.pairs[0].shifted == ()
    assert "tells their images apart" in found.warning


def test_a_shift_of_one_statistic_alone_is_found():
    b = _draw(2, 120)
    moved = b.statistics | {"contrast": b.statistics["contrast"] + 1.5}
    found = shift.measure(None, _draw(1, 80), dataclasses.replace(b, statistics=moved))
    assert found.pairs[0].shifted == ("contrast",)
    assert "the contrast is" in found.warning


@pytest.mark.parametrize("share", [0.55, 0.73])
def test_other_shares_of_the_classes_alone_draw_no_warning_up_to_a_fifth(share):
    """Features and scores that tell the classes apart perfectly, the worst case."""

    def draw(seed: int, positive: float) -> shift.Sample:
        rng, sample = np.random.default_rng(seed), _draw(seed, 400, images=1)
        label = rng.permutation(np.arange(400) < positive * 400)
        features = sample.features + 8 * label[:, np.newaxis].astype(np.float32)
        return dataclasses.replace(
            sample, scores=0.8 * label + 0.2 * sample.scores, features=features
        )

    found = shift.measure(None, draw(1, 0.73), draw(2, share))
    assert found.warning == ""
    assert found.pairs[0].domain_auc < 0.5 + (0.73 - share) / 2 + 0.06


def test_too_few_patients_are_said_and_nothing_is_guessed():
    found = shift.measure(None, _draw(1, 19, d=5.0, name="v"), _draw(2, 100, name="t"))
    assert found.warning == ""
    assert found.note == (
        "Too few patients to tell whether splits differ: 19 in validation, and 20 are needed."
    )
    assert found.pairs[0].domain_auc is None
    assert found.pairs[0].domain_interval is None
    assert found.pairs[0].psi["level"] > 1


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite_are_left_out_and_said(value):
    whole = _draw(2, 100)
    broken = dataclasses.replace(
        whole,
        scores=whole.scores.copy(),
        features=whole.features.copy(),
        statistics={name: values.copy() for name, values in whole.statistics.items()},
    )
    broken.scores[0], broken.features[1, 3], broken.statistics["level"][2] = value, value, value
    found = shift.measure(None, _draw(1, 60), broken)
    assert found.warning == ""
    assert found.note.startswith(f"3 of {len(whole)} examples of test have values that are not")
    assert np.isfinite(found.splits["test"]["statistics"]["level"])
    assert None not in found.pairs[0].psi.values()


def test_outputs_that_are_all_nan_have_no_index():
    sample = _draw(2, 100)
    broken = dataclasses.replace(sample, scores=np.full(len(sample), np.nan))
    broken = dataclasses.replace(broken, features=np.full_like(sample.features, np.nan))
    found = shift.measure(None, _draw(1, 60), broken).to_json()["pairs"][0]
    assert found["score_psi"] is None
    assert found["domain_auc"] is None
    assert found["statistics_psi"]["level"] is not None


def test_json_has_every_split_and_pair():
    found = shift.measure(_draw(1, 60), _draw(2, 30), _draw(3, 40)).to_json()
    assert found == json.loads(json.dumps(found, allow_nan=False))
    assert list(found["splits"]) == ["train", "validation", "test"]
    assert found["splits"]["validation"]["patients"] == 30
    assert set(found["splits"]["test"]["statistics"]) == set(statistics.NAMES)
    pairs = [(pair["a"], pair["b"]) for pair in found["pairs"]]
    assert pairs == [("train", "validation"), ("train", "test"), ("validation", "test")]
    for pair in found["pairs"]:
        assert set(pair["statistics_psi"]) == set(statistics.NAMES)
        assert pair["domain_interval"][0] < pair["domain_auc"] < pair["domain_interval"][1]


def test_train_draws_no_warning():
    """The model has seen `train`: its scores differ there without a shift."""
    found = shift.measure(_draw(1, 60, d=2.0), _draw(2, 60), _draw(3, 60))
    assert found.pairs[0].domain_auc > 0.9
    assert found.warning == ""


def test_a_seed_gives_one_result_whether_or_not_train_is_given():
    train, validation, test = _draw(1, 60), _draw(2, 40), _draw(3, 50)
    found = [shift.measure(given, validation, test, seed=3) for given in (train, train, None)]
    assert found[0] == found[1]
    assert found[0].pairs[-1] == found[2].pairs[-1]
    assert shift.measure(train, validation, test, seed=4) != found[0]


def test_of_a_large_split_evenly_spaced_rows_are_compared(monkeypatch):
    monkeypatch.setattr(shift, "MAX_ROWS", 100)
    large = _draw(2, 400, images=1)
    assert large.limited().patient_id[:2].tolist() == ["2-0", "2-4"]
    assert len(large.limited()) == 100
    found = shift.measure(None, _draw(1, 60, images=1), large)
    assert found.splits["test"]["examples"] == 400


def test_scores_are_the_positive_class_or_the_most_probable_one():
    assert shift.scores_of([[0.9, 0.1], [0.2, 0.8]]).tolist() == [0.1, 0.8]
    assert shift.scores_of([[0.1, 0.7, 0.2], [0.5, 0.3, 0.2]]).tolist() == [0.7, 0.5]


def test_columns_of_another_length_are_refused():
    sample = _draw(1, 30)
    with pytest.raises(ValueError, match=f"level has 3 rows, but scores has {len(sample)}"):
        dataclasses.replace(sample, statistics={"level": np.zeros(3)})


def test_features_that_are_constant_or_few_are_compared():
    a, b = (
        dataclasses.replace(sample, features=np.zeros((len(sample), 1), np.float32))
        for sample in (_draw(1, 30), _draw(2, 30))
    )
    assert shift.measure(None, a, b).warning == ""
