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
from typing import TYPE_CHECKING, Annotated, Any, TypedDict

from trainer.errors import RunError
from trainer.evaluation import history, metrics, plots, predictions, report
from trainer.evaluation.predictions import Predictions
from trainer.storage import documents
from trainer.system import text

if TYPE_CHECKING:
    import pathlib

    from trainer.data.pipeline import Data
    from trainer.evaluation.metrics import Metrics
    from trainer.evaluation.report import Report

SPLIT = "test"
PREDICTIONS, REPORT = f"predictions_{SPLIT}.csv", "report.json"


class _Report(TypedDict):
    """What is read of `report.json`; its metrics are computed again."""

    split: documents.Name
    history: dict[str, list[documents.Number]]
    data: dict[str, Any]
    run: dict[str, Any]
    shared_patient_images: documents.Count | None
    monitor: Annotated[str, documents.one_of(*history.MEANINGS)]


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
        auc = "" if scores.roc_auc is None else f", ROC-AUC {scores.roc_auc:.4f}"
        verdict = f"; {report.DO_NOT_USE.rstrip(':')}" if self.guard_fired else ""
        accuracy = metrics.percent(scores.accuracy)
        return f"accuracy {accuracy} of {scores.examples} {SPLIT} examples{auc}{verdict}"

    def __repr__(self) -> str:
        """Names the folder and the headline."""
        return f"<Evaluation {self.folder}: {self.headline()}>"

    def __str__(self) -> str:
        """Returns the text report."""
        return self.report.to_text(colour=False)


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
        plots.save_curves(found.history, folder / "curves.png", found.monitor)
    plots.save_confusion_matrix(evaluation.metrics, folder / "confusion_matrix.png")
    rows = predictions.choose_samples(table)
    images = data.images(SPLIT, rows)
    plots.save_samples(images, table.take(rows), folder / "samples.png")


def load(folder: pathlib.Path) -> Evaluation:
    """Reads what `save` wrote; recomputes the metrics from the predictions.

    Raises:
      RunError: when there is no evaluation, or it can't be read.
    """
    for name in (PREDICTIONS, REPORT):
        if not (folder / name).exists():
            raise RunError(
                f"{folder} has no evaluation ({folder / name} is missing); run its command "
                "again to finish it, or evaluate it with --mode=evaluate."
            )
    document: _Report = documents.load(
        folder / REPORT, _Report, way_out="evaluate again", max_bytes=documents.LARGE_BYTES
    )
    try:
        table = Predictions.load_csv(folder / PREDICTIONS)
        scores = metrics.compute(table)
    except (OSError, ValueError) as error:
        raise RunError(
            f"the evaluation in {folder} can't be read ({text.one_line(str(error))}); evaluate "
            "again."
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
    )
    return Evaluation(folder, table, read)
