"""The tables of a run's page, from its report: figures with intervals, groups, thresholds.

Every part of a report may be missing or null, and every number undefined: a dash then.

    tables.figures(document)        # a Grid, which the template shows
"""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Any

from trainer.evaluation import history as history_lib
from trainer.evaluation import localization as heat
from trainer.evaluation import subgroups
from trainer.evaluation.metrics import NAMES, SHARES
from trainer.evaluation.shifts import prior_correction
from trainer.reports import paper

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from trainer.reports.pages.thresholds import Counts

DASH = "–"
MINUS = "−"
_BY_THRESHOLD = frozenset({"accuracy", "macro_recall", "sensitivity", "specificity", "ppv", "npv",
                           "f1", "mcc"})  # fmt: skip
_PAIR = ("sensitivity", "specificity")
_HEADLINE = ("roc_auc", *_PAIR, "accuracy", "macro_recall")
_OF_RANKS = frozenset({"roc_auc", "pr_auc"})


@dataclasses.dataclass(frozen=True)
class Grid:
    """A table: its label for screen readers, column heads, and rows, whose first cell is a head."""

    label: str
    heads: Sequence[str]
    rows: Sequence[Sequence[str]]
    is_text: bool = False


def percent(value: float | None) -> str:
    """Formats a share."""
    return f"{100 * value:.2f} %" if _is_number(value) else DASH  # type: ignore[operator]


def number(value: float | None, digits: int = 4) -> str:
    """Formats a number; None, NaN and infinity are a dash."""
    return f"{value:.{digits}f}".replace("-", MINUS) if _is_number(value) else DASH


def count(value: Any) -> str:
    """Formats a count."""
    return f"{value:,}" if _is_number(value) else DASH


def figure(key: str, value: float | None) -> str:
    """Formats a figure of `NAMES`."""
    return percent(value) if key in SHARES else number(value)


def interval(key: str, ends: Sequence[float | None] | None) -> str:
    """Formats an interval; an undefined one is empty."""
    if not ends or not all(_is_number(end) for end in ends):
        return ""
    if key in SHARES:
        low, high = (f"{100 * (end or 0):.1f}" for end in ends)
        return f"{low} to {high} %"
    low, high = (number(end, 3) for end in ends)
    return f"{low} to {high}"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def part(document: Mapping[str, Any], *names: str) -> Mapping[str, Any]:
    """Returns a part of the report; an empty one where it is missing or null."""
    found: Any = document
    for name in names:
        found = found.get(name) if isinstance(found, dict) else None
    return found if isinstance(found, dict) else {}


def rows_of(document: Mapping[str, Any], *names: str) -> Sequence[Mapping[str, Any]]:
    """Returns a list of the report; an empty one where it is missing or null."""
    found = part(document, *names[:-1]).get(names[-1])
    return found if isinstance(found, list) else []


def headline(document: Mapping[str, Any]) -> list[dict[str, str]]:
    """Returns the figures at the top of the page: name, value, interval."""
    metrics, ends = part(document, "metrics"), part(document, "intervals", "metrics")
    point = part(document, "operating_point")
    plain = " at 0.5" if _is_binary(document) else ""
    cards = [
        _card(key, "" if key == "roc_auc" else plain, metrics[key], ends.get(key))
        for key in _HEADLINE
        if key in metrics
    ]
    chosen = f" {_at_point(point)}"
    pair = [
        _card(key, chosen, part(point, "figures").get(key), part(point, "intervals").get(key))
        for key in _PAIR
        if key in part(point, "figures")
    ]
    after = len([key for key in (_HEADLINE[0], *_PAIR) if key in metrics])
    return [*cards[:after], *pair, *cards[after:]]


def positive_class(document: Mapping[str, Any]) -> str:
    """Returns which of two classes is positive, in words; empty for more."""
    if not _is_binary(document):
        return ""
    return f"{part(document, 'metrics')['class_names'][1]} is the positive class."


def _card(
    key: str, where: str, value: float | None, ends: Sequence[float | None] | None
) -> dict[str, str]:
    return {
        "name": f"{NAMES[key]}{where}",
        "value": figure(key, value),
        "interval": interval(key, ends),
    }


def _at_point(point: Mapping[str, Any]) -> str:
    return f"at {number(point.get('threshold'), 3)}, the operating point"


def figures(document: Mapping[str, Any]) -> Grid:
    """Returns all figures: at 0.5, at the operating point, and with corrected prior."""
    metrics, ends = part(document, "metrics"), part(document, "intervals", "metrics")
    point, corrected = part(document, "operating_point"), part(document, "prior_correction")
    heads = ["", "most probable class" if not _is_binary(document) else "at 0.5"]
    heads += [_at_point(point)] if point else []
    heads += ["with corrected prior"] if corrected else []
    rows = []
    for key, name in NAMES.items():
        if key not in metrics:
            continue
        row = [name, _with_interval(key, metrics[key], ends.get(key))]
        if point:
            value = part(point, "figures").get(key)
            own = part(point, "intervals").get(key)
            row.append(_with_interval(key, value, own) if key in _BY_THRESHOLD else "")
        if corrected:
            value = part(corrected, "figures").get(key)
            is_ranked = key in _OF_RANKS and value is None and _is_binary(document)
            row.append("unchanged" if is_ranked else figure(key, value))
        rows.append(row)
    return Grid("Figures of the split", heads, rows)


def corrected_prior(document: Mapping[str, Any]) -> str:
    """Returns the class shares that probabilities were corrected for; empty if they were not."""
    shares = part(document, "prior_correction", "priors")
    if not shares:
        return ""
    of_training = part(document, "prior_correction", "training_priors")
    listed = ", ".join(
        f"{name} {percent(share)} (training {percent(of_training.get(name))})"
        for name, share in shares.items()
    )
    return (
        f"The prior is corrected for class shares that were estimated without labels: {listed}. "
        f"{prior_correction.ASSUMPTION}"
    )


def patients_by_class(document: Mapping[str, Any]) -> str:
    """Returns the patients of each class in words; empty where they are not known."""
    found = part(document, "intervals", "patients_by_class")
    return ", ".join(f"{name} {count(number_of)}" for name, number_of in found.items())


def _with_interval(key: str, value: float | None, ends: Sequence[float | None] | None) -> str:
    span = interval(key, ends)
    return f"{figure(key, value)} ({span})" if span else figure(key, value)


def _is_binary(document: Mapping[str, Any]) -> bool:
    return len(part(document, "metrics").get("class_names") or ()) == 2


def prevalence(document: Mapping[str, Any]) -> Grid | None:
    """Returns PPV and NPV at the prevalence that was asked for."""
    found = part(document, "prevalence")
    if not found:
        return None
    rows = []
    for key, name in (("at_half", "at 0.5"), ("at_operating_point", "at the operating point")):
        rates = part(found, key)
        if rates:
            ends = part(rates, "intervals")
            cells = [_with_interval(k, rates.get(k), ends.get(k)) for k in ("ppv", "npv")]
            rows.append([name, *cells])
    asked = percent(found.get("prevalence"))
    return Grid(f"Predictive values at a prevalence of {asked}", ["", "PPV", "NPV"], rows)


def against_paper(document: Mapping[str, Any]) -> Grid:
    """Returns this run's row, and the paper's."""
    metrics, config = part(document, "metrics"), part(document, "run", "config")
    own = [
        f"This run: {config.get('backbone') or DASH}",
        percent(metrics.get("accuracy")),
        percent(metrics.get("macro_recall")),
        count(metrics.get("examples")),
        paper.split_of(document),
    ]
    rows = [
        [
            f"{row.name}, {paper.AUTHORS}",
            f"{row.accuracy} %",
            f"{row.macro_recall} %",
            count(paper.TEST_IMAGES),
            paper.SPLIT,
        ]
        for row in paper.ROWS
    ]
    heads = ["", "accuracy", "macro recall", "test images", "split"]
    return Grid("This run against the paper", heads, [own, *rows])


def selected_thresholds(counts: Counts) -> Grid:
    """Returns figures at a few thresholds, and at the operating point."""
    point = counts.operating_point
    heads = ["threshold", "sensitivity", "specificity", "PPV", "NPV", "accuracy", "F1"]
    heads += ["TP", "FP", "FN", "TN"]
    rows = []
    for at in counts.shown():
        mark = " (operating point)" if point is at else ""
        shares = (at.sensitivity, at.specificity, at.ppv, at.npv, at.accuracy)
        cells = [*map(percent, shares), number(at.f1), *map(count, (at.tp, at.fp, at.fn, at.tn))]
        rows.append([f"{at.threshold:.3f}{mark}", *cells])
    return Grid("Figures at selected thresholds", heads, rows)


def calibration(document: Mapping[str, Any]) -> Grid | None:
    """Returns Brier score, ECE and log-loss before and after temperature scaling."""
    found = part(document, "calibration")
    if not found:
        return None
    rows = [
        [f"{side} scaling", *(number(part(found, side).get(key)) for key in _CALIBRATED)]
        for side in ("before", "after")
        if part(found, side)
    ]
    return Grid("Calibration", ["", *(NAMES[key] for key in _CALIBRATED)], rows)


_CALIBRATED = ("ece", "brier", "log_loss")


def distribution(document: Mapping[str, Any]) -> Grid | None:
    """Returns true and predicted counts, and the mean probability, of each class."""
    found = part(document, "metrics", "output_distribution")
    if not found:
        return None
    true, predicted = part(found, "true_counts"), part(found, "predicted_counts")
    mean = part(found, "mean_probability")
    rows = [
        [name, count(true[name]), count(predicted.get(name)), number(mean.get(name))]
        for name in true
    ]
    return Grid("Output distribution", ["class", "true", "predicted", "mean probability"], rows)


def groups(document: Mapping[str, Any]) -> Grid | None:
    """Returns figures by group."""
    found = rows_of(document, "groups", "rows")
    keys = [
        key
        for key in ("accuracy", "sensitivity", "specificity", "roc_auc")
        if any(_is_number(row.get(key)) for row in found)
    ]
    if not found:
        return None
    column = str(part(document, "groups").get("column") or "group")
    rows = [
        [
            str(row.get("name")),
            count(row.get("examples")),
            count(row.get("patients")),
            *(_with_interval(k, row.get(k), part(row, "intervals").get(k)) for k in keys),
        ]
        for row in found
    ]
    heads = [column, "examples", "patients", *(NAMES[key] for key in keys)]
    return Grid(f"Figures by {column}", heads, rows)


def note_of_groups(document: Mapping[str, Any]) -> str:
    """Returns what a reader must know of the AUC of a group with one class of two."""
    for row in rows_of(document, "groups", "rows"):
        is_defined = [_is_number(row.get(key)) for key in ("roc_auc", *_PAIR)]
        if is_defined[0] and is_defined[1] != is_defined[2]:
            return subgroups.AGAINST_OTHERS
    return ""


def localization(document: Mapping[str, Any]) -> Grid | None:
    """Returns whether heat maps point at the findings that were drawn; None without masks."""
    found = part(document, "localization")
    if not found:
        return None
    images = count(found.get("images"))
    rows = [(said, percent(found.get(name))) for name, said in heat.NAMES.items() if name in found]
    label = f"Heat maps and drawn findings, {images} images"
    return Grid(label, ("mean over the images", heat.HEAD), rows)


NOTE_OF_LOCALIZATION = (
    f"Test images with a finding whose class is predicted rightly, at most {heat.MAX_IMAGES} of "
    "them, evenly spaced; heat maps of that class, stretched to the image. Only phantoms tell "
    "where their finding is; heat on real radiographs may be anywhere else."
)


def classes(document: Mapping[str, Any]) -> Grid | None:
    """Returns the figures of each class against the rest; None for two classes."""
    found = part(document, "metrics", "by_class")
    if not found or _is_binary(document):
        return None
    keys = ("sensitivity", "specificity", "ppv", "npv", "f1", "roc_auc", "pr_auc")
    rows = [
        [name, count(part(found, name).get("examples"))]
        + [figure(key, part(found, name).get(key)) for key in keys]
        for name in found
    ]
    return Grid("Each class against the rest", ["class", "examples", *map(NAMES.get, keys)], rows)  # type: ignore[list-item]


def confusion(document: Mapping[str, Any]) -> Grid | None:
    """Returns the confusion matrix, rows true, columns predicted."""
    metrics = part(document, "metrics")
    matrix, names = metrics.get("confusion_matrix"), metrics.get("class_names")
    if not matrix or not names:
        return None
    rows = [[f"true {name}", *map(count, row)] for name, row in zip(names, matrix, strict=False)]
    return Grid("Confusion matrix", ["", *(f"predicted {name}" for name in names)], rows)


def spans(history: Mapping[str, Sequence[float]]) -> Grid:
    """Returns lowest, highest and last value of each learning curve."""
    rows = []
    for title, lines in history_lib.curves(history).items():
        for side, values in lines.items():
            finite = [value for value in values if math.isfinite(value)]
            ends = (min(finite), max(finite)) if finite else (None, None)
            rows.append([f"{side} {title}", *(number(end) for end in (*ends, values[-1]))])
    return Grid("Learning curves", ["", "lowest", "highest", "last"], rows)


def constant_rate(history: Mapping[str, Sequence[float]]) -> str:
    """Returns the learning rate in words where it never changes; a chart shows it where it does."""
    rates = {rate for rate in history.get("learning_rate", ()) if math.isfinite(rate)}
    return f"Learning rate: {rates.pop():.3g} in every epoch." if len(rates) == 1 else ""


def best_epoch(history: Mapping[str, Sequence[float]], monitor: str) -> str:
    """Returns the best epoch in words; empty without one."""
    best = history_lib.best_epoch(history, monitor)
    if best is None:
        return ""
    meaning = history_lib.MEANINGS.get(monitor, monitor)
    return f"Best epoch: {best} of {len(history[monitor])} ({meaning})."
