"""The metrics of a split, and the guard that decides whether the run may be used.

They are computed with scikit-learn from the outputs for all examples, each counted exactly once:
`compute` gives those of the final evaluation, and `figures` the three of them that are also logged
after each epoch. None comes from Keras's metrics. The guard fires when the run must not be used.

    scores = metrics.compute(Predictions.load_csv(run_dir / "predictions_test.csv"))
    if scores.guard_fired:
        raise SystemExit(" ".join(scores.warnings))
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import sklearn.metrics

from trainer.evaluation import history

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from trainer.evaluation.predictions import Predictions

_HISTOGRAM_BINS = 10


@dataclasses.dataclass(frozen=True)
class Figures:
    """What is known of a model on a split after every epoch; None where it is undefined.

    Attributes:
      log_loss: Mean negative log-likelihood in nats; see `Metrics`.
      accuracy: Share of examples whose most probable class is the true class.
      roc_auc: Area under the ROC curve of the positive class.
    """

    log_loss: float | None
    accuracy: float
    roc_auc: float | None


@dataclasses.dataclass(frozen=True)
class EtiologyRecall:
    """How many examples of one etiology were predicted correctly."""

    examples: int
    correct: int
    recall: float


@dataclasses.dataclass(frozen=True)
class OutputDistribution:
    """Predicted against true classes: a model that predicts only one class shows here first.

    Attributes:
      true_counts: Number of examples of each class.
      predicted_counts: Number of examples predicted as each class.
      mean_probability: Mean output for each class; None if an output is NaN or infinite.
      histogram: Number of examples by probability of the positive class, in ten equal bins over
        [0, 1]. NaN and infinite values are not counted.
    """

    true_counts: dict[str, int]
    predicted_counts: dict[str, int]
    mean_probability: dict[str, float | None]
    histogram: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Metrics:
    """All final metrics of one split. An undefined metric is None, because JSON has no NaN.

    A ratio is undefined when its denominator is zero: `sensitivity` without a positive example,
    `ppv` without a positive prediction, and so on. `roc_auc`, `pr_auc` and `mcc` need both classes;
    `roc_auc`, `pr_auc`, `brier` and `log_loss` need finite probabilities. `macro_recall` is the
    mean over the classes that occur. In the classification report, a mean of precisions or F1 is
    undefined if that of a class that occurs is.

    Attributes:
      class_names: Negative class, positive class.
      examples: Number of examples, each counted once.
      accuracy: Share of examples whose most probable class is the true class ("rank 1").
      majority_class: The most frequent true class.
      majority_baseline: Accuracy of always predicting `majority_class`.
      macro_recall: Mean of the classes' recalls.
      sensitivity: Recall of the positive class.
      specificity: Recall of the negative class.
      ppv: Positive predictive value (precision).
      npv: Negative predictive value.
      f1: F1 of the positive class.
      mcc: Matthews correlation coefficient; 0 for constant predictions, by convention.
      roc_auc: Area under the ROC curve of the positive class.
      pr_auc: Average precision of the positive class.
      brier: Mean squared error of the positive class's probability.
      log_loss: Mean negative log-likelihood in nats, of float64 probabilities, clipped as
        scikit-learn does.
      by_etiology: Recall within each etiology that occurs.
      confusion_matrix: Number of examples, [true][predicted].
      classification_report: scikit-learn's report as a dictionary.
      classification_report_text: The same report as text, with four digits.
      output_distribution: Predicted against true classes.
      warnings: Reasons not to use the run, one sentence each; empty if the guard did not fire.
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
        """Returns the metrics as dictionaries, sequences and numbers, for JSON."""
        return dataclasses.asdict(self)


def compute(predictions: Predictions) -> Metrics:
    """Computes every metric of a split with two classes; the second is the positive class.

    Raises:
      ValueError: There are no examples, or the number of classes is not two.
    """
    if len(predictions.class_names) != 2:
        names = ", ".join(predictions.class_names)
        raise ValueError(f"Metrics need exactly two classes, not {names}.")
    found = figures(predictions.label, predictions.probabilities)
    ordered = predictions.take(_canonical_order(predictions.label, predictions.probabilities))
    label, predicted = ordered.label, ordered.predicted
    majority = int(np.bincount(label).argmax())
    both_occur = np.unique(label).size == 2
    report, report_text = _classification_report(ordered)
    return Metrics(
        class_names=ordered.class_names,
        examples=len(ordered),
        accuracy=found.accuracy,
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
        roc_auc=found.roc_auc,
        pr_auc=_average_precision(ordered),
        brier=_brier(ordered),
        log_loss=found.log_loss,
        by_etiology=_recall_by_etiology(ordered),
        confusion_matrix=_confusion_matrix(ordered),
        classification_report=report,
        classification_report_text=report_text,
        output_distribution=_output_distribution(ordered),
        warnings=_warnings(ordered),
    )


def figures(label: npt.ArrayLike, probabilities: npt.ArrayLike) -> Figures:
    """Computes the figures of two classes; they don't depend on the order of the rows.

    Args:
      label: [N] 0 or 1; 1 is the positive class.
      probabilities: [N, 2]; rows that are NaN or infinite leave only the accuracy defined.

    Raises:
      ValueError: There are no examples, or the number of classes is not two.
    """
    label, probabilities = np.asarray(label), np.asarray(probabilities, np.float64)
    if probabilities.shape[1] != 2:
        raise ValueError(f"Metrics need exactly two classes, not {probabilities.shape[1]}.")
    if not len(label):
        raise ValueError("There are no examples to evaluate.")
    order = _canonical_order(label, probabilities)
    label, probabilities = label[order], probabilities[order]
    log_loss = roc_auc = None
    if np.isfinite(probabilities).all():
        # A softmax that uses an approximate reciprocal can exceed 1 slightly; scikit-learn rejects
        # it, and requires rows that sum to 1 in float64. Normalising a row keeps the small
        # probability of a confident error, whereas 1 - p would round it to 0.
        clipped = probabilities.clip(0, 1)
        normalised = clipped / clipped.sum(axis=1, keepdims=True)
        log_loss = float(sklearn.metrics.log_loss(label, normalised, labels=[0, 1]))
        if np.unique(label).size == 2:
            roc_auc = float(sklearn.metrics.roc_auc_score(label, probabilities[:, 1]))
    return Figures(log_loss, float(np.mean(probabilities.argmax(axis=1) == label)), roc_auc)


def _canonical_order(
    label: npt.NDArray[Any], probabilities: npt.NDArray[Any]
) -> npt.NDArray[np.intp]:
    """Returns the rows sorted, so that sums round equally whatever their order was."""
    return np.lexsort((probabilities[:, 1], probabilities[:, 0], label))


def _is_finite(predictions: Predictions) -> bool:
    return bool(np.isfinite(predictions.probabilities).all())


def _ratio(
    metric: Callable[..., float],
    label: npt.NDArray[np.integer[Any]],
    predicted: npt.NDArray[np.intp],
    *,
    pos_label: int,
) -> float | None:
    """Returns a metric of one class, or None if its denominator is zero."""
    # By default, scikit-learn would return 0 and warn.
    value = float(metric(label, predicted, pos_label=pos_label, zero_division=np.nan))
    return None if math.isnan(value) else value


def _average_precision(predictions: Predictions) -> float | None:
    """Returns the average precision; None if a class is absent or an output not finite."""
    label, positive = predictions.label, predictions.probabilities[:, 1]
    if np.unique(label).size < 2 or not _is_finite(predictions):
        return None
    return float(sklearn.metrics.average_precision_score(label, positive))


def _brier(predictions: Predictions) -> float | None:
    """Returns the Brier score; None unless all outputs are finite."""
    if not _is_finite(predictions):
        return None
    # Clipped, because a softmax can exceed 1 slightly, which scikit-learn rejects.
    positive = predictions.probabilities[:, 1].clip(0, 1)
    return float(sklearn.metrics.brier_score_loss(predictions.label, positive, pos_label=1))


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
    """Returns scikit-learn's report as a dictionary and as text; None where it is undefined."""
    names = predictions.class_names
    found = sklearn.metrics.classification_report(
        predictions.label,
        predictions.predicted,
        labels=range(len(names)),
        target_names=names,
        output_dict=True,
        zero_division=np.nan,
    )
    report = {
        title: _defined(row) if isinstance(row, dict) else row for title, row in found.items()
    }
    for title in ("macro avg", "weighted avg"):
        # scikit-learn leaves out what is undefined: a class that is never predicted would not
        # lower the mean precision. Recall is the mean over the classes that occur.
        for name in ("precision", "f1-score"):
            if any(report[of][name] is None for of in names if report[of]["support"]):
                report[title][name] = None
    return report, _report_text(report, names)


def _defined(row: dict[str, float]) -> dict[str, float | None]:
    return {name: None if math.isnan(value) else value for name, value in row.items()}


def _report_text(report: dict[str, Any], names: Sequence[str]) -> str:
    """Formats the report as scikit-learn does, with four digits; None as undefined."""
    columns = ("precision", "recall", "f1-score")
    total = report["macro avg"]["support"]
    accuracy = ("accuracy", "", "", f"{report['accuracy']:.4f}", f"{total:.0f}")
    titles = [*names, "macro avg", "weighted avg"]
    lines = {
        title: (
            title,
            *(history.decimal(report[title][column], 4) for column in columns),
            f"{report[title]['support']:.0f}",
        )
        for title in titles
    }
    classes = [lines.pop(name) for name in names]
    head = ("", *columns, "support")
    rows: list[Sequence[str]] = [head, (), *classes, (), accuracy, *lines.values()]
    width = max(map(len, titles))
    return "".join(
        f"{row[0]:>{width}} {''.join(f' {cell:>9}' for cell in row[1:])}\n" if row else "\n"
        for row in rows
    )


def _counts(class_names: Sequence[str], index: npt.NDArray[np.integer[Any]]) -> dict[str, int]:
    """Counts how often each class occurs in `index`."""
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
    """Returns the reasons of the guard not to use the run."""
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
        yield f"The outputs for {broken} of {len(predictions)} examples are NaN or infinite."


def _warn_of_baseline(predictions: Predictions) -> Iterator[str]:
    total = len(predictions)
    correct = int((predictions.predicted == predictions.label).sum())
    counts = np.bincount(predictions.label)
    baseline = int(counts.max())
    if correct <= baseline:
        yield (
            f"Accuracy {percent(correct / total)} ({correct} of {total}) is not above the "
            f"{percent(baseline / total)} ({baseline} of {total}) of always predicting "
            f"{predictions.class_names[counts.argmax()]}."
        )


def _warn_of_unpredicted(predictions: Predictions) -> Iterator[str]:
    predicted = _counts(predictions.class_names, predictions.predicted)
    for name, count in _counts(predictions.class_names, predictions.label).items():
        if count and not predicted[name]:
            yield (
                f"{name} is never predicted, but is the true class of {count} of "
                f"{len(predictions)} examples."
            )


def percent(share: float) -> str:
    """Formats a share as the paper does: `94.40 %`."""
    return f"{100 * share:.2f} %"
