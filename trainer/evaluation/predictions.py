"""What a model said of every example of a split: the table, its file, and examples to look at.

On disk the table is `predictions_<split>.csv`. What it is worth, `trainer.evaluation.metrics` says.

    table = predictions.Predictions.load_csv(run_dir / "predictions_test.csv")
    shown = table.take(predictions.choose_samples(table))
"""

from __future__ import annotations

import csv
import dataclasses
import itertools
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from trainer.storage import files

if TYPE_CHECKING:
    import pathlib
    from collections.abc import Mapping, Sequence

_COLUMNS = ("file_name", "patient_id", "etiology", "label", "predicted")
_PROBABILITY_PREFIX = "p_"
_TOLERANCE = 1e-3  # A float32 softmax keeps within 1e-6 of a distribution; raw logits do not.
_Cell = tuple[int, int]  # True class, predicted class.


@dataclasses.dataclass(frozen=True, eq=False)
class Predictions:
    """What a model said of each example of one split, a row an example, in the data set's order.

    Attributes:
      class_names: The K classes, in the order of the model's outputs; the second is the positive.
      file_name: [N] str.
      patient_id: [N] str.
      etiology: [N] str: normal, bacteria, virus.
      label: [N] int, index into `class_names`.
      probabilities: [N, K], in [0, 1], rows sum to 1, both to rounding. Kept as float64, which
        holds a float32 exactly, so that a table that was saved and loaded has the same metrics
        to the last bit. Rows that are not finite are let in, for the guard to see.

    Raises:
      ValueError: The columns do not agree in length or type, a label is no class, or a finite row
        of `probabilities` is no distribution.
    """

    class_names: tuple[str, ...]
    file_name: npt.NDArray[np.str_]
    patient_id: npt.NDArray[np.str_]
    etiology: npt.NDArray[np.str_]
    label: npt.NDArray[np.integer[Any]]
    probabilities: npt.NDArray[np.floating[Any]]

    def __post_init__(self) -> None:
        """Holds the table to what the class promises."""
        object.__setattr__(self, "probabilities", np.asarray(self.probabilities, np.float64))
        self._check_classes()
        self._check_columns()
        self._check_labels()
        self._check_probabilities()

    def __len__(self) -> int:
        """The number of examples."""
        return len(self.label)

    @property
    def predicted(self) -> npt.NDArray[np.intp]:
        """[N] int: the most probable class; of equal ones, the first."""
        return self.probabilities.argmax(axis=1)

    @property
    def score(self) -> npt.NDArray[np.floating[Any]]:
        """[N] float: the probability of the predicted class."""
        return self.probabilities[np.arange(len(self)), self.predicted]

    def take(self, indices: npt.ArrayLike) -> Predictions:
        """The rows at `indices`, in that order; a row may be taken more than once."""
        rows = np.asarray(indices, np.intp)
        return Predictions(
            class_names=self.class_names,
            file_name=self.file_name[rows],
            patient_id=self.patient_id[rows],
            etiology=self.etiology[rows],
            label=self.label[rows],
            probabilities=self.probabilities[rows],
        )

    def save_csv(self, path: pathlib.Path) -> None:
        """Writes the table; classes by name, probabilities so that they read back exactly."""
        names = np.array(self.class_names)
        rows = zip(
            self.file_name,
            self.patient_id,
            self.etiology,
            names[self.label],
            names[self.predicted],
            self.probabilities.tolist(),  # csv writes the repr of a float, which is exact.
            strict=True,
        )
        header = [*_COLUMNS, *(_PROBABILITY_PREFIX + name for name in self.class_names)]
        with (
            files.replacing(path) as partial,
            partial.open("w", encoding="utf-8", newline="") as file,
        ):
            writer = csv.writer(file)
            writer.writerow(header)
            writer.writerows([*texts, *probabilities] for *texts, probabilities in rows)

    @classmethod
    def load_csv(cls, path: pathlib.Path) -> Predictions:
        """Reads what `save_csv` wrote.

        Raises:
          ValueError: The file is another table, or a row is damaged or contradicts itself.
        """
        with path.open(encoding="utf-8", newline="") as file:
            header, *rows = list(csv.reader(file)) or [[]]
        class_names = _parse_header(header, path)
        for number, row in enumerate(rows, start=1):
            _check_row(row, class_names, f"{path}, row {number}")
        columns = list(zip(*rows, strict=True)) or [()] * len(header)
        texts = {
            name: np.array(column, str)
            for name, column in zip(_COLUMNS, columns[: len(_COLUMNS)], strict=True)
        }
        shape = (len(rows), len(class_names))
        predictions = cls(
            class_names=class_names,
            file_name=texts["file_name"],
            patient_id=texts["patient_id"],
            etiology=texts["etiology"],
            label=np.array([class_names.index(name) for name in texts["label"]], np.int64),
            probabilities=np.array([row[len(_COLUMNS) :] for row in rows], float).reshape(shape),
        )
        _check_predicted(predictions, texts["predicted"], path)
        return predictions

    def _check_classes(self) -> None:
        if len(set(self.class_names)) != len(self.class_names) or len(self.class_names) < 2:
            raise ValueError(f"class_names must be two or more distinct names: {self.class_names}.")

    def _check_columns(self) -> None:
        rows = self.label.shape
        for name in ("file_name", "patient_id", "etiology"):
            column = getattr(self, name)
            if column.dtype.kind != "U":
                raise ValueError(f"{name} holds {column.dtype}, not text: decode it first.")
            if column.shape != rows:
                raise ValueError(f"{name} has shape {column.shape}, but label has {rows}.")
        expected = (*rows, len(self.class_names))
        if len(rows) != 1 or self.probabilities.shape != expected:
            raise ValueError(
                f"probabilities has shape {self.probabilities.shape}, but label has {rows} and "
                f"there are {len(self.class_names)} classes: [N, K] and [N] are expected."
            )

    def _check_labels(self) -> None:
        if not np.issubdtype(self.label.dtype, np.integer):
            raise ValueError(f"label holds {self.label.dtype}, not integers.")
        outside = self.label[(self.label < 0) | (self.label >= len(self.class_names))]
        if outside.size:
            raise ValueError(f"Label {outside[0]} is none of {self.class_names} (0 is the first).")

    def _check_probabilities(self) -> None:
        finite = np.isfinite(self.probabilities).all(axis=1)
        not_negative = (self.probabilities >= -_TOLERANCE).all(axis=1)
        with np.errstate(invalid="ignore"):  # inf - inf, in a row that is not finite anyway.
            sums_to_one = np.abs(self.probabilities.sum(axis=1) - 1) <= _TOLERANCE
        wrong = np.flatnonzero(finite & ~(not_negative & sums_to_one))
        if wrong.size:
            raise ValueError(
                f"The outputs for {self.file_name[wrong[0]]!s} are not probabilities that sum to "
                f"1: {self.probabilities[wrong[0]].tolist()}."
            )


def _parse_header(header: Sequence[str], path: pathlib.Path) -> tuple[str, ...]:
    """The class names in the header of a table of predictions."""
    names = header[len(_COLUMNS) :]
    if tuple(header[: len(_COLUMNS)]) != _COLUMNS or not all(
        name.startswith(_PROBABILITY_PREFIX) for name in names
    ):
        expected = ", ".join([*_COLUMNS, f"{_PROBABILITY_PREFIX}<class>"])
        raise ValueError(
            f"{path} is not a table of predictions: its columns are {', '.join(header) or 'none'}, "
            f"not {expected}, …"
        )
    return tuple(name.removeprefix(_PROBABILITY_PREFIX) for name in names)


def _check_row(row: Sequence[str], class_names: Sequence[str], where: str) -> None:
    """Refuses a row that cannot become numbers, naming the row."""
    if len(row) != len(_COLUMNS) + len(class_names):
        raise ValueError(f"{where} has {len(row)} fields, not {len(_COLUMNS) + len(class_names)}.")
    label = row[_COLUMNS.index("label")]
    if label not in class_names:
        raise ValueError(f"{where}: label {label!r} is none of {', '.join(class_names)}.")
    for text in row[len(_COLUMNS) :]:
        try:
            float(text)
        except ValueError:
            raise ValueError(f"{where}: {text!r} is not a probability.") from None


def _check_predicted(
    predictions: Predictions, written: npt.NDArray[np.str_], path: pathlib.Path
) -> None:
    """Refuses a table whose predicted classes are not those its probabilities say."""
    said = np.array(predictions.class_names)[predictions.predicted]
    wrong = np.flatnonzero(said != written)
    if wrong.size:
        row = wrong[0]
        raise ValueError(
            f"{path}, row {row + 1}: predicted is {written[row]!s}, but the probabilities say "
            f"{said[row]!s}: the table was edited or damaged; evaluate again."
        )


def choose_samples(predictions: Predictions, *, count: int = 16) -> npt.NDArray[np.intp]:
    """Chooses examples to look at: errors are always among them, but fill half at most.

    Errors and right answers are each dealt evenly over the cells of the confusion matrix, as far
    as the cells have members, and drawn at even distances along the file names. The choice does
    not depend on the order of the rows.

    Args:
      predictions: [N] examples.
      count: How many to choose; fewer are where there are too few right answers.

    Returns:
      [M] indices into `predictions`, M <= count, by cell (true, predicted) and file name.
    """
    by_name = np.argsort(predictions.file_name, kind="stable")
    true, answers = predictions.label, predictions.predicted
    classes = range(len(predictions.class_names))
    cells = {
        (t, a): by_name[(true[by_name] == t) & (answers[by_name] == a)]
        for t, a in itertools.product(classes, classes)
    }
    wrong = {cell: len(rows) for cell, rows in cells.items() if cell[0] != cell[1]}
    right = {cell: len(rows) for cell, rows in cells.items() if cell[0] == cell[1]}
    shares = _shares(wrong, count // 2)
    shares |= _shares(right, count - sum(shares.values()))
    return np.concatenate([_spread(rows, shares[cell]) for cell, rows in cells.items()])


def _shares(sizes: Mapping[_Cell, int], places: int) -> dict[_Cell, int]:
    """Deals places out to cells of these sizes, one at a time to the cell that has fewest."""
    shares = dict.fromkeys(sizes, 0)
    for _ in range(min(places, sum(sizes.values()))):
        with_room = [cell for cell, size in sizes.items() if shares[cell] < size]
        shares[min(with_room, key=shares.__getitem__)] += 1
    return shares


def _spread(rows: npt.NDArray[np.intp], count: int) -> npt.NDArray[np.intp]:
    """Takes `count` of the rows at even distances."""
    return rows[np.arange(count) * len(rows) // max(count, 1)]
