"""Splits a network into a frozen prefix, whose outputs are cached, and a suffix that trains.

Frozen layers have the same outputs in every epoch, for every seed and in every search trial. `cut`
splits the network below its first trainable layer, `store` caches the outputs of the lower part,
and `Activations` turns them into batches on which the upper part trains alone.

    divided = partition.cut(network)                 # None: no frozen layer is worth caching
    stored = partition.Activations((shards,), num_examples, dtype)
    stored.training_batches(rows, draws, labels, batch_size, view_seed=1)
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import math
from typing import TYPE_CHECKING, Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from trainer.data import batches
from trainer.errors import RunError
from trainer.features import shard_files

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from trainer.models.classifier import Network

IN_MEMORY_BYTES = 512 << 20
"""Larger features are read from the mapped files: loading them takes twice their size in memory."""
EXACT_SIZE = 4096
"""Activations with at most this many values per example are stored without rounding."""


class Cut(NamedTuple):
    """The operation after which the trunk is cut.

    Attributes:
      position: index in the trunk's operations, the same in every process.
      name: for messages only; Keras numbers layers by how many a process has built before.
    """

    position: int
    name: str


@dataclasses.dataclass(frozen=True)
class Partition:
    """A network in two models that share its variables: suffix(prefix(x)) == whole(x).

    Attributes:
      prefix: [B, H, W, 1] uint8 -> activations at the cut; none of its weights train.
      suffix: activations -> [B, K] probabilities.
      cut: the operation whose output is stored.
      dtype: of the stored activations, see `stored_dtype`.
    """

    prefix: keras.Model
    suffix: keras.Model
    cut: Cut
    dtype: tf.DType

    def shards(self, num_examples: int) -> shard_files.Shards:
        """Returns how the features of `num_examples` are divided into files."""
        row_shape = tuple(self.suffix.input.shape[1:])
        return shard_files.Shards(num_examples, row_shape, self.dtype)


def cut(network: Network) -> Partition | None:
    """Splits the network as high as `find_cut` allows; returns None if it can't be split."""
    tensor = find_cut(network.trunk)
    return None if tensor is None else _cut_at(network, tensor)


def cut_below_head(network: Network) -> Partition:
    """Splits the network between trunk and head, for training the head alone.

    Weights of the trunk may train at another time: the prefix is not the same then.
    """
    return _cut_at(network, network.trunk.output)


def _cut_at(network: Network, tensor: Any) -> Partition:
    image = keras.Input(network.whole.input.shape[1:], dtype="uint8", name="image")
    # New models around existing layers share their variables: nothing is copied.
    below = keras.Model(network.trunk.input, tensor, name="frozen")
    prefix = keras.Model(image, below(network.preprocessing(image)), name="prefix")
    dtype = stored_dtype(tensor)
    features = keras.Input(tensor.shape[1:], dtype=dtype.name, name="features")
    suffix = keras.Model(
        features, network.head(_above(network.trunk, tensor, features)), name="suffix"
    )
    operations = [id(operation) for operation in network.trunk.operations]
    position = operations.index(id(_producer(tensor)))
    return Partition(prefix, suffix, Cut(position, _producer(tensor).name), dtype)


def joint_prefix(network: Network, positions: Sequence[int]) -> keras.Model:
    """Returns image -> the outputs of several operations of the trunk (`Cut.position`)."""
    image = keras.Input(network.whole.input.shape[1:], dtype="uint8", name="image")
    tensors = [network.trunk.operations[position].output for position in positions]
    below = keras.Model(network.trunk.input, tensors, name="frozen")
    return keras.Model(image, below(network.preprocessing(image)), name="prefixes")


def stored_dtype(tensor: Any) -> tf.DType:
    """Returns the dtype in which activations are stored.

    Pooled vectors are small and keep their dtype. Feature maps take 16 bits: the 16-bit dtype that
    the layers computed in, or else float16, which rounds more finely (2^-11) than bfloat16 (2^-8).
    """
    dtype = tf.as_dtype(tensor.dtype)
    is_small = math.prod(tensor.shape[1:]) <= EXACT_SIZE
    return tf.float16 if dtype == tf.float32 and not is_small else dtype


def to_stored(activations: np.ndarray, dtype: tf.DType) -> np.ndarray:
    """Returns `activations` as `dtype`.

    Raises:
      RunError: when a value is NaN, or too large for `dtype`.
    """
    with np.errstate(over="ignore"):
        stored = activations.astype(dtype.as_numpy_dtype)
    if np.isnan(stored).any():
        raise RunError(
            f"the frozen layers' outputs are NaN in {activations.dtype}; give other --weights, or "
            "--precision=float32."
        )
    if not np.isfinite(stored).all():
        raise RunError(
            f"features as large as {np.abs(activations).max():g} overflow {dtype.name}; give "
            "--feature_cache=off, or --precision=mixed_bfloat16."
        )
    return stored


def _above(trunk: keras.Model, tensor: Any, features: Any) -> Any:
    """Runs the part of the trunk above the cut."""
    if tensor is trunk.output:
        return features
    return keras.Model(tensor, trunk.output, name="unfrozen")(features)


def find_cut(trunk: keras.Model) -> Any:
    """Returns the last frozen tensor through which every path to the output goes, or None.

    Walks the graph in topological order and tracks the tensors that later operations still need:
    if only one is left, every path to the output goes through it. A cut inside a branch would lose
    the other branch. A tensor counts only above a layer with learned weights: caching images that
    are merely scaled or padded saves nothing.
    """
    operations = trunk.operations
    needed_until = _last_uses(trunk)
    live: set[int] = set()
    best, has_learned = None, False
    for position, operation in enumerate(operations):
        weights = operation.weights if isinstance(operation, keras.Layer) else []
        if any(weight.trainable for weight in weights):
            break
        has_learned |= bool(weights) and not isinstance(operation, keras.layers.Normalization)
        live.add(position)
        live = {source for source in live if needed_until.get(source, -1) > position}
        if live == {position} and has_learned:
            best = operation.output
    return best


def _last_uses(trunk: keras.Model) -> dict[int, int]:
    """Maps each operation's position to the position of the last one that reads its output."""
    position_of = {id(operation): i for i, operation in enumerate(trunk.operations)}
    last_use = {position_of[id(_producer(trunk.output))]: len(trunk.operations)}
    for position, operation in enumerate(trunk.operations):
        if not isinstance(operation, keras.layers.InputLayer):
            for tensor in keras.tree.flatten(operation.input):
                source = position_of[id(_producer(tensor))]
                last_use[source] = max(last_use.get(source, -1), position)
    return last_use


def _producer(tensor: Any) -> Any:
    return tensor._keras_history.operation  # noqa: SLF001 -- Keras has no public accessor.


def weights_hash(weights: Sequence[Any]) -> str:
    """Returns the SHA-256 of the weights' shapes, dtypes and values."""
    digest = hashlib.sha256()
    for value in map(keras.ops.convert_to_numpy, weights):
        digest.update(f"{value.shape}{value.dtype}".encode())
        digest.update(np.ascontiguousarray(value).data)
    return digest.hexdigest()


@dataclasses.dataclass(frozen=True)
class Activations:
    """The prefix's outputs for a split, in one or more augmented views.

    Attributes:
      views: the shards of each view, memory-mapped arrays [rows_per_shard, …] (the last one
        shorter); bfloat16 values are represented by their bits in uint16.
      num_examples: N, the number of examples in each view.
      dtype: of the activations.
    """

    views: tuple[tuple[np.ndarray, ...], ...]
    num_examples: int
    dtype: tf.DType

    @property
    def num_bytes(self) -> int:
        """Size of all views in bytes."""
        return sum(shard.nbytes for shards in self.views for shard in shards)

    def training_batches(
        self,
        rows: np.ndarray,
        draws: np.ndarray,
        labels: np.ndarray,
        batch_size: int,
        view_seed: int,
    ) -> batches.Batches:
        """Returns the batches of an epoch, as `pipeline.Data.training_batches` does for images.

        Args:
          rows: indices of the examples, in order; a multiple of `batch_size`.
          draws: which use of its example each row is (`EpochPlan.draws`): each has its own view,
            as long as there are as many.
          labels: labels of the split, [N].
          batch_size: global batch size.
          view_seed: seed from which the epoch draws one view of every image.
        """
        count = self.num_examples
        view_of_row = np.random.default_rng(view_seed).integers(len(self.views), size=count)
        views = (view_of_row[rows] + draws) % len(self.views)
        return self._batches(rows + views * count, labels[rows], batch_size)

    def evaluation_batches(
        self, labels: np.ndarray, batch_size: int, rows: np.ndarray | None = None
    ) -> batches.Batches:
        """Returns every example of the first view once, in order, the last batch padded.

        Args:
          labels: labels of the split, [N].
          batch_size: global batch size.
          rows: the examples to return instead, in this order, [M]; None: all.
        """
        rows = np.arange(self.num_examples) if rows is None else rows
        return self._batches(rows, labels[rows], batch_size)

    def _batches(
        self, positions: np.ndarray, labels: np.ndarray, batch_size: int
    ) -> batches.Batches:
        """Returns batches of the activations at `positions`, which count through all views."""
        columns = (positions, labels.astype(np.int32))
        return batches.of_columns(
            columns, batch_size, lambda *cut: self._gathered(*map(tf.constant, cut))
        )

    @functools.cached_property
    def _gathered(self) -> Callable[..., tf.data.Dataset]:
        """Builds the dataset of batches from columns of positions, labels and weights, [steps, B].

        One element is a whole batch: tf.data spends 10 microseconds or more on each, which for rows
        of 2 KB is several times what copying them costs. A `tf.function`, because the order of
        training changes in every epoch, and a dataset that is built anew traces its functions anew.
        """
        gather = self._build_gather()

        @tf.function
        def build(positions: tf.Tensor, labels: tf.Tensor, weights: tf.Tensor) -> tf.data.Dataset:
            cut = tf.data.Dataset.from_tensor_slices((positions, labels, weights))
            return cut.map(lambda position, label, weight: (gather(position), label, weight))

        return build

    def _build_gather(self) -> Callable[[tf.Tensor], tf.Tensor]:
        """Returns positions [B] -> activations [B, …], which reads from memory if they fit."""
        if self.num_bytes <= IN_MEMORY_BYTES:
            stored = self._in_memory
            return lambda positions: self._typed(tf.gather(stored, positions))
        sample = self.views[0][0]

        # Through Python, because no TensorFlow op reads a memory-mapped array.
        def gather(positions: tf.Tensor) -> tf.Tensor:
            rows = tf.numpy_function(self._read, [positions], sample.dtype, stateful=False)
            return self._typed(tf.ensure_shape(rows, [positions.shape[0], *sample.shape[1:]]))

        return gather

    @functools.cached_property
    def _in_memory(self) -> tf.Tensor:
        with tf.device("CPU:0"):  # tf.data runs on the CPU, even if there is a GPU.
            return tf.constant(np.concatenate([shard for shards in self.views for shard in shards]))

    def _read(self, positions: np.ndarray) -> np.ndarray:
        """Copies rows from the mapped shards; the system reads only the pages that hold them."""
        rows_per_shard = len(self.views[0][0])
        views, rows = np.divmod(positions, self.num_examples)
        shards, offsets = np.divmod(rows, rows_per_shard)
        places = zip(views, shards, offsets, strict=True)
        return np.stack([self.views[view][shard][offset] for view, shard, offset in places])

    def _typed(self, stored: tf.Tensor) -> tf.Tensor:
        # A bitcast, not a cast: uint16 holds the bits of bfloat16.
        return tf.bitcast(stored, self.dtype) if self.dtype == tf.bfloat16 else stored
