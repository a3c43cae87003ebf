"""The report of an evaluated run: the paper's report as text, and `report.json`.

Both present the same `Report`. Its figures are computed in `trainer.evaluation`; this module only
formats them. The report of a run that must not be used ends with `DO_NOT_USE` and the reasons.

    report = Report("test", history, assessment.Assessment(...), data, run)
    report.save(run_dir)
    print(report.to_text(colour=sys.stdout.isatty()))
"""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Any

from trainer.evaluation import history as history_lib
from trainer.evaluation import intervals, localization, metrics, subgroups
from trainer.evaluation.shifts import prior_correction, shift
from trainer.reports import verdict
from trainer.storage import files
from trainer.system import text

if TYPE_CHECKING:
    import pathlib
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from trainer.evaluation.assessment import Assessment
    from trainer.evaluation.metrics import Metrics

SCHEMA_VERSION = 4  # Incremented when a key of report.json changes its meaning or is removed.
DO_NOT_USE = verdict.DO_NOT_USE

_BAR_WIDTH = 40


@dataclasses.dataclass(frozen=True, eq=False)
class Report:
    """The report of an evaluated run.

    Attributes:
      split: The evaluated split.
      history: One value per epoch under Keras's keys (loss, val_loss, accuracy, …); empty if
        nothing was trained.
      assessment: What is said of the predictions.
      data: Facts about the data set, copied into report.json.
      run: Backbone, strategy, precision and other facts about the run, copied into report.json;
        strings and numbers are also printed at the top of the text.
      monitor: The metric that decided the best epoch.
      looks: A row for each time that this run was evaluated on this data, this one included; see
        `trainer.runs.looks`.
      shift: Whether validation can stand for test, as JSON; None if that was not measured.
      trained_on: `name` and `fingerprint` of the data that the model was trained on; None: unknown.
      localization: whether heat maps point at findings, as JSON; None where no mask tells.
    """

    split: str
    history: Mapping[str, Sequence[float]]
    assessment: Assessment
    data: Mapping[str, Any]
    run: Mapping[str, Any]
    monitor: str = "val_loss"
    looks: Sequence[Mapping[str, Any]] = ()
    shift: Mapping[str, Any] | None = None
    trained_on: Mapping[str, Any] | None = None
    localization: Mapping[str, Any] | None = None

    @property
    def scores(self) -> Metrics:
        """Every metric of the split."""
        return self.assessment.metrics

    @property
    def notices(self) -> tuple[str, ...]:
        """What a reader should know of the figures, one sentence each."""
        told = self.shift or {}
        found = (str(told.get(name) or "") for name in ("warning", "note"))
        return tuple(filter(None, (*map(_sentence, found), *self.assessment.notices)))

    def to_json(self) -> dict[str, Any]:
        """Returns the content of `report.json`; NaN and infinity are null, as JSON has neither."""
        assessed, sharing = self.assessment, self.assessment.sharing
        return {
            "schema_version": SCHEMA_VERSION,
            "split": self.split,
            **assessed.to_json(),
            "notices": list(self.notices),
            "shift": None if self.shift is None else dict(self.shift),
            "looks": {"count": len(self.looks), "rows": [dict(row) for row in self.looks]},
            "settings": dataclasses.asdict(assessed.options),
            "training_priors": assessed.training_priors and dict(assessed.training_priors),
            "shared_patient_images": sharing.patients,
            "shared_images": sharing.images,
            "shared_with": list(sharing.others),
            "monitor": self.monitor,
            "best_epoch": history_lib.best_epoch(self.history, self.monitor),
            "history": {key: _finite_or_none(values) for key, values in self.history.items()},
            "data": dict(self.data),
            "trained_on": self.trained_on and dict(self.trained_on),
            "localization": self.localization and dict(self.localization),
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
            _clinical_metrics(self.assessment),
            _operating_point(self.assessment),
            _prevalence(self.assessment),
            _calibration(self.assessment),
            _prior_correction(self.assessment),
            _output_distribution(self.scores),
            _histogram(self.scores),
            _groups(self.assessment),
            _shift(self.shift),
            _localization(self.localization),
            self._shared_patients(),
            self._looks(),
            self.notices,
        )
        # Class names and facts come from files; colour alone may be a control character.
        blocks = [text.printable("\n".join(lines)) for lines in sections if lines]
        warnings = "\n".join(verdict.lines(self.assessment.warnings, colour=colour))
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
        if self.trained_on:
            facts.append(("trained on", verdict.trained_on(self.trained_on)))
        width = max((len(name) for name, _ in facts), default=0)
        return [
            f"Split {self.split}: {text.counted(self.scores.examples, 'example')}",
            *(f"  {name:<{width}}  {value}" for name, value in facts),
        ]

    def _shared_patients(self) -> Sequence[str]:
        shared, examples = self.assessment.sharing.patients, self.scores.examples
        if shared is None:
            return ()
        others = " or ".join(self.assessment.sharing.others)
        subject = f"{self.split.capitalize()} images that share a patient with {others}:"
        if not shared:
            return (f"{subject} none.",)
        share = f"{100 * shared / examples:.1f} %"
        return (f"{subject} {shared} of {examples} ({share}): the metrics above are optimistic.",)

    def _looks(self) -> Sequence[str]:
        return (verdict.looks(self.split, self.looks),) if self.looks else ()


def _sentence(clause: str) -> str:
    return clause[:1].upper() + clause[1:]


def _shift(found: Mapping[str, Any] | None) -> Sequence[str]:
    """Says how alike the splits are, in the pairs that were measured."""
    rows = [
        (
            f"{pair['a']} and {pair['b']}",
            _number(pair["domain_auc"]),
            _number(pair["score_psi"]),
            _number(pair.get("expected_score_psi")),
        )
        for pair in (found or {}).get("pairs", ())
    ]
    if not rows:
        return ()
    head = ("", "AUC", "stability index of scores", "by chance")
    title = (
        "Whether a classifier can tell splits apart (AUC 0.5: no; a warning needs "
        f"{shift.MEDIUM_AUC} or more)"
    )
    return (title, *_table([head, *rows]))


def _localization(found: Mapping[str, Any] | None) -> Sequence[str]:
    """Says whether heat maps point at the findings that were drawn."""
    if not found:
        return ()
    images = text.counted(found["images"], "image")
    title = f"Heat maps ({found['method']}), share {localization.HEAD}, means over {images}"
    rows = [(said, text.percent(found[name])) for name, said in localization.NAMES.items()]
    return (title, *_table(rows))


def _finite_or_none(values: Iterable[float]) -> list[float | None]:
    """Returns the values as Python floats for JSON; None for NaN and infinity."""
    return [float(value) if math.isfinite(value) else None for value in values]


def _training(history: Mapping[str, Sequence[float]], monitor: str) -> Iterator[Sequence[str]]:
    """Yields the best epoch, then the summary of each curve in the format of livelossplot."""
    best = history_lib.best_epoch(history, monitor)
    if history.get(monitor):
        number = text.UNDEFINED if best is None else best
        meaning, epochs = history_lib.MEANINGS[monitor], len(history[monitor])
        yield (f"Best epoch ({meaning}): {number} of {epochs}",)
    for title, lines in history_lib.curves(history).items():
        yield (title, *(f"  {side:<10} {history_lib.span(line)}" for side, line in lines.items()))


def _headline(scores: Metrics) -> Sequence[str]:
    return (
        f"RANK 1 Accuracy: {text.percent(scores.accuracy)}",
        f"Macro recall: {text.percent(scores.macro_recall)}",
        f"ROC-AUC: {_number(scores.roc_auc)}",
        f"Always predicting {scores.majority_class}: {text.percent(scores.majority_baseline)}",
    )


def _number(value: float | None) -> str:
    return text.decimal(value, 4)


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


def _confusion_matrix(scores: Metrics) -> Sequence[str]:
    names, matrix = scores.class_names, scores.confusion_matrix
    rows = [("", *names), *((name, *row) for name, row in zip(names, matrix, strict=True))]
    return ("Confusion matrix (rows: true, columns: predicted)", *_table(rows))


def _clinical_metrics(assessed: Assessment) -> Sequence[str]:
    scores = assessed.metrics
    values = {name: getattr(scores, name) for name in metrics.NAMES}
    names = scores.class_names
    meaning = (
        f"at 0.5, {names[1]} positive"
        if len(names) == 2
        else "as means over the classes, each against the rest"
    )
    patients = text.counted(assessed.drawn.num_patients, "patient")
    title = f"Metrics {meaning}, with 95 % intervals (bootstrap over {patients})"
    by_class = intervals.patients_by_class(assessed.test).items()
    counts = ", ".join(f"{name} {count}" for name, count in by_class)
    return (title, f"  patients by class: {counts}", *_with_intervals(values, assessed.intervals))


def _with_intervals(
    values: Mapping[str, float | None], found: Mapping[str, tuple[float, float] | None]
) -> list[str]:
    return _table(
        (metrics.NAMES[name], _number(value), verdict.interval(found.get(name)))
        for name, value in values.items()
    )


def _operating_point(assessed: Assessment) -> Sequence[str]:
    point = assessed.point
    if point is None:
        return ()
    chosen, names = point.chosen, assessed.test.class_names
    rows = [("", *names), *((n, *r) for n, r in zip(names, point.confusion_matrix, strict=True))]
    examples = text.counted(chosen.examples, "validation example")
    return (
        f"Operating point: {chosen.positive_class} from a probability of {chosen.threshold:.4f} on",
        f"  chosen by {chosen.rule} on {examples}",
        f"  sensitivity there {chosen.sensitivity:.4f}, specificity {chosen.specificity:.4f}",
        *_with_intervals(point.figures, point.intervals),
        *_table(rows),
    )


def _prevalence(assessed: Assessment) -> Sequence[str]:
    if assessed.restated is None:
        return ()
    titles = {"at_half": "at 0.5", "at_operating_point": "at the operating point"}
    rows = [
        (f"{name.upper()}, {titles[side]}", _number(value), verdict.interval(of.intervals[name]))
        for side, of in assessed.restated.items()
        if of is not None
        for name, value in (("ppv", of.ppv), ("npv", of.npv))
    ]
    return (f"At a prevalence of {text.percent(assessed.options.prevalence)}", *_table(rows))


def _calibration(assessed: Assessment) -> Sequence[str]:
    before, after = assessed.calibration["before"], assessed.calibration["after"]
    if before is None or after is None or assessed.temperature is None:
        return ()
    rows = [("", "as they are", "scaled")] + [
        (metrics.NAMES[name], _number(getattr(before, name)), _number(getattr(after, name)))
        for name in ("brier", "ece", "log_loss")
    ]
    title = f"Calibration; temperature fitted on validation: {assessed.temperature:.3f}"
    return (title, *_table(rows))


def _prior_correction(assessed: Assessment) -> Sequence[str]:
    found = assessed.prior_correction
    if found is None:
        return ()
    names = ("accuracy", "macro_recall", "sensitivity", "specificity")
    rows = [("", "plain", "corrected")] + [
        (
            metrics.NAMES[name],
            _number(getattr(assessed.metrics, name)),
            _number(found.figures.get(name)),
        )
        for name in names
    ]
    shares = ", ".join(f"{name} {text.percent(share)}" for name, share in found.priors.items())
    return (
        f"Corrected for estimated class shares ({shares}), beside the plain figures",
        f"  {prior_correction.ASSUMPTION}",
        *_table(rows),
    )


def _output_distribution(scores: Metrics) -> Sequence[str]:
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


def _histogram(scores: Metrics) -> Sequence[str]:
    counts = scores.output_distribution.histogram
    bins = [f"{i / len(counts):.1f} to {(i + 1) / len(counts):.1f}" for i in range(len(counts))]
    lines = _table(zip(bins, counts, strict=True))
    shares = [count / scores.examples for count in counts]
    names = scores.class_names
    title = f"Examples by probability of {names[1] if len(names) == 2 else 'the predicted class'}"
    return (title, *_with_bars(lines, shares))


def _groups(assessed: Assessment) -> Sequence[str]:
    rows = [
        (
            group.name,
            text.percent(group.accuracy),
            f"{group.correct} of {group.examples}",
            verdict.interval(group.intervals.get("accuracy")),
            f"AUC {_number(group.roc_auc)}",
        )
        for group in assessed.groups
    ]
    has_note = any(group.is_compared_with_others for group in assessed.groups)
    note = [f"  {subgroups.AGAINST_OTHERS}"] if has_note else []
    return (f"Accuracy by {assessed.options.judge_by}", *_table(rows), *note)
