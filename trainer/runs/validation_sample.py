"""What a run keeps of its validation split, to compare the data of a later evaluation with.

    validation_sample.save(directory.path, sample)
    validation_sample.load(directory.path)             # None for a run of an earlier version

`validation_sample.npz` has scores, pooled features and image statistics of at most 2,000 examples.
NumPy loads no objects from it, so that nothing in a forged file can run.
"""

from __future__ import annotations

import zipfile
from typing import TYPE_CHECKING

import numpy as np

from trainer.data import statistics
from trainer.evaluation.shifts import shift
from trainer.storage import documents, files
from trainer.system import text

if TYPE_CHECKING:
    import pathlib

FILE = "validation_sample.npz"
_COLUMNS = ("scores", "features", "patient_id")
_STATISTICS = {f"statistic_{name}": name for name in statistics.NAMES}
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
    with files.replacing(folder / FILE) as partial, partial.open("wb") as file:
        np.savez(file, **columns)  # type: ignore[arg-type]


def load(folder: pathlib.Path) -> shift.Sample | None:
    """Returns what `save` wrote; None if there is no such file.

    Raises:
      RunError: when it can't be read, or is not such a file.
    """
    path = folder / FILE
    if not path.exists():
        return None
    try:
        return _load(path)
    except Exception as error:  # NumPy and zipfile raise what they stumble over.
        raise documents.refused(path, text.clause(error), _WAY_OUT) from error


def _load(path: pathlib.Path) -> shift.Sample:
    if not path.is_file():
        raise ValueError("it is not a regular file")
    size = path.stat().st_size
    with zipfile.ZipFile(path) as zipped:
        # `np.savez` doesn't compress: a member larger than the file is a forgery.
        if size > _MAX_BYTES or sum(member.file_size for member in zipped.infolist()) > size:
            raise ValueError(f"it has more than {_MAX_BYTES >> 20} MiB, or unpacks to more than it")
    with np.load(path, allow_pickle=False) as found:
        if set(found.files) != {*_COLUMNS, *_STATISTICS}:
            raise ValueError("it has other arrays than a sample")
        columns = {name: found[name] for name in found.files}
    _check(columns)
    return shift.Sample(
        columns["scores"],
        columns["features"],
        {name: columns[stored] for stored, name in _STATISTICS.items()},
        columns["patient_id"],
    )


def _check(columns: dict[str, np.ndarray]) -> None:
    """Raises ValueError for arrays of other kinds or shapes than a sample's."""
    for name, column in columns.items():
        kind, dimensions = ("U", 1) if name == "patient_id" else ("f", 1 + (name == "features"))
        if column.dtype.kind != kind or column.ndim != dimensions:
            raise ValueError(f"its {text.shown(name)} has {column.dtype} {column.shape}")
