from __future__ import annotations

import json
import re
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from cxr_tfds import phantoms
from trainer.data import batches, opening, pipeline
from trainer.data.batches import Share
from trainer.errors import ConfigError, DiskError, RunError
from trainer.options import DataOptions


@pytest.fixture
def open_data(data_dir):
    def open_(**options) -> pipeline.Data:
        options = {"dataset": "paper", "batch_size": 32} | options
        return opening.load(DataOptions(data_dir=str(data_dir), **options), 224)

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
def test_training_rows_are_the_order_of_the_images(open_data, fixed):
    """Cached features are gathered by these rows: both feeds train on the same batches."""
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
        found = data.training_batches(epoch, 0)
        assert found.steps == 2
        names += _names(_read(found)[0], data, "train")
    assert sorted(names[:count]) == sorted(data.table("train").file_name)


def test_augmentation_depends_on_the_example_and_the_epoch_alone(open_data):
    plain, light = open_data(), open_data(augmentation="light")
    assert (_read(plain.training_batches(0, 0))[0] != _read(light.training_batches(0, 0))[0]).any()
    whole = _read(light.evaluation_batches("train", 16, view=2))[0]
    part = _read(light.evaluation_batches("train", 4, start=8, stop=12, view=2))[0]
    np.testing.assert_array_equal(part, whole[8:12])
    assert (_read(light.evaluation_batches("train", 16, view=3))[0] != whole).any()


@pytest.mark.parametrize("fixed", [{}, {"use_all_samples": False, "fixed_step_size": 7}])
def test_no_two_uses_of_an_example_in_an_epoch_are_equal(open_data, fixed):
    """An epoch that wraps, and one that passes over the split several times."""
    data = open_data(batch_size=24, augmentation="light", **fixed)
    rows, (pixels, _, _) = data.training_rows(1, 0), _read(data.training_batches(1, 0))
    assert len(set(rows.tolist())) < len(rows)
    seen = {(row, image.tobytes()) for row, image in zip(rows.tolist(), pixels, strict=True)}
    assert len(seen) == len(rows)


def test_hosts_and_resumed_epochs_see_the_same_draws(open_data):
    data = open_data(batch_size=24, augmentation="light", use_all_samples=False, fixed_step_size=7)
    whole = _read(data.training_batches(0, 0))[0].reshape(7, 2, 12, 224, 224, 1)
    for host in range(2):
        resumed = data.training_batches(0, 0).read(Share(host, 2, 2, first_step=4))
        own = np.stack([images for images, _, _ in resumed.as_numpy_iterator()])
        np.testing.assert_array_equal(own, whole[4:, host])


@pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="needs Linux's count of bytes")
@pytest.mark.parametrize("first_step", [0, 6])
def test_a_host_reads_the_bytes_of_its_own_records_alone(open_data, first_step):
    data = open_data(batch_size=16, use_all_samples=False, fixed_step_size=12)
    found = data._records("train")
    own = batches.share_of(data.training_rows(0, 0), 16, Share(3, 8, 8, first_step))
    expected = found.places(own)[2].sum()
    dataset = data.training_batches(0, 0).read(Share(3, 8, 8, first_step))
    _iterate(dataset)  # TensorFlow reads its own sources when it traces.
    before = _bytes_read()
    _iterate(dataset)
    assert expected <= _bytes_read() - before < expected + 4096


def _iterate(dataset: tf.data.Dataset) -> None:
    for _ in dataset:
        pass


def _bytes_read() -> int:
    """Bytes that this process has asked the system for."""
    return int(re.search(r"rchar: (\d+)", Path("/proc/self/io").read_text())[1])


@pytest.mark.slow
def test_eight_hosts_share_the_work(open_data):
    """CPU seconds of each of eight hosts, one after another, against those of one that reads all.

    A machine with two CPUs can't run eight hosts at once; what it measures is their work.
    """
    data = open_data(batch_size=256, use_all_samples=False, fixed_step_size=120)
    alone = _cpu_seconds(data, Share())
    hosts = [_cpu_seconds(data, Share(host, 8, 8)) for host in range(8)]
    assert alone / np.median(hosts) >= 6, f"{alone:.2f} s alone, {np.round(hosts, 2)} s each of 8"


def _cpu_seconds(data: pipeline.Data, share: Share) -> float:
    dataset = data.training_batches(0, 0).read(share)
    _iterate(dataset.take(1))  # What an epoch costs once does not depend on its length.
    start = time.process_time()
    _iterate(dataset)
    return time.process_time() - start


@pytest.fixture
def copied(data_dir, tmp_path):
    """A copy of the data set `paper`, and the folder of its files."""
    shutil.copytree(data_dir / "cxr_tfds" / "paper", tmp_path / "cxr_tfds" / "paper")
    data = opening.load(DataOptions(dataset="paper", data_dir=str(tmp_path)), 224)
    return tmp_path, Path(data.builder.data_dir)


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_class_counts_are_those_of_the_table_and_need_no_record(open_data, copied, split):
    root, folder = copied
    expected = np.bincount(open_data().table(split).label, minlength=2).tolist()
    for path in folder.glob("*.tfrecord-*"):
        path.unlink()
    data = opening.load(DataOptions(dataset="paper", data_dir=str(root)), 224)
    assert data.class_counts(split) == expected


@pytest.mark.parametrize(
    "images",
    [
        None,
        {},
        {"train": {}},
        {"train": {"NORMAL": 1, "PNEUMONIA": 1}},
        {"train": {"OTHER": 5}},
        {"train": {"NORMAL": -1}},
    ],
)
def test_class_counts_that_do_not_fit_the_splits_are_counted_anew(open_data, copied, images):
    root, folder = copied
    stored = json.loads((folder / "metadata.json").read_text())
    stored.pop("images")
    stored |= {} if images is None else {"images": images}
    (folder / "metadata.json").write_text(json.dumps(stored))
    data = opening.load(DataOptions(dataset="paper", data_dir=str(root)), 224)
    assert data.class_counts() == open_data().class_counts()


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


def test_a_label_that_is_none_of_ours_is_told_without_the_table(copied):
    """Training on images needs no table."""
    root, folder = copied
    path = str(next(folder.glob("*-train.tfrecord-00000-*")))
    examples = [
        tf.train.Example.FromString(r) for r in tf.data.TFRecordDataset(path).as_numpy_iterator()
    ]
    with tf.io.TFRecordWriter(path) as writer:
        for example in examples:
            example.features.feature["label"].int64_list.value[:] = [99]
            writer.write(example.SerializeToString())
    options = DataOptions(dataset="paper", data_dir=str(root), batch_size=32)
    data = opening.load(options, 224)
    with pytest.raises(DiskError, match="a record whose label is none of ours"), data.reading():
        _read(data.training_batches(0, 0))


def test_masks_are_those_of_the_rows_in_their_order(phantom_dir):
    data = opening.load(DataOptions(dataset="phantom", data_dir=str(phantom_dir)), 64)
    rows = np.array([70, 3, 3, 41])
    drawn = {record.file_name: record for record in phantoms.records()}
    names = data.table("test").file_name[rows]
    expected = np.stack([phantoms.draw(drawn[name]).finding for name in names])
    np.testing.assert_array_equal(data.masks("test", rows), expected)
    assert data.masks("test", rows[:0]).shape == (0, 128, 128)


def test_archives_have_no_masks(open_data):
    assert not open_data().has_masks


def test_a_mask_is_no_column(phantom_dir):
    data = opening.load(DataOptions(dataset="phantom", data_dir=str(phantom_dir)), 64)
    with pytest.raises(ConfigError, match=r"judge_by \(finding_mask\) is no column"):
        data.require_column("finding_mask")
    assert data.read("test").element_spec["finding_mask"].shape == ()
