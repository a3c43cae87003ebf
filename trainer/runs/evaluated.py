"""An evaluation on disk: a model's predictions on the test split, and what is said of them.

predictions_test.csv        a row per example
predictions_validation.csv  the same of the split that chose epoch, operating point and temperature
operating_point.json        the choice, with which the model is used
report.json                 figures, history, facts about data and run
report.html                 the same for people
curves.png  confusion_matrix.png  samples.png

    evaluation = evaluated.load(run_dir)
    evaluation.metrics.sensitivity
    print(evaluation)                      # the text report

The predictions of validation and the operating point are the run's; an evaluation on other data, in
a folder of the run, has neither.
"""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Annotated, Any, NotRequired, TypedDict

import numpy as np

from trainer.errors import ConfigError, RunError
from trainer.evaluation import history, predictions
from trainer.evaluation.assessment import Assessment, Sharing
from trainer.evaluation.predictions import Predictions
from trainer.options import EvaluationOptions
from trainer.reports import plots, report, verdict
from trainer.reports.pages import page, pictures
from trainer.reports.pages.pictures import Pictures
from trainer.runs import claims, looks
from trainer.storage import documents, files
from trainer.system import text

if TYPE_CHECKING:
    import pathlib
    from collections.abc import Callable

    import numpy.typing as npt

    from trainer.data.pipeline import Data
    from trainer.evaluation.metrics import Metrics
    from trainer.reports.report import Report

    Paint = Callable[[np.ndarray, np.ndarray], pictures.Heat]
    """Lays heat maps over images [M, H, W, 1] for classes [M]."""

SPLIT, VALIDATION = "test", "validation"
PREDICTIONS, REPORT = f"predictions_{SPLIT}.csv", "report.json"
PREDICTIONS_VALIDATION, OPERATING_POINT = f"predictions_{VALIDATION}.csv", "operating_point.json"
ELSEWHERE = "on_"
"""Begins the name of a folder, in that of the run, with an evaluation on other data."""
CURVES, CONFUSION_MATRIX, SAMPLES = "curves.png", "confusion_matrix.png", "samples.png"


class _Looks(TypedDict):
    """What is read of the looks at the test split."""

    rows: list[looks.LookRow]


class _TrainedOn(TypedDict):
    """The data set that the model was trained on."""

    name: documents.Name
    fingerprint: documents.Name


class _SplitPair(TypedDict):
    """What is read of the comparison of two splits."""

    a: documents.Name
    b: documents.Name
    domain_auc: documents.Number
    score_psi: documents.Number
    expected_score_psi: NotRequired[documents.Number]


class _Shift(TypedDict):
    """What is read of the comparison of the splits."""

    pairs: list[_SplitPair]
    warning: NotRequired[str]
    note: NotRequired[str]


class _Localization(TypedDict):
    """What is read of the comparison of heat maps with masks."""

    method: documents.Name
    images: documents.Count
    without_heat: documents.Count
    pointing: documents.Number
    top_heat: documents.Number
    top_area: documents.Number
    share: documents.Number
    reachable: documents.Number
    chance: documents.Number


class _Report(TypedDict):
    """What is read of `report.json`; its figures are computed again."""

    split: documents.Name
    history: dict[str, list[documents.Number]]
    data: dict[str, Any]
    run: dict[str, Any]
    shared_patient_images: documents.Count | None
    shared_images: NotRequired[documents.Count | None]
    monitor: Annotated[str, documents.one_of(*history.MEANINGS)]
    shared_with: NotRequired[list[Annotated[str, documents.one_of("train", "validation")]]]
    settings: NotRequired[dict[str, Any]]
    training_priors: NotRequired[dict[str, Annotated[float, documents.at_least(0)]] | None]
    looks: NotRequired[_Looks]
    shift: NotRequired[_Shift | None]
    trained_on: NotRequired[_TrainedOn | None]
    localization: NotRequired[_Localization | None]


@dataclasses.dataclass(frozen=True, eq=False)
class Evaluation:
    """The predictions of a model on a test split, and what is said of them.

        evaluation = trainer.evaluate("runs/a", dataset="official")
        evaluation.metrics.roc_auc, evaluation.intervals["roc_auc"]
        print(evaluation)

    Attributes:
      folder: the folder of its files.
      predictions: the model's probabilities for each example.
      report: figures, history and facts, which it formats as text and JSON.
    """

    folder: pathlib.Path
    predictions: Predictions
    report: Report

    @property
    def assessment(self) -> Assessment:
        """Intervals, operating point, calibration, groups and what else is said."""
        return self.report.assessment

    @property
    def metrics(self) -> Metrics:
        """Every metric of the split, for the most probable class."""
        return self.assessment.metrics

    @property
    def intervals(self) -> dict[str, tuple[float, float] | None]:
        """The 95 % interval of each metric, by name; None where there is nothing to say."""
        return self.assessment.intervals

    @property
    def warnings(self) -> tuple[str, ...]:
        """The reasons not to use the model, one sentence each."""
        return self.assessment.warnings

    @property
    def guard_fired(self) -> bool:
        """Whether the model must not be used; `warnings` says why."""
        return bool(self.warnings)

    def headline(self) -> str:
        """Returns a summary in one line."""
        scores = self.metrics
        auc = f", ROC-AUC {text.decimal(scores.roc_auc, 4)}"
        flag = f"; {verdict.DO_NOT_USE.rstrip(':')}" if self.guard_fired else ""
        count = text.counted(scores.examples, f"{SPLIT} example")
        return f"accuracy {text.percent(scores.accuracy)} of {count}{auc}{flag}"

    def __repr__(self) -> str:
        """Names the folder and the headline."""
        return f"<Evaluation {self.folder}: {self.headline()}>"

    def __str__(self) -> str:
        """Returns the text report."""
        return self.report.to_text(colour=False)


def ending(evaluation: Evaluation, place: str, *, colour: bool, has_model: bool = False) -> str:
    """Returns the last lines of a command, at most ten: verdict, headline, and what was written.

    Args:
      evaluation: an evaluation that was saved.
      place: its folder, as the user names it.
      colour: whether to print the verdict on a model that must not be used in red.
      has_model: whether the command has also written the model.
    """
    curves = [CURVES] if evaluation.report.history else []
    paths = {
        "report": claims.PAGE,
        **({"model": claims.BEST_MODEL} if has_model else {}),
        "predictions": PREDICTIONS,
    }
    also = [REPORT, *([OPERATING_POINT] if has_model else []), *curves, CONFUSION_MATRIX, SAMPLES]
    lines = [f"{name + ':':<13}{place.rstrip('/')}/{file}" for name, file in paths.items()]
    assessed = evaluation.assessment
    return "\n".join(
        [
            verdict.first_line(
                assessed.warnings, notices=len(evaluation.report.notices), colour=colour
            ),
            *verdict.headline(assessed),
            *lines,
            f"{'also there:':<13}{', '.join(also)}",
        ]
    )


def save(evaluation: Evaluation, data: Data, paint: Paint | None = None) -> None:
    """Writes all files of an evaluation into its folder, but those of the run's validation split.

    Args:
      evaluation: the evaluation to write.
      data: the data set, for the sample images.
      paint: lays heat maps over the images of the page; None: it has none.
    """
    folder, table, found = evaluation.folder, evaluation.predictions, evaluation.report
    table.save_csv(folder / PREDICTIONS)
    found.save(folder)
    if found.history:
        config = found.run.get("config")
        joins_after = history.joins_after(config if isinstance(config, dict) else {})
        plots.save_curves(found.history, folder / CURVES, found.monitor, joins_after)
    plots.save_confusion_matrix(evaluation.metrics, folder / CONFUSION_MATRIX)
    samples = _pictures(data, predictions.choose_samples(table), table, paint)
    plots.save_samples(samples.images, table.take(samples.rows), folder / SAMPLES)
    errors = _pictures(data, pictures.worst_errors(table), table, paint)
    page.write(folder / claims.PAGE, found.to_json(), table, samples=samples, errors=errors)


def _pictures(
    data: Data, rows: npt.NDArray[np.intp], table: Predictions, paint: Paint | None
) -> Pictures:
    if not rows.size:
        return Pictures(rows, np.zeros((0, *data.image_shape), np.uint8))
    images = data.images(SPLIT, rows)
    return Pictures(rows, images, paint and paint(images, table.predicted[rows]))


def save_validation(folder: pathlib.Path, table: Predictions, choice: dict[str, Any]) -> None:
    """Writes the predictions of a run's validation split, and what was chosen by them."""
    table.save_csv(folder / PREDICTIONS_VALIDATION)
    files.save_json(folder / OPERATING_POINT, choice)


def load_validation(run_dir: pathlib.Path, way_out: str) -> Predictions | None:
    """Returns the predictions of a run's validation split; None of a run of an earlier version.

    Args:
      run_dir: folder of the run.
      way_out: what to do if they can't be read, a clause.

    Raises:
      RunError: when they can't be read, or are no such table.
    """
    path = run_dir / PREDICTIONS_VALIDATION
    if not path.exists():
        return None
    try:
        return Predictions.load_csv(path, way_out)
    except ValueError as error:
        raise documents.refused(path, text.clause(error), way_out) from error


def load(folder: pathlib.Path, place: str = "") -> Evaluation:
    """Reads what `save` wrote; computes the figures again from the predictions.

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
        is_of_run = bool(place) or not folder.name.startswith(ELSEWHERE)
        validation = load_validation(folder if is_of_run else folder.parent, way_out)
        assessed = _assessment(document, table, validation)
        _ = assessed.metrics  # A table without examples has none.
    except (OSError, ValueError, ConfigError) as error:
        raise RunError(
            f"the evaluation in {folder} can't be read ({text.clause(error)}); {way_out}."
        ) from error
    return Evaluation(folder, table, _report(document, assessed))


def _assessment(
    document: _Report, table: Predictions, validation: Predictions | None
) -> Assessment:
    """Returns the assessment of a document.

    Raises:
      ConfigError: for options that no assessment has.
      ValueError: when it groups by a column that the table lacks, or validation has other classes.
    """
    known = {field.name for field in dataclasses.fields(EvaluationOptions)}
    given = document.get("settings", {})
    options = EvaluationOptions(**{name: value for name, value in given.items() if name in known})
    if validation is not None and validation.class_names != table.class_names:
        raise ValueError(f"{PREDICTIONS_VALIDATION} has other classes than {PREDICTIONS}")
    table.column(options.judge_by)
    sharing = Sharing(
        document["shared_patient_images"],
        document.get("shared_images"),
        document.get("shared_with", ["train"]),  # Of earlier versions.
    )
    priors = document.get("training_priors")
    if priors is not None and not math.isclose(sum(priors.values()), 1, abs_tol=1e-6):
        raise ValueError("its training_priors don't sum to 1")
    return Assessment(table, validation, options, sharing=sharing, training_priors=priors)


def _report(document: _Report, assessed: Assessment) -> Report:
    curves = {
        name: [documents.finite(value) for value in values]
        for name, values in document["history"].items()
    }
    return report.Report(
        split=document["split"],
        history=curves,
        assessment=assessed,
        data=document["data"],
        run=document["run"],
        monitor=document["monitor"],
        looks=document.get("looks", {"rows": []})["rows"],
        shift=document.get("shift"),
        trained_on=document.get("trained_on"),
        localization=document.get("localization"),
    )
