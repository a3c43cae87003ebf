from __future__ import annotations

import re
import shutil

import numpy as np
import pytest
import tensorflow as tf

from trainer.data import opening, pipeline
from trainer.errors import DiskError, RunError
from trainer.options import DataOptions


@pytest.fixture
def open_data(data_dir):
    def open_(**options) -> pipeline.Data:
        return opening.load(DataOptions(dataset="paper", data_dir=str(data_dir), **options), 224)

    return open_


def _read(batches):
    rows = list(batches.dataset.as_numpy_iterator())
    return tuple(np.concatenate([row[i] for row in rows]) for i in range(3))


def _names(images: np.ndarray, data: pipeline.Data, split: str) -> list[str]:
    """Identifies examples by the pixels of their images."""
    pixels, _, weight = _read(data.evaluation_batches(split, 16))
    name_of = {
        image.tobytes(): name
        for image, name in zip(pixels[weight > 0], data.table(split).file_name, strict=True)
    }
    return [name_of[image.tobytes()] for image in images]


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_ranges_are_read_in_the_order_of_the_table(open_data, split):
    """Features are computed range by range, and labels come from the table."""
    data = open_data()
    table, read = data.table(split), []
    for start in range(0, data.num_examples(split), 5):
        stop = min(start + 5, data.num_examples(split))
        pixels, labels, weight = _read(data.evaluation_batches(split, 4, start=start, stop=stop))
        read += _names(pixels[weight > 0], data, split)
        np.testing.assert_array_equal(labels[weight > 0], table.label[start:stop])
    assert read == table.file_name.tolist()


def test_an_epoch_is_a_shuffled_pass_over_all_examples(open_data):
    data = open_data(batch_size=16)
    orders = {}
    for epoch, seed in [(0, 0), (1, 0), (0, 1)]:
        pixels, _, weight = _read(data.training_batches(epoch, seed))
        assert weight.min() == 1
        orders[epoch, seed] = tuple(_names(pixels, data, "train"))
    count = data.num_examples("train")
    for order in orders.values():
        assert sorted(order[:count]) == sorted(data.table("train").file_name)
        assert order[count:] == order[: len(order) - count]  # The tail wraps around.
    assert len(set(orders.values())) == 3


@pytest.mark.parametrize("fixed", [{}, {"use_all_samples": False, "fixed_step_size": 3}])
@pytest.mark.parametrize("window", [1 << 30, 3_000])
def test_training_rows_are_the_order_of_the_images(open_data, fixed, window, monkeypatch):
    """Cached features are gathered by these rows: both feeds train on the same batches."""
    monkeypatch.setattr(pipeline, "SHUFFLE_BUFFER_BYTES", window)
    data = open_data(batch_size=16, **fixed)
    names = data.table("train").file_name
    for epoch in (0, 3):
        rows = data.training_rows(epoch, 1)
        pixels, _, _ = _read(data.training_batches(epoch, 1))
        assert _names(pixels, data, "train") == names[rows].tolist()


def test_an_epoch_has_the_same_batches_each_time_it_is_read(open_data):
    first, again = (_read(open_data().training_batches(3, 7)) for _ in range(2))
    for ours, theirs in zip(first, again, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_labels_belong_to_their_images(open_data):
    data = open_data()
    table = data.table("train")
    label_of = dict(zip(table.file_name, table.label, strict=True))
    pixels, labels, _ = _read(data.training_batches(0, 0))
    assert [label_of[name] for name in _names(pixels, data, "train")] == labels.tolist()


def test_fixed_steps_continue_where_the_last_epoch_ended(open_data):
    data = open_data(batch_size=8, use_all_samples=False, fixed_step_size=2)
    count = data.num_examples("train")
    names = []
    for epoch in range(-(-count // 16)):
        batches = data.training_batches(epoch, 0)
        assert batches.steps == 2
        names += _names(_read(batches)[0], data, "train")
    assert sorted(names[:count]) == sorted(data.table("train").file_name)


def test_augmentation_depends_on_the_example_and_the_epoch_alone(open_data):
    plain, light = open_data(), open_data(augmentation="light")
    assert (_read(plain.training_batches(0, 0))[0] != _read(light.training_batches(0, 0))[0]).any()
    whole = _read(light.evaluation_batches("train", 16, view=2))[0]
    part = _read(light.evaluation_batches("train", 4, start=8, stop=12, view=2))[0]
    np.testing.assert_array_equal(part, whole[8:12])
    assert (_read(light.evaluation_batches("train", 16, view=3))[0] != whole).any()


def test_evaluation_is_never_augmented(open_data):
    plain, light = open_data(), open_data(augmentation="strong")
    np.testing.assert_array_equal(
        _read(plain.evaluation_batches("test", 16))[0],
        _read(light.evaluation_batches("test", 16))[0],
    )


def test_single_images_are_those_of_the_table(open_data):
    data = open_data()
    indices = np.array([3, 0, 7])
    chosen = data.images("test", indices)
    assert _names(chosen, data, "test") == data.table("test").file_name[indices].tolist()


@pytest.mark.parametrize("split", ["test", "test[:2]", "train+test[2:]", "all"])
def test_a_withheld_split_is_counted_and_never_read(open_data, split):
    data = open_data().without("test")
    assert data.num_examples("test")
    assert len(data.table("train").label) == data.num_examples("train")
    with pytest.raises(ValueError, match=re.escape(f"split {split!r} is withheld")):
        data.read(split)


def test_raw_images_are_resized_for_the_backbone(archive, tmp_path):
    options = DataOptions(dataset="paper_raw", manual_dir=str(archive), data_dir=str(tmp_path))
    data = opening.load(options, 48)
    assert data.image_shape == (48, 48, 1)
    assert _read(data.evaluation_batches("test", 4))[0].shape[1:] == (48, 48, 1)


def test_a_batch_larger_than_the_split_is_an_error(open_data):
    with pytest.raises(RunError, match=r"batch_size \(500\) exceeds the .* training examples"):
        _ = open_data(batch_size=500, tail="drop").plan


def test_a_model_for_another_size_is_refused(open_data):
    with pytest.raises(RunError, match=r"images of shape \(224, 224, 1\), the model takes"):
        open_data().require_image_shape((299, 299, 1))


@pytest.mark.parametrize(
    ("name", "kind", "value", "problem"),
    [
        ("label", "bytes_list", b"x", "Key: label.  ?Data types don't match"),
        ("label", "int64_list", 99, "a record whose label is none of ours"),
        ("etiology", "int64_list", -1, "a record whose etiology is none of ours"),
        ("file_name", "bytes_list", b"\xff\x1b", "a name that is not UTF-8"),
        ("image", "bytes_list", b"no image", "Unknown image file format"),
    ],
)
def test_a_record_of_right_checksum_and_wrong_content_is_told_in_a_line(
    data_dir, tmp_path, name, kind, value, problem
):
    shutil.copytree(data_dir / "cxr_tfds" / "paper", tmp_path / "cxr_tfds" / "paper")
    path = str(next(tmp_path.rglob("*-test.tfrecord-00000-*")))
    examples = [
        tf.train.Example.FromString(record)
        for record in tf.data.TFRecordDataset(path).as_numpy_iterator()
    ]
    with tf.io.TFRecordWriter(path) as writer:
        for example in examples:
            example.features.feature[name].Clear()
            getattr(example.features.feature[name], kind).value[:] = [value]
            writer.write(example.SerializeToString())
    data = opening.load(DataOptions(dataset="paper", data_dir=str(tmp_path)), 224)
    with pytest.raises(DiskError, match=rf"can't be read \(.*{problem}.*\); remove ") as raised:
        _read_all(data, "test")
    assert str(raised.value).isprintable()


def _read_all(data: pipeline.Data, split: str) -> None:
    with data.reading():
        data.table(split)
        _read(data.evaluation_batches(split, 16))
