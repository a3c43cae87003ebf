"""Everything but the images of a split, as arrays, in the order of its records.

found = table.read(examples, features)         # a Table
table.column(examples, features, "folder")     # [N] str
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow_datasets as tfds

from trainer.errors import ConfigError
from trainer.evaluation import predictions
from trainer.system import hints, text

if TYPE_CHECKING:
    from collections.abc import Sequence

    import tensorflow as tf

_TEXTS = ("file_name", "patient_id", "image_digest")
_COLUMNS = (*_TEXTS, "etiology", "label")
_BLOCK = 4096


@dataclasses.dataclass(frozen=True)
class Table:
    """The examples of a split, arrays [N].

    Attributes:
      file_name: str.
      patient_id: str.
      etiology: str.
      label: int, index of the class.
      image_digest: str, equal where images have equal pixels (`cxr_tfds.images.digest`).
    """

    file_name: np.ndarray
    patient_id: np.ndarray
    etiology: np.ndarray
    label: np.ndarray
    image_digest: np.ndarray


def read(examples: tf.data.Dataset, features: Any) -> Table:
    """Reads a table.

    Args:
      examples: of a split, with encoded images.
      features: of the data set.

    Raises:
      ValueError: a clause, when a record is not what the features say.
    """
    columns = _columns(examples.map(lambda example: {name: example[name] for name in _COLUMNS}))
    for name in ("label", "etiology"):
        _require_known(name, columns[name], features[name].names)
    strings = {name: _decoded(columns[name]) for name in _TEXTS}
    etiology = np.array(features["etiology"].names)[columns["etiology"]]
    return Table(**{**columns, **strings, "etiology": etiology})


def encoded_images(features: Any) -> dict[str, Any]:
    """Returns the decoders that leave the images of a record, and their masks, encoded."""
    kind = tfds.features.Image
    return {
        name: tfds.decode.SkipDecoding() for name in features if isinstance(features[name], kind)
    }


def _columns(rows: tf.data.Dataset) -> dict[str, np.ndarray]:
    """Returns the columns of scalars, [N]; a split may be empty."""
    empty = {name: np.empty(0, of.dtype.as_numpy_dtype) for name, of in rows.element_spec.items()}
    blocks = [empty, *rows.batch(_BLOCK).as_numpy_iterator()]
    return {name: np.concatenate([block[name] for block in blocks]) for name in empty}


def _require_known(name: str, values: np.ndarray, names: Sequence[str]) -> None:
    if not np.isin(values, np.arange(len(names))).all():
        raise ValueError(f"has a record whose {name} is none of ours")


def require_column(name: str, features: Any, data_set: str) -> None:
    """Raises ConfigError unless examples can be grouped by a column of the records.

    Args:
      name: of the column.
      features: of the data set.
      data_set: its name, for the message.
    """
    images = {*encoded_images(features), "image_digest"}  # A group for each image.
    known = [of for of in features if of not in images]
    if name not in known:
        raise ConfigError(
            f"judge_by ({text.one_line(name):.80}) is no column of {data_set}"
            f"{hints.clause(name, known) or '.'} Its columns are {', '.join(known)}."
        )
    if predictions.is_taken(name):
        raise ConfigError(
            f"judge_by ({text.one_line(name):.80}) is also the name of a column of predictions; "
            "name another column, or rename it in the data."
        )


def column(examples: tf.data.Dataset, features: Any, name: str) -> np.ndarray:
    """Reads a column as text, [N]: classes by their names, numbers in digits.

    Raises:
      ValueError: a clause, when a record is not what the features say.
    """
    values = _columns(examples.map(lambda example: {name: example[name]}))[name]
    if values.dtype.kind in "OS":
        return _decoded(values)
    names = getattr(features[name], "names", None)
    if names is None:
        return values.astype(str)  # A float32 in its own digits, as 0.3.
    _require_known(name, values, names)
    return np.array(names)[values]


def _decoded(values: np.ndarray) -> np.ndarray:
    try:
        return np.array([value.decode("utf-8") for value in values], str)
    except UnicodeDecodeError as error:
        raise ValueError("has a name that is not UTF-8") from error
