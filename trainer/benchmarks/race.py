"""What the frozen-prefix cache is worth on this machine, against the same work in plain Keras.

Whole processes run in turn: the trainer with an empty cache (A), plain Keras (B), the trainer with
the full cache (A), plain Keras (B). Start-up and judging count on both sides. Then the stages are
timed one by one in this process. Plain Keras is timed on `benchmark_images` images and scaled.

    python -m trainer --mode=benchmark --dataset=paper --backbone=vgg16 --max_epochs=20

The folder in `--model_dir` keeps the two runs, their cache and `benchmark.json`.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import os
import pathlib
import statistics
from typing import TYPE_CHECKING, Any

from trainer import backbones, option_groups
from trainer.benchmarks import stages
from trainer.data import opening, pipeline
from trainer.distribution import runtime
from trainer.errors import ConfigError
from trainer.models import precision
from trainer.runs import run_directory
from trainer.storage import files, locations
from trainer.system import console, exits, processes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trainer.config import Config

BASELINE_EPOCHS = 2
"""The first one reads and traces; the second one is what all others are like."""
COMPARED = frozenset(
    {"dataset", "backbone", "weights", "image_size", "layers_to_unfreeze", "pooling"}
    | {"dense_layers", "neurons", "dropout", "learning_rate", "batch_size", "max_epochs"}
    | {"patience", "monitor", "precision", "seed"}
)
"""Options that change results, and that plain Keras has too (or, as patience, needs none of)."""


@dataclasses.dataclass(frozen=True)
class TrainerTimes:
    """A run of the trainer, start-up and judging included."""

    total_s: float
    epoch_s: float
    private_bytes: int


@dataclasses.dataclass(frozen=True)
class PlainKerasTimes:
    """Plain Keras, timed on a share of the images.

    Attributes:
      policy: dtype policy.
      share: of the images, in (0, 1].
      setup_s: start-up, and what the first epoch takes longer than the others.
      epoch_s: an epoch over the share, with validation.
      judge_s: judging the share of the test split.
      private_bytes: peak memory, which grows with the share.
    """

    policy: str
    share: float
    setup_s: float
    epoch_s: float
    judge_s: float
    private_bytes: int

    def total_s(self, epochs: int) -> float:
        """Seconds that all images and epochs would take."""
        return self.setup_s + (epochs * self.epoch_s + self.judge_s) / self.share


@dataclasses.dataclass(frozen=True)
class Results:
    """All that was measured."""

    cold: TrainerTimes
    warm: TrainerTimes
    baselines: tuple[PlainKerasTimes, ...]
    stages: stages.Stages


def run(config: Config) -> None:
    """Measures, and prints one table; its last line sums up.

    Raises:
      ConfigError: when the options leave nothing to cache.
      RunError: when one of the processes fails.
    """
    _unfrozen(config)
    context = runtime.build(config.runtime)
    _require_fair(config, context)
    data = opening.load(config.data, config.model.backbone_image_size)
    config = config.with_precision(precision.choose(config, context).policy)
    stages.build_feeds(
        config, data, context
    )  # What can't be cached is told before hours of the race.
    folder = _create_folder(config)
    config = _comparable(config, folder)
    cold, warm, baselines = _race(config, data, folder)
    record: dict[str, Any] = {
        "config": config.to_flat(),
        "cold": dataclasses.asdict(cold),
        "warm": dataclasses.asdict(warm),
        "baselines": [dataclasses.asdict(baseline) for baseline in baselines],
    }
    files.save_json(folder / "benchmark.json", record)
    rates = stages.measure(config, data, context, folder)
    files.save_json(folder / "benchmark.json", {**record, "stages": dataclasses.asdict(rates)})
    console.say(format_table(config, Results(cold, warm, baselines, rates)))


def _require_fair(config: Config, context: runtime.Context) -> None:
    """Raises ConfigError for options that would have the two sides do different work."""
    unfair = [f"--{name}" for name in config.changes_from(type(config)()) if name not in COMPARED]
    if unfair or config.runtime.cpu_threads:
        listed = ", ".join(unfair or ["--cpu_threads"])
        raise ConfigError(
            f"--mode=benchmark compares with plain Keras, which is written without {listed}; "
            "leave it out."
        )
    if context.num_replicas > 1:
        raise ConfigError(
            f"--mode=benchmark compares on one device, and there are {context.num_replicas} "
            "replicas; give --strategy=one_device."
        )


def _unfrozen(config: Config) -> int:
    if config.model.layers_to_unfreeze == option_groups.ALL_LAYERS:
        raise ConfigError("--mode=benchmark measures what frozen layers cost; freeze some.")
    return int(config.model.layers_to_unfreeze)


def _create_folder(config: Config) -> pathlib.Path:
    if locations.is_url(config.model_dir):
        raise ConfigError(f"--mode=benchmark needs a local model_dir, not {config.model_dir}.")
    folder = pathlib.Path(config.model_dir or run_directory.new_name("benchmark", config))
    folder = folder.expanduser().resolve()
    if (folder / "cache").exists():
        raise ConfigError(f"model_dir ({folder}) already holds a benchmark; name another.")
    (folder / "cache").mkdir(parents=True)
    console.say(f"benchmark: {folder}")
    return folder


def _comparable(config: Config, folder: pathlib.Path) -> Config:
    """Starts from an empty cache, and lets no run end before its last epoch."""
    features = dataclasses.replace(config.features, cache_dir=str(folder / "cache"))
    patience = config.optimization.max_epochs
    optimization = dataclasses.replace(config.optimization, patience=patience)
    return dataclasses.replace(config, features=features, optimization=optimization)


def _race(
    config: Config, data: pipeline.Data, folder: pathlib.Path
) -> tuple[TrainerTimes, TrainerTimes, tuple[PlainKerasTimes, ...]]:
    """Runs the trainer and plain Keras in turn, twice; then the latter in float32 if it was not."""
    share = share_of(config, data)
    export_images(data, share, folder / "images", ("train", "validation", "test"))
    theirs = functools.partial(_run_plain_keras, config, data, share, folder)
    policy = config.runtime.precision
    cold, first = _run_trainer(config, folder / "cold"), theirs(policy)
    warm, second = _run_trainer(config, folder / "warm"), theirs(policy)
    in_float32 = () if policy == "float32" else (theirs("float32"),)
    return cold, warm, (first, second, *in_float32)


def share_of(config: Config, data: pipeline.Data) -> float:
    """Returns the share of the images that plain Keras is timed on, in (0, 1]."""
    total = data.num_examples("train") + data.num_examples("validation")
    return min(1.0, (config.benchmark.benchmark_images or total) / total)


def plain_options(config: Config, data: pipeline.Data, images: pathlib.Path) -> dict[str, Any]:
    """Returns what `plain_keras` wants to know, but for layers to unfreeze and epochs."""
    row = backbones.REGISTRY[config.model.backbone]
    return {
        **config.to_flat(),
        "images": str(images),
        "module": row.module,
        "constructor": row.constructor,
        "image_size": config.model.backbone_image_size,
        "classes": len(data.class_names),
    }


def export_images(
    data: pipeline.Data, share: float, folder: pathlib.Path, splits: Sequence[str]
) -> None:
    """Writes the first part of each split as plain Keras reads it, the bytes as they are."""
    for split in splits:
        count = math.ceil(share * data.num_examples(split))
        for example in data.read(f"{split}[:{count}]").as_numpy_iterator():
            name = pathlib.PurePath(example["file_name"].decode()).name
            path = folder / split / data.class_names[example["label"]] / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(example["image"])


def _run_trainer(config: Config, model_dir: pathlib.Path) -> TrainerTimes:
    console.say(f"the trainer, {model_dir.name} cache ...")
    options = model_dir.with_suffix(".json")
    files.save_json(options, config.to_flat())
    process = processes.run(
        ["trainer", f"--config_file={options}", f"--model_dir={model_dir}"],
        model_dir.with_suffix(".log"),
        exits.TRAINED,  # Random weights need not beat the majority.
    )
    history = run_directory.RunDirectory(model_dir).load_history()
    epoch_s = statistics.median(history["epoch_s"])
    console.say(f"  {process.seconds:,.1f} s, {epoch_s:.2f} s an epoch")
    return TrainerTimes(process.seconds, epoch_s, process.private_bytes)


def _run_plain_keras(
    config: Config, data: pipeline.Data, share: float, folder: pathlib.Path, policy: str
) -> PlainKerasTimes:
    console.say(f"plain Keras in {policy} on {share:.0%} of the images ...")
    options = {
        **plain_options(config.with_precision(policy), data, folder / "images"),
        "layers_to_unfreeze": _unfrozen(config),
        "epochs": BASELINE_EPOCHS,
    }
    files.save_json(folder / "plain_keras.json", options)
    process = processes.run(
        ["trainer.benchmarks.plain_keras", str(folder / "plain_keras.json")],
        folder / "plain_keras.log",
    )
    times = json.loads(process.last_line)
    epoch_s, judge_s = times["epoch_s"][-1], times["judge_s"]
    console.say(f"  {process.seconds:,.1f} s, {epoch_s:.2f} s an epoch")
    setup_s = process.seconds - BASELINE_EPOCHS * epoch_s - judge_s
    return PlainKerasTimes(policy, share, setup_s, epoch_s, judge_s, process.private_bytes)


def format_table(config: Config, results: Results) -> str:
    """Returns the table of all figures, and the line that sums them up."""
    cold, warm, rates = results.cold, results.warm, results.stages
    epochs = config.optimization.max_epochs
    rows = [
        ("records read", f"{rates.records_per_s:,.0f}/s"),
        ("images read and decoded", f"{rates.decoded_per_s:,.0f}/s"),
        ("waiting for input, uncached", f"{rates.input_wait:.1%} of the time"),
        ("bare prefix forward", f"{rates.forward_per_s:,.1f} img/s"),
        ("prefix pass into the cache", f"{rates.pass_per_s:,.1f} img/s"),
        ("training from the cache", f"{rates.suffix_steps_per_s:,.0f} steps/s"),
        ("epoch from the cache", f"{cold.epoch_s:.2f} s cold, {warm.epoch_s:.2f} s warm"),
        (f"whole run, {epochs} epochs, cold", _format_process(cold.total_s, cold.private_bytes)),
        (f"whole run, {epochs} epochs, warm", _format_process(warm.total_s, warm.private_bytes)),
    ]
    for baseline in results.baselines:
        rows += _baseline_rows(baseline, results, epochs)
    width = max(len(label) for label, _ in rows)
    head = (
        f"{config.data.dataset}, {config.model.backbone}, {config.runtime.precision}, batches of "
        f"{config.data.batch_size}, {os.cpu_count()} CPUs"
    )
    return "\n".join([head, *(f"{a:<{width}}  {b}" for a, b in rows), _summary(results, epochs)])


def _baseline_rows(
    baseline: PlainKerasTimes, results: Results, epochs: int
) -> list[tuple[str, str]]:
    total_s = baseline.total_s(epochs)
    label = f"plain Keras, {baseline.policy}"
    cold, warm = (total_s / trained.total_s for trained in (results.cold, results.warm))
    return [
        (label, _format_process(total_s, baseline.private_bytes)),
        (f"{label}, timed on", f"{baseline.share:.0%} of the images"),
        (f"{label}, an epoch", f"{baseline.epoch_s / baseline.share:,.1f} s"),
        (f"{label}, ratios", f"{cold:.1f}x cold, {warm:.0f}x warm"),
    ]


def _format_process(seconds: float, private_bytes: int) -> str:
    memory = f", {private_bytes / 2**30:.1f} GiB of its own" if private_bytes else ""
    return f"{seconds:,.0f} s{memory}"


def _summary(results: Results, epochs: int) -> str:
    """Compares with plain Keras in the same precision, the mean of its runs."""
    policy = results.baselines[0].policy
    same = [b.total_s(epochs) for b in results.baselines if b.policy == policy]
    rates = results.stages
    return (
        f"speedup over plain Keras: cold {statistics.mean(same) / results.cold.total_s:.1f}x, "
        f"warm epoch {results.warm.epoch_s:.2f} s, "
        f"prefix at {rates.pass_per_s / rates.forward_per_s:.0%} of bare forward"
    )
