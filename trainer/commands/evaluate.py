"""Judges a model on a split, every example once, and writes what it found into the run directory.

judgement = evaluate.judge(run.path, probabilities, data, history, facts)
judgement.guard_fired        # the result must not be used
"""

from __future__ import annotations

import contextlib
import sys
import zipfile
from typing import TYPE_CHECKING, Any

import keras
import tensorflow as tf

from trainer.data import opening, pipeline
from trainer.distribution import peers, runtime
from trainer.errors import RunError
from trainer.evaluation import metrics, plots, report
from trainer.evaluation import predictions as predictions_lib
from trainer.runs import run_directory
from trainer.system import console, signals
from trainer.training.driver import Driver

if TYPE_CHECKING:
    import pathlib
    from collections.abc import Collection, Mapping, Sequence

    import numpy as np

    from trainer.config import Config
    from trainer.data.batches import Batches

SPLIT = "test"


def run(config: Config) -> metrics.Judgement:
    """Judges the model of a finished run again, on the data set that the config names.

    What it finds goes to a folder of its own below the run, named by the data.

    Raises:
      RunError: when the run has no model.
    """
    context = runtime.build(config.runtime)
    context.check_batch_size(config.data.batch_size)
    with run_directory.restore(config, is_chief=context.is_chief) as trained:
        with context.strategy.scope():
            model = load_model(trained.best_model)
        data = opening.load(config.data, image_size=model.input.shape[1])
        data.require_image_shape(model.input.shape[1:])
        with data.reading():
            batches = data.evaluation_batches(SPLIT, config.data.batch_size)
            probabilities = predict(Driver(model, context.strategy), batches, context)
            folder = trained.path / f"on_{config.data.dataset}_{data.fingerprint[:8]}"
            facts = {**facts_of(config, context), "precision": _precision_of(model)}
            return judge(
                folder if context.is_chief else None,
                probabilities,
                data,
                trained.load_history(),
                facts,
                trained.load_training_patients(),
                monitor=config.optimization.monitor,
            )


def predict(driver: Driver, batches: Batches, context: runtime.Context) -> np.ndarray:
    """Returns what `driver.predict` does; the last that hosts which train together do together.

    A request to one of them to stop stops all. From here on none waits for another.
    """
    together = signals.deferred(context.any_host)
    with together if context.is_multi_host else contextlib.nullcontext():
        probabilities = driver.predict(batches)
    peers.part()
    return probabilities


def _precision_of(model: keras.Model) -> str:
    """Returns the policy that the model was saved under; it computes in no other."""
    policies = {layer.dtype_policy.name for layer in model._flatten_layers()}  # noqa: SLF001
    return next((name for name in sorted(policies) if name.startswith("mixed")), "float32")


def load_model(path: pathlib.Path) -> keras.Model:
    """Loads a saved model; nothing in the file is executed.

    Raises:
      RunError: when there is none, or it can't be read.
    """
    if not path.is_file():
        raise RunError(f"there is no trained model at {path}; train one, or name its --model_dir.")
    try:
        return keras.saving.load_model(path, compile=False, safe_mode=True)
    except (ValueError, OSError, KeyError, zipfile.BadZipFile) as error:
        raise RunError(f"{path} is not a readable model: {error}") from error


def judge(
    folder: pathlib.Path | None,
    probabilities: np.ndarray,
    data: pipeline.Data,
    history: Mapping[str, Sequence[float]],
    facts: Mapping[str, Any],
    training_patients: Collection[str],
    *,
    monitor: str,
) -> metrics.Judgement:
    """Judges probabilities of the test split, says the text report and writes the files.

    Args:
      folder: where the files go; None where another host writes them.
      probabilities: [N, K], in the order of the split.
      data: the data set.
      history: of training; may be empty.
      facts: about the run, for `report.json`.
      training_patients: whom the model was trained on; the report says how many come up again.
      monitor: the metric that chose the best epoch.
    """
    table = data.table(SPLIT)
    predictions = predictions_lib.Predictions(
        class_names=data.class_names,
        file_name=table.file_name,
        patient_id=table.patient_id,
        etiology=table.etiology,
        label=table.label,
        probabilities=probabilities,
    )
    judgement = metrics.judge(predictions)
    if folder is None:
        return judgement
    result = report.Report(
        SPLIT,
        history,
        judgement,
        data.card(),
        facts,
        shared_patient_images=sum(patient in training_patients for patient in table.patient_id),
        monitor=monitor,
    )
    predictions.save_csv(folder / f"predictions_{SPLIT}.csv")
    result.save(folder)
    if history:
        plots.save_curves(history, folder / "curves.png", monitor)
    _save_pictures(folder, data, predictions, judgement)
    console.say(result.to_text(colour=console.wants_colour()))
    return judgement


def _save_pictures(
    folder: pathlib.Path,
    data: pipeline.Data,
    predictions: predictions_lib.Predictions,
    judgement: metrics.Judgement,
) -> None:
    plots.save_confusion_matrix(judgement, folder / "confusion_matrix.png")
    samples = predictions_lib.choose_samples(predictions)
    images = data.images(SPLIT, samples)
    plots.save_samples(images, predictions.take(samples), folder / "samples.png")


def facts_of(config: Config, context: runtime.Context) -> dict[str, Any]:
    """Returns what a reader needs to run this again."""
    return {
        "command": " ".join(["python", "-m", "trainer", *sys.argv[1:]]),
        "config": config.to_flat(),
        "device": context.device,
        "replicas": context.num_replicas,
        "precision": config.runtime.precision,
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
    }
