"""Loads the saved model of a run with plain Keras.

model = saved.load(run_dir / "best.keras")
saved.precision_of(model)                      # "mixed_bfloat16"
"""

from __future__ import annotations

import zipfile
from typing import TYPE_CHECKING

import keras

from trainer.errors import RunError

if TYPE_CHECKING:
    import pathlib


def load(path: pathlib.Path) -> keras.Model:
    """Loads a saved model without executing code from the file.

    Raises:
      RunError: when the file does not exist or can't be read.
    """
    if not path.is_file():
        raise RunError(f"there is no trained model at {path}; train one, or name its --model_dir.")
    try:
        return keras.saving.load_model(path, compile=False, safe_mode=True)
    except (ValueError, OSError, KeyError, zipfile.BadZipFile) as error:
        raise RunError(f"{path} is not a readable model: {error}") from error


def precision_of(model: keras.Model) -> str:
    """Returns the dtype policy that the model was saved under, in which it always computes."""
    # Each layer stores its own policy. Those that compute in float32 under every policy, such as
    # the softmax, don't reveal the model's.
    policies = {layer.dtype_policy.name for layer in model._flatten_layers()}  # noqa: SLF001
    return next((name for name in sorted(policies) if name.startswith("mixed")), "float32")
