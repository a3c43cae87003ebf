"""What a run keeps of its validation split, to compare the data of a later evaluation with.

    validation_sample.save(directory.path, sample)
    validation_sample.load(directory.path)             # None for a run of an earlier version
    validation_sample.load_known_images(directory.path)   # what tells an unlike image

`validation_sample.npz` has scores, pooled features, image statistics and thumbnails of at most
2,000 examples, and the distances from which on an image is unlike them. NumPy loads no objects from
it, so that nothing in a forged file can run.
"""

from __future__ import annotations

import hashlib
import zipfile
from typing import TYPE_CHECKING

import numpy as np

from trainer.data import statistics
from trainer.evaluation.shifts import novelty, shift
from trainer.runs import claims
from trainer.storage import documents, files
from trainer.system import text

if TYPE_CHECKING:
    import pathlib

FILE = "validation_sample.npz"
_COLUMNS = ("scores", "features", "patient_id")
_STATISTICS = {f"statistic_{name}": name for name in statistics.NAMES}
_LAYOUTS, _THRESHOLDS, _MODEL = "layouts", "novelty_thresholds", "model"
_KINDS = {"patient_id": ("U", 1), "features": ("f", 2), _LAYOUTS: ("u", 2), _MODEL: ("U", 1)}
"""Kind of the numbers, and dimensions, of each array that isn't a column of fractions."""
_MAX_BYTES = 512 << 20
_WAY_OUT = "restore it from a copy, or remove it: evaluations then can't tell how their data differ"


def save(folder: pathlib.Path, sample: shift.Sample) -> None:
    """Writes the sample of a run's validation split."""
    columns = {
        "scores": sample.scores,
        "features": np.asarray(sample.features, np.float32),
        "patient_id": np.asarray(sample.patient_id, str),
        **{stored: sample.statistics[name] for stored, name in _STATISTICS.items()},
    }
    if model := _digest_of_model(folder):
        columns[_MODEL] = np.array([model])
    if sample.layouts is not None:
        columns[_LAYOUTS] = sample.layouts
    if (known := novelty.KnownImages.of(sample)) is not None:
        columns[_THRESHOLDS] = np.array([known.feature_threshold, known.layout_threshold])
    with files.replacing(folder / FILE) as partial, partial.open("wb") as file:
        np.savez(file, **columns)  # type: ignore[arg-type]


def load(folder: pathlib.Path) -> shift.Sample | None:
    """Returns what `save` wrote; None if there is no such file.

    Raises:
      RunError: when it can't be read, or is not such a file.
    """
    columns = _load(folder / FILE)
    if not columns:
        return None
    return shift.Sample(
        columns["scores"],
        columns["features"],
        {name: columns[stored] for stored, name in _STATISTICS.items()},
        columns["patient_id"],
        columns.get(_LAYOUTS),
    )


def load_known_images(folder: pathlib.Path) -> novelty.KnownImages | None:
    """Returns what images are compared with, to tell those that are unlike the run's.

    None if the run was validated on too few images, or trained by an earlier version.

    Raises:
      RunError: when the file can't be read, or is not such a file.
    """
    columns = _load(folder / FILE)
    if _THRESHOLDS not in columns or _LAYOUTS not in columns:
        return None
    of_features, of_layouts = columns[_THRESHOLDS].tolist()
    return novelty.KnownImages(columns["features"], columns[_LAYOUTS], of_features, of_layouts)


def _load(path: pathlib.Path) -> dict[str, np.ndarray]:
    """Returns the arrays in the file; none if there is no file."""
    if not path.exists():
        return {}
    try:
        return _read(path)
    except Exception as error:  # NumPy and zipfile raise what they stumble over.
        raise documents.refused(path, text.clause(error), _WAY_OUT) from error


def _digest_of_model(folder: pathlib.Path) -> str:
    """Returns a digest of the run's saved model; empty if there is none."""
    path = folder / claims.BEST_MODEL
    if not path.is_file():
        return ""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read(path: pathlib.Path) -> dict[str, np.ndarray]:
    if not path.is_file():
        raise ValueError("it is not a regular file")
    size = path.stat().st_size
    with zipfile.ZipFile(path) as zipped:
        # `np.savez` doesn't compress: a member larger than the file is a forgery.
        if size > _MAX_BYTES or sum(member.file_size for member in zipped.infolist()) > size:
            raise ValueError(f"it has more than {_MAX_BYTES >> 20} MiB, or unpacks to more than it")
    with np.load(path, allow_pickle=False) as found:
        if set(found.files) - {_LAYOUTS, _THRESHOLDS, _MODEL} != {*_COLUMNS, *_STATISTICS}:
            raise ValueError("it has other arrays than a sample")
        columns = {name: found[name] for name in found.files}
    _check(columns)
    own = columns.pop(_MODEL, np.array([""]))
    if own.tolist() != [""] and own.tolist() != [_digest_of_model(path.parent)]:
        raise ValueError(
            f"it is of another model than the {claims.BEST_MODEL} beside it, which the run's "
            "training command writes together with it"
        )
    return columns


def _check(columns: dict[str, np.ndarray]) -> None:
    """Raises ValueError for arrays of other kinds or shapes than a sample's."""
    for name, column in columns.items():
        kind, dimensions = _KINDS.get(name, ("f", 1))
        if column.dtype.kind != kind or column.ndim != dimensions:
            raise ValueError(f"its {text.shown(name)} has {column.dtype} {column.shape}")
        if name not in (_THRESHOLDS, _MODEL) and len(column) != len(columns["scores"]):
            raise ValueError(f"its {text.shown(name)} has {len(column)} rows, its scores others")
    thresholds, layouts = columns.get(_THRESHOLDS), columns.get(_LAYOUTS)
    if thresholds is not None and not (thresholds.shape == (2,) and (thresholds > 0).all()):
        raise ValueError(f"its {_THRESHOLDS} are {text.shown(thresholds.tolist()[:3])}")
    if layouts is not None and layouts.shape[1] != novelty.LAYOUT_SIDE**2:
        raise ValueError(f"its {_LAYOUTS} have {layouts.shape[1]} pixels")
