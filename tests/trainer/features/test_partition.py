"""Where the graph is cut, and batches of stored features."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.support import radiographs
from trainer.data import batches
from trainer.errors import RunError
from trainer.features import partition
from trainer.models import classifier
from trainer.options import ModelOptions


def _branches() -> keras.Model:
    """a -> (b, c) -> add -> d: there is a cut at a, at the sum and at d, and none between."""
    image = keras.Input((8,))
    a = keras.layers.Dense(4, name="a")(image)
    b = keras.layers.Dense(4, name="b")(a)
    c = keras.layers.Dense(4, name="c")(a)
    total = keras.layers.Add(name="total")([b, c])
    return keras.Model(image, keras.layers.Dense(2, name="d")(total))


@pytest.mark.parametrize(
    ("trainable", "expected"),
    [("", "d"), ("d", "total"), ("c", "a"), ("b", "a"), ("b d", "a")],
)
def test_the_cut_is_the_last_frozen_tensor_on_every_path(trainable, expected):
    trunk = _branches()
    for layer in trunk.layers:
        layer.trainable = layer.name in trainable.split()
    assert partition.find_cut(trunk)._keras_history.operation.name == expected


def test_padded_or_normalised_images_are_not_cached():
    image = keras.Input((8, 8, 3))
    x = keras.layers.Normalization(mean=0.5, variance=2.0)(image)
    x = keras.layers.Conv2D(2, 3)(keras.layers.ZeroPadding2D()(x))
    assert partition.find_cut(keras.Model(image, x)) is None


def test_there_is_no_cut_below_a_trainable_first_layer():
    trunk = _branches()
    assert partition.find_cut(trunk) is None


@pytest.mark.parametrize(
    ("pooling", "unfrozen", "shape", "dtype"),
    [
        ("avg", "0", (128,), "float32"),
        ("avgmax", "0", (256,), "float32"),
        ("flatten", "0", (4 * 4 * 128,), "float32"),
        ("avg", "2", (8, 8, 64), "float32"),
        ("avg", "4", (16, 16, 32), "float16"),
    ],
)
def test_small_activations_are_stored_exactly_and_large_ones_in_16_bits(
    pooling, unfrozen, shape, dtype
):
    config = ModelOptions(
        backbone="small_cnn", weights="none", image_size=64, pooling=pooling,
        layers_to_unfreeze=unfrozen,
    )  # fmt: skip
    divided = partition.cut(classifier.build(config, (64, 64, 1), 2))
    assert divided.suffix.input.shape[1:] == shape
    assert divided.dtype.name == dtype


def test_a_value_too_large_for_16_bits_is_an_error():
    with pytest.raises(RunError, match="features as large as 70000 overflow float16"):
        partition.to_stored(np.array([[70_000.0]], np.float32), tf.float16)


def test_the_error_for_nan_features_names_the_weights():
    with pytest.raises(RunError, match="outputs are NaN in float32; give other"):
        partition.to_stored(np.array([[np.nan]], np.float32), tf.float32)


def test_the_hash_of_weights_sees_every_bit():
    dense = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    before = partition.weights_hash(dense.weights)
    kernel = dense.get_weights()
    kernel[0][0, 0] = np.nextafter(kernel[0][0, 0], np.float32(9))
    dense.set_weights(kernel)
    assert partition.weights_hash(dense.weights) != before


def _activations(num_views: int = 1, dtype: tf.DType = tf.float32) -> partition.Activations:
    """20 examples in shards of 8; each activation is its row and its view."""
    rows = np.arange(20, dtype=np.float32)
    views = [np.stack([rows, np.full_like(rows, view)], 1) for view in range(num_views)]
    if dtype == tf.bfloat16:
        views = [view.astype(dtype.as_numpy_dtype).view(np.uint16) for view in views]
    cut = tuple((view[:8], view[8:16], view[16:]) for view in views)
    return partition.Activations(cut, 20, dtype)


LABELS = np.arange(20) % 3
ROWS = np.r_[np.random.default_rng(0).permutation(20), :4]  # The last batch wraps around.
DRAWS = np.repeat([0, 1], [20, 4])


def _read(data: batches.Batches) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rows = list(data.dataset)
    return tuple(np.concatenate([row[i].numpy() for row in rows]) for i in range(3))


@pytest.mark.parametrize("in_memory", [True, False])
@pytest.mark.parametrize("dtype", [tf.float32, tf.bfloat16])
def test_labels_stay_with_their_activations(in_memory, dtype, monkeypatch):
    monkeypatch.setattr(partition, "IN_MEMORY_BYTES", 1 << 20 if in_memory else 0)
    stored = _activations(3, dtype)
    x, y, weight = _read(stored.training_batches(ROWS, DRAWS, LABELS, 8, view_seed=1))
    assert x.dtype == dtype.as_numpy_dtype
    np.testing.assert_array_equal(y, LABELS[x[:, 0].astype(int)])
    np.testing.assert_array_equal(weight, np.ones(24))
    x, y, weight = _read(stored.evaluation_batches(LABELS, 8))
    np.testing.assert_array_equal(x[weight > 0, 0].astype(int), np.arange(20))
    np.testing.assert_array_equal(y[weight > 0], LABELS)


def test_memory_and_files_give_the_same_batches(monkeypatch):
    stored = _activations(3)
    in_memory = _read(stored.training_batches(ROWS, DRAWS, LABELS, 8, view_seed=2))
    monkeypatch.setattr(partition, "IN_MEMORY_BYTES", 0)
    for ours, theirs in zip(
        in_memory, _read(stored.training_batches(ROWS, DRAWS, LABELS, 8, view_seed=2)), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)


SHARES = [
    batches.Share(host, hosts, replicas, first_step)
    for hosts, replicas in ((1, 1), (1, 2), (2, 2), (2, 8), (4, 4))
    for host in range(hosts)
    for first_step in (0, 2)
]


@pytest.mark.parametrize("in_memory", [True, False])
@pytest.mark.parametrize("share", SHARES, ids=str)
def test_every_share_has_the_batches_of_one_that_is_read_row_by_row(share, in_memory, monkeypatch):
    monkeypatch.setattr(partition, "IN_MEMORY_BYTES", 1 << 20 if in_memory else 0)
    stored = _activations()
    rows = np.stack([np.arange(20), np.zeros(20)], 1).astype(np.float32)
    triples = (rows, LABELS.astype(np.int32), np.ones(20, np.float32))
    expected = batches.pad(tf.data.Dataset.from_tensor_slices(triples), 8, 20)
    found = stored.evaluation_batches(LABELS, 8)
    assert (found.steps, found.num_examples) == (expected.steps, expected.num_examples)
    assert found.read(share).element_spec == expected.read(share).element_spec
    pairs = zip(found.read(share), expected.read(share), strict=True)
    for (x, y, weight), (other_x, other_y, other_weight) in pairs:
        np.testing.assert_array_equal(weight, other_weight)
        np.testing.assert_array_equal(y, other_y)
        # Padding has the features of the first row, where rows of weight 0 could be anything.
        np.testing.assert_array_equal(x, np.where(weight[:, None] > 0, other_x, rows[0]))


def test_a_batch_is_one_gather(monkeypatch):
    """A call for each row takes several times as long as copying rows of 2 KB."""
    monkeypatch.setattr(partition, "IN_MEMORY_BYTES", 0)
    read, sizes = partition.Activations._read, []

    def count(self, positions):
        sizes.append(len(positions))
        return read(self, positions)

    monkeypatch.setattr(partition.Activations, "_read", count)
    _read(_activations().training_batches(ROWS, DRAWS, LABELS, 8, view_seed=0))
    assert sizes == [8, 8, 8]


@pytest.mark.parametrize("in_memory", [True, False])
def test_a_new_epoch_traces_nothing(in_memory, monkeypatch):
    monkeypatch.setattr(partition, "IN_MEMORY_BYTES", 1 << 20 if in_memory else 0)
    stored = _activations(3)
    for epoch in range(3):
        _read(stored.training_batches(np.roll(ROWS, epoch), DRAWS, LABELS, 8, view_seed=epoch))
    assert stored._gathered.experimental_get_tracing_count() == 1


def test_activations_come_in_the_order_of_the_rows():
    x, _, _ = _read(_activations().training_batches(ROWS, DRAWS, LABELS, 8, view_seed=0))
    np.testing.assert_array_equal(x[:, 0].astype(int), ROWS)


def test_each_epoch_draws_one_view_for_every_image():
    stored = _activations(num_views=3)
    views = []
    for epoch in range(30):
        x, _, _ = _read(stored.training_batches(ROWS, DRAWS, LABELS, 8, view_seed=epoch))
        by_row = {int(row): int(view) for row, view in x[:20]}
        assert all(by_row[int(row)] != int(view) for row, view in x[20:])  # Used again.
        views.append([by_row[row] for row in range(20)])
    counts = np.bincount(np.ravel(views), minlength=3) / (30 * 20)
    np.testing.assert_allclose(counts, 1 / 3, atol=0.07)


def test_prefix_and_suffix_share_variables_with_the_whole():
    config = ModelOptions(
        backbone="small_cnn", weights="none", image_size=32, layers_to_unfreeze="2"
    )
    network = classifier.build(config, (32, 32, 1), 2)
    divided = partition.cut(network)
    before = np.asarray(network.whole(radiographs.noise(2)))
    divided.suffix.get_layer("head").get_layer("probabilities").bias.assign([5.0, -5.0])
    after = np.asarray(network.whole(radiographs.noise(2)))
    assert (after[:, 0] > before[:, 0]).all()
