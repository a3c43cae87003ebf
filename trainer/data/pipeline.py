"""From a split of the data set to batches; the order of the stages is written once, here.

read -> shuffle -> part (hosts) -> decode -> (resize) -> augment -> pad -> batch -> prefetch

data = opening.load(config.data, image_size=224)      # a pipeline.Data
data.training_batches(epoch=0, seed=0)     # batches.Batches, always full
data.evaluation_batches("test", batch_size=32)
data.table("test").file_name               # who is in the split, in the same order
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

from trainer.data import augment, batches, data_service
from trainer.errors import DiskError, RunError
from trainer.system import text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from trainer.option_groups import DataOptions


SHUFFLE_BUFFER_BYTES = 256 << 20
_ENCODED_IMAGES = {"image": tfds.decode.SkipDecoding()}
"""Images stay encoded until after the shuffle, where they take a tenth of the memory."""


@dataclasses.dataclass(frozen=True)
class Table:
    """Who is in a split, in the order in which `evaluation_batches` reads it; arrays [N]."""

    file_name: np.ndarray
    patient_id: np.ndarray
    etiology: np.ndarray
    label: np.ndarray


@dataclasses.dataclass(frozen=True)
class Data:
    """A built data set and how this run reads it."""

    builder: Any
    config: DataOptions
    resize_to: int | None
    withheld: frozenset[str] = frozenset()

    def without(self, split: str) -> Data:
        """Returns this data with a split that can't be read, only counted."""
        return dataclasses.replace(self, withheld=self.withheld | {split})

    @property
    def class_names(self) -> tuple[str, ...]:
        """In the order of labels."""
        return tuple(self.builder.info.features["label"].names)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(H, W, 1) of every image in a batch."""
        if self.resize_to is not None:
            return (self.resize_to, self.resize_to, 1)
        return tuple(self.builder.info.features["image"].shape)

    @property
    def metadata(self) -> dict[str, Any]:
        """What the builder wrote of the data: its fingerprint, among others."""
        return dict(self.builder.info.metadata)

    @property
    def fingerprint(self) -> str:
        """Changes with the images, their splits and their resolution, and with nothing else."""
        return str(self.metadata["fingerprint"])

    def card(self) -> dict[str, Any]:
        """Returns what a report says of the data."""
        return {"name": self.builder.info.full_name, **self.metadata}

    def require_image_shape(self, shape: tuple[int, ...]) -> None:
        """Raises RunError unless a model for images of `shape` can read this data set."""
        if self.image_shape != tuple(shape):
            raise RunError(
                f"{self.builder.info.full_name} has images of shape {self.image_shape}, the model "
                f"takes {tuple(shape)}; name a --dataset of that size or larger."
            )

    @contextlib.contextmanager
    def reading(self) -> Iterator[None]:
        """Explains what TensorFlow says of records that it can't read, whoever reads them.

        Raises:
          DiskError: when records are damaged or gone.
          RunError: when --data_service lost some.
        """
        try:
            yield
        except tf.errors.OpError as error:
            of_service = re.search(rf"{RunError.__name__}: (.*)", error.message)
            if of_service:
                raise RunError(of_service[1]) from error
            folder = self.builder.data_dir
            is_data = isinstance(error, tf.errors.DataLossError | tf.errors.OutOfRangeError)
            # Files that end with a whole record, but not with the last one.
            is_data |= "was expected to contain" in error.message
            if not is_data and str(folder) not in error.message:
                raise
            raise DiskError(
                f"{self.builder.info.full_name} can't be read ({text.first_line(error)}); remove "
                f"{folder} and build it again."
            ) from error

    def num_examples(self, split: str) -> int:
        """How many examples a split has."""
        return int(self.builder.info.splits[split].num_examples)

    @functools.cached_property
    def plan(self) -> batches.EpochPlan:
        """How epochs go through the training split."""
        plan = batches.EpochPlan(
            num_examples=self.num_examples("train"),
            batch_size=self.config.batch_size,
            fixed_steps=None if self.config.use_all_samples else self.config.fixed_step_size,
            wrap=self.config.tail == "wrap",
        )
        if plan.steps == 0:
            raise RunError(
                f"batch_size ({plan.batch_size}) exceeds the {plan.num_examples} training "
                "examples; give a smaller one or --tail=wrap."
            )
        return plan

    @functools.lru_cache(maxsize=4)  # noqa: B019 -- One Data a run; tables are small.
    def table(self, split: str) -> Table:
        """Reads all but the images of a split."""
        names = ("file_name", "patient_id", "etiology", "label")
        examples = self.read(split)
        rows = examples.map(lambda example: {name: example[name] for name in names}).batch(4096)
        columns = {
            name: np.concatenate([row[name] for row in rows.as_numpy_iterator()]) for name in names
        }
        strings = {name: columns[name].astype(str) for name in ("file_name", "patient_id")}
        etiologies = np.array(self.builder.info.features["etiology"].names)
        return Table(**strings, etiology=etiologies[columns["etiology"]], label=columns["label"])

    def class_counts(self) -> list[int]:
        """Training examples of each class."""
        return np.bincount(self.table("train").label, minlength=len(self.class_names)).tolist()

    def training_rows(self, epoch: int, seed: int) -> np.ndarray:
        """Returns which rows of the split's table an epoch trains on, in order, [steps * B]."""
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
        """Arranges the training split, or anything else that has its length, for an epoch.

        TensorFlow's shuffle depends on the seed and the number of elements, not on what they are:
        images and cached features come in one and the same order.
        """
        info = self.builder.info.splits["train"]
        rows = max(1, SHUFFLE_BUFFER_BYTES * info.num_examples // max(info.num_bytes, 1))
        pieces = (
            split.shuffle(
                min(rows, info.num_examples),
                seed=batches.stable_seed(seed, turn),
                reshuffle_each_iteration=False,
            )
            .skip(start)
            .take(stop - start)
            for turn, start, stop in self.plan.pieces(epoch)
        )
        return functools.reduce(tf.data.Dataset.concatenate, pieces)

    def evaluation_batches(
        self,
        split: str,
        batch_size: int,
        *,
        start: int = 0,
        stop: int | None = None,
        view: int | None = None,
    ) -> batches.Batches:
        """Returns a split in its own order, each example once, the last batch padded.

        Args:
          split: train, validation or test.
          batch_size: global.
          start: first example.
          stop: one past the last example; None: to the end.
          view: which augmented view of the images; None: as they are.
        """
        stop = self.num_examples(split) if stop is None else stop
        load = _weighted(self._decoder(draw=view))
        if self.config.data_service:
            return self._distributed(split, np.arange(start, stop), batch_size, load)
        examples = self.read(f"{split}[{start}:{stop}]")
        return batches.pad(examples, batch_size, stop - start, load=load)

    def _distributed(self, split: str, rows: np.ndarray, size: int, load: Any) -> batches.Batches:
        """Loads rows of a split on the workers of --data_service."""
        parse = functools.partial(
            self.builder.info.features.deserialize_example, decoders=_ENCODED_IMAGES
        )
        return data_service.distribute(
            self.config.data_service, self._records(split), rows, size, lambda x: load(parse(x))
        )

    def _require(self, split: str) -> None:
        touched = {re.match(r"\w*", part)[0] for part in split.split("+")}  # type: ignore[index]
        if touched & self.withheld or ("all" in touched and self.withheld):
            raise ValueError(f"split {split!r} is withheld: nothing here may see it.")

    @functools.lru_cache(maxsize=4)  # noqa: B019 -- One Data a run; a few numbers a record.
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

        File after file: where TFDS interleaves them, the order of a range is not its order in the
        whole split, and labels from the one would not belong to images from the other.

        Raises:
          ValueError: for a split that is withheld.
        """
        self._require(split)
        config = tfds.ReadConfig(try_autocache=False, interleave_cycle_length=1)
        return self.builder.as_dataset(split=split, decoders=_ENCODED_IMAGES, read_config=config)

    def _decoder(self, draw: int | None) -> Any:
        """Returns example -> (image [H, W, 1] uint8, label), augmented where there is a draw."""

        def decode_example(example: dict[str, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
            image = tf.ensure_shape(decode(example["image"], self.resize_to), self.image_shape)
            if draw is not None and self.config.augmentation != "none":
                example_id = tf.strings.to_hash_bucket_fast(example["file_name"], 1 << 31)
                seed = tf.stack([example_id, tf.constant(draw, tf.int64)])
                image = augment.apply(image, self.config.augmentation, seed)
            return image, tf.cast(example["label"], tf.int32)

        return decode_example


def decode(jpeg: tf.Tensor, side: int | None) -> tf.Tensor:
    """Decodes and resizes as `cxr_tfds.images.decode` does, where only TensorFlow runs.

    That is on tf.data service workers and on the hosts of a TPU. Decoded pixels are the same to the
    bit, resized ones within 1 grey level: Pillow rounds between rows and columns.

    Args:
      jpeg: a whole grey JPEG file, scalar string.
      side: height and width of the result in pixels; None: the image's own.

    Returns:
      [H, W, 1] uint8.
    """
    # TensorFlow's default DCT, and TFDS's, is the fast one: up to 18 grey levels off.
    image = tf.io.decode_jpeg(jpeg, channels=1, dct_method="INTEGER_ACCURATE")
    if side is None:
        return image
    # Bilinear: the model's Resizing layer has the same filter, but not the antialiasing.
    return tf.cast(tf.round(tf.image.resize(image, (side, side), antialias=True)), tf.uint8)


def _weighted(decode: Any) -> Any:
    """Returns example -> (image, label, weight 1)."""
    return lambda example: (*decode(example), 1.0)
