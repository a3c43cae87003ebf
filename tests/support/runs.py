"""Configs of runs that take seconds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trainer.config import Config

if TYPE_CHECKING:
    from pathlib import Path


def small_config(data_dir: Path, folder: Path, /, **options: Any) -> Config:
    """A small, quick run on the built data set, all of whose files go into `folder`."""
    small: dict[str, Any] = {
        "dataset": "paper",
        "data_dir": str(data_dir),
        "cache_dir": str(folder / "cache"),
        "model_dir": str(folder / "run"),
        "backbone": "small_cnn",
        "weights": "none",
        "image_size": 32,
        "neurons": 8,
        "batch_size": 16,
        "max_epochs": 2,
        "strategy": "one_device",
        "precision": "float32",
    }
    return Config.from_flat(small | options)
