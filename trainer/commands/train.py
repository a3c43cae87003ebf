"""`--mode=train`: one training run, from config to evaluation.

run = train.train(config)
run.metrics.roc_auc
"""

from __future__ import annotations

if __name__ == "__main__":  # Said before TensorFlow is imported.
    raise SystemExit("this module is no command; give: python -m trainer")

import functools
import time
from typing import TYPE_CHECKING

import keras
import numpy as np

from trainer import config as config_lib
from trainer import effects, option_groups
from trainer.commands import evaluate
from trainer.config import Config
from trainer.data import opening, pipeline
from trainer.distribution import batch_sizes, peers, runtime
from trainer.errors import ConfigError, RunError
from trainer.evaluation import assessment
from trainer.evaluation.shifts import shift
from trainer.inference import heatmaps
from trainer.models import precision, saved
from trainer.options import initial_weights, resolution
from trainer.runs import (
    evaluated,
    looks,
    model_facts,
    resuming,
    run_directory,
    summaries,
    trained,
    validation_sample,
)
from trainer.runs.trained import Run
from trainer.storage import files
from trainer.system import console, signals, text
from trainer.training import callbacks, checkpoint, fitting, outputs, setups, shift_samples
from trainer.training.logs import live_page

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trainer.models import classifier
    from trainer.runs.evaluated import Evaluation


def train(config: Config, *, show_report: bool = False) -> Run:
    """Trains a model, evaluates it on the test split, and returns the finished run.

        config = trainer.Config.from_flat({"dataset": "phantom", "backbone": "mobilenet_v2"})
        run = trainer.train(config)

    An interrupted run resumes when `train` is called again with the same config and `model_dir`.

    Args:
      config: all options; without a `model_dir`, the run gets a new directory in `runs/`.
      show_report: whether to print the text report at the end, as `print(run.evaluation)` does.

    Raises:
      ConfigError: for another type, or when options contradict each other, the data or the machine.
      RunError: when data, weights or devices are not available, or training diverges.
    """
    option_groups.require("config", config, Config, config_lib.WANTED)
    if peers.starts_local_workers(config.runtime.local_workers):
        raise ConfigError(
            f"local_workers ({config.runtime.local_workers}) starts other processes, as `python -m "
            "trainer` does; leave it out here."
        )
    initial_weights.check(config.model, config.model_dir)
    for line in effects.lines({}, config.to_flat(), Config().to_flat()):
        console.say(line)
    with signals.watched(), peers.watched(config):
        run_path, evaluation = _train(config)
    if show_report:
        _print(run_path, evaluation)
    return trained.open_run(run_path, staging_dir=config.data.staging_dir)


def run(config: Config) -> Evaluation:
    """Trains for the command line, and prints the report."""
    run_path, evaluation = _train(config)
    _print(run_path, evaluation)
    return evaluation


def _print(run_path: str, evaluation: Evaluation) -> None:
    """Prints the text report, and below it the headline and the paths: the end of a long output."""
    colour = console.wants_colour()
    console.say(evaluation.report.to_text(colour=colour))
    console.say(evaluated.ending(evaluation, run_path, colour=colour, has_model=True))


def _train(config: Config) -> tuple[str, Evaluation]:
    """Trains and evaluates; returns the run directory and the evaluation."""
    start = time.monotonic()
    context = runtime.build(config.runtime)
    context.check_batch_size(config.data.batch_size)
    directory, config = resuming.take(config, is_chief=context.is_chief)
    _say_what_is_there(directory, config)
    with directory:  # On exit, waits until all files are uploaded, if the run is in a bucket.
        config = _with_batch_size(config, context, directory)
        data = opening.load(
            config.data, config.model.backbone_image_size, compares_archive=context.is_chief
        )
        data.require_column(config.evaluation.judge_by)
        with data.reading():
            return str(directory), _train_in(directory, config, context, data, start)


def _with_batch_size(
    config: Config, context: runtime.Context, directory: run_directory.RunDirectory
) -> Config:
    """Returns the config with the batch size that the replicas share, if nobody gave one.

    Saved with the run: resumed on other replicas, it has the same batches or is refused.
    """
    size, replicas = config.data.batch_size, context.num_replicas
    if size % replicas:  # One that was given has been checked: this one is of the run.
        raise ConfigError(
            f"the run in model_dir ({directory}) has batches of {size}, which {replicas} replicas "
            f"can't share equally: resume it on as many replicas as divide {size}, or name another."
        )
    if not size:
        size = context.batch_size_for(0)
        if note := batch_sizes.note(size, replicas, "replicas"):
            console.say(note)
    return config.with_batch_size(size)


def _say_what_is_there(directory: run_directory.RunDirectory, config: Config) -> None:
    """Says at once whether a finished run is there; `fit` says where an unfinished one resumes."""
    try:
        evaluation = trained.last_evaluation(directory)
    except RunError:
        console.say(f"{directory}/{evaluated.REPORT} can't be read; this command writes it again.")
        return
    state = checkpoint.peek(directory.checkpoints) if evaluation else None
    if evaluation is None or state is None:
        return
    epochs, limit = state.position.epoch, config.optimization.max_epochs
    rules = config.optimization
    is_over = callbacks.is_exhausted(state, rules.patience) or epochs >= limit
    then = (
        "nothing is trained, and its model is evaluated again"
        if is_over
        else f"it continues to at most {text.counted(limit, 'epoch')}"
    )
    console.say(
        f"{directory} holds a run that finished after {text.counted(evaluation.epochs, 'epoch')}"
        f"{evaluation.when}: {then}."
    )


def _train_in(
    directory: run_directory.RunDirectory,
    config: Config,
    context: runtime.Context,
    data: pipeline.Data,
    start: float,
) -> Evaluation:
    choice = precision.choose(config, context)
    # Saved with the run, because "auto" could choose another policy on another machine.
    config = config.with_precision(choice.policy)
    setup = setups.build(config, data, context, weights=_present_weights(config, directory))
    directory.save_config(config)
    reasons = (*context.unused, *context.reasons, choice.reason)
    reasons = (*reasons, resolution.note(config.data, config.model))
    _announce(directory, reasons, context.num_replicas, data, setup)
    fitting.fit(config, context, setup, directory)
    # The page says "evaluating" and loads itself again, which must end where evaluation fails.
    pages = [fitting.page_of(config, directory)] if context.is_chief else []
    with live_page.closed_at_failure(*pages):
        evaluation = _evaluate_in(directory, config, context, data, setup, start)
    if context.is_chief:
        summaries.write(evaluation, directory.tensorboard / evaluated.SPLIT)
    return evaluation


def _evaluate_in(
    directory: run_directory.RunDirectory,
    config: Config,
    context: runtime.Context,
    data: pipeline.Data,
    setup: setups.TrainingSetup,
    start: float,
) -> Evaluation:
    """Saves the model of a run that is trained, and evaluates it."""
    reader = outputs.of_feed(setup.feed, setup.network, data, context.strategy)
    predict = functools.partial(evaluate.predict, reader, context)
    rows = shift_samples.rows_of_training(setup.feed, data)
    train_sample, validation = predict("train", rows), predict(evaluated.VALIDATION)
    files.require_folder(directory.path)  # Nothing creates anew a directory that was deleted.
    # Validation alone decides how the model is used; the test split is only measured.
    _save_model(directory, config, data, setup.network, validation.probabilities)
    test = predict(evaluated.SPLIT)
    files.require_folder(directory.path)
    shifted = None
    if context.is_chief:
        of_validation = shift_samples.take(validation, data, evaluated.VALIDATION)
        validation_sample.save(directory.path, of_validation.limited())
        of_train = shift_samples.take(train_sample, data, "train", rows)
        of_test = shift_samples.take(test, data, evaluated.SPLIT)
        shifted = shift.measure(of_train, of_validation, of_test).to_json()
    facts = evaluate.facts_of(config, context, config.command_line())
    facts["seconds"] = round(time.monotonic() - start, 1)
    column = config.evaluation.judge_by
    table = trained.predictions_of(data, evaluated.SPLIT, test.probabilities, column)
    explainer = evaluate.explainer_of(setup.network.whole, context)
    mapped = heatmaps.localize(explainer, data, table)
    look = looks.Look("train", config.evaluation, facts, shifted, context.is_chief, mapped)
    evaluation = trained.evaluate(Run(directory), data, table, look)
    if context.is_chief:
        evaluated.save(evaluation, data, heatmaps.painter(explainer))
    return evaluation


def _save_model(
    directory: run_directory.RunDirectory,
    config: Config,
    data: pipeline.Data,
    network: classifier.Network,
    probabilities: np.ndarray,
) -> None:
    """Saves the model with its classes, operating point and temperature."""
    split, column = evaluated.VALIDATION, config.evaluation.judge_by
    validation = trained.predictions_of(data, split, probabilities, column)
    choice = assessment.choice(validation, config.evaluation.rule)
    evaluated.save_validation(directory.path, validation, choice)
    facts = model_facts.describe(choice, data, network.whole.input.shape[1])
    directory.save_model(functools.partial(saved.save, network, facts=facts))
    directory.save_trained_on(trained.record_of(data))


def _present_weights(config: Config, directory: run_directory.RunDirectory) -> str:
    """Returns the config's weights, or what stands in for a file that is gone, if anything."""
    found = initial_weights.for_resuming(config.model, str(directory.path))
    if found != config.model.weights:
        whence = "the checkpoint alone" if found == "none" else found
        console.say(f"weights: {config.model.weights} is gone; the run resumes from {whence}.")
    return found


def _announce(
    directory: run_directory.RunDirectory,
    reasons: Sequence[str],
    num_replicas: int,
    data: pipeline.Data,
    setup: setups.TrainingSetup,
) -> None:
    """Prints what is about to run, and the reason for each automatic choice."""
    network = setup.network
    sizes = ", ".join(f"{data.num_examples(s):,} {s}" for s in ("train", "validation", "test"))
    trainable = sum(int(np.prod(w.shape)) for w in network.whole.trainable_weights)
    console.say(f"run directory: {directory}")
    for reason in filter(None, (*reasons, network.origin)):
        console.say(reason)
    console.say(f"data: {data.builder.info.full_name}: {sizes}; {data.image_shape[0]} px")
    console.say(
        f"model: {network.trunk.name}, {network.whole.count_params():,} parameters, "
        f"{trainable:,} trainable; {text.counted(num_replicas, 'replica')}, "
        f"{keras.mixed_precision.dtype_policy().name}"
    )
    for sentence in filter(None, (network.unfrozen, setup.feed.reason, *setup.notes)):
        console.say(sentence)
