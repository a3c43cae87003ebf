"""Measures how much the feature cache saves on this machine, compared with plain Keras.

Whole processes run alternately: the trainer with an empty cache, plain Keras, the trainer with a
full cache, plain Keras. Start-up and evaluation count on both sides. Then the stages of a run are
timed one by one in this process. Plain Keras is timed on `benchmark_images` images and the time is
scaled to all images.

    python -m trainer --mode=benchmark --dataset=paper --backbone=vgg16 --max_epochs=20

`--model_dir` then contains the two runs of the trainer, their cache and `benchmark.json`.
"""

from __future__ import annotations

if __name__ == "__main__":  # Said before TensorFlow is imported.
    raise SystemExit("this module is no command; give: python -m trainer --mode=benchmark")

import dataclasses
import functools
import json
import math
import os
import pathlib
import statistics
from typing import TYPE_CHECKING, Any

from trainer import backbones, options
from trainer.benchmarks import stages
from trainer.data import opening, pipeline
from trainer.distribution import runtime
from trainer.errors import ConfigError
from trainer.models import precision
from trainer.options import initial_weights
from trainer.runs import claims, resuming, run_directory
from trainer.storage import contents, files, locations
from trainer.system import console, exits, processes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trainer.config import Config

BASELINE_EPOCHS = 2
"""The first epoch includes reading and tracing; the second stands for all later ones."""
COMPARED = frozenset(
    {"dataset", "backbone", "weights", "image_size", "layers_to_unfreeze", "pooling"}
    | {"dense_layers", "neurons", "dropout", "learning_rate", "batch_size", "max_epochs"}
    | {"patience", "monitor", "head_epochs", "precision", "seed"}
)
"""Options that affect results and that `plain_keras` implements. Without early stopping, patience
and monitor do not affect the time, and the benchmark has one phase, whatever head_epochs is."""


@dataclasses.dataclass(frozen=True)
class TrainerTimes:
    """Times of one run of the trainer.

    Attributes:
      total_s: the whole process, start-up and evaluation included.
      epoch_s: median over the epochs.
      private_bytes: peak memory without mapped files.
    """

    total_s: float
    epoch_s: float
    private_bytes: int


@dataclasses.dataclass(frozen=True)
class PlainKerasTimes:
    """Times of plain Keras on a share of the images.

    Attributes:
      policy: dtype policy.
      share: of the images, in (0, 1].
      setup_s: start-up, and the additional time of the first epoch.
      epoch_s: one epoch on the share of the images, with validation.
      evaluate_s: evaluating the share of the test split.
      private_bytes: peak memory, which grows with the share.
    """

    policy: str
    share: float
    setup_s: float
    epoch_s: float
    evaluate_s: float
    private_bytes: int

    def total_s(self, epochs: int) -> float:
        """Returns the estimated seconds for all images and `epochs` epochs."""
        return self.setup_s + (epochs * self.epoch_s + self.evaluate_s) / self.share


@dataclasses.dataclass(frozen=True)
class Results:
    """All measurements."""

    cold: TrainerTimes
    warm: TrainerTimes
    baselines: tuple[PlainKerasTimes, ...]
    stages: stages.Stages


def run(config: Config) -> None:
    """Measures, and prints a table with a summary in the last line.

    Raises:
      ConfigError: when nothing can be cached, or plain Keras can't do the same work.
      RunError: when one of the processes fails.
    """
    _unfrozen(config)
    context = runtime.build(config.runtime)
    for line in context.unused:
        console.say(line)
    _require_fair(config, context)
    config = config.with_batch_size(context.batch_size_for(config.data.batch_size))
    data = opening.load(config.data, config.model.backbone_image_size)
    config = config.with_precision(precision.choose(config, context).policy)
    # Raises ConfigError if nothing can be cached: now, not after hours of measuring.
    stages.build_feeds(config, data, context)
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
    """Raises ConfigError for options with which the two sides would do different work."""
    unfair = [f"--{name}" for name in config.changes_from(type(config)()) if name not in COMPARED]
    if unfair or config.runtime.cpu_threads:
        listed = ", ".join(unfair or ["--cpu_threads"])
        raise ConfigError(
            f"--mode=benchmark compares with plain Keras, which runs without {listed}; leave it "
            "out."
        )
    if initial_weights.path_of(config.model.weights).suffix == ".keras":
        raise ConfigError(
            f"--mode=benchmark compares with plain Keras, which takes no backbone out of "
            f"{config.model.weights}; give a .weights.h5 file of the backbone."
        )
    if context.num_replicas > 1:
        raise ConfigError(
            f"--mode=benchmark compares on one device, not on {context.num_replicas} replicas; "
            "give --strategy=one_device."
        )


def _unfrozen(config: Config) -> int:
    if config.model.layers_to_unfreeze == options.ALL_LAYERS:
        raise ConfigError(
            "--mode=benchmark times frozen layers, but --layers_to_unfreeze=all freezes none; give "
            "a number."
        )
    return int(config.model.layers_to_unfreeze)


def _create_folder(config: Config) -> pathlib.Path:
    if locations.is_url(config.model_dir):
        raise ConfigError(f"--mode=benchmark needs a local model_dir, not {config.model_dir}.")
    folder = pathlib.Path(config.model_dir or resuming.new_name("benchmark", config))
    folder = folder.expanduser().resolve()
    if (folder / "cache").exists():
        raise ConfigError(f"model_dir ({folder}) already contains a benchmark; give another one.")
    claims.require_free("model_dir", str(folder), contents.entries(folder), own=())
    (folder / "cache").mkdir(parents=True)
    console.say(f"benchmark: {folder}")
    return folder


def _comparable(config: Config, folder: pathlib.Path) -> Config:
    """Returns the config with an empty cache, and one phase without early stopping, as in Keras."""
    features = dataclasses.replace(config.features, cache_dir=str(folder / "cache"))
    patience = config.optimization.max_epochs
    optimization = dataclasses.replace(config.optimization, patience=patience, head_epochs=0)
    return dataclasses.replace(config, features=features, optimization=optimization)


def _race(
    config: Config, data: pipeline.Data, folder: pathlib.Path
) -> tuple[TrainerTimes, TrainerTimes, tuple[PlainKerasTimes, ...]]:
    """Runs the trainer and plain Keras alternately, then plain Keras in its default float32."""
    share = share_of(config, data)
    export_images(data, share, folder / "images", ("train", "validation", "test"))
    run_plain_keras = functools.partial(_run_plain_keras, config, data, share, folder)
    policy = config.runtime.precision
    cold, first = _run_trainer(config, folder / "cold"), run_plain_keras(policy)
    warm, second = _run_trainer(config, folder / "warm"), run_plain_keras(policy)
    in_float32 = () if policy == "float32" else (run_plain_keras("float32"),)
    return cold, warm, (first, second, *in_float32)


def share_of(config: Config, data: pipeline.Data) -> float:
    """Returns the share of the images that plain Keras is timed on, in (0, 1]."""
    total = data.num_examples("train") + data.num_examples("validation")
    return min(1.0, (config.benchmark.benchmark_images or total) / total)


def plain_options(config: Config, data: pipeline.Data, images: pathlib.Path) -> dict[str, Any]:
    """Returns the options for `plain_keras`; the caller sets `layers_to_unfreeze` and `epochs`."""
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
    """Writes the first examples of each split as image files, without decoding them."""
    for split in splits:
        count = math.ceil(share * data.num_examples(split))
        for example in data.read(f"{split}[:{count}]").as_numpy_iterator():
            suffix = ".png" if example["image"].startswith(b"\x89PNG") else ".jpeg"
            name = pathlib.PurePath(example["file_name"].decode()).with_suffix(suffix).name
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
        exits.TRAINED,  # Including exit code 3: with random weights, the guard may fire.
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
    epoch_s, evaluate_s = times["epoch_s"][-1], times["evaluate_s"]
    console.say(f"  {process.seconds:,.1f} s, {epoch_s:.2f} s an epoch")
    setup_s = process.seconds - BASELINE_EPOCHS * epoch_s - evaluate_s
    return PlainKerasTimes(policy, share, setup_s, epoch_s, evaluate_s, process.private_bytes)


def format_table(config: Config, results: Results) -> str:
    """Returns the table of all measurements, and the summary in its last line."""
    cold, warm, rates = results.cold, results.warm, results.stages
    epochs = config.optimization.max_epochs
    rows = [
        ("records read", f"{rates.records_per_s:,.0f}/s"),
        ("images read and decoded", f"{rates.decoded_per_s:,.0f}/s"),
        ("waiting for input, uncached", f"{rates.input_wait:.1%} of the time"),
        ("bare prefix forward", f"{rates.forward_per_s:,.1f} img/s"),
        ("prefix pass into the cache", f"{rates.pass_per_s:,.1f} img/s"),
        ("rows from the cache", _format_feed(rates)),
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


def _format_feed(rates: stages.Stages) -> str:
    share = rates.fed_per_s / rates.gathered_per_s
    return f"{rates.fed_per_s:,.0f}/s, {share:.0%} of a gather from memory"


def _format_process(seconds: float, private_bytes: int) -> str:
    memory = f", {private_bytes / 2**30:.1f} GiB of private memory" if private_bytes else ""
    return f"{seconds:,.0f} s{memory}"


def _summary(results: Results, epochs: int) -> str:
    """Returns the summary; the speedup is over the mean of plain Keras in the same precision."""
    policy = results.baselines[0].policy
    same = [b.total_s(epochs) for b in results.baselines if b.policy == policy]
    rates = results.stages
    return (
        f"speedup over plain Keras: cold {statistics.mean(same) / results.cold.total_s:.1f}x, "
        f"warm epoch {results.warm.epoch_s:.2f} s, "
        f"prefix at {rates.pass_per_s / rates.forward_per_s:.0%} of bare forward"
    )
