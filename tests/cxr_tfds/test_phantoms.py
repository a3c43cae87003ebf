from __future__ import annotations

import collections
import dataclasses
from typing import TYPE_CHECKING

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score

import cxr_tfds
from cxr_tfds import images, phantoms, protocols, source

if TYPE_CHECKING:
    import pathlib

SAMPLE = phantoms.records()[::5]
MEANS = (126.122, 145.538, 135.883, 122.962)


@pytest.fixture(scope="module")
def sample() -> np.ndarray:
    """Every fifth image: (B, H, W) uint8."""
    return np.stack([image for _, image in images.parallel_map(phantoms.render, SAMPLE)])


def test_classes_are_in_the_proportion_of_the_archive() -> None:
    counts = collections.Counter(record.label for record in phantoms.records())
    assert counts == {"NORMAL": phantoms.NUM_NORMAL, "PNEUMONIA": phantoms.NUM_PNEUMONIA}
    assert counts["NORMAL"] / counts.total() == pytest.approx(1_583 / 5_856, abs=0.005)


def test_patients_have_several_images() -> None:
    patients = collections.Counter(record.patient_id for record in phantoms.records())
    assert 1 < np.mean(list(patients.values())) < 5


def test_a_patient_is_sick_of_one_thing() -> None:
    causes = collections.defaultdict(set)
    for record in phantoms.records():
        causes[record.patient_id].add(record.etiology)
    assert {len(names) for names in causes.values()} == {1}


def test_images_are_grey_squares(sample: np.ndarray) -> None:
    assert sample.shape[1:] == (phantoms.SIDE, phantoms.SIDE)
    assert sample.dtype == np.uint8
    assert sample.std(axis=(1, 2)).min() > 25


def test_an_image_depends_on_its_name_alone(sample: np.ndarray) -> None:
    for i in (200, 3, 77):
        np.testing.assert_array_equal(phantoms.render(SAMPLE[i]), sample[i])


def test_images_are_those_of_every_version() -> None:
    """Mean levels of four images, drawn before findings had masks; the last bit may differ."""
    means = [phantoms.render(SAMPLE[i]).mean() for i in (0, 120, 200, 399)]
    np.testing.assert_allclose(means, MEANS, atol=0.01)


@pytest.mark.parametrize("etiology", ["normal", "bacteria", "virus"])
def test_only_the_ill_have_a_finding(etiology: str) -> None:
    of = [phantoms.draw(record) for record in SAMPLE if record.etiology == etiology][:40]
    assert {drawn.finding.any() for drawn in of} == {etiology != "normal"}
    assert {(drawn.finding.shape, drawn.finding.dtype.name) for drawn in of} == {
        ((128, 128), "bool")
    }


def test_a_finding_covers_what_disease_adds() -> None:
    """Healthy lungs in the same pose are darker where the finding is, and equal elsewhere."""
    ill = next(record for record in SAMPLE if record.etiology == "bacteria")
    healthy = dataclasses.replace(ill, etiology="normal")
    inside = phantoms.draw(ill).finding
    rows = np.arange(128)
    assert 0.01 < inside.mean() < 0.2
    difference = phantoms.render(ill).astype(float) - phantoms.render(healthy)
    assert difference[inside].mean() > np.abs(difference[~inside]).mean() + 20
    assert rows[inside.any(axis=1)].min() > 5


def test_images_of_a_patient_differ() -> None:
    first, second = [r for r in phantoms.records() if r.patient_id == "IM-0002"][:2]
    assert not np.array_equal(phantoms.render(first), phantoms.render(second))


def test_the_heart_points_to_the_right_of_the_image(sample: np.ndarray) -> None:
    left, right = sample[:, 75:90, 38:58], sample[:, 75:90, 70:90]
    assert (right.mean(axis=(1, 2)) > left.mean(axis=(1, 2))).mean() > 0.8


def test_lungs_are_darker_than_the_mediastinum(sample: np.ndarray) -> None:
    lung, middle = sample[:, 30:60, 28:44], sample[:, 30:60, 60:68]
    assert (lung.mean(axis=(1, 2)) < middle.mean(axis=(1, 2))).mean() > 0.98


def test_mean_brightness_does_not_tell_the_classes_apart(sample: np.ndarray) -> None:
    ill = np.array([record.label == "PNEUMONIA" for record in SAMPLE])
    brightness = sample.mean(axis=(1, 2))[:, None] / 255
    model = LogisticRegression(class_weight="balanced").fit(brightness, ill)
    assert balanced_accuracy_score(ill, model.predict(brightness)) < 0.65


def test_global_statistics_do_not_tell_the_classes_apart(sample: np.ndarray) -> None:
    ill = np.array([record.label == "PNEUMONIA" for record in SAMPLE])
    flat = sample.reshape(len(sample), -1) / 255
    statistics = np.column_stack([flat.mean(1), flat.std(1), *np.percentile(flat, [5, 50, 95], 1)])
    model = LogisticRegression(class_weight="balanced").fit(statistics, ill)
    assert balanced_accuracy_score(ill, model.predict(statistics)) < 0.90


def test_grouped_splits_the_phantom_without_sharing_patients() -> None:
    records = phantoms.records()
    recipes = {record.key: phantoms.recipe(record) for record in records}
    splits = protocols.assign("grouped", records, recipes)
    assert protocols.shared_patient_images(records, splits) == 0


def test_recipes_are_distinct() -> None:
    assert len({phantoms.recipe(record) for record in SAMPLE}) == len(SAMPLE)


def test_names_follow_kaggles_scheme() -> None:
    for record in phantoms.records():
        etiology, patient_id = source.parse_name(record.file_name.removesuffix(".jpeg"))
        assert (etiology, patient_id) == (record.etiology, record.patient_id)


@pytest.mark.long
def test_phantom_builds_without_an_archive(phantom_dir: pathlib.Path) -> None:
    info = cxr_tfds.Builder(config="phantom", data_dir=phantom_dir).info
    assert info.splits.total_num_examples == len(phantoms.records())
    assert info.splits["train"].num_shards == 16
