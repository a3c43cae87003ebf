"""The formats of exports: their files, runtimes, packages and tolerances. No TensorFlow.

formats.require_installed(("savedmodel", "onnx"))     # before any work: ConfigError, one line
formats.REGISTRY["onnx"].file                         # "model.onnx"
"""

from __future__ import annotations

import dataclasses
import importlib.util
from typing import TYPE_CHECKING

from trainer.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclasses.dataclass(frozen=True)
class Format:
    """One format.

    Attributes:
      name: as users give it.
      file: name of the file or folder in the folder of exports.
      runtime: what runs it.
      extra: of pyproject.toml, with the packages; empty if TensorFlow is enough.
      packages: modules that converting and checking import.
      tolerance: largest accepted difference of a probability from Keras; None: the accuracy is
        compared instead, as probabilities of whole numbers differ.
    """

    name: str
    file: str
    runtime: str
    extra: str
    packages: tuple[str, ...]
    tolerance: float | None


REGISTRY = {
    row.name: row
    for row in (
        Format("savedmodel", "savedmodel", "TensorFlow", "", (), 1e-4),
        Format("litert", "model.tflite", "LiteRT", "litert", ("ai_edge_litert",), 1e-3),
        Format("litert_int8", "model_int8.tflite", "LiteRT", "litert", ("ai_edge_litert",), None),
        Format(
            "onnx",
            "model.onnx",
            "ONNX Runtime",
            "onnx",
            ("onnx", "onnxruntime", "tf2onnx"),
            1e-4,
        ),
    )
}


def require_installed(names: Sequence[str]) -> None:
    """Raises ConfigError, with the command that installs them, if packages are missing."""
    missing = {
        package: REGISTRY[name].extra
        for name in names
        for package in REGISTRY[name].packages
        if importlib.util.find_spec(package) is None
    }
    if missing:
        extras = ",".join(dict.fromkeys(missing.values()))
        raise ConfigError(
            f"format ({','.join(names)}) needs {', '.join(missing)}, which "
            f"{'is' if len(missing) == 1 else 'are'} not installed: "
            f'pip install ".[{extras}]".'
        )
