"""Turns splits of the data set into batches; this module alone fixes the order of the stages.

shuffle -> split among hosts -> read -> decode -> (resize) -> augment -> pad -> batch -> prefetch

Everything before `read` is arrays of row numbers: a host reads and decodes only what is its own.

data = opening.load(config.data, image_size=224)      # a pipeline.Data
data.training_batches(epoch=0, seed=0)     # batches.Batches, always full
data.evaluation_batches("test", batch_size=32)
data.table("test").file_name               # the examples of the split, in the same order
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import re
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

from cxr_tfds import configs
from trainer.data import augment, batches, damage, data_service, records
from trainer.data import table as table_lib
from trainer.errors import DiskError, RunError
from trainer.storage import locations
from trainer.system import text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from trainer.options import DataOptions


_UNKNOWN_LABEL = "a record whose label is none of ours"


@dataclasses.dataclass(frozen=True)
class Data:
    """A data set and how this run reads it.

    Attributes:
      builder: the TFDS builder.
      config: the data options of the run.
      resize_to: side (px) that the input pipeline resizes images to; None: it does not resize.
      withheld: splits that can be counted but not read.
    """

    builder: Any
    config: DataOptions
    resize_to: int | None
    withheld: frozenset[str] = frozenset()

    def without(self, split: str) -> Data:
        """Returns this data with one more split withheld: it can be counted but not read."""
        return dataclasses.replace(self, withheld=self.withheld | {split})

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes, indexed by label."""
        return tuple(self.builder.info.features["label"].names)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Shape (H, W, 1) of every image in a batch."""
        if self.resize_to is not None:
            return (self.resize_to, self.resize_to, 1)
        return tuple(self.builder.info.features["image"].shape)

    @property
    def metadata(self) -> dict[str, Any]:
        """Metadata that the builder stored with the records, the fingerprint among them."""
        return dict(self.builder.info.metadata)

    @property
    def fingerprint(self) -> str:
        """Hash of the data set: changes only with its images, their splits and their resolution.

        The builder knows the archive; TFDS may write only a part of it (`max_examples_per_split`),
        in another order. Its records have a hash of their own.
        """
        of_archive = str(self.metadata["fingerprint"])
        written = {name: self.num_examples(name) for name in sorted(self.builder.info.splits)}
        if not any(
            (counts := self._counts_of_builder(name)) is not None and sum(counts) != size
            for name, size in written.items()
        ):
            return of_archive
        return hashlib.sha256(f"{of_archive} {written}".encode()).hexdigest()[: len(of_archive)]

    @property
    def name(self) -> str:
        """The config of the data set; of labelled images, that they are images."""
        return str(self.builder.info.config_name or self.builder.info.name)

    def card(self) -> dict[str, Any]:
        """Returns the description of the data that reports contain."""
        return {"name": self.builder.info.full_name, **self.metadata}

    def require_image_shape(self, shape: tuple[int, ...]) -> None:
        """Raises RunError unless images of this data set have the `shape` that a model takes."""
        if self.image_shape != tuple(shape):
            raise RunError(
                f"{self.builder.info.full_name} has images of shape {self.image_shape}, the model "
                f"takes {tuple(shape)}; give a --dataset with images of that size or larger."
            )

    def require_classes(self, count: int) -> None:
        """Raises RunError unless a model with so many outputs tells these classes apart."""
        if len(self.class_names) != count:
            raise RunError(
                f"{self.builder.info.full_name} has {len(self.class_names)} classes "
                f"({', '.join(self.class_names)}), the model has "
                f"{text.counted(count, 'output')}; restore the run's own best.keras "
                "from a copy, or train on this data."
            )

    @contextlib.contextmanager
    def reading(self) -> Iterator[None]:
        """Turns TensorFlow's errors about unreadable records into errors that name the remedy.

        Raises:
          DiskError: when records are damaged or missing.
          RunError: when --data_service lost a batch.
        """
        try:
            yield
        except damage.RecordError as error:
            raise self._damage(error.problem, error.path) from error
        except tf.errors.OpError as error:
            # Our own error, raised in a generator of the data service: TensorFlow keeps its text.
            own_error = re.search(rf"{RunError.__name__}: (.*)", error.message)
            if own_error:
                raise RunError(own_error[1]) from error
            if quoted := damage.quoted(error.message):
                raise self._damage(quoted.problem, quoted.path) from error
            if not damage.is_damage(error, str(self.builder.data_dir)):
                raise
            raise self._damage(damage.reason_of(error.message)) from error
        except UnicodeDecodeError as error:  # TensorFlow's own message quotes a damaged record.
            raise self._damage("a record is not what its features say") from error

    def _damage(self, problem: str, file: str = "") -> DiskError:
        folder, splits = self.builder.data_dir, self.builder.info.splits.values()
        files = [
            (str(path), count)
            for split in splits
            for path, count in zip(split.filepaths, split.shard_lengths, strict=True)
        ]
        # Reads all records, once, when nothing else is left to do. Not from a bucket: for minutes.
        found = file or (None if locations.is_url(str(folder)) else damage.first_damaged(files))
        return DiskError(
            f"{found or self.builder.info.full_name} can't be read "
            f"({text.one_line(problem):.300}); remove {folder} and build it again."
        )

    def num_examples(self, split: str) -> int:
        """Returns the number of examples in a split."""
        return int(self.builder.info.splits[split].num_examples)

    @functools.cached_property
    def plan(self) -> batches.EpochPlan:
        """Which examples of the training split each epoch uses."""
        plan = batches.EpochPlan(
            num_examples=self.num_examples("train"),
            batch_size=self.config.batch_size,
            fixed_steps=None if self.config.use_all_samples else self.config.fixed_step_size,
            wrap=self.config.tail == "wrap",
        )
        if plan.steps == 0:
            raise RunError(
                f"batch_size ({plan.batch_size}) exceeds the {plan.num_examples} training "
                "examples; give a smaller --batch_size, or --tail=wrap."
            )
        return plan

    @functools.lru_cache(maxsize=4)  # noqa: B019 -- One Data per run; tables are small.
    def table(self, split: str) -> table_lib.Table:
        """Reads everything but the images of a split.

        Raises:
          DiskError: when a record is not what the features say.
        """
        examples = self.read(split)
        with self._reading_rows(split):
            return table_lib.read(examples, self.builder.info.features)

    def require_column(self, name: str) -> None:
        """Raises ConfigError unless examples can be grouped by a column of the records."""
        info = self.builder.info
        table_lib.require_column(name, info.features, info.full_name)

    def column(self, split: str, name: str) -> np.ndarray:
        """Reads a column of a split as text, [N]: classes by their names, numbers in digits.

        Raises:
          DiskError: when a record is not what the features say.
        """
        examples = self.read(split)
        with self._reading_rows(split):
            return table_lib.column(examples, self.builder.info.features, name)

    @contextlib.contextmanager
    def _reading_rows(self, split: str) -> Iterator[None]:
        try:
            yield
        except ValueError as error:
            raise self._damage(f"split {split} {error}") from error

    def class_counts(self, split: str = "train") -> list[int]:
        """Returns the number of examples of each class in a split.

        The builder has counted them. Only of a data set without its counts, or with counts that
        don't fit its splits, all records are read.
        """
        counts = self._counts_of_builder(split)
        if counts is not None and sum(counts) == self.num_examples(split):
            return counts
        return np.bincount(self.table(split).label, minlength=len(self.class_names)).tolist()

    def _counts_of_builder(self, split: str) -> list[int] | None:
        """Returns how many images of each class metadata.json names; None if it doesn't."""
        images = self.metadata.get("images")
        of_split = images.get(split) if isinstance(images, dict) else None
        if not isinstance(of_split, dict) or not of_split.keys() <= set(self.class_names):
            return None
        counts = [of_split.get(name, 0) for name in self.class_names]
        return counts if all(type(x) is int and x >= 0 for x in counts) else None

    def training_rows(self, epoch: int, seed: int) -> np.ndarray:
        """Returns the rows of the training table that an epoch uses, in order, [steps * B]."""
        return self.plan.rows(epoch, seed)

    def training_batches(self, epoch: int, seed: int) -> batches.Batches:
        """Returns the batches of an epoch (from 0): shuffled, augmented, always full."""
        draws = self.plan.draws(epoch)
        # The first draw of an epoch has the seed (seed, epoch): NumPy fills up with zeros.
        seeds = [batches.stable_seed(seed, epoch, draw) for draw in range(int(draws[-1]) + 1)]
        columns = (self.training_rows(epoch, seed), np.array(seeds, np.int32)[draws])
        return self._load("train", columns, self.plan.batch_size, self._loader(is_augmented=True))

    def evaluation_batches(
        self,
        split: str,
        batch_size: int,
        *,
        start: int = 0,
        stop: int | None = None,
        view: int | None = None,
        rows: np.ndarray | None = None,
    ) -> batches.Batches:
        """Returns every example of a split once, in the split's order, the last batch padded.

        Args:
          split: train, validation or test.
          batch_size: global batch size.
          start: first example.
          stop: one past the last example; None: the end of the split.
          view: which augmented view of the images; None: the images without augmentation.
          rows: the examples to return instead, in this order, [M]; None: those from start to stop.
        """
        if rows is None:
            rows = np.arange(start, self.num_examples(split) if stop is None else stop)
        columns = (rows, np.full(len(rows), view or 0, np.int32))
        return self._load(split, columns, batch_size, self._loader(is_augmented=view is not None))

    def _load(
        self, split: str, columns: tuple[np.ndarray, np.ndarray], size: int, load: Any
    ) -> batches.Batches:
        """Returns batches of a split.

        Args:
          split: train, validation or test.
          columns: rows of the split, and the seed of each one's augmentation, [N].
          size: global batch size.
          load: serialized record, seed -> (image, label, weight).
        """
        found = self._records(split)
        if self.config.data_service:
            return data_service.distribute(self.config.data_service, found, columns, size, load)
        return batches.load(columns, size, lambda *own: batches.parallel(found.dataset(*own), load))

    def _require(self, split: str) -> None:
        touched = {re.match(r"\w*", part)[0] for part in split.split("+")}  # type: ignore[index]
        if touched & self.withheld or ("all" in touched and self.withheld):
            raise ValueError(f"split {split!r} is withheld: it must not be read here.")

    @functools.lru_cache(maxsize=4)  # noqa: B019 -- One Data per run, eight bytes per record.
    def _records(self, split: str) -> records.Records:
        self._require(split)
        info = self.builder.info.splits[split]
        return records.locate([str(path) for path in info.filepaths], info.shard_lengths)

    def images(self, split: str, indices: np.ndarray) -> np.ndarray:
        """Reads the images at `indices` of a split, [M, H, W, 1] uint8."""
        examples = self._records(split).dataset(indices, np.zeros(len(indices), np.int32))
        decoded = batches.parallel(examples, self._loader(is_augmented=False))
        return next(decoded.batch(len(indices)).as_numpy_iterator())[0]

    def encoded_images(
        self, split: str, rows: np.ndarray, feature: str = "image"
    ) -> tf.data.Dataset:
        """Returns the image files of examples, scalar strings, in the order of `rows` [M]."""
        features = self.builder.info.features
        decoders = table_lib.encoded_images(features)

        @tf.function
        def encoded(serialized: tf.Tensor, draw: tf.Tensor) -> tf.Tensor:
            del draw
            return features.deserialize_example(serialized, decoders=decoders)[feature]

        examples = self._records(split).dataset(rows, np.zeros(len(rows), np.int32))
        return batches.parallel(examples, encoded)

    @property
    def has_masks(self) -> bool:
        """Whether the data set says where findings are."""
        return configs.MASK in self.builder.info.features

    def masks(self, split: str, rows: np.ndarray) -> np.ndarray:
        """Returns where the finding of each example is, [M, S, S] bool, at the size of the records.

        All false for an example without a finding. The data set must have masks: `has_masks`.
        """
        side = self.builder.info.features[configs.MASK].shape[0]
        found = np.zeros((len(rows), side, side), bool)
        files = self.encoded_images(split, rows, configs.MASK)
        decoded = files.map(lambda png: tf.ensure_shape(tf.io.decode_png(png, 1), (side, side, 1)))
        for place, mask in enumerate(decoded.as_numpy_iterator()):
            found[place] = mask[..., 0] > 0
        return found

    def read(self, split: str) -> tf.data.Dataset:
        """Reads a split, or a range of it, in the order of its records.

        Raises:
          ValueError: when the split is withheld.
        """
        self._require(split)
        # One file at a time: when TFDS interleaves files, a range has another order than the same
        # examples in the whole split, and labels of one would be paired with images of the other.
        config = tfds.ReadConfig(try_autocache=False, interleave_cycle_length=1)
        decoders = table_lib.encoded_images(self.builder.info.features)
        return self.builder.as_dataset(split=split, decoders=decoders, read_config=config)

    @functools.lru_cache(maxsize=2)  # noqa: B019 -- Every epoch would trace it anew.
    def _loader(self, *, is_augmented: bool) -> Any:
        """Returns (serialized, seed) -> (image [H, W, 1] uint8, label, weight 1)."""
        features, augmentation = self.builder.info.features, self.config.augmentation
        num_classes, decoders = len(self.class_names), table_lib.encoded_images(features)

        @tf.function
        def load(serialized: tf.Tensor, seed: tf.Tensor) -> tuple[tf.Tensor, ...]:
            example = features.deserialize_example(serialized, decoders=decoders)
            image = tf.ensure_shape(decode(example["image"], self.resize_to), self.image_shape)
            if is_augmented and augmentation != "none":
                example_id = tf.strings.to_hash_bucket_fast(example["file_name"], 1 << 31)
                image = augment.apply(
                    image, augmentation, tf.stack([example_id, tf.cast(seed, tf.int64)])
                )
            label = example["label"]
            is_known = (label >= 0) & (label < num_classes)
            # Without it, TensorFlow's loss of such a label would be NaN on some devices.
            with tf.control_dependencies([tf.Assert(is_known, [_UNKNOWN_LABEL])]):
                return image, tf.cast(label, tf.int32), tf.constant(1.0)

        return load


def decode(encoded: tf.Tensor, side: int | None) -> tf.Tensor:
    """Decodes and resizes as `cxr_tfds.images.decode` does, in TensorFlow ops alone.

    tf.data service workers run only TensorFlow ops, and Pillow would hold Python's lock in a
    parallel map. Decoded pixels are identical, resized ones differ by at most 1 grey level, because
    Pillow rounds between rows and columns.

    Args:
      encoded: a whole grey PNG or JPEG file, scalar string.
      side: height and width of the result in pixels; None: unchanged.

    Returns:
      [H, W, 1] uint8.
    """
    # For JPEG, the default of TensorFlow and TFDS is a fast approximation, up to 18 grey levels
    # off. The op decodes PNG as well.
    image = tf.io.decode_jpeg(encoded, channels=1, dct_method="INTEGER_ACCURATE")
    if side is None:
        return image
    # Bilinear like Keras's Resizing layer, which has no antialiasing.
    return tf.cast(tf.round(tf.image.resize(image, (side, side), antialias=True)), tf.uint8)
