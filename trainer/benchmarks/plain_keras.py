"""The baseline of `--mode=benchmark`: the same training, written in plain Keras.

A frozen backbone and a dense head in one model, `image_dataset_from_directory(...).cache()`, `fit`.
It deliberately shares no code with the trainer.

    python -m trainer.benchmarks.plain_keras options.json       # prints one JSON object

The JSON file has the options of a run by flag name, and those that `race.plain_options` adds:
`images` is a folder of images, <split>/<class>/<image>.
"""

from __future__ import annotations

import pathlib
import sys

if __name__ == "__main__" and not pathlib.Path("".join(sys.argv[1:])).is_file():
    # Said before TensorFlow is imported.
    raise SystemExit(
        "this module takes a JSON file of options; python -m trainer --mode=benchmark writes one."
    )

import importlib
import json
import time
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping


class EpochClock(keras.callbacks.Callback):
    """Records the seconds of each epoch, validation included."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds: list[float] = []

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Starts the clock."""
        del epoch, logs
        self._start = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Stops the clock."""
        del epoch, logs
        self.seconds.append(time.perf_counter() - self._start)


def run(options: Mapping[str, Any]) -> dict[str, Any]:
    """Trains and evaluates; returns the seconds of each epoch and of evaluating the test split."""
    keras.mixed_precision.set_dtype_policy(options["precision"])
    keras.utils.set_random_seed(options["seed"])
    model, clock = build_model(options), EpochClock()
    train, validation, test = (read(options, split) for split in ("train", "validation", "test"))
    model.fit(
        train, validation_data=validation, epochs=options["epochs"], callbacks=[clock], verbose=2
    )
    start = time.perf_counter()
    # Only the training split is shuffled, so labels and predictions have the same order.
    labels = np.concatenate([label for _, label in test.as_numpy_iterator()])
    accuracy = float(np.mean(model.predict(test, verbose=0).argmax(axis=-1) == labels))
    evaluate_s = time.perf_counter() - start
    return {"epoch_s": clock.seconds, "evaluate_s": evaluate_s, "accuracy": accuracy}


def read(options: Mapping[str, Any], split: str) -> Any:
    """Returns a split, which is cached in memory when it is first read."""
    return keras.utils.image_dataset_from_directory(
        pathlib.Path(options["images"]) / split,
        image_size=(options["image_size"],) * 2,
        batch_size=options["batch_size"],
        shuffle=split == "train",
        seed=options["seed"],
        verbose=False,
    ).cache()


def build_model(options: Mapping[str, Any]) -> keras.Model:
    """Builds and compiles a classifier on a frozen backbone."""
    module = importlib.import_module(options["module"])
    shape = (options["image_size"], options["image_size"], 3)
    is_file = options["weights"] not in {"imagenet", "none"}
    weights = "imagenet" if options["weights"] == "imagenet" else None
    backbone = getattr(module, options["constructor"])(
        weights=weights, include_top=False, input_shape=shape
    )
    if is_file:
        backbone.load_weights(options["weights"])
    unfrozen = options["layers_to_unfreeze"]
    for layer in backbone.layers[: len(backbone.layers) - unfrozen]:
        layer.trainable = False
    image = keras.Input(shape)
    # training=False keeps batch norm in inference mode, as Keras's fine-tuning guide advises.
    x = backbone(module.preprocess_input(image), training=False)
    x = _pool(options["pooling"], x)
    for _ in range(options["dense_layers"]):
        x = keras.layers.Dense(options["neurons"], activation="relu")(x)
        x = keras.layers.Dropout(options["dropout"])(x)
    # float32, as Keras's mixed precision guide advises for the last layer.
    probabilities = keras.layers.Dense(options["classes"], activation="softmax", dtype="float32")(x)
    model = keras.Model(image, probabilities)
    model.compile(
        optimizer=keras.optimizers.Adam(options["learning_rate"]),
        loss="sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    return model


def _pool(pooling: str, x: Any) -> Any:
    if pooling == "flatten":
        return keras.layers.Flatten()(x)
    average = keras.layers.GlobalAveragePooling2D()(x)
    if pooling == "avg":
        return average
    return keras.layers.Concatenate()([average, keras.layers.GlobalMaxPooling2D()(x)])


if __name__ == "__main__":
    result = run(json.loads(pathlib.Path(sys.argv[1]).read_text("utf-8")))
    sys.stdout.write(json.dumps(result) + "\n")
