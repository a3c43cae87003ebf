"""The TFDS builder: configs, features, splits and examples of chest X-rays.

A config is a protocol (how images are split, see `protocols`) at a resolution:

    tfds build cxr_tfds --config=grouped --manual_dir=FOLDER_WITH_ARCHIVE_ZIP

The config `phantom` needs no archive: its radiographs are drawn (see module `phantoms`).
"""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import io
import itertools
import sys
from typing import TYPE_CHECKING, Any, Final

if __name__ == "__main__":  # TFDS would refuse the class, in words of its own.
    sys.exit(
        "This file defines a data set: build it by `tfds build cxr_tfds "
        "--manual_dir=FOLDER_WITH_ARCHIVE_ZIP`, in the folder above."
    )

import numpy as np
import tensorflow_datasets as tfds
from absl import app, logging
from tensorflow_datasets.core.utils import shard_utils

from cxr_tfds import configs, images, origin, phantoms, protocols, source, text

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from PIL import Image

NUM_SHARDS: Final = 16
"""Shards of every split. By default TFDS would write the resized records to one shard, which limits
parallel reading; and a job on N hosts needs at least N shards of every split that it reads."""

_BEAM_CHUNK: Final = 64


@dataclasses.dataclass(eq=False, kw_only=True)
class CxrTfdsConfig(tfds.core.BuilderConfig):
    """A row of `configs.ROWS` in the form that TFDS expects."""

    protocol: str = "grouped"
    image_size: int | None = 224
    is_phantom: bool = False


class _Image(tfds.features.Image):
    """Decodes as Pillow and the trainer do; TFDS takes JPEG's fast DCT, up to 18 grey levels off.

    The records say that it is TFDS's own, so that they can be read without this package.
    """

    _fully_qualified_class_name = f"{tfds.features.Image.__module__}.{tfds.features.Image.__name__}"

    def decode_example(self, example: Any) -> Any:
        tf = importlib.import_module("tensorflow")
        # It decodes PNG as well, and `decode_image` has no choice of the DCT.
        pixels = tf.io.decode_jpeg(example, channels=1, dct_method="INTEGER_ACCURATE")
        return tf.ensure_shape(pixels, self.shape)


class Builder(tfds.core.GeneratorBasedBuilder):
    """Chest X-rays of children: NORMAL against PNEUMONIA (bacteria or virus)."""

    VERSION = tfds.core.Version(configs.VERSION)
    RELEASE_NOTES: Final = {
        "1.0.0": "First release.",
        "1.1.0": "`phantom` has a mask of each finding; its images are those of 1.0.0.",
        "2.0.0": "Images are stored without loss, as PNG; 1.x stored JPEG of quality 95. Examples "
        "have the digest of their pixels.",
    }
    BUILDER_CONFIGS: Final = [CxrTfdsConfig(**dataclasses.asdict(row)) for row in configs.ROWS]
    MANUAL_DOWNLOAD_INSTRUCTIONS = source.HOW_TO_OBTAIN

    # The caller's own download config; set when the build starts.
    _download_config = tfds.download.DownloadConfig()

    def _create_builder_config(self, builder_config: Any, version: Any) -> Any:
        # TFDS's own error names no config where none is close.
        if isinstance(builder_config, str):
            _require_config(builder_config.split(":")[0])
        return super()._create_builder_config(builder_config, version)

    def _info(self) -> tfds.core.DatasetInfo:
        side = self.builder_config.image_size
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict(
                {
                    **(_mask_features(side) if self.builder_config.is_phantom else {}),
                    # Originals keep their encoding where that can be, see `images.encode`.
                    "image": _Image(shape=(side, side, 1), encoding_format="png" if side else None),
                    "image_digest": tfds.features.Text(),
                    "label": tfds.features.ClassLabel(names=source.CLASSES),
                    "etiology": tfds.features.ClassLabel(names=source.ETIOLOGIES),
                    "patient_id": tfds.features.Text(),
                    "file_name": tfds.features.Text(),
                    "folder": tfds.features.ClassLabel(names=source.FOLDERS),
                    "original_height": tfds.features.Scalar(np.int32),
                    "original_width": tfds.features.Scalar(np.int32),
                    "rgb_coded": tfds.features.Scalar(np.bool_),
                }
            ),
            supervised_keys=("image", "label"),
            homepage=f"https://www.kaggle.com/datasets/{source.KAGGLE_DATASET}",
            license="CC BY 4.0",
            metadata=tfds.core.MetadataDict(),
        )

    def is_prepared(self) -> bool:
        """Whether the data set is built; TFDS itself warns of a description that isn't there."""
        return (self.data_path / origin.LAST_FILE).exists() and super().is_prepared()

    def download_and_prepare(self, **arguments: Any) -> None:
        """Builds the data set as TFDS does, see there; uses records that are built.

        Raises:
          SourceError: the records are of another archive than the one in `manual_dir`, or lack
            their description.
          WriteError: the records can't be written.
        """
        config = arguments.get("download_config") or self._download_config
        if not config.download_mode.overwrite_dataset:
            origin.require_whole(self.data_path)
            self._compare_archive(config)
        try:
            super().download_and_prepare(**arguments)
        except (OSError, RuntimeError) as error:  # TFDS packs TensorFlow's errors in RuntimeErrors.
            cause = _first_cause(error)
            if not isinstance(
                cause, OSError | importlib.import_module("tensorflow").errors.OpError
            ):
                raise
            raise WriteError(
                f"cxr_tfds/{self.builder_config.name} can't be built in {self.data_dir} "
                f"({str(cause).splitlines()[0]}); make room there and allow writing, or give "
                "another --data_dir."
            ) from error

    def _compare_archive(self, config: tfds.download.DownloadConfig) -> None:
        # TFDS returns at once if the data set's folder exists, whatever the caller's manual_dir.
        # `tfds.load` doesn't even call `download_and_prepare` then, so it can't be held to it.
        if config.manual_dir is None or not self.is_prepared():
            return
        if self.builder_config.is_phantom:
            logging.info("manual_dir is not read: phantom radiographs are drawn.")
            return
        if line := origin.require_same(config.manual_dir, self.data_path):
            logging.warning("%s", line)

    def _download_and_prepare(
        self, dl_manager: Any, download_config: tfds.download.DownloadConfig
    ) -> None:
        # Every way of building passes through here, and nothing later sees the caller's config.
        self._download_config = download_config
        super()._download_and_prepare(dl_manager, _Sharded(**vars(download_config)))

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        """Checks the whole archive before the first example is written.

        Raises:
          SourceError: the archive is missing or incomplete, or has bad files.
        """
        encoder, facts = self._open_source(dl_manager)
        hashes = {key: fact.content_hash for key, fact in facts.items()}
        splits = protocols.assign(self.builder_config.protocol, encoder.records, hashes)
        self.info.metadata.update(self._describe(encoder.records, splits, facts))
        return {
            name: self._generate_examples(
                encoder,
                [(r, facts[r.key]) for r in encoder.records if splits[r.key] == name],
            )
            for name in protocols.SPLITS
        }

    def _generate_examples(self, encoder: _Encoder, items: list[_Item]) -> Any:
        """Returns (key, example) pairs: a generator, or a Beam transform if Beam was asked for."""
        if not (self._download_config.beam_options or self._download_config.beam_runner):
            return encoder.encode(items)
        beam = tfds.core.lazy_imports.apache_beam
        return beam.Create(list(_chunks(items))) | beam.FlatMap(encoder.encode)

    def _open_source(self, dl_manager: Any) -> tuple[_Encoder, dict[str, images.Facts]]:
        if self.builder_config.is_phantom:
            return _PhantomEncoder(phantoms.records()), _phantom_facts()
        archive = self._open_archive(dl_manager)
        keeps_bytes = self.builder_config.image_size is None
        facts, issues = images.inspect(archive, _require_equal_decoders if keeps_bytes else None)
        source.require_clean(issues, archive.root)
        return _ArchiveEncoder(archive, self.builder_config.image_size), facts

    def _open_archive(self, dl_manager: Any) -> source.Archive:
        archive = source.open_archive(self._find_manual_dir(dl_manager))
        for note in archive.notes():
            logging.warning("%s: %s", text.visible(archive.root), note)
        return archive

    def _find_manual_dir(self, dl_manager: Any) -> Any:
        # The caller's own, which may be a zip: TFDS would refuse a file, in words of its own.
        if self._download_config.manual_dir is not None:
            return self._download_config.manual_dir
        try:
            return dl_manager.manual_dir
        except (AssertionError, OSError) as error:
            # TFDS raises these for a missing or empty folder, and for a file in its place.
            problem = str(error).split(". ")[0]
        if source.has_kaggle_credentials():
            return origin.download_from_kaggle(dl_manager)
        raise source.SourceError(f"{problem}.\n{source.HOW_TO_OBTAIN}")

    def _describe(
        self,
        records: Iterable[source.Record],
        splits: protocols.Splits,
        facts: Mapping[str, images.Facts],
    ) -> dict[str, Any]:
        """Returns the metadata of the data set, as JSON values."""
        config = self.builder_config
        hashes = {key: fact.content_hash for key, fact in facts.items()}
        context = (config.name, configs.VERSION, str(config.image_size))
        shared = protocols.shared_patient_images
        return {
            "fingerprint": protocols.fingerprint(splits, hashes, *context),
            "protocol": config.protocol,
            "image_size": config.image_size,
            "is_phantom": config.is_phantom,
            "archive_digest": origin.digest({key: fact.size for key, fact in facts.items()}),
            "test_images_sharing_a_patient_with_train_or_validation": shared(records, splits),
            "test_images_sharing_a_patient_with_train": shared(records, splits, among=("train",)),
            "validation_images_sharing_a_patient_with_train": shared(records, splits, "validation"),
            "images": protocols.count(records, splits, lambda record: record.label),
            "images_by_etiology": protocols.count(records, splits, lambda record: record.etiology),
            "patients": {
                name: len({r.patient_id for r in records if splits[r.key] == name})
                for name in protocols.SPLITS
            },
            "rgb_coded_images": sum(fact.is_rgb_coded for fact in facts.values()),
        }


class WriteError(OSError):
    """The records can't be written; the message says why and what to do."""


def _first_cause(error: BaseException) -> BaseException:
    while error.__cause__ is not None:
        error = error.__cause__
    return error


class _PlainEnd(app.ExceptionHandler):
    """Lets a command such as `tfds build` end with our message, without 40 lines of TFDS above it.

    absl calls it for an error that ends a command; in a notebook or script nothing changes.
    """

    def wants(self, exc: BaseException) -> bool:
        return isinstance(exc, source.SourceError | WriteError)

    def handle(self, exc: BaseException) -> None:  # noqa: ARG002 -- absl's signature.
        # The error can't be stopped here; Python shows it by this hook, and exits with code 1.
        sys.excepthook = lambda _, error, __: print(error, file=sys.stderr)  # noqa: T201


app.install_exception_handler(_PlainEnd())


def _require_config(name: str) -> None:
    names = [row.name for row in configs.ROWS]
    if name not in names:
        nearest = difflib.get_close_matches(name, names, n=1)
        hint = f" Did you mean {nearest[0]}?" if nearest else ""
        raise source.SourceError(
            f"cxr_tfds has no config {name!r}.{hint} It has {', '.join(names)}."
        )


def _require_equal_decoders(data: bytes, image: Image.Image) -> None:
    """Raises ImageError unless TensorFlow decodes bytes that are kept to the pixels of Pillow."""
    if not images.keeps_bytes(data):
        return
    tf = importlib.import_module("tensorflow")  # Needed for `_raw` alone.
    try:
        pixels = tf.io.decode_jpeg(data, channels=1, dct_method="INTEGER_ACCURATE").numpy()
    except tf.errors.OpError as error:
        raise images.ImageError(f"cannot be decoded by TensorFlow ({error.message})") from error
    if not np.array_equal(pixels[..., 0], np.asarray(image)):
        raise images.ImageError(
            "is decoded to different pixels by Pillow and TensorFlow; save it anew"
        )


class _ShardConfig(shard_utils.ShardConfig):
    """A fixed number of shards, or one per example if there are fewer examples."""

    def get_number_shards(
        self,
        total_size: int,  # noqa: ARG002 - TFDS's signature.
        num_examples: int,
        uses_precise_sharding: bool = True,  # noqa: ARG002, FBT001, FBT002
    ) -> int:
        return min(self.num_shards or NUM_SHARDS, num_examples)


class _Sharded(tfds.download.DownloadConfig):
    """The caller's config with our default number of shards; a builder has no option for it."""

    def get_shard_config(self) -> _ShardConfig:
        return _ShardConfig(num_shards=self.num_shards)


_Item = tuple[source.Record, images.Facts]


@dataclasses.dataclass(frozen=True)
class _ArchiveEncoder:
    """Turns files into examples. Plain data, so that Beam can pickle it for its workers."""

    archive: source.Archive
    image_size: int | None

    @property
    def records(self) -> tuple[source.Record, ...]:
        return self.archive.records

    def encode(self, items: Iterable[_Item]) -> Iterator[tuple[str, dict[str, Any]]]:
        with self.archive.reader() as read:
            stored = images.parallel_map(
                lambda item: images.encode(read(item[0]), self.image_size), items
            )
            yield from ((item[0].key, _example(item, image)) for item, image in stored)


@dataclasses.dataclass(frozen=True)
class _PhantomEncoder:
    """Turns phantom records into examples."""

    records: tuple[source.Record, ...]

    def encode(self, items: Iterable[_Item]) -> Iterator[tuple[str, dict[str, Any]]]:
        # In one thread: drawing holds the GIL.
        for item in items:
            drawn = phantoms.draw(item[0])
            image = images.EncodedImage(images.encode_png(drawn.image), images.digest(drawn.image))
            mask = images.encode_png(drawn.finding.astype(np.uint8) * 255)
            yield item[0].key, _example(item, image) | {configs.MASK: io.BytesIO(mask)}


_Encoder = _ArchiveEncoder | _PhantomEncoder


def _mask_features(side: int | None) -> dict[str, Any]:
    return {configs.MASK: tfds.features.Image(shape=(side, side, 1), encoding_format="png")}


def _example(item: _Item, image: images.EncodedImage) -> dict[str, Any]:
    record, facts = item
    return {
        "image": io.BytesIO(image.content),
        "image_digest": image.digest,
        "label": record.label,
        "etiology": record.etiology,
        "patient_id": record.patient_id,
        "file_name": record.file_name,
        "folder": record.folder,
        "original_height": facts.height,
        "original_width": facts.width,
        "rgb_coded": facts.is_rgb_coded,
    }


def _phantom_facts() -> dict[str, images.Facts]:
    # A hash of the recipe instead of the pixels: their last bit may differ between CPUs, and the
    # fingerprint must not.
    return {
        record.key: images.Facts(
            height=phantoms.SIDE,
            width=phantoms.SIDE,
            is_rgb_coded=False,
            content_hash=phantoms.recipe(record),
        )
        for record in phantoms.records()
    }


def _chunks(items: Iterable[_Item]) -> Iterator[list[_Item]]:
    """Yields lists of items: a Beam worker opens the archive once per list, not once per image."""
    iterator = iter(items)
    while chunk := list(itertools.islice(iterator, _BEAM_CHUNK)):
        yield chunk
