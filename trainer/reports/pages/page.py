"""The HTML page of a run, `report.html`: one file, which loads nothing, for readers and for print.

    page.write(path, document, table, samples=Pictures(rows, images), errors=Pictures(...))
    page.write_live(path, page.Live(history, epochs=30, run={"command": ..., "config": ...}))

`document` is the content of report.json. Any part may be missing or null: its section then is not
there. `write_live` writes the page of a run that still trains, which loads itself again.
"""

from __future__ import annotations

import dataclasses
import html
import json
import posixpath
from typing import TYPE_CHECKING, Any

from trainer.evaluation import history as history_lib
from trainer.reports import paper
from trainer.reports.pages import cards, panels, pictures, tables, templating, thresholds
from trainer.reports.pages.tables import part

if TYPE_CHECKING:
    import pathlib
    from collections.abc import Mapping, Sequence

    from trainer.evaluation.predictions import Predictions
    from trainer.reports.pages.pictures import Pictures

SCRIPTS = ("copy.js", "slider.js")
REFRESH_S = 10
_HALF = 0.5


@dataclasses.dataclass(frozen=True)
class Live:
    """A run that still trains.

    Attributes:
      history: One value per epoch so far under Keras's keys.
      epochs: Upper limit of epochs.
      run: `command` and `config`, as in report.json; other facts are shown too.
      left_s: Estimated seconds until the upper limit is reached; None: not known.
      monitor: The metric that decides the best epoch.
      refresh_s: Seconds until a browser loads the page again; None: the run has stopped.
      status: A word or two for the reader: "training", "evaluating", "stopped".
      written: When the page is written.
    """

    history: Mapping[str, Sequence[float]]
    epochs: int
    run: Mapping[str, Any]
    left_s: float | None = None
    monitor: str = "val_loss"
    refresh_s: int | None = REFRESH_S
    status: str = "training"
    written: str = ""


@dataclasses.dataclass(frozen=True)
class ReportPage:
    """A page on disk, which a notebook shows.

    Attributes:
      path: the file, which any browser opens.
    """

    path: pathlib.Path

    def __str__(self) -> str:
        """Returns the path."""
        return str(self.path)

    def _repr_html_(self) -> str:
        """Shows the page in a notebook, in a frame: its style does not reach the notebook."""
        content = html.escape(self.path.read_text("utf-8"))
        style = "width: 100%; height: 45rem; border: 0"
        return (
            f'<iframe title="report" sandbox="allow-scripts" style="{style}" srcdoc="{content}">'
            "</iframe>"
        )


def write(
    path: pathlib.Path,
    document: Mapping[str, Any],
    predictions: Predictions,
    *,
    samples: Pictures | None = None,
    errors: Pictures | None = None,
) -> None:
    """Writes the page of an evaluated run; equal input gives equal bytes.

    Args:
      path: the HTML file.
      document: the content of report.json.
      predictions: of the split that the document evaluates.
      samples: images for the sample sheet, of `predictions.choose_samples`.
      errors: images of `pictures.worst_errors`.
    """
    point = part(document, "operating_point").get("threshold")
    counts = thresholds.count(predictions, point if isinstance(point, float) else None)
    context = {
        **_frame(part(document, "run"), "Run"),
        **_findings(document),
        **_curves(document),
        **_charts(document, predictions, counts),
        "samples": pictures.describe(samples, predictions),
        "errors": pictures.describe(errors, predictions),
        "wrong": int((predictions.predicted != predictions.label).sum()),
        "facts_of": _facts(document),
    }
    templating.write(path, templating.render(*_TEMPLATE, context, scripts=SCRIPTS))


def write_live(path: pathlib.Path, live: Live) -> None:
    """Writes the page of a run that still trains; it costs a fraction of a second.

    Args:
      path: the HTML file.
      live: the state of the run.
    """
    document = {"history": live.history, "monitor": live.monitor, "run": live.run}
    done = max((len(values) for values in live.history.values()), default=0)
    context = {
        **_frame(live.run, "Run"),
        **_curves(document),
        "status": live.status[:1].upper() + live.status[1:],
        "done": done,
        "epochs": live.epochs,
        "written": live.written,
        "left": None if live.left_s is None else cards.duration(live.left_s),
        "refresh": live.refresh_s,
        "environment": cards.environment(document),
    }
    page = templating.render(
        "trainer.reports", "live.html.j2", context, scripts=SCRIPTS[:1], refresh_s=live.refresh_s
    )
    templating.write(path, page)


_TEMPLATE = ("trainer.reports", "run.html.j2")


def _frame(run: Mapping[str, Any], kind: str) -> dict[str, Any]:
    """Returns the title, and command and config with their buttons."""
    config = part(run, "config")
    folder = str(config.get("model_dir") or "").rstrip("/")
    options = ("backbone", "dataset", "precision")
    line = [str(config[name]) for name in options if config.get(name)]
    return {
        "title": f"{kind} {posixpath.basename(folder)}".strip(),
        "subtitle": " · ".join([*line, *([str(run["date"])] if run.get("date") else [])]),
        "command": str(run.get("command") or ""),
        "config": json.dumps(config, indent=2, ensure_ascii=False) if config else "",
    }


def _findings(document: Mapping[str, Any]) -> dict[str, Any]:
    ends = part(document, "intervals")
    confidence = ends.get("confidence")
    metrics = part(document, "metrics")
    return {
        "split": str(document.get("split") or "test"),
        "examples": tables.count(metrics.get("examples")),
        "verdict": cards.verdict(document),
        "headline": tables.headline(document),
        "positive_class": tables.positive_class(document),
        "confidence": f"{100 * confidence:g} %" if isinstance(confidence, float) else "",
        "resampled": tables.count(ends.get("patients")),
        "by_class": tables.patients_by_class(document),
        "resamples": tables.count(ends.get("resamples")),
        "figures": tables.figures(document),
        "corrected_prior": tables.corrected_prior(document),
        "prevalence": tables.prevalence(document),
        "paper": tables.against_paper(document),
        "paper_words": f"{paper.caution(document)} {paper.MAJORITY}",
        "groups": tables.groups(document),
        "note_of_groups": tables.note_of_groups(document),
        "localization": tables.localization(document),
        "note_of_localization": tables.NOTE_OF_LOCALIZATION,
        "note_of_heat": pictures.NOTE_OF_HEAT,
        "classes": tables.classes(document),
        "calibration": tables.calibration(document),
        "distribution": tables.distribution(document),
        "shift": cards.shift(document),
        "statistics": cards.statistics(document),
        "psi_note": cards.PSI_NOTE,
        "looks": cards.looks(document),
    }


def _facts(document: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "data": cards.data(document),
        "splits": cards.splits(document),
        "is_elsewhere": cards.is_elsewhere(document),
        "model": cards.model(document),
        "limits": cards.limits(document),
        "environment": cards.environment(document),
    }


def _curves(document: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the learning curves; null in the history is NaN there."""
    history = {
        name: [float("nan") if value is None else float(value) for value in values]
        for name, values in part(document, "history").items()
    }
    join = history_lib.joins_after(part(document, "run", "config"))
    if join is not None and join >= max(map(len, history.values()), default=0):
        join = None
    monitor = str(document.get("monitor") or "val_loss")
    return {
        "curves": panels.training(history, monitor, join) if history else [],
        "spans": tables.spans(history),
        "joins_after": join,
        "best_epoch": tables.best_epoch(history, monitor),
        "constant_rate": tables.constant_rate(history),
    }


def _charts(
    document: Mapping[str, Any], table: Predictions, counts: thresholds.Counts | None
) -> dict[str, Any]:
    found: dict[str, Any] = {
        "slider": None,
        "rates": [],
        "probabilities": [
            *panels.reliability(part(document, "calibration")),
            *panels.scores(table),
            *panels.distribution(part(document, "metrics", "output_distribution")),
        ],
        "confusion": tables.confusion(document),
    }
    if counts is not None:
        negative, positive = table.class_names
        found["rates"] = panels.discrimination(table, counts)
        found["slider"] = {
            "start": counts.at(_HALF),
            "point": counts.operating_point,
            "positive": positive,
            "negative": negative,
            "ties": int((table.predicted == 0)[table.probabilities[:, 1] >= _HALF].sum()),
            "share": f"{100 * counts.positives / len(table):.2f}",
            "grid": tables.selected_thresholds(counts),
            "island": templating.island(counts.to_json()),
        }
    return found
