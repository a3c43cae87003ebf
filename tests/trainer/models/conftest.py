"""A small network, and the file that a run would save."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support import radiographs
from trainer.models import classifier, saved
from trainer.options import ModelOptions

if TYPE_CHECKING:
    from collections.abc import Callable

SIZE = 32


@pytest.fixture(scope="module")
def build() -> Callable[..., classifier.Network]:
    def build(**changed) -> classifier.Network:
        small = {"backbone": "small_cnn", "weights": "none", "image_size": SIZE, "neurons": 8}
        options = ModelOptions(**(small | changed))
        side = max(options.image_size, SIZE)
        return classifier.build(options, (side, side, 1), 2)

    return build


@pytest.fixture(scope="module")
def network(build):
    return build()


@pytest.fixture(scope="module")
def path(network, tmp_path_factory):
    path = tmp_path_factory.mktemp("saved") / "best.keras"
    saved.save(network, path)
    return path


@pytest.fixture(scope="module")
def images():
    return radiographs.noise(3, SIZE)
