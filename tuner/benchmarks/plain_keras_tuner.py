"""The baseline of `tuner.benchmarks.race`: a search as users write it with plain KerasTuner.

Its hypermodel builds backbone and head, and calls `fit` on cached images; each cut is one trial.

    python -m tuner.benchmarks.plain_keras_tuner options.json    # prints times as JSON

Options are those of `trainer.benchmarks.plain_keras` and `cuts`, a list of layers to unfreeze.
"""

from __future__ import annotations

import pathlib
import sys

if __name__ == "__main__" and not pathlib.Path("".join(sys.argv[1:])).is_file():
    # Said before TensorFlow is imported.
    raise SystemExit(
        "this module takes a JSON file of options; python -m tuner.benchmarks.race writes one."
    )

import json
import tempfile
import time
from typing import TYPE_CHECKING, Any

import keras
import keras_tuner

from trainer.benchmarks import plain_keras

if TYPE_CHECKING:
    from collections.abc import Mapping


def run(options: Mapping[str, Any]) -> dict[str, Any]:
    """Runs the search; returns its seconds and the epoch times of each trial, by its cut."""
    keras.mixed_precision.set_dtype_policy(options["precision"])
    train, validation = (plain_keras.read(options, split) for split in ("train", "validation"))
    clocks: dict[str, list[float]] = {}

    class Plain(keras_tuner.HyperModel):
        """Builds and trains the model of a trial."""

        def build(self, hp: Any) -> keras.Model:
            """Builds a classifier."""
            cut = hp.Choice("layers_to_unfreeze", options["cuts"])
            return plain_keras.build_model({**options, "layers_to_unfreeze": cut})

        def fit(self, hp: Any, model: keras.Model, *args: Any, **kwargs: Any) -> Any:
            """Trains the classifier and records the time of each epoch."""
            clock = plain_keras.EpochClock()
            clocks[str(hp.get("layers_to_unfreeze"))] = clock.seconds
            kwargs["callbacks"] = [*kwargs.get("callbacks", []), clock]
            return model.fit(*args, **kwargs)

    with tempfile.TemporaryDirectory() as folder:
        tuner = keras_tuner.GridSearch(Plain(), objective="val_accuracy", directory=folder)
        start = time.perf_counter()
        tuner.search(train, validation_data=validation, epochs=options["epochs"], verbose=2)
        search_s = time.perf_counter() - start
    return {"epochs_s": clocks, "search_s": search_s}


if __name__ == "__main__":
    result = run(json.loads(pathlib.Path(sys.argv[1]).read_text("utf-8")))
    sys.stdout.write(json.dumps(result) + "\n")
