from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import pytest

from trainer import config
from tuner.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable

SPACE = "neurons=8|16,learning_rate=1e-3:1e-1:log,layers_to_unfreeze=0|2"


@pytest.fixture
def options(data_dir, tmp_path) -> dict[str, object]:
    """Options with which a trial takes about a second."""
    return {
        "dataset": "paper",
        "data_dir": str(data_dir),
        "backbone": "small_cnn",
        "weights": "none",
        "image_size": 32,
        "precision": "float32",
        "batch_size": 64,
        "max_epochs": 3,
        "cache_dir": str(tmp_path / "cache"),
    }


@pytest.fixture
def base(options) -> config.Config:
    return config.Config.from_flat(options)


@pytest.fixture
def command(options, tmp_path) -> Callable[..., list[str]]:
    """Returns a function that builds the arguments of `python -m tuner`."""

    def make(**given: object) -> list[str]:
        named = {
            **options, "search": SPACE, "directory": str(tmp_path), "project_name": "s", **given,
        }  # fmt: skip
        return [f"--{name}={value}" for name, value in named.items()]

    return make


@pytest.fixture
def settings(tmp_path):
    def make(**given: object) -> Settings:
        return dataclasses.replace(
            Settings(search=SPACE, directory=str(tmp_path), project_name="s"), **given
        )

    return make
