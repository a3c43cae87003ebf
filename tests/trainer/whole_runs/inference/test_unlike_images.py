"""A short run tells what it should not be asked about: photographs, noise, lateral and negative."""

from __future__ import annotations

import collections
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import trainer
from tests.support import runs
from tests.support.scans import strangers
from trainer.data import opening
from trainer.storage import option_files

pytestmark = pytest.mark.slow

COUNT = 60
"""Of each kind."""
EPOCHS = 3
LEAST, MOST = 0.95, 0.04
"""Share that is flagged: of strangers at least, of held-out images of the data set at most."""


@pytest.fixture(scope="module")
def run(phantom_dir, tmp_path_factory):
    """The quickstart, cut short."""
    folder = tmp_path_factory.mktemp("quickstart")
    options = option_files.load_recipe("quickstart") | {"max_epochs": EPOCHS, "image_size": 0}
    return trainer.train(runs.small_config(phantom_dir, folder, **{**options, "neurons": 256}))


@pytest.fixture(scope="module")
def flags(run, tmp_path_factory):
    """By kind: the flags of each image."""
    folder = tmp_path_factory.mktemp("strangers")
    for kind, draw in strangers.KINDS.items():
        (folder / kind).mkdir()
        for seed in range(COUNT):
            image = Image.fromarray(draw(np.random.default_rng(seed)))
            image.save(folder / kind / f"{seed}.png")
    data = opening.load(run.config.data, 128)
    (folder / "phantom").mkdir()
    rows = np.arange(data.num_examples("test"))
    for row, pixels in zip(rows, data.images("test", rows), strict=True):
        Image.fromarray(pixels[..., 0]).save(folder / "phantom" / f"{row}.png")
    found = collections.defaultdict(list)
    for row in trainer.predict(run, folder, folder / "out").rows:
        found[Path(row.file).parent.name].append(row.flags)
    return found


def _share(flags, kind: str, name: str) -> float:
    return sum(name in each for each in flags[kind]) / len(flags[kind])


@pytest.mark.parametrize("kind", strangers.KINDS)
def test_strangers_are_flagged(flags, kind):
    assert len(flags[kind]) == COUNT
    assert _share(flags, kind, "unlike_training_data") >= LEAST


def test_held_out_images_of_the_data_set_are_not(flags):
    assert len(flags["phantom"]) == 500
    assert _share(flags, "phantom", "unlike_training_data") <= MOST
    assert _share(flags, "phantom", "inverted") <= MOST


def test_negatives_are_called_inverted_and_hardly_anything_else(flags):
    assert _share(flags, "inverted chest", "inverted") >= LEAST
    others = [kind for kind in strangers.KINDS if kind != "inverted chest"]
    assert np.mean([_share(flags, kind, "inverted") for kind in others]) <= MOST
