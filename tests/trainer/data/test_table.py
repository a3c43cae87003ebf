"""The columns of a split as arrays, and as text for groups."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds

from trainer.data import opening, table
from trainer.errors import ConfigError
from trainer.options import DataOptions

FEATURES = {
    "image": tfds.features.Image(shape=(8, 8, 1)),
    "image_digest": tfds.features.Text(),
    "file_name": tfds.features.Text(),
    "patient_id": tfds.features.Text(),
    "label": tfds.features.ClassLabel(names=["NORMAL", "PNEUMONIA"]),
    "etiology": tfds.features.ClassLabel(names=["normal", "bacteria", "virus"]),
    "age": tfds.features.Scalar(np.int32),
    "rgb_coded": tfds.features.Scalar(np.bool_),
    "dose": tfds.features.Scalar(np.float32),
}


def examples(**changes):
    columns = {
        "image": [b"one", b"two", b"one"],
        "image_digest": ["0123", "4567", "0123"],
        "file_name": ["a.jpeg", "b.jpeg", "ü.jpeg"],
        "patient_id": ["p1", "p1", "p2"],
        "label": [0, 1, 1],
        "etiology": [0, 2, 1],
        "age": [7, 64, 7],
        "rgb_coded": [False, True, False],
        "dose": np.array([0.1, 0.3, 1], np.float32),
    }
    return tf.data.Dataset.from_tensor_slices(columns | changes)


def test_a_table_has_names_and_patients_as_text():
    found = table.read(examples(), FEATURES)
    assert found.file_name.tolist() == ["a.jpeg", "b.jpeg", "ü.jpeg"]
    assert found.patient_id.tolist() == ["p1", "p1", "p2"]
    assert found.etiology.tolist() == ["normal", "virus", "bacteria"]
    assert found.label.tolist() == [0, 1, 1]
    assert found.image_digest.tolist() == ["0123", "4567", "0123"]


def test_the_blocks_of_a_table_leave_no_row_out(monkeypatch):
    monkeypatch.setattr(table, "_BLOCK", 2)
    assert table.read(examples(), FEATURES).file_name.tolist() == ["a.jpeg", "b.jpeg", "ü.jpeg"]


def test_an_empty_split_has_an_empty_table():
    found = table.read(examples().take(0), FEATURES)
    assert found.file_name.shape == found.image_digest.shape == (0,)
    assert found.patient_id.dtype.kind == found.etiology.dtype.kind == "U"


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"label": [0, 1, 2]}, "has a record whose label is none of ours"),
        ({"label": [0, -1, 0]}, "has a record whose label is none of ours"),
        ({"etiology": [0, 3, 0]}, "has a record whose etiology is none of ours"),
        ({"patient_id": [b"p", b"\xff", b"q"]}, "has a name that is not UTF-8"),
    ],
)
def test_a_record_that_is_not_what_the_features_say_is_refused(change, problem):
    with pytest.raises(ValueError, match=problem):
        table.read(examples(**change), FEATURES)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("patient_id", ["p1", "p1", "p2"]),
        ("etiology", ["normal", "virus", "bacteria"]),
        ("label", ["NORMAL", "PNEUMONIA", "PNEUMONIA"]),
        ("age", ["7", "64", "7"]),
        ("rgb_coded", ["False", "True", "False"]),
        ("dose", ["0.1", "0.3", "1.0"]),
    ],
)
def test_a_column_is_text_as_a_person_would_write_it(name, expected):
    assert table.column(examples(), FEATURES, name).tolist() == expected


@pytest.mark.parametrize("name", ["patient_id", "etiology", "age"])
def test_a_column_of_an_empty_split_is_empty_text(name):
    found = table.column(examples().take(0), FEATURES, name)
    assert (found.shape, found.dtype.kind) == ((0,), "U")


def test_a_column_with_a_class_that_is_none_of_ours_is_refused():
    with pytest.raises(ValueError, match="has a record whose etiology is none of ours"):
        table.column(examples(etiology=[9, 0, 0]), FEATURES, "etiology")


@pytest.mark.parametrize("name", [name for name in FEATURES if not name.startswith("image")])
def test_examples_can_be_grouped_by_every_column_but_the_image(name):
    table.require_column(name, FEATURES, "ours")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("agee", r"^judge_by \(agee\) is no column of ours; did you mean age\? Its columns are fi"),
        ("image", r"^judge_by \(image\) is no column of ours\b.* Its columns are file_name, "),
        ("\x1b[2J" * 99, r"is no column of ours\."),
    ],
)
def test_another_column_is_refused_with_those_there_are(name, message):
    with pytest.raises(ConfigError, match=message) as raised:
        table.require_column(name, FEATURES, "ours")
    assert str(raised.value).isprintable()


@pytest.mark.parametrize("name", ["predicted", "p_value"])
def test_a_column_with_a_name_that_predictions_need_is_refused(name):
    with pytest.raises(
        ConfigError, match=f"judge_by \\({name}\\) is also the name of a column of p"
    ):
        table.require_column(name, FEATURES | {name: tfds.features.Text()}, "ours")


def test_the_columns_of_a_built_data_set_are_read(data_dir):
    data = opening.load(DataOptions(dataset="paper", data_dir=str(data_dir)), image_size=224)
    found = data.table("test")
    assert len(found.label) == data.num_examples("test")
    assert set(data.column("test", "folder")) == {"train"}
    np.testing.assert_array_equal(data.column("test", "etiology"), found.etiology)
    np.testing.assert_array_equal(data.column("test", "patient_id"), found.patient_id)
