"""The metrics of a split, for two classes or more.

They are computed with scikit-learn from the outputs for all examples, each counted exactly once:
`compute` gives those of the final evaluation, and `figures` the three of them that are also logged
after each epoch. None comes from Keras's metrics.

    scores = metrics.compute(Predictions.load_csv(run_dir / "predictions_test.csv"))
    scores.roc_auc, scores.by_class["PNEUMONIA"].sensitivity
"""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import sklearn.metrics

from trainer.evaluation import calibration, guards
from trainer.system import text

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from trainer.evaluation.predictions import Predictions

_HISTOGRAM_BINS = 10
NAMES = {
    "accuracy": "Accuracy",
    "macro_recall": "Macro recall",
    "sensitivity": "Sensitivity",
    "specificity": "Specificity",
    "ppv": "PPV",
    "npv": "NPV",
    "f1": "F1",
    "mcc": "MCC",
    "roc_auc": "ROC-AUC",
    "pr_auc": "PR-AUC",
    "brier": "Brier score",
    "log_loss": "Log-loss (nats)",
    "ece": "ECE",
}
"""The figures of a split as readers see them, by the attribute of `Metrics`."""
SHARES = frozenset({"accuracy", "macro_recall", "sensitivity", "specificity", "ppv", "npv"})
"""Figures that are shown in percent."""


@dataclasses.dataclass(frozen=True)
class Figures:
    """What is known of a model on a split after every epoch; None where it is undefined.

    Attributes:
      log_loss: Mean negative log-likelihood in nats; see `Metrics`.
      accuracy: Share of examples whose most probable class is the true class.
      roc_auc: Area under the ROC curve; see `Metrics`.
    """

    log_loss: float | None
    accuracy: float
    roc_auc: float | None


@dataclasses.dataclass(frozen=True)
class ClassMetrics:
    """The metrics of one class against all others; None where undefined, as in `Metrics`."""

    examples: int
    sensitivity: float | None
    specificity: float | None
    ppv: float | None
    npv: float | None
    f1: float | None
    roc_auc: float | None
    pr_auc: float | None


@dataclasses.dataclass(frozen=True)
class OutputDistribution:
    """Predicted against true classes: a model that predicts only one class shows here first.

    Attributes:
      true_counts: Number of examples of each class.
      predicted_counts: Number of examples predicted as each class.
      mean_probability: Mean output for each class; None if an output is NaN or infinite.
      histogram: Number of examples by probability of the positive class, in ten equal bins over
        [0, 1]; of more than two classes, by that of the predicted class. NaN and infinite values
        are not counted.
    """

    true_counts: dict[str, int]
    predicted_counts: dict[str, int]
    mean_probability: dict[str, float | None]
    histogram: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Metrics:
    """All final metrics of one split. An undefined metric is None, because JSON has no NaN.

    A ratio is undefined when its denominator is zero: `sensitivity` without a positive example,
    `ppv` without a positive prediction, and so on. `roc_auc`, `pr_auc` and `mcc` need two classes
    that occur; `roc_auc`, `pr_auc`, `brier`, `log_loss` and `ece` need finite probabilities.
    `macro_recall` is the mean over the classes that occur. In the classification report, a mean of
    precisions or F1 is undefined if that of a class that occurs is.

    Of two classes, the second is the positive one. Of more, `sensitivity`, `specificity`, `ppv`,
    `npv`, `f1`, `roc_auc` and `pr_auc` are means over the classes that occur, each against all
    others, and undefined if that of one of them is.

    Attributes:
      class_names: The classes; of two, first the negative and then the positive one.
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
      brier: Mean squared error of the positive class's probability; of more than two classes, the
        sum over classes.
      log_loss: Mean negative log-likelihood in nats, of float64 probabilities, clipped as
        scikit-learn does.
      ece: Expected calibration error; see `calibration`.
      by_class: Metrics of each class against all others.
      confusion_matrix: Number of examples, [true][predicted].
      classification_report: scikit-learn's report as a dictionary.
      classification_report_text: The same report as text, with four digits.
      output_distribution: Predicted against true classes.
      warnings: What the outputs say against using the model, one sentence each; see `guards`.
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
    ece: float | None
    by_class: dict[str, ClassMetrics]
    confusion_matrix: tuple[tuple[int, ...], ...]
    classification_report: dict[str, Any]
    classification_report_text: str
    output_distribution: OutputDistribution
    warnings: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Returns the metrics as dictionaries, sequences and numbers, for JSON."""
        return dataclasses.asdict(self)


def compute(predictions: Predictions) -> Metrics:
    """Computes every metric of a split.

    Raises:
      ValueError: There are no examples.
    """
    found = figures(predictions.label, predictions.probabilities)
    ordered = predictions.take(_canonical_order(predictions.label, predictions.probabilities))
    label, predicted, names = ordered.label, ordered.predicted, ordered.class_names
    majority = int(np.bincount(label).argmax())
    by_class = {name: _of_class(ordered, index) for index, name in enumerate(names)}
    report, report_text = _classification_report(ordered)
    brier = _brier(ordered)
    return Metrics(
        class_names=names,
        examples=len(ordered),
        accuracy=found.accuracy,
        majority_class=names[majority],
        majority_baseline=float(np.mean(label == majority)),
        macro_recall=float(
            sklearn.metrics.recall_score(label, predicted, average="macro", zero_division=np.nan)
        ),
        **_joined(by_class),
        mcc=_matthews(label, predicted),
        roc_auc=found.roc_auc,
        brier=brier,
        log_loss=found.log_loss,
        ece=calibration.expected_error(ordered),
        by_class=by_class,
        confusion_matrix=_confusion_matrix(ordered),
        classification_report=report,
        classification_report_text=report_text,
        output_distribution=_output_distribution(ordered),
        warnings=guards.of_outputs(ordered),
    )


def figures(label: npt.ArrayLike, probabilities: npt.ArrayLike) -> Figures:
    """Computes three figures; they don't depend on the order of the rows.

    Args:
      label: [N] int, index of the true class; of two, 1 is the positive class.
      probabilities: [N, K]; rows that are NaN or infinite leave only the accuracy defined.

    Raises:
      ValueError: There are no examples.
    """
    label, probabilities = np.asarray(label), np.asarray(probabilities, np.float64)
    if not len(label):
        raise ValueError("There are no examples to evaluate.")
    order = _canonical_order(label, probabilities)
    label, probabilities = label[order], probabilities[order]
    log_loss = roc_auc = None
    if np.isfinite(probabilities).all():
        # scikit-learn requires rows that sum to 1 in float64.
        given = calibration.normalised(probabilities)
        classes = range(probabilities.shape[1])
        log_loss = float(sklearn.metrics.log_loss(label, given, labels=classes))
        areas = [_roc_auc(label == k, probabilities[:, k]) for k in _scored(label, len(classes))]
        roc_auc = _mean(areas)
    return Figures(log_loss, float(np.mean(probabilities.argmax(axis=1) == label)), roc_auc)


def _canonical_order(
    label: npt.NDArray[Any], probabilities: npt.NDArray[Any]
) -> npt.NDArray[np.intp]:
    """Returns the rows sorted, so that sums round equally whatever their order was."""
    return np.lexsort((*probabilities.T[::-1], label))


def _scored(label: npt.NDArray[Any], num_classes: int) -> Sequence[int]:
    """Returns the classes whose figures count: the positive one of two, else all that occur."""
    return [1] if num_classes == 2 else np.unique(label).tolist()


def _mean(values: Sequence[float | None]) -> float | None:
    """Returns the mean; None if a value is undefined."""
    defined = [value for value in values if value is not None]
    return float(np.mean(defined)) if values and len(defined) == len(values) else None


def _of_class(predictions: Predictions, index: int) -> ClassMetrics:
    """Returns the metrics of a class against all others."""
    label, predicted = predictions.label == index, predictions.predicted == index
    score = predictions.probabilities[:, index]
    return ClassMetrics(
        examples=int(label.sum()),
        sensitivity=_ratio(sklearn.metrics.recall_score, label, predicted, pos_label=1),
        specificity=_ratio(sklearn.metrics.recall_score, label, predicted, pos_label=0),
        ppv=_ratio(sklearn.metrics.precision_score, label, predicted, pos_label=1),
        npv=_ratio(sklearn.metrics.precision_score, label, predicted, pos_label=0),
        f1=_ratio(sklearn.metrics.f1_score, label, predicted, pos_label=1),
        roc_auc=_roc_auc(label, score),
        pr_auc=_average_precision(label, score),
    )


def _joined(by_class: dict[str, ClassMetrics]) -> dict[str, float | None]:
    """Returns those of the positive class of two; else the means over the classes that occur."""
    names = ("sensitivity", "specificity", "ppv", "npv", "f1", "pr_auc")
    rows = list(by_class.values())
    counted = rows[1:] if len(rows) == 2 else [row for row in rows if row.examples]
    return {name: _mean([getattr(row, name) for row in counted]) for name in names}


def _roc_auc(label: npt.NDArray[np.bool_], score: npt.NDArray[Any]) -> float | None:
    """Returns the area under the ROC curve; None if it is undefined."""
    if np.unique(label).size < 2 or not np.isfinite(score).all():
        return None
    return float(sklearn.metrics.roc_auc_score(label, score))


def _average_precision(label: npt.NDArray[np.bool_], score: npt.NDArray[Any]) -> float | None:
    """Returns the average precision; None if it is undefined."""
    if np.unique(label).size < 2 or not np.isfinite(score).all():
        return None
    return float(sklearn.metrics.average_precision_score(label, score))


def _matthews(label: npt.NDArray[Any], predicted: npt.NDArray[Any]) -> float | None:
    if np.unique(label).size < 2:
        return None
    return float(sklearn.metrics.matthews_corrcoef(label, predicted))


def _brier(predictions: Predictions) -> float | None:
    """Returns the Brier score, if the probabilities are finite."""
    if not _is_finite(predictions):
        return None
    # scikit-learn knows the score of more than two classes from 1.7 on.
    return float(calibration.row_errors(predictions)["brier"].mean())


def _is_finite(predictions: Predictions) -> bool:
    return bool(np.isfinite(predictions.probabilities).all())


def _ratio(
    metric: Callable[..., float],
    label: npt.NDArray[Any],
    predicted: npt.NDArray[Any],
    *,
    pos_label: int,
) -> float | None:
    """Returns a metric of one class, or None if its denominator is zero."""
    # By default, scikit-learn would return 0 and warn.
    value = float(metric(label, predicted, pos_label=pos_label, zero_division=np.nan))
    return None if math.isnan(value) else value


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
            *(text.decimal(report[title][column], 4) for column in columns),
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
    is_finite = _is_finite(predictions)
    means = probabilities.mean(axis=0).tolist() if is_finite else [None] * len(class_names)
    shown = probabilities[:, 1] if len(class_names) == 2 else predictions.score
    finite = shown[np.isfinite(shown)].clip(0, 1)
    histogram, _ = np.histogram(finite, bins=_HISTOGRAM_BINS, range=(0, 1))
    return OutputDistribution(
        true_counts=_counts(class_names, predictions.label),
        predicted_counts=_counts(class_names, predictions.predicted),
        mean_probability=dict(zip(class_names, means, strict=True)),
        histogram=tuple(histogram.tolist()),
    )
