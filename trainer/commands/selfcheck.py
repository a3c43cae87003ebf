"""`--mode=selfcheck`: checks that a strategy computes on this machine what one device computes.

    python -m trainer --mode=selfcheck --strategy=mirrored --backbone=mobilenet_v2

Trains the backbone on a few phantoms, from random weights and without dropout: once under the
strategy and once on one device, with the same seed. Losses, metrics, weights and batch norm
statistics must be equal up to rounding. Errors in distribution cause far larger differences: if
gradients are not summed over replicas, for example, weights move by a fraction of the right amount.
"""

from __future__ import annotations

if __name__ == "__main__":  # Said before TensorFlow is imported.
    raise SystemExit("this module is no command; give: python -m trainer --mode=selfcheck")

import dataclasses
import itertools
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import tensorflow as tf

from cxr_tfds import phantoms
from trainer.data import batches
from trainer.distribution import runtime
from trainer.errors import RunError
from trainer.models import classifier, session
from trainer.system import console, text
from trainer.training import optimization
from trainer.training.driver import Driver

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from trainer import config as config_lib

UPDATES = 2
EXAMPLES_PER_REPLICA = 2
TOLERANCE, COARSE_TOLERANCE = 1e-3, 5e-2
"""Largest relative difference (for weights, relative to their change): in float32, and where 16-bit
floats are multiplied, which a TPU does under any dtype policy."""


@dataclasses.dataclass(frozen=True)
class Computation:
    """The results of training under one strategy.

    Attributes:
      scalars: the loss at each step, and the metrics of the test examples.
      moved: change of each trainable weight since the start.
      statistics: moving means and variances of batch norm.
    """

    scalars: dict[str, float]
    moved: list[np.ndarray]
    statistics: list[np.ndarray]


@dataclasses.dataclass(frozen=True)
class Row:
    """One row of the table: two compared values, and their relative difference."""

    name: str
    ours: float
    reference: float
    difference: float


def run(config: config_lib.Config) -> None:
    """Prints the comparison of the strategy with one device.

    Raises:
      ConfigError: when options contradict each other or the machine.
      RunError: when the devices are not available, or the results differ.
    """
    context = runtime.build(config.runtime)
    policy = "float32" if config.runtime.precision == "auto" else config.runtime.precision
    # TensorFloat-32 rounds the inputs of float32 products to 10 bits, more than the tolerance.
    tf.config.experimental.enable_tensor_float_32_execution(enabled=False)
    config = _with_comparable_options(config.with_precision(policy))
    batch_size = EXAMPLES_PER_REPLICA * context.num_replicas
    ours = _train(config, context.strategy, batch_size)
    # Outside any scope, get_strategy returns the default strategy, which uses one device.
    reference = _train(config, tf.distribute.get_strategy(), batch_size)
    exact = policy == "float32" and context.device != "TPU"
    _report(context, compare(ours, reference), TOLERANCE if exact else COARSE_TOLERANCE)


def _with_comparable_options(config: config_lib.Config) -> config_lib.Config:
    """Turns off dropout, as replicas draw it independently, and what hides errors.

    Adam is invariant to the scale of gradients: it would hide a wrong one, and amplify rounding.
    """
    return dataclasses.replace(
        config,
        model=dataclasses.replace(config.model, weights="none", dropout=0.0),
        optimization=dataclasses.replace(
            config.optimization,
            optimizer="sgd",
            learning_rate=1e-2,
            schedule="constant",
            warmup_epochs=0,
        ),
    )


def _train(
    config: config_lib.Config, strategy: tf.distribute.Strategy, batch_size: int
) -> Computation:
    session.begin(config.runtime.precision, config.runtime.seed)
    steps = UPDATES * config.optimization.gradient_accumulation_steps
    images, labels = _phantoms(max(steps * batch_size, batch_size + 1))
    with strategy.scope():
        whole = classifier.build(config.model, images.shape[1:], 2).whole
        optimization.compile_model(whole, config.optimization, np.bincount(labels).tolist(), steps)
    before = [weight.numpy() for weight in whole.trainable_weights]
    train = _batches(images, labels, batch_size, steps * batch_size)
    # One example more than a batch, so that in the second batch most replicas get only padding.
    test = _batches(images, labels, batch_size, batch_size + 1)
    log = _StepLosses()
    Driver(whole, strategy).fit(lambda _: train, validation=test, epochs=1, callbacks=[log])
    return Computation(
        log.scalars,
        [w.numpy() - old for w, old in zip(whole.trainable_weights, before, strict=True)],
        [weight.numpy() for weight in _statistics(whole)],
    )


def _phantoms(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Renders images [count, H, W, 1] uint8 and labels [count], alternating between the classes."""
    by_class = (
        [record for record in phantoms.records() if record.label == name]
        for name in ("NORMAL", "PNEUMONIA")
    )
    records = list(itertools.chain.from_iterable(zip(*by_class, strict=False)))[:count]
    images = np.stack([phantoms.render(record) for record in records])
    labels = np.array([record.label == "PNEUMONIA" for record in records], np.int32)
    return images.reshape(*images.shape[:3], 1), labels


def _batches(
    images: np.ndarray, labels: np.ndarray, batch_size: int, count: int
) -> batches.Batches:
    columns = (images[:count], labels[:count], np.ones(count, np.float32))
    return batches.pad(tf.data.Dataset.from_tensor_slices(columns), batch_size, count)


def _statistics(whole: keras.Model) -> list[Any]:
    layers = whole._flatten_layers()  # noqa: SLF001 -- Keras has no public method for nested models.
    norms = [layer for layer in layers if isinstance(layer, keras.layers.BatchNormalization)]
    return [v for layer in norms for v in (layer.moving_mean, layer.moving_variance)]


class _StepLosses(keras.callbacks.Callback):
    """Records the mean loss up to each step, and the validation metrics at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.scalars: dict[str, float] = {}

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        """Records the loss."""
        del logs
        self.scalars[f"loss to step {batch + 1}"] = float(self.model.get_metrics_result()["loss"])

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Records the validation metrics."""
        del epoch
        for name in ("loss", "accuracy", "auc"):
            self.scalars[f"test {name}"] = (logs or {})[f"val_{name}"]


def compare(ours: Computation, reference: Computation) -> list[Row]:
    """Returns one row for each scalar, one for the weights, and one for the statistics."""
    rows = [
        Row(name, ours.scalars[name], value, abs(ours.scalars[name] - value) / max(abs(value), 1.0))
        for name, value in reference.scalars.items()
    ]
    rows.append(_row_of("weights moved", ours.moved, reference.moved))
    if reference.statistics:
        rows.append(_row_of("batch norm statistics", ours.statistics, reference.statistics))
    return rows


def _row_of(name: str, ours: Sequence[np.ndarray], reference: Sequence[np.ndarray]) -> Row:
    """Compares lists of arrays by their norms and the norm of their difference."""
    size, difference = _norm(reference), _norm(a - b for a, b in zip(ours, reference, strict=True))
    return Row(name, _norm(ours), size, difference / size)


def _norm(arrays: Iterator[np.ndarray] | Sequence[np.ndarray]) -> float:
    return float(np.sqrt(sum(np.sum(np.square(array, dtype=np.float64)) for array in arrays)))


def _report(context: runtime.Context, rows: Sequence[Row], tolerance: float) -> None:
    """Prints the table and the result; raises RunError if a row differs."""
    name = type(context.strategy).__name__ if context.num_replicas > 1 else "one device"
    subject = f"{name}, {text.counted(context.num_replicas, 'replica')} on {context.device}"
    console.say(f"{'':22} {'strategy':>12} {'one device':>12} {'difference':>11} {'allowed':>8}")
    for row in rows:
        console.say(
            f"{row.name:22} {row.ours:12.6g} {row.reference:12.6g} {row.difference:11.2e} "
            f"{tolerance:8.0e}{'' if row.difference <= tolerance else '  DIFFERS'}"
        )
    # Not `>`: a NaN must count as different.
    wrong = [row.name for row in rows if not row.difference <= tolerance]
    if wrong:
        raise RunError(
            f"selfcheck failed: {subject} differs from one device in {', '.join(wrong)}."
        )
    if context.num_replicas == 1 and context.device != "TPU":
        console.say(
            "selfcheck compared nothing: the strategy here is one device too. "
            "--strategy=mirrored takes all GPUs; --strategy=mirrored --num_logical_devices=2 "
            "splits this CPU in two."
        )
        return
    console.say(f"selfcheck passed: {subject} computes what one device computes.")
