"""One training run, from config to judgement; reads like its table of contents.

judgement = train.run(config)
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import keras
import numpy as np

from trainer.commands import evaluate
from trainer.data import opening, pipeline
from trainer.distribution import runtime
from trainer.models import precision
from trainer.runs import run_directory
from trainer.storage import files
from trainer.system import console
from trainer.training import fitting

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trainer.config import Config
    from trainer.evaluation import metrics


def run(config: Config) -> metrics.Judgement:
    """Trains a model and judges it on the test split.

    Raises:
      ConfigError: when options contradict each other, the data or the machine.
      RunError: when data, weights or devices can't be had, or training diverges.
    """
    start = time.monotonic()
    context = runtime.build(config.runtime)
    context.check_batch_size(config.data.batch_size)
    directory, config = run_directory.take(config, is_chief=context.is_chief)
    with directory:  # Which waits at its end for what has to reach a bucket.
        data = opening.load(config.data, config.model.backbone_image_size)
        with data.reading():
            return _run(config, context, directory, data, start)


def _run(
    config: Config,
    context: runtime.Context,
    directory: run_directory.RunDirectory,
    data: pipeline.Data,
    start: float,
) -> metrics.Judgement:
    choice = precision.settle(config, context)
    config = config.with_precision(choice.policy)  # Saved with the run, so that it can be repeated.
    trainee = fitting.build(config, data, context)
    directory.save_config(config)
    reasons = (*context.reasons, choice.reason)
    _announce(directory, reasons, context.num_replicas, data, trainee)
    driver = fitting.fit(config, context, trainee, directory)
    directory.save_model(trainee.network.whole)
    patients = frozenset(data.table("train").patient_id.tolist())
    directory.save_trained_on(data.fingerprint, patients)
    batches = trainee.feed.evaluation_batches(evaluate.SPLIT)
    probabilities = evaluate.predict(driver, batches, context)
    files.require_folder(directory.path)  # Judging would make it anew, without the run in it.
    facts = {**evaluate.facts_of(config, context), "seconds": round(time.monotonic() - start, 1)}
    history = directory.load_history()
    monitor = config.optimization.monitor
    folder = directory.path if context.is_chief else None
    return evaluate.judge(folder, probabilities, data, history, facts, patients, monitor=monitor)


def _announce(
    directory: run_directory.RunDirectory,
    reasons: Sequence[str],
    num_replicas: int,
    data: pipeline.Data,
    trainee: fitting.Trainee,
) -> None:
    """Says what is about to run, and every choice that was not the user's."""
    network = trainee.network
    sizes = ", ".join(f"{data.num_examples(s):,} {s}" for s in ("train", "validation", "test"))
    trainable = sum(int(np.prod(w.shape)) for w in network.whole.trainable_weights)
    console.say(f"run directory: {directory}")
    for reason in filter(None, reasons):
        console.say(reason)
    console.say(f"data: {data.builder.info.full_name}: {sizes}; {data.image_shape[0]} px")
    console.say(
        f"model: {network.trunk.name}, {network.whole.count_params():,} parameters, "
        f"{trainable:,} of them train; {num_replicas} replica(s), "
        f"{keras.mixed_precision.dtype_policy().name}"
    )
    console.say(f"feed: {trainee.feed.reason}")
