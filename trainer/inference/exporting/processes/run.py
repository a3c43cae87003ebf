"""Runs an exported model: `python -I run.py FORMAT MODEL FOLDER`, with its own runtime alone.

FOLDER holds `images.npy` [N, S, S, 1] uint8 and `wrong.npz`, arrays [1, S, S, 1] that a model must
refuse. The results are FOLDER/probabilities.npy [N, K] and FOLDER/run.json:

    {"latency_ms": 12.3, "batch_ms": 8.1, "batch_difference": 1e-7, "facts": {...}, "classes": null,
     "wrong": {"scaled": "refused: ..."}, "imported": []}
"""

from __future__ import annotations

import json
import os
import pathlib
import statistics
import sys
import time
import zipfile
from typing import Any

import numpy as np

TENSORFLOW = "tensorflow"
BLOCKED = ("keras", "tf_keras", "trainer", "cxr_tfds", "tuner", TENSORFLOW)
INPUT, OUTPUT, FACTS, SIGNATURE = "images", "probabilities", "model.json", "serving_default"
BATCH = 8


class TensorFlowModel:
    """A SavedModel in TensorFlow."""

    dtype = np.float32

    def __init__(self, path: str) -> None:
        import tensorflow as tf

        self._loaded = tf.saved_model.load(path)
        self._run = self._loaded.signatures[SIGNATURE]
        self.classes: list[str] | None = []

    def facts(self) -> str:
        """Returns the JSON in the model."""
        return self._loaded.signatures["metadata"]()["json"].numpy().decode()

    def predict(self, images: Any) -> Any:
        """Returns probabilities [B, K]."""
        found = self._run(images=images)
        self.classes = [name.decode() for name in found["class"].numpy()]
        return found[OUTPUT].numpy()


class LiteRTModel:
    """A .tflite file in LiteRT."""

    classes = None

    def __init__(self, path: str) -> None:
        from ai_edge_litert.interpreter import Interpreter

        self._path = path
        self._interpreter = Interpreter(model_path=path, num_threads=cores())
        self._run = self._interpreter.get_signature_runner(SIGNATURE)
        self.dtype = self._run.get_input_details()[INPUT]["dtype"]

    def facts(self) -> str:
        """Returns the JSON behind the model."""
        with zipfile.ZipFile(self._path) as zipped:
            return zipped.read(FACTS).decode()

    def predict(self, images: Any) -> Any:
        """Returns probabilities [B, K]."""
        return self._run(**{INPUT: images})[OUTPUT]


class OnnxModel:
    """A .onnx file in ONNX Runtime."""

    dtype, classes = np.float32, None

    def __init__(self, path: str) -> None:
        import onnxruntime

        onnxruntime.set_default_logger_severity(4)
        self._session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def facts(self) -> str:
        """Returns the JSON among the properties of the model."""
        return self._session.get_modelmeta().custom_metadata_map[FACTS]

    def predict(self, images: Any) -> Any:
        """Returns probabilities [B, K]."""
        return self._session.run([OUTPUT], {INPUT: images})[0]


KINDS = {
    "savedmodel": TensorFlowModel,
    "litert": LiteRTModel,
    "litert_int8": LiteRTModel,
    "onnx": OnnxModel,
}


def main(name: str, path: str, folder: pathlib.Path) -> None:
    """Runs a model on all images, one at a time, and on some of them together."""
    blocked = [module for module in BLOCKED if (name, module) != ("savedmodel", TENSORFLOW)]
    for module in blocked:
        sys.modules[module] = None  # type: ignore[assignment]  # Importing it now fails.
    model: Any = KINDS[name](path)
    images = np.load(folder / "images.npy").astype(model.dtype)
    model.predict(images[:1])  # The first call is slow, and not measured.
    rows, times = [], []
    classes: list[str] = []
    for index in range(len(images)):
        start = time.perf_counter()
        rows.append(model.predict(images[index : index + 1])[0])
        times.append(time.perf_counter() - start)
        classes += model.classes or []
    probabilities = np.stack(rows)
    np.save(folder / "probabilities.npy", probabilities)
    result = {
        "latency_ms": 1000 * statistics.median(times),
        **batched(model, images[:BATCH], probabilities[:BATCH]),
        "facts": json.loads(model.facts()),
        "classes": classes or None,
        "wrong": {key: refusal(model, wrong) for key, wrong in wrongs(folder, model.dtype)},
        "imported": [module for module in blocked if sys.modules.get(module) is not None],
    }
    (folder / "run.json").write_text(json.dumps(result), encoding="utf-8")


def batched(model: Any, images: Any, alone: Any) -> dict[str, float | None]:
    """Returns milliseconds an image in a batch, and what differs; None if it takes one alone."""
    try:
        together = model.predict(images)
        start = time.perf_counter()
        model.predict(images)
        seconds = time.perf_counter() - start
    except Exception:  # noqa: BLE001 -- Each runtime has its own error.
        return {"batch_ms": None, "batch_difference": None}
    difference = float(np.abs(together - alone).max())
    return {"batch_ms": 1000 * seconds / len(images), "batch_difference": difference}


def wrongs(folder: pathlib.Path, dtype: Any) -> list[tuple[str, Any]]:
    """Returns wrong images; for a model of 8-bit images also such as fit into 8 bits."""
    with np.load(folder / "wrong.npz") as found:
        named = [(key, found[key]) for key in found.files]
    return [(key, wrong) for key, wrong in named if dtype == np.uint8 or wrong.dtype != np.uint8]


def refusal(model: Any, wrong: Any) -> str:
    """Returns how a model refuses an image; what it answers if it doesn't."""
    try:
        found = model.predict(wrong)
    except Exception as error:  # noqa: BLE001 -- Each runtime has its own error.
        lines = str(error).strip().splitlines() or [type(error).__name__]
        return f"refused: {lines[0][:80]}"
    return "refused: NaN" if np.isnan(found).all() else f"accepted: {found.tolist()}"


def cores() -> int:
    """Returns the number of CPU cores of this process."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], pathlib.Path(sys.argv[3]))
