"""Chest X-ray pneumonia for TensorFlow Datasets; importing the package registers the builder.

    import cxr_tfds
    import tensorflow_datasets as tfds
    train = tfds.load("cxr_tfds/grouped", split="train")

TFDS registers a builder when its class is defined, and defining it takes TFDS itself (0.4 s). So
the builder is imported with TFDS: now if TFDS is there already, else right after whoever imports it
first. Light modules such as `cxr_tfds.configs` are then free for programs that never read data, and
the two imports work in either order. No TensorFlow is loaded: TFDS does that on first use.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import types
    from collections.abc import Sequence

    from cxr_tfds.cxr_tfds_dataset_builder import Builder

__all__ = ["Builder"]

_TFDS = "tensorflow_datasets"


def __getattr__(name: str) -> Any:
    """Imports the builder when it is asked for (PEP 562)."""
    if name != "Builder":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return _register().Builder


def _register() -> Any:
    return importlib.import_module("cxr_tfds.cxr_tfds_dataset_builder")


class _RegisteringLoader(importlib.machinery.SourceFileLoader):
    """Loads TFDS, then registers our builder with it."""

    def exec_module(self, module: types.ModuleType) -> None:
        super().exec_module(module)
        _register()


class _TfdsFinder(importlib.abc.MetaPathFinder):
    """Finds TFDS where Python finds it, and gives it the loader above. Knows no other module."""

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None,
        target: types.ModuleType | None = None,  # noqa: ARG002 - importlib's signature.
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != _TFDS:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path)
        if spec is not None and spec.origin is not None:
            spec.loader = _RegisteringLoader(fullname, spec.origin)
        return spec


if _TFDS in sys.modules:
    _register()
else:
    sys.meta_path.insert(0, _TfdsFinder())
