"""The charts of a run's page: each as SVG with a description that has its numbers.

panels.training(history, "val_loss", joins_after=2)     # learning curves, generalization gap
panels.discrimination(table, counts)                    # ROC and PR curves
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import sklearn.metrics

from trainer.evaluation import history as history_lib
from trainer.reports.pages import charts, svg, tables
from trainer.system import text

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import markupsafe

    from trainer.evaluation.predictions import Predictions
    from trainer.reports.pages.thresholds import Counts

_CROWDED_AREA = 0.95
"""From here on, all that matters of an ROC curve lies in a corner, which is enlarged."""
_MOST_CLASSES = 20
"""More have no place in a chart; the table lists them."""


def training(
    history: Mapping[str, Sequence[float]], monitor: str, joins_after: int | None
) -> list[markupsafe.Markup]:
    """Draws loss, accuracy, AUC, the generalization gap, and a learning rate that varies.

    Args:
      history: one value per epoch under Keras's keys; NaN and infinity are left out.
      monitor: the metric that decided the best epoch.
      joins_after: the epochs of the head alone; None if nothing joins.
    """
    best = history_lib.best_epoch(history, monitor)
    marks = {"best": best, "joins_after": joins_after}
    found = []
    for title, lines in history_lib.curves(history).items():
        figure = charts.curve(title, lines, **marks)
        spans = "; ".join(f"{side} {history_lib.span(values)}" for side, values in lines.items())
        label = f"{title} by epoch: {spans}. Best epoch: {best or 'undefined'}."
        found.append(svg.inline(figure, f"curve-{title.lower()}", label))
    for name, title, axis, values in _others(history):
        figure = charts.by_epoch(title, axis, values, **marks)
        label = f"{title} by epoch: {history_lib.span(values)}."
        found.append(svg.inline(figure, name, label))
    return found


def _others(
    history: Mapping[str, Sequence[float]],
) -> list[tuple[str, str, str, Sequence[float]]]:
    found: list[tuple[str, str, str, Sequence[float]]] = []
    train, validation = history.get("loss", ()), history.get("val_loss", ())
    gap = [there - here for here, there in zip(train, validation, strict=False)]
    if gap:
        found.append(("gap", "Generalization gap", "validation − training loss (nats)", gap))
    rate = history.get("learning_rate", ())
    if len({value for value in rate if math.isfinite(value)}) > 1:
        found.append(("rate", "Learning rate", "learning rate", rate))
    return found


def discrimination(table: Predictions, counts: Counts) -> list[markupsafe.Markup]:
    """Draws ROC and PR curves, with the points at 0.5 and at the operating point."""
    if not counts.positives or not counts.negatives:
        return []
    label, score = table.label == 1, table.probabilities[:, 1].clip(0, 1)
    false_rate, true_rate, _ = sklearn.metrics.roc_curve(label, score)
    precision, recall, _ = sklearn.metrics.precision_recall_curve(
        label, score, drop_intermediate=True
    )
    named = {"at 0.5": counts.at(0.5)}
    if counts.operating_point:
        named[f"at {counts.operating_point.threshold:.3f}, the operating point"] = (
            counts.operating_point
        )
    words = "; ".join(
        f"{name}: sensitivity {tables.percent(of.sensitivity)}, specificity "
        f"{tables.percent(of.specificity)}, PPV {tables.percent(of.ppv)}"
        for name, of in named.items()
    )
    on_roc = [
        charts.Point(_short(name), 1 - (of.specificity or 0), of.sensitivity or 0)
        for name, of in named.items()
    ]
    on_pr = [
        charts.Point(_short(name), of.sensitivity or 0, of.ppv)
        for name, of in named.items()
        if of.ppv is not None
    ]
    area = sklearn.metrics.roc_auc_score(label, score)
    mean = sklearn.metrics.average_precision_score(label, score)
    corner = (0.0, 0.8) if area >= _CROWDED_AREA else None
    titles = ("ROC curve", "1 − specificity", "sensitivity")
    roc = charts.rates(false_rate, true_rate, titles, on_roc, corner=corner)
    titles = ("Precision–recall curve", "sensitivity (recall)", "PPV (precision)")
    share = counts.positives / len(table)
    pr = charts.rates(recall[::-1], precision[::-1], titles, on_pr, chance=share)
    return [
        svg.inline(roc, "roc", f"ROC curve, area {area:.4f}. {words}.", with_box=True),
        svg.inline(pr, "pr", f"PR curve, average precision {mean:.4f}. {words}.", with_box=True),
    ]


def _short(name: str) -> str:
    return "operating point" if "operating" in name else name


def reliability(calibration: Mapping[str, Any]) -> list[markupsafe.Markup]:
    """Draws the reliability diagrams before and after temperature scaling, where they are known."""
    found = []
    for side in ("before", "after"):
        bins = (calibration.get(side) or {}).get("reliability")
        if not bins:
            continue
        worst = max(abs(of["mean_probability"] - of["share"]) for of in bins)
        title = f"Reliability {side} scaling"
        words = (
            f"{title}: {text.counted(len(bins), 'bin')} with an example, largest distance from "
            f"the diagonal {worst:.3f}."
        )
        found.append(svg.inline(charts.reliability(title, bins), f"reliability-{side}", words))
    return found


def scores(table: Predictions) -> list[markupsafe.Markup]:
    """Draws histograms of the scores: by true class, or right and wrong with over two classes."""
    finite = np.isfinite(table.probabilities).all(axis=1)
    if not finite.any():
        return []
    label, names = table.label[finite], table.class_names
    if len(names) == 2:
        score = table.probabilities[finite, 1].clip(0, 1)
        groups = {f"true {name}": score[label == k] for k, name in enumerate(names)}
        axis = f"probability of {charts.shortened(names[1])}"
    else:
        score, right = table.score[finite].clip(0, 1), table.predicted[finite] == label
        groups = {"right predictions": score[right], "wrong predictions": score[~right]}
        axis = "probability of the predicted class"
    words = "; ".join(
        f"{name}: {text.counted(len(values), 'example')}"
        + (f", median {np.median(values):.3f}" if len(values) else "")
        for name, values in groups.items()
    )
    figure = charts.scores(groups, axis)
    return [svg.inline(figure, "scores", f"Histograms, {axis}. {words}.", with_box=True)]


def distribution(found: Mapping[str, Any]) -> list[markupsafe.Markup]:
    """Draws the number of examples of each class, true and predicted."""
    if not found.get("true_counts") or len(found["true_counts"]) > _MOST_CLASSES:
        return []
    names = list(found["true_counts"])
    groups = {
        "true": [found["true_counts"][name] for name in names],
        "predicted": [(found.get("predicted_counts") or {}).get(name, 0) for name in names],
    }
    words = "; ".join(
        f"{name}: {true} true, {predicted} predicted"
        for name, true, predicted in zip(names, *groups.values(), strict=True)
    )
    return [svg.inline(charts.counts(groups, names), "classes", f"Examples by class. {words}.")]
