"""Trains a small network under one strategy and saves what must agree with the others.

    python -m tests.support.one_strategy --out=one.npz
    python -m tests.support.one_strategy --replicas=4 --optimizers sgd adam --out=four.npz

In a process of its own: TensorFlow has one strategy a process. With TF_CONFIG it is a worker.
"""

from __future__ import annotations

import argparse
import os
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from trainer.data import batches
from trainer.distribution import runtime
from trainer.models import classifier, dropout
from trainer.options import ModelOptions, OptimizationOptions, RuntimeOptions
from trainer.training import driver, optimization

BATCH = 16
STEPS = 15
"""Steps in an epoch, of 2; odd, so that an update of two batches spans the end of an epoch."""
TEST_EXAMPLES = 61  # Prime: no number of replicas divides it.
SIZE = 32


class StepLog(keras.callbacks.Callback):
    """Keeps the running mean of the loss after each step."""

    def __init__(self) -> None:
        super().__init__()
        self.losses: list[float] = []

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        del batch, logs
        self.losses.append(float(self.model.get_metrics_result()["loss"]))


def main() -> None:
    args = _parse()
    logical = args.replicas if args.replicas > 1 else 0
    name = "multi_worker" if "TF_CONFIG" in os.environ else "mirrored" if logical else "one_device"
    context = runtime.build(
        RuntimeOptions(strategy=name, num_logical_devices=logical, precision="float32")
    )
    outcomes = {optimizer: _train(context, optimizer, args) for optimizer in args.optimizers}
    np.savez(
        args.out,
        masks=_masks(context.strategy),
        **{
            f"{optimizer} {name}": value
            for optimizer, outcome in outcomes.items()
            for name, value in outcome.items()
        },
    )


def _train(context: runtime.Context, optimizer: str, args: argparse.Namespace) -> dict[str, Any]:
    """Returns all that must agree."""
    keras.utils.set_random_seed(1)
    with context.strategy.scope():
        network = classifier.build(
            ModelOptions(
                backbone=args.backbone, weights="none", image_size=SIZE, neurons=8, dropout=0.0,
                layers_to_unfreeze=str(args.layers_to_unfreeze),
            ),
            (SIZE, SIZE, 1), 2,
        )  # fmt: skip
        whole = network.whole
        _keep_signals_alive(network.trunk)
        options = OptimizationOptions(
            optimizer=optimizer, learning_rate=0.02, class_weights="balanced", global_clipnorm=0.5,
            gradient_accumulation_steps=2,
        )  # fmt: skip
        optimization.compile_model(whole, options, [3, 2], STEPS)
    before = [weight.numpy() for weight in whole.weights]
    train, test = _batches(STEPS * BATCH, seed=1), _batches(TEST_EXAMPLES, seed=2)
    log = StepLog()
    loop = driver.Driver(whole, context.strategy)
    history = loop.fit(lambda _: train, validation=test, epochs=args.epochs, callbacks=[log])
    return {
        "replicas": context.num_replicas,
        "losses": log.losses,
        "metrics": [history[f"val_{name}"] for name in ("loss", "accuracy", "auc")],
        "probabilities": loop.predict(test),
        "labels": [label for _, y, weight in test.dataset for label in y[weight > 0].numpy()],
        "trainable": [weight.trainable for weight in whole.weights],
        "updates": whole.optimizer.iterations.numpy(),
        **{f"before_{i}": weight for i, weight in enumerate(before)},
        **{f"after_{i}": weight.numpy() for i, weight in enumerate(whole.weights)},
    }


def _masks(strategy: tf.distribute.Strategy) -> np.ndarray:
    """Returns the mask that dropout draws on each replica, [replicas, 200]."""
    with strategy.scope():
        layer = dropout.layer(0.5, "dropout")

    @tf.function
    def draw() -> tf.Tensor:
        masks = strategy.run(lambda: layer(tf.ones((1, 200)), training=True))
        return strategy.gather(masks, axis=0)

    return draw().numpy()


def _keep_signals_alive(trunk: keras.Model) -> None:
    """Gives depthwise convolutions the statistics of their random kernels.

    Else each makes its input 20 times smaller, and after 17 of them there is no gradient left that
    could move what is not frozen.
    """
    for layer in trunk.layers:
        if layer.name.endswith("depthwise_BN"):
            channels = layer.moving_variance.shape[0]
            layer.moving_variance.assign(np.full(channels, 2 / (channels + 1), np.float32))


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", required=True)
    parser.add_argument("--replicas", type=int, default=1)
    parser.add_argument("--optimizers", nargs="+", default=["sgd"])
    parser.add_argument("--backbone", default="small_cnn")
    parser.add_argument("--layers_to_unfreeze", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=2)
    return parser.parse_args()


def _batches(count: int, seed: int) -> batches.Batches:
    """Noise, brighter where the label is 1; the classes come unevenly to the replicas."""
    rng = np.random.default_rng(seed)
    labels = (rng.random(count) < 0.6).astype(np.int32)
    noise = rng.integers(0, 200, (count, SIZE, SIZE, 1))
    images = (noise + 40 * labels[:, None, None, None]).astype(np.uint8)
    weighted = tf.data.Dataset.from_tensor_slices((images, labels, np.ones(count, np.float32)))
    return batches.pad(weighted, BATCH, count)


if __name__ == "__main__":
    main()
