"""Labelled images from elsewhere as a data set with a test split, for `--mode=evaluate --images`.

    with labelled.packed(paths, class_names, side=224) as data:       # a pipeline.Data
        data.table("test").label

The labels come from a CSV list (columns `file` and `label`, optionally `patient_id`, and others to
group by), or from folders, or folders in a zip, that are named like the classes. The images are
read as predictions read them, and packed into records in a temporary folder: what evaluates a data
set then evaluates them, with all of its report.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import hashlib
import io
import pathlib
import tempfile
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from cxr_tfds import configs, images, source
from cxr_tfds.file_formats import ImageError
from cxr_tfds.radiographs import reading
from trainer.data import pipeline, table
from trainer.errors import RunError
from trainer.inference import file_lists, sources
from trainer.system import console, text

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from trainer.data.table import Table
    from trainer.inference.sources import ImageFile
    from trainer.options import DataOptions

NAME: Final = "images"
LABEL_COLUMNS: Final = ("label", "class", "target")
PATIENT_COLUMNS: Final = ("patient_id", "patient", "patientid")
_OWN: Final = ("image", "label", "patient_id", "file_name", "etiology")
_UNKNOWN: Final = "unknown"


@dataclasses.dataclass(frozen=True)
class LabelledFile:
    """A file with what a list, its folder or its name says of it.

    Attributes:
      candidate: the file.
      label: index of its class.
      patient_id: of the list, or as a name of Kaggle's archive tells, or else the file's name.
      etiology: likewise; `unknown` where nothing tells it.
      columns: others of the list, by which examples may be grouped.
    """

    candidate: ImageFile
    label: int
    patient_id: str
    etiology: str
    columns: dict[str, str]


@dataclasses.dataclass(frozen=True)
class LabelledData(pipeline.Data):
    """Labelled images as a data set; knows how a record of the run would hold each of them.

    Attributes:
      image_hashes: of each image, as in the tables of the data set that the run was trained on.
    """

    image_hashes: tuple[int, ...] = ()

    def table(self, split: str) -> Table:  # type: ignore[override]
        """Reads everything but the images; images of the training set are recognised."""
        return dataclasses.replace(super().table(split), image_hash=np.array(self.image_hashes))


@contextlib.contextmanager
def packed(
    paths: Sequence[str],
    class_names: Sequence[str],
    side: int,
    config: DataOptions,
) -> Iterator[pipeline.Data]:
    """Packs labelled files into a data set, which vanishes when the block ends.

    Args:
      paths: what `--images` names.
      class_names: of the model, in the order of its outputs.
      side: height and width of the images that the model takes, in pixels.
      config: how to read the data set.

    Raises:
      ConfigError: when there are no such files.
      RunError: when a file has no label or an unknown one, or none can be read.
    """
    config.staging_root.mkdir(parents=True, exist_ok=True)
    with (
        sources.opened(paths) as found,
        tempfile.TemporaryDirectory(prefix="labelled-", dir=config.staging_root) as folder,
    ):
        for note in found.notes:
            console.say(note)
        files = label(found.candidates, class_names)
        record_side = next(row.image_size for row in configs.ROWS if row.name == config.dataset)
        builder = _LabelledBuilder(files, class_names, side, record_side, folder)
        tfds.disable_progress_bar()
        with contextlib.redirect_stdout(io.StringIO()):  # TFDS tells of the temporary folder.
            builder.download_and_prepare()
        builder.say_what_is_missing()
        yield LabelledData(builder, config, None, image_hashes=tuple(builder.image_hashes))


def label(candidates: Sequence[ImageFile], class_names: Sequence[str]) -> list[LabelledFile]:
    """Returns the files with their labels, from the columns of a list or from their folders.

    Raises:
      RunError: when a file has no label, or one that is no class of the model.
    """
    found = []
    by_name = {name.lower(): i for i, name in enumerate(class_names)}
    by_number = {str(i): i for i in range(len(class_names))}
    is_numbered = False
    for candidate in candidates:
        named = _named(candidate, LABEL_COLUMNS)
        value = _of_folder(candidate, by_name) if named is None else named.lower()
        if value not in by_name and value not in by_number:
            shown = text.one_line(candidate.name)
            said = "has no label" if not value else f"is labelled {text.shown(named)}"
            raise RunError(
                f"{shown:.200} {said}: give a CSV list with columns `file` and `label` "
                f"({', '.join(class_names)}), or folders that are named like the classes."
            )
        is_numbered |= value not in by_name
        number = by_name.get(value, by_number.get(value, 0))
        found.append(_file(candidate, number))
    counts = collections.Counter(of.label for of in found)
    shown_counts = (f"{counts[i]:,} {name}" for i, name in enumerate(class_names))
    console.say(f"labels: {', '.join(shown_counts)}.")
    if is_numbered:
        meaning = ", ".join(f"{i} is {name}" for i, name in enumerate(class_names))
        console.say(f"labels are numbers: {meaning}.")
    if all(of.patient_id == of.candidate.name for of in found):
        console.say(
            "patients: no column patient_id, so each image counts as a patient of its own, and "
            "intervals are too narrow if patients have several."
        )
    return found


def _file(candidate: ImageFile, number: int) -> LabelledFile:
    patient, others = _named(candidate, PATIENT_COLUMNS), _others(candidate)
    etiology = others.pop("etiology", None)
    try:  # Images of Kaggle's archive may be those that the run was trained on.
        of_name = source.parse_name(pathlib.PurePosixPath(candidate.name).stem)
    except ValueError:
        of_name = (_UNKNOWN, candidate.name)
    return LabelledFile(candidate, number, patient or of_name[1], etiology or of_name[0], others)


def _named(candidate: ImageFile, names: Sequence[str]) -> str | None:
    """Returns the value of the first of these columns that the file's list has."""
    columns = {name.lower(): value for name, value in candidate.columns.items()}
    return next((columns[name] for name in names if name in columns), None)


def _of_folder(candidate: ImageFile, by_name: dict[str, int]) -> str:
    """Returns the innermost folder of a file that is named like a class; empty if there is none."""
    folders = (folder.lower() for folder in reversed(candidate.folders))
    return next((folder for folder in folders if folder in by_name), "")


def _others(candidate: ImageFile) -> dict[str, str]:
    """Returns the columns by which examples may be grouped."""
    taken = {*LABEL_COLUMNS, *PATIENT_COLUMNS, *file_lists.FILE_COLUMNS, *_OWN} - {"etiology"}
    return {name: value for name, value in candidate.columns.items() if name.lower() not in taken}


class _LabelledBuilder(  # type: ignore[call-arg]
    tfds.dataset_builders.AdhocBuilder, skip_registration=True
):
    """Writes the files that can be read into records."""

    def __init__(
        self,
        files: Sequence[LabelledFile],
        class_names: Sequence[str],
        side: int,
        record_side: int | None,
        folder: str,
    ) -> None:
        self._files, self._class_names = files, class_names
        self._side, self._record_side = side, record_side
        self._unreadable: list[str] = []
        self.image_hashes: list[int] = []
        self._columns = sorted({name for file in files for name in file.columns})
        features = tfds.features.FeaturesDict(
            {
                "image": tfds.features.Image(shape=(side, side, 1), encoding_format="png"),
                "label": tfds.features.ClassLabel(names=list(class_names)),
                "etiology": tfds.features.ClassLabel(names=sorted({of.etiology for of in files})),
                "patient_id": tfds.features.Text(),
                "file_name": tfds.features.Text(),
                **{name: tfds.features.Text() for name in self._columns},
            }
        )
        super().__init__(
            name=NAME,
            version="1.0.0",
            features=features,
            split_datasets={"test": self._examples()},
            data_dir=folder,
            disable_shuffling=True,
        )

    def _info(self) -> Any:
        return tfds.core.DatasetInfo(
            builder=self,
            features=self._feature_spec,
            disable_shuffling=True,
            metadata=tfds.core.MetadataDict(),
        )

    def _examples(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yields the examples in the order of the files; afterwards their fingerprint is known."""
        digest, counts = hashlib.sha256(), [0] * len(self._class_names)
        patients = set()
        for number, (file, loaded) in enumerate(images.parallel_map(self._load, self._files)):
            if isinstance(loaded, ImageError):
                self._unreadable.append(f"{file.candidate.name} {loaded.problem}")
                continue
            png, image_hash = loaded
            counts[file.label] += 1
            patients.add(file.patient_id)
            digest.update(f"{file.label} {file.patient_id} ".encode() + png)
            self.image_hashes.append(image_hash)
            yield number, self._example(file, png)
        if not sum(counts):
            raise RunError(f"no file can be read: {text.one_line(self._unreadable[0]):.300}.")
        self.info.metadata.update(
            fingerprint=digest.hexdigest(),
            image_size=self._side,
            is_phantom=False,
            images={"test": dict(zip(self._class_names, counts, strict=True))},
            patients={"test": len(patients)},
        )

    def _load(self, file: LabelledFile) -> tuple[bytes, int] | ImageError:
        """Returns the image as PNG, and the hash of what a record of the run would hold."""
        try:
            data = file.candidate.read()
            pixels = reading.read(data, self._side).pixels
        except ImageError as error:
            return error
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, format="PNG", compress_level=1)
        return buffer.getvalue(), self._hash(data)

    def _hash(self, data: bytes) -> int:
        try:
            record = (
                images.encode_original(data)
                if self._record_side is None
                else images.encode_resized(data, self._record_side)
            )
        except ImageError:  # Of a kind that no archive of the data set has.
            return -1
        return table.hash_of(record)

    def _example(self, file: LabelledFile, png: bytes) -> dict[str, Any]:
        return {
            "image": io.BytesIO(png),
            "label": file.label,
            "etiology": file.etiology,
            "patient_id": text.printable(file.patient_id),
            "file_name": text.printable(file.candidate.name),
            **{name: file.columns.get(name, "") for name in self._columns},
        }

    def say_what_is_missing(self) -> None:
        """Names the files that could not be read: they are not in any figure."""
        if self._unreadable:
            count = text.counted(len(self._unreadable), "file")
            first = text.one_line("; ".join(self._unreadable[:3]))
            console.say(f"not evaluated, as they can't be read: {count} ({first:.400}).")
