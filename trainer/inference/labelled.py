"""Labelled images from elsewhere as a data set with a test split, for `--mode=evaluate --images`.

    with labelled.packed(paths, class_names, side=224) as data:       # a pipeline.Data
        data.table("test").label

The labels come from a CSV list (columns `file` and `label`, optionally `patient_id`, and others to
group by), or from folders, or folders in a zip, that are named like the classes. The images are read
as predictions read them, and packed into records in a temporary folder: what evaluates a data set
then evaluates them, with all of its report.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import io
import tempfile
from typing import TYPE_CHECKING, Any, Final

import tensorflow_datasets as tfds
from PIL import Image

from cxr_tfds import images
from cxr_tfds.file_formats import ImageError
from cxr_tfds.radiographs import reading
from trainer.data import pipeline
from trainer.errors import RunError
from trainer.inference import sources
from trainer.system import console, text

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from trainer.inference.sources import Candidate
    from trainer.options import DataOptions

NAME: Final = "images"
LABEL_COLUMNS: Final = ("label", "class", "target")
PATIENT_COLUMNS: Final = ("patient_id", "patient", "patientid")
_OWN: Final = ("image", "label", "patient_id", "file_name", "etiology")
_UNKNOWN: Final = "unknown"


@dataclasses.dataclass(frozen=True)
class LabelledFile:
    """A file with what a list or its folder says of it."""

    candidate: Candidate
    label: int
    patient_id: str
    columns: dict[str, str]


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
        builder = _LabelledBuilder(files, class_names, side, folder)
        tfds.disable_progress_bar()
        builder.download_and_prepare()
        builder.say_what_is_missing()
        yield pipeline.Data(builder, config, None)


def label(candidates: Sequence[Candidate], class_names: Sequence[str]) -> list[LabelledFile]:
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
        patient = _named(candidate, PATIENT_COLUMNS) or candidate.name
        number = by_name.get(value, by_number.get(value, 0))
        found.append(LabelledFile(candidate, number, patient, _others(candidate)))
    if is_numbered:
        meaning = ", ".join(f"{i} is {name}" for i, name in enumerate(class_names))
        console.say(f"labels are numbers: {meaning}.")
    if not any(_named(of, PATIENT_COLUMNS) for of in candidates):
        console.say(
            "patients: no column patient_id, so each image counts as a patient of its own, and "
            "intervals are too narrow if patients have several."
        )
    return found


def _named(candidate: Candidate, names: Sequence[str]) -> str | None:
    """Returns the value of the first of these columns that the file's list has."""
    columns = {name.lower(): value for name, value in candidate.columns.items()}
    return next((columns[name] for name in names if name in columns), None)


def _of_folder(candidate: Candidate, by_name: dict[str, int]) -> str:
    """Returns the innermost folder of a file that is named like a class; empty if there is none."""
    folders = candidate.name.replace("\\", "/").lower().split("/")[:-1]
    return next((folder for folder in reversed(folders) if folder in by_name), "")


def _others(candidate: Candidate) -> dict[str, str]:
    """Returns the columns by which examples may be grouped."""
    taken = {*LABEL_COLUMNS, *PATIENT_COLUMNS, *sources.FILE_COLUMNS, *_OWN} - {"etiology"}
    return {name: value for name, value in candidate.columns.items() if name.lower() not in taken}


class _LabelledBuilder(tfds.dataset_builders.AdhocBuilder, skip_registration=True):
    """Writes the files that can be read into records."""

    def __init__(
        self, files: Sequence[LabelledFile], class_names: Sequence[str], side: int, folder: str
    ) -> None:
        self._files, self._class_names, self._side = files, class_names, side
        self._unreadable: list[str] = []
        columns = {name for file in files for name in file.columns} - {"etiology"}
        features = tfds.features.FeaturesDict(
            {
                "image": tfds.features.Image(shape=(side, side, 1), encoding_format="png"),
                "label": tfds.features.ClassLabel(names=list(class_names)),
                "etiology": tfds.features.ClassLabel(names=sorted(set(map(_etiology, files)))),
                "patient_id": tfds.features.Text(),
                "file_name": tfds.features.Text(),
                **{name: tfds.features.Text() for name in sorted(columns)},
            }
        )
        self._columns = sorted(columns)
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
            metadata=tfds.core.MetadataDict(fingerprint="0" * 64),
        )

    def _examples(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yields the examples in the order of the files; afterwards their fingerprint is known."""
        digest, counts = hashlib.sha256(), [0] * len(self._class_names)
        patients = set()
        for number, (file, result) in enumerate(images.parallel_map(self._load, self._files)):
            if isinstance(result, ImageError):
                self._unreadable.append(f"{file.candidate.name} {result.problem}")
                continue
            counts[file.label] += 1
            patients.add(file.patient_id)
            digest.update(f"{file.label} {file.patient_id} ".encode() + result)
            yield number, self._example(file, result)
        if not sum(counts):
            raise RunError(f"no file can be read: {text.one_line(self._unreadable[0]):.300}.")
        by_class = dict(zip(self._class_names, counts, strict=True))
        self.info.metadata.update(
            fingerprint=digest.hexdigest(),
            image_size=self._side,
            is_phantom=False,
            images={"test": by_class},
            patients={"test": len(patients)},
        )

    def _load(self, file: LabelledFile) -> bytes | ImageError:
        try:
            pixels = reading.read(file.candidate.read(), self._side).pixels
        except ImageError as error:
            return error
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, format="PNG", compress_level=1)
        return buffer.getvalue()

    def _example(self, file: LabelledFile, png: bytes) -> dict[str, Any]:
        return {
            "image": io.BytesIO(png),
            "label": file.label,
            "etiology": _etiology(file),
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


def _etiology(file: LabelledFile) -> str:
    return file.columns.get("etiology") or _UNKNOWN
