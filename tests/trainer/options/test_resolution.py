from __future__ import annotations

import importlib.resources
import json

import pytest

from cxr_tfds import configs
from trainer import backbones
from trainer.config import Config
from trainer.options import resolution
from trainer.storage import option_files

SIZES = {row.name: row.image_size for row in configs.ROWS}


def _note(**options) -> str:
    config = Config.from_flat(options)
    return resolution.note(config.data, config.model)


@pytest.mark.parametrize("name", backbones.REGISTRY)
@pytest.mark.parametrize("dataset", SIZES)
def test_images_are_enlarged_with_a_word_and_never_without(name, dataset):
    side, wanted = SIZES[dataset], backbones.REGISTRY[name].image_size
    said = _note(dataset=dataset, backbone=name)
    assert bool(said) == (side is not None and side < wanted)


@pytest.mark.parametrize(
    ("options", "way_out"),
    [
        ({"backbone": "xception"}, "--dataset=grouped_299 has larger ones, --image_size=224 takes"),
        ({"backbone": "inception_resnet_v2", "dataset": "paper"}, "--dataset=paper_299 has larger"),
        ({"image_size": 448, "dataset": "official"}, "--dataset=official_raw has larger ones,"),
        ({"image_size": 300, "dataset": "grouped_299"}, "--dataset=grouped_raw has larger ones,"),
        ({"dataset": "phantom"}, "none are larger, --image_size=128 takes them as they are."),
    ],
)
def test_the_way_out_is_of_the_same_split(options, way_out):
    assert way_out in _note(**options)


@pytest.mark.parametrize("recipe", option_files.recipes())
def test_no_recipe_enlarges_its_images(recipe):
    path = importlib.resources.files("trainer") / "recipes" / f"{recipe}.json"
    assert not _note(**json.loads(path.read_text("utf-8")))
