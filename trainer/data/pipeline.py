"""Turns splits of the data set into batches; this module alone fixes the order of the stages.

read -> shuffle -> split among hosts -> decode -> (resize) -> augment -> pad -> batch -> prefetch

data = opening.load(config.data, image_size=224)      # a pipeline.Data
data.training_batches(epoch=0, seed=0)     # batches.Batches, always full
data.evaluation_batches("test", batch_size=32)
data.table("test").file_name               # the examples of the split, in the same order
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import re
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

from trainer.data import augment, batches, damage, data_service
from trainer.errors import DiskError, RunError
from trainer.storage import locations
from trainer.system import text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from trainer.options import DataOptions


SHUFFLE_BUFFER_BYTES = 256 << 20
_ENCODED_IMAGES = {"image": tfds.decode.SkipDecoding()}
"""Images stay encoded through the shuffle: its buffer then takes a tenth of the memory."""


@dataclasses.dataclass(frozen=True)
class Table:
    """Everything but the images of a split, in the order of `evaluation_batches`; arrays [N]."""

    file_name: np.ndarray
    patient_id: np.ndarray
    etiology: np.ndarray
    label: np.ndarray


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
        """Hash of the data set: changes only with its images, their splits and their resolution."""
        return str(self.metadata["fingerprint"])

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
        except tf.errors.OpError as error:
            # Our own error, raised in a generator of the data service: TensorFlow keeps its text.
            own_error = re.search(rf"{RunError.__name__}: (.*)", error.message)
            if own_error:
                raise RunError(own_error[1]) from error
            if not damage.is_damage(error, str(self.builder.data_dir)):
                raise
            raise self._damage(damage.reason_of(error.message)) from error
        except UnicodeDecodeError as error:  # TensorFlow's own message quotes a damaged record.
            raise self._damage("a record is not what its features say") from error

    def _damage(self, problem: str) -> DiskError:
        folder, splits = self.builder.data_dir, self.builder.info.splits.values()
        files = [
            (str(path), count)
            for split in splits
            for path, count in zip(split.filepaths, split.shard_lengths, strict=True)
        ]
        # Reads all records, once, when nothing else is left to do. Not from a bucket: for minutes.
        found = None if locations.is_url(str(folder)) else damage.first_damaged(files)
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
    def table(self, split: str) -> Table:
        """Reads everything but the images of a split.

        Raises:
          DiskError: when a record is not what the features say.
        """
        features = self.builder.info.features
        names = ("file_name", "patient_id", "etiology", "label")
        examples = self.read(split)
        rows = examples.map(lambda example: {name: example[name] for name in names}).batch(4096)
        columns = {
            name: np.concatenate([row[name] for row in rows.as_numpy_iterator()]) for name in names
        }
        for name in ("label", "etiology"):
            if not np.isin(columns[name], np.arange(len(features[name].names))).all():
                raise self._damage(f"split {split} has a record whose {name} is none of ours")
        try:
            strings = {
                name: np.array([value.decode("utf-8") for value in columns[name]], str)
                for name in ("file_name", "patient_id")
            }
        except UnicodeDecodeError as error:
            raise self._damage(f"split {split} has a name that is not UTF-8") from error
        etiologies = np.array(features["etiology"].names)
        return Table(**strings, etiology=etiologies[columns["etiology"]], label=columns["label"])

    def class_counts(self, split: str = "train") -> list[int]:
        """Returns the number of examples of each class in a split."""
        return np.bincount(self.table(split).label, minlength=len(self.class_names)).tolist()

    def training_rows(self, epoch: int, seed: int) -> np.ndarray:
        """Returns the rows of the training table that an epoch uses, in order, [steps * B]."""
        rows = self._order(tf.data.Dataset.range(self.num_examples("train")), epoch, seed)
        return next(rows.batch(self.plan.steps * self.plan.batch_size).as_numpy_iterator())

    def training_batches(self, epoch: int, seed: int) -> batches.Batches:
        """Returns the batches of an epoch (from 0): shuffled, augmented, always full."""
        load = _weighted(self._decoder(draw=batches.stable_seed(seed, epoch)))
        size = self.plan.batch_size
        if self.config.data_service:
            return self._distributed("train", self.training_rows(epoch, seed), size, load)
        examples = self._order(self.read("train"), epoch, seed)
        return batches.pad(examples, size, self.plan.steps * size, load=load)

    def _order(self, split: tf.data.Dataset, epoch: int, seed: int) -> tf.data.Dataset:
        """Puts the training split, or a dataset of the same length, into the order of an epoch.

        TensorFlow's shuffle depends on the seed and the number of elements, not on their values:
        images and cached features are therefore read in the same order.
        """
        info = self.builder.info.splits["train"]
        # The buffer is bounded in bytes, for data sets that don't fit into memory.
        rows = max(1, SHUFFLE_BUFFER_BYTES * info.num_examples // max(info.num_bytes, 1))
        ranges = (
            split.shuffle(
                min(rows, info.num_examples),
                seed=batches.stable_seed(seed, pass_index),
                # The order of a pass depends on the seed alone, not on how often it was read.
                reshuffle_each_iteration=False,
            )
            .skip(start)
            .take(stop - start)
            for pass_index, start, stop in self.plan.ranges(epoch)
        )
        return functools.reduce(tf.data.Dataset.concatenate, ranges)

    def evaluation_batches(
        self,
        split: str,
        batch_size: int,
        *,
        start: int = 0,
        stop: int | None = None,
        view: int | None = None,
    ) -> batches.Batches:
        """Returns every example of a split once, in the split's order, the last batch padded.

        Args:
          split: train, validation or test.
          batch_size: global batch size.
          start: first example.
          stop: one past the last example; None: the end of the split.
          view: which augmented view of the images; None: the images without augmentation.
        """
        stop = self.num_examples(split) if stop is None else stop
        load = _weighted(self._decoder(draw=view))
        if self.config.data_service:
            return self._distributed(split, np.arange(start, stop), batch_size, load)
        examples = self.read(f"{split}[{start}:{stop}]")
        return batches.pad(examples, batch_size, stop - start, load=load)

    def _distributed(self, split: str, rows: np.ndarray, size: int, load: Any) -> batches.Batches:
        """Returns batches of rows of a split, loaded by the workers of --data_service."""
        parse = functools.partial(
            self.builder.info.features.deserialize_example, decoders=_ENCODED_IMAGES
        )
        return data_service.distribute(
            self.config.data_service, self._records(split), rows, size, lambda x: load(parse(x))
        )

    def _require(self, split: str) -> None:
        touched = {re.match(r"\w*", part)[0] for part in split.split("+")}  # type: ignore[index]
        if touched & self.withheld or ("all" in touched and self.withheld):
            raise ValueError(f"split {split!r} is withheld: it must not be read here.")

    @functools.lru_cache(maxsize=4)  # noqa: B019 -- One Data per run, a few numbers per record.
    def _records(self, split: str) -> data_service.Records:
        self._require(split)
        paths = self.builder.info.splits[split].filepaths
        return data_service.locate([str(path) for path in paths])

    def images(self, split: str, indices: np.ndarray) -> np.ndarray:
        """Reads the images at `indices` of a split, [M, H, W, 1] uint8."""
        rows = "+".join(f"{split}[{index}:{index + 1}]" for index in indices)
        pixels = batches.parallel(self.read(rows), self._decoder(draw=None))
        return next(pixels.batch(len(indices)).as_numpy_iterator())[0]

    def read(self, split: str) -> tf.data.Dataset:
        """Reads a split, or a range of it, in the order of its records.

        Raises:
          ValueError: when the split is withheld.
        """
        self._require(split)
        # One file at a time: when TFDS interleaves files, a range has another order than the same
        # examples in the whole split, and labels of one would be paired with images of the other.
        config = tfds.ReadConfig(try_autocache=False, interleave_cycle_length=1)
        return self.builder.as_dataset(split=split, decoders=_ENCODED_IMAGES, read_config=config)

    def _decoder(self, draw: int | None) -> Any:
        """Returns example -> (image [H, W, 1] uint8, label); augments unless `draw` is None."""

        def decode_example(example: dict[str, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
            image = tf.ensure_shape(decode(example["image"], self.resize_to), self.image_shape)
            if draw is not None and self.config.augmentation != "none":
                example_id = tf.strings.to_hash_bucket_fast(example["file_name"], 1 << 31)
                seed = tf.stack([example_id, tf.constant(draw, tf.int64)])
                image = augment.apply(image, self.config.augmentation, seed)
            return image, tf.cast(example["label"], tf.int32)

        return decode_example


def decode(jpeg: tf.Tensor, side: int | None) -> tf.Tensor:
    """Decodes and resizes as `cxr_tfds.images.decode` does, in TensorFlow ops alone.

    tf.data service workers run only TensorFlow ops, and Pillow would hold Python's lock in a
    parallel map. Decoded pixels are identical, resized ones differ by at most 1 grey level, because
    Pillow rounds between rows and columns.

    Args:
      jpeg: a whole grey JPEG file, scalar string.
      side: height and width of the result in pixels; None: unchanged.

    Returns:
      [H, W, 1] uint8.
    """
    # The default in TensorFlow and TFDS is a fast approximation, up to 18 grey levels off.
    image = tf.io.decode_jpeg(jpeg, channels=1, dct_method="INTEGER_ACCURATE")
    if side is None:
        return image
    # Bilinear like Keras's Resizing layer, which has no antialiasing.
    return tf.cast(tf.round(tf.image.resize(image, (side, side), antialias=True)), tf.uint8)


def _weighted(decode: Any) -> Any:
    """Returns example -> (image, label, weight 1)."""
    return lambda example: (*decode(example), 1.0)
