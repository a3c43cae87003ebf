"""A finished run, opened: its options, history, model, predictions and metrics.

    run = trained.open_run("runs/a")          # or "gs://hospital/runs/a"
    run.metrics.roc_auc
    run.history["val_loss"]
    run.predictions.save_csv(path)
    run.model(images)                         # a Keras model

Every command that uses a trained model starts from a `Run`.
"""

from __future__ import annotations

import base64
import dataclasses
import functools
import html
import importlib
from typing import TYPE_CHECKING, NotRequired, TypedDict

from trainer import option_groups
from trainer.config import Config
from trainer.errors import ConfigError, RunError
from trainer.evaluation import history, predictions
from trainer.evaluation.assessment import Assessment, Sharing
from trainer.evaluation.predictions import Predictions
from trainer.reports import plots, report
from trainer.reports.pages import page
from trainer.runs import claims, evaluated, looks, run_directory
from trainer.storage import contents, documents
from trainer.system import console, text

if TYPE_CHECKING:
    import pathlib

    import keras
    import matplotlib.figure
    import numpy as np

    from trainer.data.pipeline import Data
    from trainer.data.table import Table
    from trainer.evaluation.metrics import Metrics
    from trainer.runs.run_directory import RunDirectory


class Run:
    """A finished run; each of its files is read on first use.

        run = trainer.open_run("runs/a")
        run.metrics.accuracy
        run.plot_history()

    Attributes:
      directory: the run's files.
    """

    def __init__(self, directory: RunDirectory) -> None:
        wanted = "a RunDirectory; trainer.open_run opens the run in a folder"
        option_groups.require("directory", directory, run_directory.RunDirectory, wanted)
        self.directory = directory

    @property
    def path(self) -> str:
        """The run directory, as the user named it: a folder, or `gs://…`."""
        return str(self.directory)

    @functools.cached_property
    def config(self) -> Config:
        """The options that the run was trained with.

        Raises:
          RunError: when they can't be read.
        """
        return self.directory.load_config()

    @functools.cached_property
    def history(self) -> dict[str, list[float]]:
        """A value per epoch for each metric, as Keras names them: loss, val_loss, auc, …."""
        return self.directory.load_history()

    @functools.cached_property
    def model(self) -> keras.Model:
        """The model of the best epoch: uint8 images [B, H, W, 1] -> probabilities [B, K].

        Raises:
          RunError: when the file can't be read, or is of another run.
        """
        # Keras and TensorFlow take seconds to import, and metrics and plots need neither.
        saved = importlib.import_module("trainer.models.saved")
        path = self.directory.best_model
        model: keras.Model = saved.load(path)
        saved.require_built_by(model, self.config.model, path)
        saved.explain_refusals(model)
        return model

    @property
    def data_fingerprint(self) -> str:
        """The fingerprint of the data set that the run was trained on."""
        return str(self._trained_on["fingerprint"])

    @property
    def training_patients(self) -> frozenset[str]:
        """The patients of the training split."""
        return frozenset(self._trained_on["patients"])

    @property
    def validation_patients(self) -> frozenset[str] | None:
        """The patients of the validation split; None for a run that did not record them."""
        found = self._trained_on.get("validation_patients")
        return None if found is None else frozenset(found)

    @property
    def training_images(self) -> frozenset[str] | None:
        """Digests of the images of training and validation; None for a run that recorded none."""
        found = self._trained_on.get("image_digests")
        return None if found is None else frozenset(found)

    @property
    def training_priors(self) -> dict[str, float] | None:
        """The share of each class in training; None for a run that did not record it.

        A loss with balanced class weights has seen equal shares.
        """
        counts = self._trained_on.get("class_counts")
        if counts and self.config.optimization.class_weights == "balanced":
            counts = dict.fromkeys(counts, 1)
        total = sum(counts.values()) if counts else 0
        return {name: count / total for name, count in counts.items()} if counts and total else None

    @functools.cached_property
    def evaluation(self) -> evaluated.Evaluation:
        """The evaluation on the test split at the end of training.

        Raises:
          RunError: when the run stopped before it, or its files can't be read.
        """
        return evaluated.load(self.directory.path, str(self.directory))

    @property
    def metrics(self) -> Metrics:
        """Every metric of the test split."""
        return self.evaluation.metrics

    @property
    def predictions(self) -> Predictions:
        """The model's probabilities for each example of the test split."""
        return self.evaluation.predictions

    def plot_history(self) -> matplotlib.figure.Figure:
        """Draws loss, accuracy and AUC by epoch, as a Matplotlib figure.

        Raises:
          ValueError: when no epoch was trained.
        """
        joins_after = history.joins_after(self.config.to_flat())
        return plots.draw_curves(self.history, self.config.optimization.monitor, joins_after)

    def report(self) -> page.ReportPage:
        """Returns the page of the run, which a notebook shows.

        Raises:
          RunError: when the run has none: it was evaluated by an earlier version.
        """
        if not self.directory.has(claims.PAGE):
            raise RunError(f"{self.path} has no {claims.PAGE}; {claims.written_again(self.path)}.")
        return page.ReportPage(self.directory.page)

    @functools.cached_property
    def _trained_on(self) -> run_directory.TrainedOn:
        return self.directory.load_trained_on()

    def __repr__(self) -> str:
        """Shows the path, and the headline of the evaluation."""
        return f"<Run {self.path}: {self._headline()}>"

    def _repr_html_(self) -> str:
        """Shows the run in a notebook: headline, curves, confusion matrix."""
        figures = {"learning curves": self.plot_history()} if self.history else {}
        if self._is_evaluated:
            figures["confusion matrix"] = plots.draw_confusion_matrix(self.metrics)
        caption = html.escape(text.printable(f"{self.path}: {self._headline()}"))
        return "\n".join([f"<p>{caption}</p>", *map(_image, figures.values(), figures)])

    def _headline(self) -> str:
        return self.evaluation.headline() if self._is_evaluated else "not evaluated"

    @property
    def _is_evaluated(self) -> bool:
        return self.directory.has(evaluated.PREDICTIONS)


def _image(figure: matplotlib.figure.Figure, title: str) -> str:
    """Returns a figure as a self-contained HTML element."""
    encoded = base64.b64encode(plots.to_png(figure)).decode()
    return f'<img alt="{title}" src="data:image/png;base64,{encoded}">'


def sharing_of(run: Run, table: Table) -> Sharing:
    """Returns how many examples of a split a run has seen; validation chose its epoch."""
    validation, images = run.validation_patients, run.training_images
    patients = run.training_patients | (validation or frozenset())
    if images is None:
        console.say(
            "not told: whether the run was trained on these images, as it has recorded none that "
            "can be compared with them."
        )
    return Sharing(
        sum(patient in patients for patient in table.patient_id.tolist()),
        None if images is None else sum(of in images for of in table.image_digest.tolist()),
        ("train",) if validation is None else ("train", "validation"),
    )


def predictions_of(
    data: Data, split: str, probabilities: np.ndarray, judge_by: str = "etiology"
) -> Predictions:
    """Returns the table of predictions of a split.

    Args:
      data: the data set.
      split: its name.
      probabilities: [N, K], the model's output for each example, in the order of the split.
      judge_by: a column of the records that the table must have.
    """
    table = data.table(split)
    found = Predictions(
        class_names=data.class_names,
        file_name=table.file_name,
        patient_id=table.patient_id,
        etiology=table.etiology,
        label=table.label,
        probabilities=probabilities,
    )
    if judge_by in predictions.COLUMNS:
        return found
    return dataclasses.replace(found, others={judge_by: data.column(split, judge_by)})


def require_readable(run: Run) -> None:
    """Reads what `evaluate` needs of a run: a damaged file is told before hours of prediction.

    Raises:
      RunError: when a file can't be read.
    """
    evaluated.load_validation(run.directory.path, claims.written_again(run.path))
    looks.load(run.directory)


def evaluate(
    run: Run,
    data: Data,
    predictions: Predictions,
    look: looks.Look,
    folder: pathlib.Path | None = None,
) -> evaluated.Evaluation:
    """Assesses predictions on the test split of `data`; writes nothing but the ledger.

    Args:
      run: the run of the model, with the predictions of its validation split.
      data: the data set.
      predictions: for each example of the test split.
      look: how the model is assessed here.
      folder: the folder for the evaluation's files; None: the run's own.
    """
    way_out = claims.written_again(run.path)
    assessed = Assessment(
        predictions,
        evaluated.load_validation(run.directory.path, way_out),
        look.options,
        sharing=sharing_of(run, data.table(evaluated.SPLIT)),
        training_priors=run.training_priors,
    )
    found = report.Report(
        evaluated.SPLIT,
        run.history,
        assessed,
        data.card(),
        look.facts,
        monitor=run.config.optimization.monitor,
        looks=looks.record(run.directory, look, data),
        shift=look.shift,
        trained_on={"name": run.config.data.dataset, "fingerprint": run.data_fingerprint},
        localization=look.localization,
    )
    return evaluated.Evaluation(folder or run.directory.path, predictions, found)


def record_of(data: Data) -> run_directory.TrainedOn:
    """Returns what a run records of the data that decided its model."""
    train, validation = data.table("train"), data.table("validation")
    digests = {*train.image_digest.tolist(), *validation.image_digest.tolist()}
    return {
        "fingerprint": data.fingerprint,
        "patients": sorted(set(train.patient_id.tolist())),
        "validation_patients": sorted(set(validation.patient_id.tolist())),
        "image_digests": sorted(digests),
        "class_counts": dict(zip(data.class_names, data.class_counts("train"), strict=True)),
    }


def open_run(model_dir: str | pathlib.Path, *, staging_dir: str = "") -> Run:
    """Opens a finished run; a run in a bucket is copied for as long as this process lives.

        run = trainer.open_run("runs/a")

    Args:
      model_dir: a folder, or `gs://bucket/prefix`.
      staging_dir: local folder for the copy; empty: ~/.cache/cxr-trainer/staging.

    Raises:
      ConfigError: when `model_dir` is not a valid address.
      RunError: when it holds no finished run, or can't be read.
    """
    config = Config.from_flat({"model_dir": model_dir, "staging_dir": staging_dir})
    if not config.model_dir:
        raise ConfigError("model_dir is empty; name the run's directory.")
    return require_finished(run_directory.restore(config, is_chief=False))


def require_finished(directory: RunDirectory) -> Run:
    """Returns the run in a directory.

    Raises:
      RunError: when there is none, or it has no model yet.
    """
    if not directory.config.exists():
        raise RunError(contents.no_run_at(str(directory), directory.entries()))
    if not directory.best_model.exists():
        raise RunError(claims.no_model_yet(directory, directory.path))
    last = last_evaluation(directory)
    epochs = len(directory.load_rows()) if last else 0
    if last and last.epochs < epochs:
        if owner := claims.held_by(directory.path):
            raise RunError(
                f"the run at {directory} is still training ({owner}), beyond the {last.epochs} "
                "epochs after which its model was saved; wait until it has ended."
            )
        raise RunError(
            f"the run at {directory} has continued to {epochs} epochs since its model was saved "
            f"after {last.epochs}; run its command again to finish it."
        )
    if last and last.epochs > epochs:
        raise RunError(
            f"{directory.metrics} has {epochs} of the {last.epochs} epochs that {evaluated.REPORT} "
            f"tells of; {history.WAY_OUT}."
        )
    return Run(directory)


@dataclasses.dataclass(frozen=True)
class LastEvaluation:
    """What a run's last evaluation says about it.

    Attributes:
      epochs: number of epochs trained by then.
      date: when it was; empty where the report does not say.
    """

    epochs: int
    date: str

    @property
    def when(self) -> str:
        """The date as a clause."""
        return f", evaluated on {self.date}" if self.date else ""


class _Facts(TypedDict):
    """What is read of an evaluation's `run`."""

    date: NotRequired[str]


class _Evaluated(TypedDict):
    """What is read of `report.json` here."""

    history: dict[str, list[documents.Number]]
    run: _Facts


def last_evaluation(directory: RunDirectory) -> LastEvaluation | None:
    """Returns what `report.json` says; None if it or the model is missing.

    Raises:
      RunError: when it can't be read.
    """
    path = directory.path / evaluated.REPORT
    if not directory.best_model.exists() or not path.exists():
        return None
    found: _Evaluated = documents.load(
        path,
        _Evaluated,
        way_out=claims.written_again(str(directory)),
        max_bytes=documents.LARGE_BYTES,
    )
    epochs = max(map(len, found["history"].values()), default=0)
    return LastEvaluation(epochs, text.one_line(found["run"].get("date", ""))[:40])
