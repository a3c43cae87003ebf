"""The predictions for a split: the table, its CSV file, and the choice of samples to show.

The file is `predictions_<split>.csv`; `trainer.evaluation.metrics` computes metrics from the table.

    table = predictions.Predictions.load_csv(run_dir / "predictions_test.csv")
    shown = table.take(predictions.choose_samples(table))
"""

from __future__ import annotations

import csv
import dataclasses
import io
import itertools
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from trainer.storage import documents, files
from trainer.system import text

if TYPE_CHECKING:
    import pathlib
    from collections.abc import Mapping, Sequence

COLUMNS = ("file_name", "patient_id", "etiology", "label")
"""What every table has of the records; a table may have further columns of them."""
_COLUMNS = (*COLUMNS, "predicted")
_TEXTS = ("file_name", "patient_id", "etiology")
_PROBABILITY_PREFIX = "p_"
_TOLERANCE = 1e-3  # A float32 softmax sums to 1 within 1e-6; raw logits do not.
_MAX_BYTES, _MAX_FIELD, _MAX_CLASSES, _MAX_OTHERS = 128 << 20, 512, 1000, 100
"""Limits of a table that is read: NumPy pads a column to its longest text, and a confusion matrix
has a cell for each pair of classes."""
_Cell = tuple[int, int]  # True class, predicted class.


@dataclasses.dataclass(frozen=True, eq=False)  # `==` on arrays gives an array, not a bool.
class Predictions:
    """The predictions for one split: one row per example, in the order of the data set.

    Attributes:
      class_names: The K classes, in the order of the model's outputs; the second is positive.
      file_name: [N] str.
      patient_id: [N] str.
      etiology: [N] str: normal, bacteria, virus.
      label: [N] int, index into `class_names`.
      probabilities: [N, K] in [0, 1]; rows sum to 1, up to rounding. They are float64, which
        represents every float32 exactly, so that a saved and loaded table has bitwise equal
        metrics. Rows with NaN or infinite values are accepted: the guard reports them.
      others: further columns by name, [N] str each: what `--judge_by` groups examples by.

    Raises:
      ValueError: Columns differ in length or have the wrong type or a name that is taken, a label
        is not a class, or a finite row of `probabilities` is not a distribution.
    """

    class_names: tuple[str, ...]
    file_name: npt.NDArray[np.str_]
    patient_id: npt.NDArray[np.str_]
    etiology: npt.NDArray[np.str_]
    label: npt.NDArray[np.integer[Any]]
    probabilities: npt.NDArray[np.floating[Any]]
    others: Mapping[str, npt.NDArray[np.str_]] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        """Checks the columns."""
        object.__setattr__(self, "probabilities", np.asarray(self.probabilities, np.float64))
        self._check_classes()
        self._check_columns()
        self._check_labels()
        self._check_probabilities()

    def __len__(self) -> int:
        """The number of examples."""
        return len(self.label)

    def __repr__(self) -> str:
        """A line: how many examples of each class, and how many are right."""
        counts = np.bincount(self.label, minlength=len(self.class_names))
        classes = ", ".join(
            f"{count:,} {text.visible(name)}"
            for name, count in zip(self.class_names, counts, strict=True)
        )
        right = int((self.predicted == self.label).sum())
        return f"Predictions({text.counted(len(self), 'example')}: {classes}; {right:,} right)"

    @property
    def predicted(self) -> npt.NDArray[np.intp]:
        """[N] int: the most probable class; the first one if several are equal."""
        return self.probabilities.argmax(axis=1)

    @property
    def score(self) -> npt.NDArray[np.floating[Any]]:
        """[N] float: the probability of the predicted class."""
        return self.probabilities[np.arange(len(self)), self.predicted]

    def decided(self, threshold: float) -> npt.NDArray[np.intp]:
        """[N] int: 1 where the positive class of two has at least a probability, else 0.

        Probabilities count as at least 0 and at most 1: rounding may exceed both.
        """
        return (self.probabilities[:, 1].clip(0, 1) >= threshold).astype(np.intp)

    def column(self, name: str) -> npt.NDArray[np.str_]:
        """Returns a column by its name in the file as text, labels as names of classes.

        Raises:
          ValueError: when there is none.
        """
        if name == "label":
            return np.array(self.class_names)[self.label]
        found = self._texts()
        if name not in found:
            raise ValueError(f"There is no column {text.one_line(name)} in the predictions.")
        return found[name]

    def _texts(self) -> dict[str, npt.NDArray[np.str_]]:
        own = {name: getattr(self, name) for name in _TEXTS}
        return {**own, **self.others}

    def take(self, indices: npt.ArrayLike) -> Predictions:
        """Returns the rows at `indices`, in that order; indices may repeat."""
        rows = np.asarray(indices, np.intp)
        return Predictions(
            class_names=self.class_names,
            file_name=self.file_name[rows],
            patient_id=self.patient_id[rows],
            etiology=self.etiology[rows],
            label=self.label[rows],
            probabilities=self.probabilities[rows],
            others={name: column[rows] for name, column in self.others.items()},
        )

    def save_csv(self, path: pathlib.Path) -> None:
        """Writes the table, with class names; `load_csv` reads it back exactly.

        A file name or patient that would be a formula gets an apostrophe before it, and a control
        character is escaped: spreadsheets and terminals open this file.
        """
        names = np.array(self.class_names)
        rows = zip(
            self.file_name,
            self.patient_id,
            self.etiology,
            names[self.label],
            names[self.predicted],
            self.probabilities.tolist(),  # csv writes the repr of a Python float, which is exact.
            zip(*self.others.values(), strict=True) if self.others else itertools.repeat(()),
            strict=False,  # `repeat` has no end; the columns are of one length.
        )
        scores = [_PROBABILITY_PREFIX + name for name in self.class_names]
        header = [*_COLUMNS, *scores, *self.others]
        with (
            files.replacing(path) as partial,
            partial.open("w", encoding="utf-8", newline="") as file,
        ):
            writer = csv.writer(file)
            writer.writerow(map(text.cell, header))
            writer.writerows(
                [*map(_text_cell, texts), *probabilities, *map(_text_cell, others)]
                for *texts, probabilities, others in rows
            )

    @classmethod
    def load_csv(cls, path: pathlib.Path, way_out: str = "evaluate again") -> Predictions:
        """Reads a table that `save_csv` wrote.

        Args:
          path: the file.
          way_out: a clause for an error: what to do about it.

        Raises:
          RunError: The file can't be read, or exceeds a limit.
          ValueError: The file is not such a table, or a row is damaged or inconsistent.
        """
        written = documents.read_text(path, way_out=way_out, max_bytes=_MAX_BYTES)
        reader = csv.reader(io.StringIO(written, newline=""))
        rows: list[list[str]] = []
        try:
            header = [text.from_cell(name) for name in next(reader, [])]
            class_names, others = _parse_header(header, path)
            for cells in reader:
                rows.append([text.from_cell(cell) for cell in cells])
                _check_row(rows[-1], class_names, len(others), f"{path}, row {len(rows)}")
        except csv.Error as error:
            raise ValueError(f"{path}, line {reader.line_num}: {error}.") from error
        columns = list(zip(*rows, strict=True)) or [()] * len(header)
        strings = {
            name: np.array(column, str)
            for name, column in zip(_COLUMNS, columns[: len(_COLUMNS)], strict=True)
        }
        shape, last = (len(rows), len(class_names)), len(_COLUMNS) + len(class_names)
        predictions = cls(
            class_names=class_names,
            file_name=strings["file_name"],
            patient_id=strings["patient_id"],
            etiology=strings["etiology"],
            label=np.array([class_names.index(name) for name in strings["label"]], np.int64),
            probabilities=np.array([r[len(_COLUMNS) : last] for r in rows], float).reshape(shape),
            others={
                name: np.array(column, str)
                for name, column in zip(others, columns[last:], strict=True)
            },
        )
        _check_predicted(predictions, strings["predicted"], path)
        return predictions

    def _check_classes(self) -> None:
        if len(set(self.class_names)) != len(self.class_names) or len(self.class_names) < 2:
            raise ValueError(
                f"class_names must be two or more distinct names, not {self.class_names}."
            )

    def _check_columns(self) -> None:
        rows = self.label.shape
        for name in self.others:
            if name in COLUMNS or is_taken(name):
                raise ValueError(
                    f"a further column can't be named {text.visible(name)}: that name is taken, or "
                    f"begins with {_PROBABILITY_PREFIX}, as the columns of probabilities do."
                )
        for name, column in self._texts().items():
            if column.dtype.kind != "U":
                raise ValueError(f"{name} has dtype {column.dtype}, not text; decode it first.")
            if column.shape != rows:
                raise ValueError(f"{name} has shape {column.shape}, but label has {rows}.")
        expected = (*rows, len(self.class_names))
        if len(rows) != 1 or self.probabilities.shape != expected:
            raise ValueError(
                f"probabilities must have shape [N, K] and label [N]: they have "
                f"{self.probabilities.shape} and {rows}, and there are {len(self.class_names)} "
                "classes."
            )

    def _check_labels(self) -> None:
        if not np.issubdtype(self.label.dtype, np.integer):
            raise ValueError(f"label has dtype {self.label.dtype}, not an integer type.")
        outside = self.label[(self.label < 0) | (self.label >= len(self.class_names))]
        if outside.size:
            raise ValueError(
                f"label {outside[0]} is not an index into class_names {self.class_names}."
            )

    def _check_probabilities(self) -> None:
        finite = np.isfinite(self.probabilities).all(axis=1)
        not_negative = (self.probabilities >= -_TOLERANCE).all(axis=1)
        with np.errstate(invalid="ignore"):  # inf - inf, in a row that is skipped anyway.
            sums_to_one = np.abs(self.probabilities.sum(axis=1) - 1) <= _TOLERANCE
        wrong = np.flatnonzero(finite & ~(not_negative & sums_to_one))
        if wrong.size:
            name = text.visible(str(self.file_name[wrong[0]]))
            raise ValueError(
                f"The outputs for {name} are not probabilities that sum to 1: "
                f"{self.probabilities[wrong[0]].tolist()}."
            )


def is_taken(name: str) -> bool:
    """Whether no further column can have a name, because the predictions do."""
    return name == "predicted" or name.startswith(_PROBABILITY_PREFIX)


def _text_cell(value: object) -> str:
    return text.cell(str(value))


def _parse_header(
    header: Sequence[str], path: pathlib.Path
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Returns the names of the classes, and of further columns, in the header of a table."""
    is_probability = [name.startswith(_PROBABILITY_PREFIX) for name in header]
    last = len(_COLUMNS) + sum(is_probability)
    names, others = header[len(_COLUMNS) : last], header[last:]
    if tuple(header[: len(_COLUMNS)]) != _COLUMNS or not all(is_probability[len(_COLUMNS) : last]):
        expected = ", ".join([*_COLUMNS, f"{_PROBABILITY_PREFIX}<class>"])
        found = text.one_line(", ".join(header)) or "none"
        raise ValueError(
            f"{path} is not a table of predictions: its columns are {found:.300}, not {expected}, …"
        )
    if len(names) > _MAX_CLASSES or len(max(header, key=len, default="")) > _MAX_FIELD:
        raise ValueError(f"{path} has too many classes, or names of them that are too long.")
    if len(set(others)) != len(others) or len(others) > _MAX_OTHERS:
        raise ValueError(f"{path} has a column twice, or more than {_MAX_OTHERS} further ones.")
    return tuple(name.removeprefix(_PROBABILITY_PREFIX) for name in names), tuple(others)


def _check_row(row: Sequence[str], class_names: Sequence[str], num_others: int, where: str) -> None:
    """Raises ValueError, naming the row, if it can't be parsed."""
    last = len(_COLUMNS) + len(class_names)
    if len(row) != last + num_others:
        raise ValueError(f"{where} has {len(row)} fields, not {last + num_others}.")
    if len(max(row, key=len)) > _MAX_FIELD:
        raise ValueError(f"{where} has a field of over {_MAX_FIELD} characters.")
    label = row[_COLUMNS.index("label")]
    if label not in class_names:
        raise ValueError(f"{where}: label {label!r} is not one of {', '.join(class_names)}.")
    for number in row[len(_COLUMNS) : last]:
        try:
            float(number)
        except ValueError:
            raise ValueError(f"{where}: {number!r} is not a probability.") from None


def _check_predicted(
    predictions: Predictions, written: npt.NDArray[np.str_], path: pathlib.Path
) -> None:
    """Raises ValueError if the predicted classes contradict the probabilities."""
    expected = np.array(predictions.class_names)[predictions.predicted]
    wrong = np.flatnonzero(expected != written)
    if wrong.size:
        row = wrong[0]
        raise ValueError(
            f"{path}, row {row + 1}: predicted is {written[row]!s}, but the most probable class "
            f"is {expected[row]!s}: the table was edited or damaged; evaluate again."
        )


def choose_samples(predictions: Predictions, *, count: int = 16) -> npt.NDArray[np.intp]:
    """Chooses examples to show: errors are always included, but fill at most half of the places.

    Errors and correct predictions are each spread evenly over the cells of the confusion matrix, as
    far as the cells have enough examples. Within a cell, examples are evenly spaced in the order of
    file names. The choice does not depend on the order of the rows.

    Args:
      predictions: [N] examples.
      count: How many to choose; fewer are returned if there are too few correct predictions.

    Returns:
      [M] indices into `predictions`, M <= count, sorted by cell (true, predicted) and file name.
    """
    by_name = np.argsort(predictions.file_name, kind="stable")
    true, predicted = predictions.label, predictions.predicted
    classes = range(len(predictions.class_names))
    cells = {
        (t, p): by_name[(true[by_name] == t) & (predicted[by_name] == p)]
        for t, p in itertools.product(classes, classes)
    }
    wrong = {cell: len(rows) for cell, rows in cells.items() if cell[0] != cell[1]}
    right = {cell: len(rows) for cell, rows in cells.items() if cell[0] == cell[1]}
    places = _distribute(count // 2, wrong)
    places |= _distribute(count - sum(places.values()), right)
    return np.concatenate([_evenly_spaced(rows, places[cell]) for cell, rows in cells.items()])


def _distribute(count: int, sizes: Mapping[_Cell, int]) -> dict[_Cell, int]:
    """Distributes `count` places over cells, one at a time, to the cell that has the fewest."""
    places = dict.fromkeys(sizes, 0)
    for _ in range(min(count, sum(sizes.values()))):
        with_room = [cell for cell, size in sizes.items() if places[cell] < size]
        places[min(with_room, key=places.__getitem__)] += 1
    return places


def _evenly_spaced(rows: npt.NDArray[np.intp], count: int) -> npt.NDArray[np.intp]:
    """Returns `count` of the rows, evenly spaced."""
    return rows[np.arange(count) * len(rows) // max(count, 1)]
