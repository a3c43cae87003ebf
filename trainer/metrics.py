"""What a model said of every example of a split, and what that is worth.

`Predictions` is the table of a split, a row an example, on disk as `predictions_<split>.csv`.
`judge` makes every final metric from it with scikit-learn, over every example once, and fires the
guard where the run must not be used. What Keras logs while it trains (averages under moving
weights, an AUC from 200 thresholds) steers and is plotted by `curves`; no final figure comes from
it.

    predictions = metrics.Predictions.load_csv(run_dir / "predictions_test.csv")
    judgement = metrics.judge(predictions)
    if judgement.guard_fired:
        raise SystemExit(" ".join(judgement.warnings))
"""

from __future__ import annotations

import csv
import dataclasses
import functools
import itertools
import math
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import sklearn.metrics

from trainer import storage

if TYPE_CHECKING:
    import pathlib
    from collections.abc import Callable, Iterator, Mapping, Sequence

_COLUMNS = ("file_name", "patient_id", "etiology", "label", "predicted")
_PROBABILITY_PREFIX = "p_"
_TOLERANCE = 1e-3  # A float32 softmax keeps within 1e-6 of a distribution; raw logits do not.
_HISTOGRAM_BINS = 10
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
        holds a float32 exactly, so that a table that was saved and loaded is judged to the last
        bit as before. Rows that are not finite are let in, for the guard to see.

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
            storage.replacing(path) as partial,
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
        texts = [np.array(column, str) for column in columns[: len(_COLUMNS)]]
        shape = (len(rows), len(class_names))
        predictions = cls(
            class_names=class_names,
            file_name=texts[0],
            patient_id=texts[1],
            etiology=texts[2],
            label=np.array([class_names.index(name) for name in texts[3]], np.int64),
            probabilities=np.array([row[len(_COLUMNS) :] for row in rows], float).reshape(shape),
        )
        _check_predicted(predictions, texts[4], path)
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


@dataclasses.dataclass(frozen=True)
class EtiologyRecall:
    """How many examples of one etiology were given their true class."""

    examples: int
    correct: int
    recall: float


@dataclasses.dataclass(frozen=True)
class OutputDistribution:
    """What the model answers, against what is true: a model that collapsed shows here first.

    Attributes:
      true_counts: Examples of each class.
      predicted_counts: Examples predicted as each class.
      mean_probability: The mean output for each class; None if an output is not finite.
      histogram: Examples by the probability of the positive class, in ten equal bins from 0 to 1,
        both included. Values that are not finite are in none.
    """

    true_counts: dict[str, int]
    predicted_counts: dict[str, int]
    mean_probability: dict[str, float | None]
    histogram: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Judgement:
    """Every final figure of one split. A figure that is not defined is None (NaN is not JSON).

    A ratio is not defined when its denominator is zero: `sensitivity` without a positive example,
    `ppv` without a positive answer, and so on. `roc_auc`, `pr_auc` and `mcc` need both classes;
    `roc_auc`, `pr_auc`, `brier` and `log_loss` need probabilities that are all finite.
    `macro_recall` is the mean over the classes that occur, where the classification report counts
    an absent class as 0.

    Attributes:
      class_names: Negative class, positive class.
      examples: Number of examples, each counted once.
      accuracy: Share of examples whose most probable class is the true one ("rank-1").
      majority_class: The most frequent true class.
      majority_baseline: The accuracy of always answering `majority_class`.
      macro_recall: Mean of the classes' recalls.
      sensitivity: Recall of the positive class.
      specificity: Recall of the negative class.
      ppv: Positive predictive value (precision).
      npv: Negative predictive value.
      f1: F1 of the positive class.
      mcc: Matthews correlation coefficient; 0 for constant answers, by convention.
      roc_auc: Area under the ROC curve of the positive class.
      pr_auc: Average precision of the positive class.
      brier: Mean squared error of the positive class's probability.
      log_loss: Mean negative log-likelihood, nats, of float64 probabilities as scikit-learn clips
        them.
      by_etiology: Recall within each etiology that occurs.
      confusion_matrix: [true][predicted] examples.
      classification_report: scikit-learn's, as a dictionary.
      classification_report_text: The same as text, four digits.
      output_distribution: Answers against truth.
      warnings: Why the run must not be used, a sentence each; empty for a sound one.
    """

    class_names: tuple[str, ...]
    examples: int
    accuracy: float
    majority_class: str
    majority_baseline: float
    macro_recall: float
    sensitivity: float | None
    specificity: float | None
    ppv: float | None
    npv: float | None
    f1: float | None
    mcc: float | None
    roc_auc: float | None
    pr_auc: float | None
    brier: float | None
    log_loss: float | None
    by_etiology: dict[str, EtiologyRecall]
    confusion_matrix: tuple[tuple[int, ...], ...]
    classification_report: dict[str, Any]
    classification_report_text: str
    output_distribution: OutputDistribution
    warnings: tuple[str, ...]

    @property
    def guard_fired(self) -> bool:
        """Whether the run must not be used."""
        return bool(self.warnings)

    def to_json(self) -> dict[str, Any]:
        """The figures as dictionaries, sequences and numbers that JSON has."""
        return dataclasses.asdict(self)


def judge(predictions: Predictions) -> Judgement:
    """Judges the predictions of a split with two classes, the second being the positive one.

    Raises:
      ValueError: There is no example, or there are not two classes.
    """
    if len(predictions.class_names) != 2:
        raise ValueError(f"Two classes can be judged, not {', '.join(predictions.class_names)}.")
    if not len(predictions):
        raise ValueError("There is no example to judge.")
    ordered = _in_canonical_order(predictions)
    label, predicted = ordered.label, ordered.predicted
    majority = int(np.bincount(label).argmax())
    both_occur = np.unique(label).size == 2
    roc_auc, pr_auc = _ranking_metrics(ordered)
    brier, log_loss = _error_metrics(ordered)
    report, report_text = _classification_report(ordered)
    return Judgement(
        class_names=ordered.class_names,
        examples=len(ordered),
        accuracy=float(sklearn.metrics.accuracy_score(label, predicted)),
        majority_class=ordered.class_names[majority],
        majority_baseline=float(np.mean(label == majority)),
        macro_recall=float(
            sklearn.metrics.recall_score(label, predicted, average="macro", zero_division=np.nan)
        ),
        sensitivity=_ratio(sklearn.metrics.recall_score, label, predicted, pos_label=1),
        specificity=_ratio(sklearn.metrics.recall_score, label, predicted, pos_label=0),
        ppv=_ratio(sklearn.metrics.precision_score, label, predicted, pos_label=1),
        npv=_ratio(sklearn.metrics.precision_score, label, predicted, pos_label=0),
        f1=_ratio(sklearn.metrics.f1_score, label, predicted, pos_label=1),
        mcc=float(sklearn.metrics.matthews_corrcoef(label, predicted)) if both_occur else None,
        roc_auc=roc_auc,
        pr_auc=pr_auc,
        brier=brier,
        log_loss=log_loss,
        by_etiology=_recall_by_etiology(ordered),
        confusion_matrix=_confusion_matrix(ordered),
        classification_report=report,
        classification_report_text=report_text,
        output_distribution=_output_distribution(ordered),
        warnings=_warnings(ordered),
    )


def _in_canonical_order(predictions: Predictions) -> Predictions:
    """The rows by label and probabilities: sums round alike in whatever order the rows came."""
    probabilities = predictions.probabilities
    return predictions.take(
        np.lexsort((probabilities[:, 1], probabilities[:, 0], predictions.label))
    )


def _is_finite(predictions: Predictions) -> bool:
    return bool(np.isfinite(predictions.probabilities).all())


def _ratio(
    metric: Callable[..., float],
    label: npt.NDArray[np.integer[Any]],
    predicted: npt.NDArray[np.intp],
    *,
    pos_label: int,
) -> float | None:
    """A metric of one class, or None where its denominator is zero."""
    value = float(metric(label, predicted, pos_label=pos_label, zero_division=np.nan))
    return None if math.isnan(value) else value


def _ranking_metrics(predictions: Predictions) -> tuple[float | None, float | None]:
    """ROC-AUC and average precision of the positive class; None unless both classes occur."""
    label, positive = predictions.label, predictions.probabilities[:, 1]
    if np.unique(label).size < 2 or not _is_finite(predictions):
        return None, None
    return (
        float(sklearn.metrics.roc_auc_score(label, positive)),
        float(sklearn.metrics.average_precision_score(label, positive)),
    )


def _error_metrics(predictions: Predictions) -> tuple[float | None, float | None]:
    """Brier score of the positive class and log-loss; None unless every output is finite."""
    if not _is_finite(predictions):
        return None, None
    # Softmax by an approximate reciprocal may exceed 1 by a bit, which scikit-learn refuses.
    label, probabilities = predictions.label, predictions.probabilities.clip(0, 1)
    # scikit-learn wants sums of 1 to float64's precision. Normalised rows keep the small
    # probability of a confident error, which 1 - p of a float32 rounds to 0.
    normalised = probabilities / probabilities.sum(axis=1, keepdims=True)
    return (
        float(sklearn.metrics.brier_score_loss(label, probabilities[:, 1], pos_label=1)),
        float(sklearn.metrics.log_loss(label, normalised, labels=[0, 1])),
    )


def _recall_by_etiology(predictions: Predictions) -> dict[str, EtiologyRecall]:
    hit = predictions.predicted == predictions.label
    recalls = {}
    for etiology in np.unique(predictions.etiology).tolist():
        hits = hit[predictions.etiology == etiology]
        recalls[etiology] = EtiologyRecall(
            examples=hits.size, correct=int(hits.sum()), recall=float(hits.mean())
        )
    return recalls


def _confusion_matrix(predictions: Predictions) -> tuple[tuple[int, ...], ...]:
    matrix = sklearn.metrics.confusion_matrix(
        predictions.label, predictions.predicted, labels=range(len(predictions.class_names))
    )
    return tuple(tuple(row) for row in matrix.tolist())


def _classification_report(predictions: Predictions) -> tuple[dict[str, Any], str]:
    """scikit-learn's report, as a dictionary and as text."""
    report = functools.partial(
        sklearn.metrics.classification_report,
        predictions.label,
        predictions.predicted,
        labels=range(len(predictions.class_names)),
        target_names=predictions.class_names,
        digits=4,
        zero_division=0,
    )
    return report(output_dict=True), report()


def _counts(class_names: Sequence[str], index: npt.NDArray[np.integer[Any]]) -> dict[str, int]:
    """How often each class occurs in `index`."""
    counts = np.bincount(index, minlength=len(class_names)).tolist()
    return dict(zip(class_names, counts, strict=True))


def _output_distribution(predictions: Predictions) -> OutputDistribution:
    class_names, probabilities = predictions.class_names, predictions.probabilities
    means = probabilities.mean(axis=0).tolist() if _is_finite(predictions) else [None, None]
    positive = probabilities[:, 1]
    finite = positive[np.isfinite(positive)].clip(0, 1)
    histogram, _ = np.histogram(finite, bins=_HISTOGRAM_BINS, range=(0, 1))
    return OutputDistribution(
        true_counts=_counts(class_names, predictions.label),
        predicted_counts=_counts(class_names, predictions.predicted),
        mean_probability=dict(zip(class_names, means, strict=True)),
        histogram=tuple(histogram.tolist()),
    )


def _warnings(predictions: Predictions) -> tuple[str, ...]:
    """The guard: why these predictions must not be used."""
    return tuple(
        itertools.chain(
            _warn_of_non_finite(predictions),
            _warn_of_baseline(predictions),
            _warn_of_unpredicted(predictions),
        )
    )


def _warn_of_non_finite(predictions: Predictions) -> Iterator[str]:
    broken = int((~np.isfinite(predictions.probabilities)).any(axis=1).sum())
    if broken:
        yield f"The outputs for {broken} of {len(predictions)} examples are not finite."


def _warn_of_baseline(predictions: Predictions) -> Iterator[str]:
    total = len(predictions)
    correct = int((predictions.predicted == predictions.label).sum())
    counts = np.bincount(predictions.label)
    baseline = int(counts.max())
    if correct <= baseline:
        yield (
            f"Accuracy {percent(correct / total)} ({correct} of {total}) is not above the "
            f"{percent(baseline / total)} ({baseline} of {total}) of always answering "
            f"{predictions.class_names[counts.argmax()]}."
        )


def _warn_of_unpredicted(predictions: Predictions) -> Iterator[str]:
    predicted = _counts(predictions.class_names, predictions.predicted)
    for name, count in _counts(predictions.class_names, predictions.label).items():
        if count and not predicted[name]:
            yield f"{name} is never predicted, but true of {count} of {len(predictions)} examples."


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


def percent(share: float) -> str:
    """The paper's form of a share: `94.40 %`."""
    return f"{100 * share:.2f} %"


def curves(history: Mapping[str, Sequence[float]]) -> dict[str, dict[str, Sequence[float]]]:
    """Sorts a Keras history into curves: {"log-loss": {"training": …, "validation": …}, …}.

    What is not there, or has no epoch, is left out; so are the other entries of a history
    (learning rate, throughput).
    """
    titles = {"log-loss": "loss", "accuracy": "accuracy", "ROC-AUC": "auc"}
    groups = {
        title: {
            side: history[prefix + key]
            for side, prefix in (("training", ""), ("validation", "val_"))
            if history.get(prefix + key)
        }
        for title, key in titles.items()
    }
    return {title: lines for title, lines in groups.items() if lines}


def span(values: Sequence[float]) -> str:
    """The paper's summary of a curve, `(min: 0.123, max: 0.456, cur: 0.234)`; NaN is no extreme."""
    low, high = np.fmin.reduce(values), np.fmax.reduce(values)
    return f"(min: {low:.3f}, max: {high:.3f}, cur: {values[-1]:.3f})"


def best_epoch(history: Mapping[str, Sequence[float]]) -> int | None:
    """The first epoch of lowest validation loss, counted from 1; None if there is no such loss."""
    losses = np.asarray(history.get("val_loss", ()), np.float64)
    if not np.isfinite(losses).any():
        return None
    return int(np.nanargmin(losses)) + 1
