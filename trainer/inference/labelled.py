"""Labelled images from elsewhere as a data set with a test split, for `--mode=evaluate --images`.

    with labelled.packed(paths, class_names, [224], config, "grouped") as data:  # a pipeline.Data
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
import os
import pathlib
import tempfile
from typing import TYPE_CHECKING, Any, Final

import tensorflow_datasets as tfds
from PIL import Image

from cxr_tfds import configs, images, source
from cxr_tfds.file_formats import ImageError
from cxr_tfds.radiographs import reading
from trainer.data import pipeline
from trainer.errors import RunError
from trainer.inference import file_lists, prediction, sources
from trainer.system import console, text

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from cxr_tfds.radiographs.reading import Radiograph
    from trainer.inference.sources import ImageFile
    from trainer.options import DataOptions

NAME: Final = "images"
LABEL_COLUMNS: Final = ("label", "class", "target")
PATIENT_COLUMNS: Final = ("patient_id", "patient", "patientid")
_OWN: Final = ("image", "image_digest", "label", "patient_id", "file_name", "etiology")
_UNKNOWN: Final = "unknown"


@dataclasses.dataclass(frozen=True)
class LabelledFile:
    """A file with what a list, its folder or its name says of it.

    Attributes:
      candidate: the file.
      label: index of its class.
      patient_id: of the list, or as a name of Kaggle's archive tells, or else the file's name.
      etiology: likewise; `unknown` where nothing tells it.
      is_named_as_kaggle: whether the file's name told one of them.
      columns: others of the list, by which examples may be grouped.
    """

    candidate: ImageFile
    label: int
    patient_id: str
    etiology: str
    is_named_as_kaggle: bool
    columns: dict[str, str]


@contextlib.contextmanager
def packed(
    paths: Sequence[str],
    class_names: Sequence[str],
    sides: Sequence[int],
    config: DataOptions,
    dataset: str,
) -> Iterator[pipeline.Data]:
    """Packs labelled files into a data set, which vanishes when the block ends.

    Args:
      paths: what `--images` names.
      class_names: of the model, in the order of its outputs.
      sides: to which files are stretched one after the other, in pixels; the last is the model's.
      config: how to read the data set.
      dataset: that the model was trained on, whose images are recognised.

    Raises:
      ConfigError: when there are no such files.
      RunError: when a file has no label, an unknown one or several, or none can be read.
    """
    config.staging_root.mkdir(parents=True, exist_ok=True)
    with (
        sources.opened(paths) as found,
        tempfile.TemporaryDirectory(prefix="labelled-", dir=config.staging_root) as folder,
    ):
        for note in found.notes:
            console.say(note)
        files = label(found.candidates, class_names, found.repeated)
        record_side = next(row.image_size for row in configs.ROWS if row.name == dataset)
        builder = _LabelledBuilder(files, class_names, sides, record_side, folder)
        tfds.disable_progress_bar()
        with contextlib.redirect_stdout(io.StringIO()):  # TFDS tells of the temporary folder.
            builder.download_and_prepare()
        builder.say_what_was_read()
        yield pipeline.Data(builder, config, None)


def label(
    candidates: Sequence[ImageFile],
    class_names: Sequence[str],
    repeated: Sequence[ImageFile] = (),
) -> list[LabelledFile]:
    """Returns the files with their labels, from the columns of a list or from their folders.

    Args:
      candidates: the files, each once.
      class_names: of the model.
      repeated: files that are named again, with other columns.

    Raises:
      RunError: when a file has no label, one that is no class of the model, or is named again with
        another label or patient.
    """
    by_name = {name.lower(): i for i, name in enumerate(class_names)}
    found = [_label(candidate, by_name, class_names) for candidate in candidates]
    again = [_label(candidate, by_name, class_names) for candidate in repeated]
    _require_no_contradiction([*found, *again], class_names)
    counts = collections.Counter(of.label for of in found)
    shown_counts = (f"{counts[i]:,} {name}" for i, name in enumerate(class_names))
    console.say(f"labels: {', '.join(shown_counts)}.")
    if any(_value(of.candidate, by_name) not in by_name for of in found):
        meaning = ", ".join(f"{i} is {name}" for i, name in enumerate(class_names))
        console.say(f"labels are numbers: {meaning}.")
    _say_where_patients_come_from(found)
    return found


def _label(
    candidate: ImageFile, by_name: dict[str, int], class_names: Sequence[str]
) -> LabelledFile:
    by_number = {str(i): i for i in range(len(class_names))}
    value = _value(candidate, by_name)
    if value not in by_name and value not in by_number:
        shown = text.one_line(candidate.name)
        said = f"is labelled {text.shown(_named(candidate, LABEL_COLUMNS))}"
        raise RunError(
            f"{shown:.200} {said if value else 'has no label'}: give a CSV list with columns "
            f"`file` and `label` ({', '.join(class_names)}), or folders that are named like the "
            "classes."
        )
    number = by_name.get(value, by_number.get(value, 0))
    patient, others = _named(candidate, PATIENT_COLUMNS), _others(candidate)
    etiology = others.pop("etiology", None)
    of_name = _of_kaggle(candidate, class_names[number].lower(), by_name)
    told = of_name or (_UNKNOWN, candidate.name)
    if patient is not None:  # A list that leaves it empty knows of none.
        told = told[0], candidate.name
    return LabelledFile(
        candidate, number, patient or told[1], etiology or told[0],
        is_named_as_kaggle=of_name is not None and (patient is None or not etiology),
        columns=others,
    )  # fmt: skip


def _value(candidate: ImageFile, by_name: dict[str, int]) -> str:
    """Returns a label in lower case as the list says it, or else a folder; empty if none does."""
    named = _named(candidate, LABEL_COLUMNS)
    return _of_folder(candidate, by_name) if named is None else named.lower()


def _of_kaggle(
    candidate: ImageFile, class_name: str, by_name: dict[str, int]
) -> tuple[str, str] | None:
    """Returns etiology and patient of a file of Kaggle's archive; None where it can't be one.

    They may be images that the run was trained on. But IM-0001-0001 is also what viewers of DICOM
    call the first image of any patient: the name alone tells nothing.
    """
    path = pathlib.PurePosixPath(candidate.name)
    if path.suffix.lower() not in source.IMAGE_SUFFIXES:
        return None
    try:
        etiology, patient = source.parse_name(path.stem)
    except ValueError:
        return None
    meant = "normal" if etiology == "normal" else "pneumonia"
    is_meant = class_name == meant == _of_folder(candidate, by_name)
    return (etiology, patient) if is_meant else None


def _require_no_contradiction(files: Sequence[LabelledFile], class_names: Sequence[str]) -> None:
    """Raises RunError for a file that has several labels or patients, however its path is given."""
    first: dict[str, LabelledFile] = {}
    for file in files:
        other = first.setdefault(os.path.abspath(file.candidate.name), file)  # noqa: PTH100 -- Members of zips stay names.
        labels = [f"label {text.shown(class_names[of.label])}" for of in (other, file)]
        patients = [_shown_patient(of) for of in (other, file)]
        for one, two in (labels, patients):
            if one != two:
                shown = text.one_line(file.candidate.name)
                raise RunError(
                    f"{shown:.200} is named twice, with {one} and with {two}: correct the list, or "
                    "name the file once."
                )


def _shown_patient(file: LabelledFile) -> str:
    is_known = file.patient_id != file.candidate.name
    return f"patient_id {text.shown(file.patient_id)}" if is_known else "no patient_id"


def _say_where_patients_come_from(files: Sequence[LabelledFile]) -> None:
    if count := sum(of.is_named_as_kaggle for of in files):
        console.say(
            f"patients and etiologies taken from the names of {text.counted(count, 'file')}, as "
            "Kaggle's archive names them; if they are of no such archive, give a list with a "
            "column patient_id."
        )
    own = sum(of.patient_id == of.candidate.name for of in files)
    narrow = "intervals are too narrow if patients have several"
    if all(_named(of.candidate, PATIENT_COLUMNS) is None for of in files) and own == len(files):
        console.say(
            "patients: no column patient_id, so each image counts as a patient of its own, and "
            f"{narrow}."
        )
    elif own:
        console.say(
            f"patients: {own:,} of {text.counted(len(files), 'file')} have no patient_id, so each "
            f"of them counts as a patient of its own, and {narrow}."
        )


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
        sides: Sequence[int],
        record_side: int | None,
        folder: str,
    ) -> None:
        self._files, self._class_names = files, class_names
        self._sides, self._record_side = sides, record_side
        self._unreadable: list[str] = []
        self._flags: collections.Counter[str] = collections.Counter()
        self._notes: collections.Counter[str] = collections.Counter()
        self._digests, self._copies = set[str](), 0
        self._columns = sorted({name for file in files for name in file.columns})
        features = tfds.features.FeaturesDict(
            {
                "image": tfds.features.Image(
                    shape=(sides[-1], sides[-1], 1), encoding_format="png"
                ),
                "image_digest": tfds.features.Text(),
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
            radiograph, digest_of_record = loaded
            png = images.encode_png(radiograph.pixels, compress_level=1)
            self._count(radiograph)
            counts[file.label] += 1
            patients.add(file.patient_id)
            pixels = images.digest(radiograph.pixels)
            digest.update(f"{file.label} {file.patient_id} {pixels}\n".encode())
            yield number, self._example(file, png, digest_of_record)
        if not sum(counts):
            raise RunError(f"no file can be read: {text.one_line(self._unreadable[0]):.300}.")
        self.info.metadata.update(
            fingerprint=digest.hexdigest(),
            image_size=self._sides[-1],
            is_phantom=False,
            images={"test": dict(zip(self._class_names, counts, strict=True))},
            patients={"test": len(patients)},
            flagged=dict(self._flags),
            notes=dict(self._notes),
            same_image=self._copies,
        )

    def _count(self, radiograph: Radiograph) -> None:
        """Counts what reading the file has told, which no figure shows."""
        self._flags.update(radiograph.flags)
        # What stands in brackets is of one file.
        self._notes.update({note.partition(" (")[0] for note in radiograph.notes})
        digest = prediction.digest_of(radiograph)
        self._copies += digest in self._digests
        self._digests.add(digest)

    def _load(self, file: LabelledFile) -> tuple[Radiograph, str] | ImageError:
        """Returns the file, and the digest of its record in the data set of the run.

        By that digest, images that the run was trained on are recognised.
        """
        try:
            radiograph = reading.read(file.candidate.read())
        except ImageError as error:
            return error
        image = Image.fromarray(radiograph.pixels)
        record = images.grey_pixels(image, *([self._record_side] if self._record_side else []))
        pixels = images.grey_pixels(image, *self._sides)
        return dataclasses.replace(radiograph, pixels=pixels), images.digest(record)

    def _example(self, file: LabelledFile, png: bytes, digest: str) -> dict[str, Any]:
        return {
            "image": io.BytesIO(png),
            "image_digest": digest,
            "label": file.label,
            "etiology": file.etiology,
            "patient_id": text.printable(file.patient_id),
            "file_name": text.printable(file.candidate.name),
            **{name: file.columns.get(name, "") for name in self._columns},
        }

    def say_what_was_read(self) -> None:
        """Names the files that are in no figure, and counts those that perhaps should not be."""
        if self._unreadable:
            count = text.counted(len(self._unreadable), "file")
            first = text.one_line("; ".join(self._unreadable[:3]))
            console.say(f"not evaluated, as they can't be read: {count} ({first:.400}).")
        if self._flags:
            shown = ", ".join(f"{count:,} {flag}" for flag, count in self._flags.most_common())
            console.say(f"flagged, and evaluated like the others: {shown}.")
        if self._notes:
            most = (f"{text.one_line(note)} ({n:,})" for note, n in self._notes.most_common(5))
            console.say(f"notes on files: {'; '.join(most):.400}.")
        if self._copies:
            count = text.counted(self._copies, "file")
            console.say(f"the same image as a file before it: {count}, and each counts.")
