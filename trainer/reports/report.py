"""The report of an evaluated run: the paper's report as text, and `report.json`.

Both present the same `Report`. Its metrics are computed in `metrics` and `history`; this module
only formats them. The report of a run that must not be used ends with `DO_NOT_USE` and the reasons.

    report = Report(split="test", history=history, scores=metrics.compute(predictions), ...)
    report.save(run_dir)
    print(report.to_text(colour=sys.stdout.isatty()))
"""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Any

from trainer.evaluation import history as history_lib
from trainer.evaluation import metrics
from trainer.storage import files
from trainer.system import text

if TYPE_CHECKING:
    import pathlib
    from collections.abc import Iterable, Iterator, Mapping, Sequence

SCHEMA_VERSION = 3  # Incremented when a key of report.json changes its meaning or is removed.
DO_NOT_USE = "DO NOT USE THIS MODEL:"

_BAR_WIDTH = 40
_RED, _RESET = "\x1b[1;31m", "\x1b[0m"


@dataclasses.dataclass(frozen=True)
class Report:
    """The report of an evaluated run.

    Attributes:
      split: The evaluated split.
      history: One value per epoch under Keras's keys (loss, val_loss, accuracy, …); empty if
        nothing was trained.
      scores: The metrics of the split.
      data: Facts about the data set, copied into report.json.
      run: Backbone, strategy, precision and other facts about the run, copied into report.json;
        strings and numbers are also printed at the top of the text.
      shared_patient_images: Number of images in the split whose patient is also in one of
        `shared_with`; None if the protocol rules this out.
      monitor: The metric that decided the best epoch.
      shared_with: Splits of the run that decided the model: validation chose the epoch. Earlier
        versions knew the patients of train alone.
    """

    split: str
    history: Mapping[str, Sequence[float]]
    scores: metrics.Metrics
    data: Mapping[str, Any]
    run: Mapping[str, Any]
    shared_patient_images: int | None = None
    monitor: str = "val_loss"
    shared_with: Sequence[str] = ("train", "validation")

    def to_json(self) -> dict[str, Any]:
        """Returns the content of `report.json`; NaN and infinity are null, as JSON has neither."""
        return {
            "schema_version": SCHEMA_VERSION,
            "split": self.split,
            "metrics": self.scores.to_json(),
            "shared_patient_images": self.shared_patient_images,
            "shared_with": list(self.shared_with),
            "monitor": self.monitor,
            "best_epoch": history_lib.best_epoch(self.history, self.monitor),
            "history": {key: _finite_or_none(values) for key, values in self.history.items()},
            "data": dict(self.data),
            "run": dict(self.run),
        }

    def to_text(self, *, colour: bool) -> str:
        """Returns the paper's report as text.

        Args:
          colour: Whether to print the warnings in red, with ANSI codes.
        """
        sections = (
            self._heading(),
            *_training(self.history, self.monitor),
            _headline(self.scores),
            _confusion_matrix(self.scores),
            ("Classification report", self.scores.classification_report_text.rstrip("\n")),
            _clinical_metrics(self.scores),
            _output_distribution(self.scores),
            _histogram(self.scores),
            _recall_by_etiology(self.scores),
            self._shared_patients(),
        )
        # Class names and facts come from files; colour alone may be a control character.
        blocks = [text.printable("\n".join(lines)) for lines in sections if lines]
        warnings = "\n".join(_warnings(self.scores, colour=colour))
        return "\n\n".join([*blocks, warnings] if warnings else blocks) + "\n"

    def save(self, run_dir: pathlib.Path) -> None:
        """Writes `report.json` into the run directory."""
        files.save_json(run_dir / "report.json", self.to_json())

    def _heading(self) -> Sequence[str]:
        facts = [
            (name, str(value))
            for name, value in self.run.items()
            if isinstance(value, str | int | float)
        ]
        width = max((len(name) for name, _ in facts), default=0)
        return [
            f"Split {self.split}: {text.counted(self.scores.examples, 'example')}",
            *(f"  {name:<{width}}  {value}" for name, value in facts),
        ]

    def _shared_patients(self) -> Sequence[str]:
        shared, examples = self.shared_patient_images, self.scores.examples
        if shared is None:
            return ()
        others = " or ".join(self.shared_with)
        subject = f"{self.split.capitalize()} images that share a patient with {others}:"
        if not shared:
            return (f"{subject} none.",)
        share = f"{100 * shared / examples:.1f} %"
        return (f"{subject} {shared} of {examples} ({share}): the metrics above are optimistic.",)


def _finite_or_none(values: Iterable[float]) -> list[float | None]:
    """Returns the values as Python floats for JSON; None for NaN and infinity."""
    return [float(value) if math.isfinite(value) else None for value in values]


def _training(history: Mapping[str, Sequence[float]], monitor: str) -> Iterator[Sequence[str]]:
    """Yields the best epoch, then the summary of each curve in the format of livelossplot."""
    best = history_lib.best_epoch(history, monitor)
    if history.get(monitor):
        number = history_lib.UNDEFINED if best is None else best
        meaning, epochs = history_lib.MEANINGS[monitor], len(history[monitor])
        yield (f"Best epoch ({meaning}): {number} of {epochs}",)
    for title, lines in history_lib.curves(history).items():
        yield (title, *(f"  {side:<10} {history_lib.span(line)}" for side, line in lines.items()))


def _headline(scores: metrics.Metrics) -> Sequence[str]:
    baseline = metrics.percent(scores.majority_baseline)
    return (
        f"RANK 1 Accuracy: {metrics.percent(scores.accuracy)}",
        f"Macro recall: {metrics.percent(scores.macro_recall)}",
        f"ROC-AUC: {_number(scores.roc_auc)}",
        f"Always predicting {scores.majority_class}: {baseline}",
    )


def _number(value: float | None) -> str:
    return history_lib.decimal(value, 4)


def _table(rows: Iterable[Sequence[object]]) -> list[str]:
    """Aligns the first column to the left, the others to the right."""
    texts = [[str(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
    return [
        "  ".join(
            ["", row[0].ljust(widths[0])]
            + [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        ).rstrip()
        for row in texts
    ]


def _with_bars(lines: Iterable[str], shares: Iterable[float]) -> list[str]:
    """Appends a bar to each line; any share above zero gets at least one character."""
    return [
        f"{line}  {'#' * math.ceil(share * _BAR_WIDTH)}".rstrip()
        for line, share in zip(lines, shares, strict=True)
    ]


def _confusion_matrix(scores: metrics.Metrics) -> Sequence[str]:
    names, matrix = scores.class_names, scores.confusion_matrix
    rows = [("", *names), *((name, *row) for name, row in zip(names, matrix, strict=True))]
    return ("Confusion matrix (rows: true, columns: predicted)", *_table(rows))


def _clinical_metrics(scores: metrics.Metrics) -> Sequence[str]:
    values = {
        "Sensitivity": scores.sensitivity,
        "Specificity": scores.specificity,
        "PPV": scores.ppv,
        "NPV": scores.npv,
        "F1": scores.f1,
        "MCC": scores.mcc,
        "PR-AUC": scores.pr_auc,
        "Brier score": scores.brier,
        "Log-loss (nats)": scores.log_loss,
    }
    positive = scores.class_names[1]
    rows = [(name, _number(value)) for name, value in values.items()]
    return (f"Metrics with {positive} as the positive class", *_table(rows))


def _output_distribution(scores: metrics.Metrics) -> Sequence[str]:
    names, distribution = scores.class_names, scores.output_distribution
    header = ("", "true", "predicted", "mean probability")
    rows = [
        (
            name,
            distribution.true_counts[name],
            distribution.predicted_counts[name],
            _number(distribution.mean_probability[name]),
        )
        for name in names
    ]
    shares = [distribution.predicted_counts[name] / scores.examples for name in names]
    head, *lines = _table([header, *rows])
    return ("Output distribution", head, *_with_bars(lines, shares))


def _histogram(scores: metrics.Metrics) -> Sequence[str]:
    counts = scores.output_distribution.histogram
    bins = [f"{i / len(counts):.1f} to {(i + 1) / len(counts):.1f}" for i in range(len(counts))]
    lines = _table(zip(bins, counts, strict=True))
    shares = [count / scores.examples for count in counts]
    title = f"Examples by probability of {scores.class_names[1]}"
    return (title, *_with_bars(lines, shares))


def _recall_by_etiology(scores: metrics.Metrics) -> Sequence[str]:
    rows = [
        (etiology, metrics.percent(recall.recall), f"{recall.correct} of {recall.examples}")
        for etiology, recall in scores.by_etiology.items()
    ]
    return ("Recall by etiology", *_table(rows))


def _warnings(scores: metrics.Metrics, *, colour: bool) -> Sequence[str]:
    lines = [f"{DO_NOT_USE} {warning}" for warning in map(text.visible, scores.warnings)]
    return [red(line) for line in lines] if colour else lines


def red(line: str) -> str:
    """Returns a line with the ANSI codes that make a terminal show it in red."""
    return f"{_RED}{line}{_RESET}"
