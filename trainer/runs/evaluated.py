"""An evaluation on disk: a model's predictions on the test split, and the metrics from them.

predictions_test.csv   a row per example
report.json            metrics, history, facts about data and run
curves.png  confusion_matrix.png  samples.png

    evaluation = evaluated.load(run_dir)
    evaluation.metrics.sensitivity
    print(evaluation)                      # the text report
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Annotated, Any, NotRequired, TypedDict

from trainer.errors import RunError
from trainer.evaluation import history, metrics, predictions
from trainer.evaluation.predictions import Predictions
from trainer.reports import plots, report
from trainer.runs import claims
from trainer.storage import documents
from trainer.system import text

if TYPE_CHECKING:
    import pathlib
    from collections.abc import Sequence

    from trainer.data.pipeline import Data
    from trainer.evaluation.metrics import Metrics
    from trainer.reports.report import Report

SPLIT = "test"
PREDICTIONS, REPORT = f"predictions_{SPLIT}.csv", "report.json"
CURVES, CONFUSION_MATRIX, SAMPLES = "curves.png", "confusion_matrix.png", "samples.png"


class _Report(TypedDict):
    """What is read of `report.json`; its metrics are computed again."""

    split: documents.Name
    history: dict[str, list[documents.Number]]
    data: dict[str, Any]
    run: dict[str, Any]
    shared_patient_images: documents.Count | None
    monitor: Annotated[str, documents.one_of(*history.MEANINGS)]
    shared_with: NotRequired[list[Annotated[str, documents.one_of("train", "validation")]]]


@dataclasses.dataclass(frozen=True, eq=False)
class Evaluation:
    """The predictions and metrics of a model on a test split.

        evaluation = trainer.evaluate("runs/a", dataset="official")
        evaluation.metrics.roc_auc
        print(evaluation)

    Attributes:
      folder: the folder of its files.
      predictions: the model's probabilities for each example.
      report: metrics, history and facts, which it formats as text and JSON.
    """

    folder: pathlib.Path
    predictions: Predictions
    report: Report

    @property
    def metrics(self) -> Metrics:
        """Every metric of the split."""
        return self.report.scores

    @property
    def guard_fired(self) -> bool:
        """Whether the model must not be used; `metrics.warnings` says why."""
        return self.metrics.guard_fired

    def headline(self) -> str:
        """Returns a summary in one line."""
        scores = self.metrics
        auc = f", ROC-AUC {history.decimal(scores.roc_auc, 4)}"
        verdict = f"; {report.DO_NOT_USE.rstrip(':')}" if self.guard_fired else ""
        accuracy = metrics.percent(scores.accuracy)
        count = text.counted(scores.examples, f"{SPLIT} example")
        return f"accuracy {accuracy} of {count}{auc}{verdict}"

    def __repr__(self) -> str:
        """Names the folder and the headline."""
        return f"<Evaluation {self.folder}: {self.headline()}>"

    def __str__(self) -> str:
        """Returns the text report."""
        return self.report.to_text(colour=False)


def ending(evaluation: Evaluation, place: str, others: Sequence[str] = (), *, colour: bool) -> str:
    """Returns the last lines of a command: the headline, and what was written.

    Args:
      evaluation: an evaluation that was saved.
      place: its folder, as the user names it.
      others: names of other files that the command wrote there.
      colour: whether to print the headline of a model that must not be used in red.
    """
    headline = evaluation.headline()
    if colour and evaluation.guard_fired:
        headline = report.red(headline)
    names = [*others, REPORT, PREDICTIONS, *_pictures(evaluation)]
    return "\n".join([headline, "written:", *(f"  {place.rstrip('/')}/{name}" for name in names)])


def _pictures(evaluation: Evaluation) -> list[str]:
    curves = [CURVES] if evaluation.report.history else []
    return [*curves, CONFUSION_MATRIX, SAMPLES]


def save(evaluation: Evaluation, data: Data) -> None:
    """Writes all files of an evaluation into its folder.

    Args:
      evaluation: the evaluation to write.
      data: the data set, for the sample images.
    """
    folder, table, found = evaluation.folder, evaluation.predictions, evaluation.report
    table.save_csv(folder / PREDICTIONS)
    found.save(folder)
    if found.history:
        plots.save_curves(found.history, folder / CURVES, found.monitor)
    plots.save_confusion_matrix(evaluation.metrics, folder / CONFUSION_MATRIX)
    rows = predictions.choose_samples(table)
    images = data.images(SPLIT, rows)
    plots.save_samples(images, table.take(rows), folder / SAMPLES)


def load(folder: pathlib.Path, place: str = "") -> Evaluation:
    """Reads what `save` wrote; recomputes the metrics from the predictions.

    Args:
      folder: of the evaluation.
      place: the run whose own evaluation it is, as the user named it; empty: another evaluation.

    Raises:
      RunError: when there is no evaluation, or it can't be read.
    """
    way_out = claims.written_again(place) if place else "evaluate again with --mode=evaluate"
    for name in (PREDICTIONS, REPORT):
        if not (folder / name).exists():
            raise RunError(f"{folder} has no evaluation ({folder / name} is missing); {way_out}.")
    document: _Report = documents.load(
        folder / REPORT, _Report, way_out=way_out, max_bytes=documents.LARGE_BYTES
    )
    try:
        table = Predictions.load_csv(folder / PREDICTIONS, way_out)
        scores = metrics.compute(table)
    except (OSError, ValueError) as error:
        raise RunError(
            f"the evaluation in {folder} can't be read ({text.clause(error)}); {way_out}."
        ) from error
    curves = {
        name: [documents.finite(value) for value in values]
        for name, values in document["history"].items()
    }
    read = report.Report(
        split=document["split"],
        history=curves,
        scores=scores,
        data=document["data"],
        run=document["run"],
        shared_patient_images=document["shared_patient_images"],
        monitor=document["monitor"],
        shared_with=document.get("shared_with", ["train"]),  # Of earlier versions.
    )
    return Evaluation(folder, table, read)
