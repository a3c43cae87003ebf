"""`--mode=evaluate`: evaluates the model of a finished run on any data set, or on labelled images.

evaluation = evaluate.evaluate("runs/a", dataset="official")
evaluation = evaluate.evaluate("runs/a", images="labels.csv")
evaluation.guard_fired        # the model must not be used
"""

from __future__ import annotations

if __name__ == "__main__":  # Said before TensorFlow is imported.
    raise SystemExit("this module is no command; give: python -m trainer --mode=evaluate")

import contextlib
import datetime
from typing import TYPE_CHECKING, Any

import keras
import tensorflow as tf

from trainer.data import opening
from trainer.distribution import batch_sizes, cluster, peers, runtime
from trainer.errors import ConfigError, RunError
from trainer.evaluation.shifts import shift
from trainer.inference import gradcam, heatmaps, labelled, sources
from trainer.models import archive, classifier, footprint, saved
from trainer.runs import (
    evaluated,
    looks,
    model_facts,
    run_directory,
    trained,
    validation_sample,
)
from trainer.runs.evaluated import SPLIT, Evaluation
from trainer.runs.trained import Run
from trainer.system import console, signals, text
from trainer.training import outputs, shift_samples

if TYPE_CHECKING:
    import pathlib
    from collections.abc import Iterator

    import numpy as np

    from trainer.config import Config
    from trainer.data.pipeline import Data
    from trainer.inference.gradcam import Explainer
    from trainer.models.archive import ModelFacts
    from trainer.training.outputs import OutputReader, Outputs


def evaluate(run: Run | str | pathlib.Path, **options: Any) -> Evaluation:
    """Evaluates the model of a finished run on the test split of a data set.

        evaluation = trainer.evaluate("runs/a", dataset="official", manual_dir="archive")
        print(evaluation)

        trainer.evaluate("runs/a", images="labels.csv")       # columns file, label, patient_id

    The files of the evaluation go to a subfolder of the run directory, named after the data.

    Args:
      run: a run, or its directory.
      **options: data and device options, by flag name; the default is the run's own value.

    Raises:
      ConfigError: for an option that is unknown, invalid, or can't be changed after training.
      RunError: when the run, its data or the devices are not available.
    """
    staging_dir = options.get("staging_dir", "")
    opened = run if isinstance(run, Run) else trained.open_run(run, staging_dir=staging_dir)
    config = opened.config.for_finished_run({**options, "model_dir": opened.path})
    with signals.watched(), peers.watched(config):
        return _evaluate(config)


def run(config: Config) -> Evaluation:
    """Evaluates for the command line, and prints the report."""
    evaluation = _evaluate(config)
    colour = console.wants_colour()
    console.say(evaluation.report.to_text(colour=colour))
    place = f"{config.model_dir.rstrip('/')}/{evaluation.folder.name}"
    console.say(evaluated.ending(evaluation, place, colour=colour))
    return evaluation


def _evaluate(config: Config) -> Evaluation:
    context = runtime.build(config.runtime)
    if config.inference.images:
        require_one_host(context, "evaluate --images")
    for line in context.unused:
        console.say(line)
    with (
        run_directory.restore(config, is_chief=context.is_chief) as directory,
        contextlib.ExitStack() as stack,
    ):
        finished = trained.require_finished(directory)
        config = with_batch_size(config, finished.config.data.batch_size, context)
        with context.strategy.scope():  # The model is loaded here, and creates its variables.
            model = finished.model
        side = classifier.side_of(model)
        data = stack.enter_context(_opened(config, finished, side, context))
        data.require_column(config.evaluation.judge_by)
        data.require_image_shape((side, side, 1))
        data.require_classes(model.output.shape[-1])
        if context.device == "CPU":
            batch_size = config.data.batch_size // context.num_workers
            footprint.require_batch(model, "batch_size", batch_size, is_trained=False)
        folder = directory.folder(f"{evaluated.ELSEWHERE}{data.name}_{data.fingerprint[:8]}")
        trained.require_readable(finished)
        validation = _validation_of(finished) if context.is_chief else None
        with data.reading():
            found = predict(outputs.of_model(model, data, context.strategy), context, SPLIT)
            base = finished.config.for_finished_run({"model_dir": ""})
            command = config.command_line(base, mode="evaluate")
            facts = facts_of(config, context, command)
            facts["precision"] = saved.precision_of(model)
            shifted = _shift(validation, found, data) if validation else None
            column = config.evaluation.judge_by
            table = trained.predictions_of(data, SPLIT, found.probabilities, column)
            explainer = explainer_of(model, context)
            mapped = heatmaps.localize(explainer, data, table)
            settings = ("evaluate", config.evaluation, facts, shifted, context.is_chief, mapped)
            evaluation = trained.evaluate(finished, data, table, looks.Look(*settings), folder)
            if (folder / evaluated.REPORT).exists():
                console.say(f"replaces the evaluation in {directory}/{folder.name}.")
            if context.is_chief:
                evaluated.save(evaluation, data, heatmaps.painter(explainer))
            return evaluation


@contextlib.contextmanager
def _opened(config: Config, finished: Run, side: int, context: runtime.Context) -> Iterator[Data]:
    """Yields the data set of the options, or one of the labelled images that they name."""
    if config.inference.images:
        paths, facts = sources.split(config.inference.images), facts_of_model(finished)
        dataset = finished.config.data.dataset
        sides = model_facts.sides(facts, side)
        with labelled.packed(paths, facts["class_names"], sides, config.data, dataset) as data:
            yield data
        return
    is_given = config.data.manual_dir != finished.config.data.manual_dir
    yield opening.load(config.data, side, compares_archive=is_given and context.is_chief)


def facts_of_model(run: Run) -> ModelFacts:
    """Returns what the model of a run says of itself.

    Raises:
      RunError: when it was saved by a version that did not say what its classes are, or can't be
        read.
    """
    path = run.directory.best_model
    try:
        facts = archive.facts(path)
    except (OSError, ValueError) as error:
        raise RunError(
            f"{path} is not a readable model: {text.clause(error)}; restore it from a copy, or "
            "train again."
        ) from error
    if facts is None:
        raise RunError(
            f"{path} does not say what its classes are, as it was saved by an "
            "earlier version; run the command that trained it again: nothing is trained, and the "
            "model is saved anew."
        )
    return facts


def require_one_host(context: runtime.Context, mode: str) -> None:
    """Raises ConfigError for several hosts, each of which would read all files by itself."""
    if context.is_multi_host:
        raise ConfigError(
            f"--mode={mode} runs on one host, and {cluster.VARIABLE} names {context.num_workers}: "
            "unset it, or give --strategy=one_device."
        )


def _validation_of(finished: Run) -> shift.Sample | None:
    """Returns what the run kept of its validation split; None of a run of an earlier version.

    Raises:
      RunError: when it can't be read, or has features of another model.
    """
    found = validation_sample.load(finished.directory.path)
    if found is None:
        console.say("shift: not measured, as the run was trained by an earlier version.")
    else:
        require_features(finished, found.features)
    return found


def require_features(run: Run, features: np.ndarray) -> None:
    """Raises RunError unless features, [N, D], are as many as those of the run's model."""
    if features.shape[1] != outputs.num_features(run.model):
        raise RunError(
            f"{validation_sample.FILE} of {run.path} is of another model; restore it "
            "from a copy, or remove it."
        )


def _shift(validation: shift.Sample, found: Outputs, data: Data) -> dict[str, Any]:
    """Returns whether a validation split can stand for the test split of `data`, as JSON."""
    test = shift_samples.take(found, data, SPLIT)
    return shift.measure(None, validation, test).to_json()


def with_batch_size(config: Config, of_run: int, context: runtime.Context) -> Config:
    """Returns the config with a batch size that the replicas share.

    The run's own is rounded up to one: results depend on it by rounding alone. Another one was
    given, and must be right.
    """
    size, replicas = config.data.batch_size, context.num_replicas
    if size != of_run or size % replicas == 0:
        return config.with_batch_size(context.batch_size_for(size))
    shared = batch_sizes.next_multiple(size, replicas)
    console.say(
        f"batch_size {shared}: the next multiple of the {replicas} replicas, which can't share the "
        f"run's {size}."
    )
    return config.with_batch_size(shared)


def predict(
    reader: OutputReader,
    context: runtime.Context,
    split: str,
    rows: np.ndarray | None = None,
) -> Outputs:
    """Returns the outputs of `reader.predict`.

    A request to stop, sent to one host, stops all of them together. After the test split, which
    must be the last one, no host needs another, and `peers` no longer watches them.

    Args:
      reader: runs the model.
      context: devices and hosts.
      split: to predict.
      rows: some of its examples; None: all.
    """
    together = signals.deferred(context.any_host)
    with together if context.is_multi_host else contextlib.nullcontext():
        found = reader.predict(split, rows)
    if split == SPLIT:
        peers.part()
    return found


def explainer_of(model: keras.Model, context: runtime.Context) -> Explainer | None:
    """Returns what draws heat maps for the report; None on a host that writes none.

    It runs on one replica, outside of the strategy, which is not how a TPU is used.
    """
    if context.device == "TPU":
        console.say("heat maps: the report has none, as they are not drawn on a TPU.")
    if context.device == "TPU" or not context.is_chief:
        return None
    return gradcam.of_model(model)


def facts_of(config: Config, context: runtime.Context, command: str) -> dict[str, Any]:
    """Returns the facts for the report that are needed to repeat the run."""
    return {
        "command": command,
        "date": datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M"),
        "config": config.to_flat(),
        "device": context.device,
        "replicas": context.num_replicas,
        "precision": config.runtime.precision,
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
    }
