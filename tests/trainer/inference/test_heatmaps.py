"""Heat maps as files, on pages and against masks; and whether they show the model at all."""

from __future__ import annotations

import os
import tracemalloc
from pathlib import Path
from typing import TYPE_CHECKING

import keras
import numpy as np
import PIL.Image
import pytest

from tests.support import radiographs
from trainer.commands import train
from trainer.config import Config
from trainer.data import opening
from trainer.errors import RunError
from trainer.evaluation import localization
from trainer.inference import gradcam, heatmaps
from trainer.models import classifier
from trainer.options import DataOptions, ModelOptions

if TYPE_CHECKING:
    from collections.abc import Iterator

SIDE = 32
HOSTILE = (
    "a.png", "A.png", "b/a.png", "../../etc/passwd", "/etc/passwd", r"C:\windows\a.png", "..", ".",
    "", "/", "CON", "nul.png", "x" * 4000, "ünï/cødé.png", "\u202egnp.exe", "line\nbreak",
    "a\0b.png", "\udcff.png", "-rf.png", ".hidden", "zip.zip::../a.png", "a.png",
)  # fmt: skip


@pytest.fixture(scope="module")
def explainer():
    keras.utils.set_random_seed(1)
    config = ModelOptions(backbone="small_cnn", weights="none", image_size=SIDE, neurons=8)
    whole = classifier.build(config, (SIDE, SIDE, 1), 2).whole
    return gradcam.of_model(whole, batch_size=4)


def items(names) -> Iterator[tuple[str, np.ndarray, int]]:
    for seed, name in enumerate(names):
        yield name, radiographs.noise(1, SIDE, seed)[0, ..., 0], seed % 2


def test_each_image_gets_its_overlay(explainer, tmp_path):
    folder = tmp_path / heatmaps.FOLDER
    written = dict(heatmaps.save(explainer, items("abcdef"), folder))
    assert list(written) == list("abcdef")
    assert sorted(folder.iterdir()) == sorted(written.values())
    with PIL.Image.open(written["a"]) as found:
        assert (found.format, found.mode, found.size) == ("PNG", "RGB", (SIDE, SIDE))


def test_names_stay_in_the_folder_and_apart(explainer, tmp_path):
    folder = tmp_path / "a" / "b" / heatmaps.FOLDER
    paths = [path for _, path in heatmaps.save(explainer, items(HOSTILE), folder)]
    assert [path for path in tmp_path.rglob("*") if path.is_file() and path.parent != folder] == []
    assert {path.name.lower() for path in folder.iterdir()} == {path.name.lower() for path in paths}
    assert len({path.name.lower() for path in paths}) == len(HOSTILE)
    for path in paths:
        assert path.name.isascii()
        assert len(path.name) < 100
        assert not set(path.name) & set('/\\:*?"<>|\0\n ')
        assert path.name[0] not in "-."


def test_a_name_is_the_same_each_time(explainer, tmp_path):
    names = [
        dict(heatmaps.save(explainer, items(of), tmp_path))
        for of in (["a/b.png"], ["x", "a/b.png"])
    ]
    assert names[0]["a/b.png"] == names[1]["a/b.png"]
    assert names[0]["a/b.png"].name.startswith("b-")


def test_arrays_are_the_maps_that_the_model_sees(explainer, tmp_path):
    ((_, path),) = heatmaps.save(explainer, items("a"), tmp_path, saves_arrays=True)
    found = np.load(path.with_suffix(".npy"), allow_pickle=False)
    assert found.dtype == np.float16
    _, grey, label = next(items("a"))
    np.testing.assert_allclose(found, explainer(grey[None], [label])[0], atol=1e-3)
    assert len(list(tmp_path.iterdir())) == 2


def test_images_are_taken_a_batch_at_a_time(explainer, tmp_path):
    taken = []

    def counted():
        for item in items("abcdefghij"):
            taken.append(item[0])
            yield item

    written = heatmaps.save(explainer, counted(), tmp_path)
    next(written)
    assert len(taken) == explainer.batch_size
    assert len(list(tmp_path.iterdir())) == 1


def test_memory_does_not_grow_with_the_images(explainer, tmp_path):
    def peak(count):
        tracemalloc.start()
        for _ in heatmaps.save(explainer, items(["same"] * count), tmp_path):
            pass
        highest = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return highest

    peak(4)
    assert peak(80) < peak(8) + 200_000


def test_a_failed_write_leaves_no_part(explainer, tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(OSError, match="No space"):
        list(heatmaps.save(explainer, items("a"), tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_written_through_a_link(explainer, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "heatmaps").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(RunError, match="is a link"):
        list(heatmaps.save(explainer, items("a"), tmp_path / "heatmaps"))
    assert list((tmp_path / "elsewhere").iterdir()) == []


@pytest.mark.parametrize(("cell", "said"), [
    ((0, 0), "upper left"), ((3, 3), "middle"), ((3, 6), "middle right"), ((6, 3), "lower middle"),
])  # fmt: skip
def test_the_hottest_place_in_words(cell, said):
    heat = np.zeros((7, 7))
    heat[cell] = 1
    assert heatmaps.hottest(heat) == said
    assert heatmaps.hottest(np.zeros((7, 7))) == ""


def test_data_without_masks_have_no_figures(explainer, data_dir):
    data = opening.load(DataOptions(dataset="paper", data_dir=str(data_dir)), SIDE)
    assert heatmaps.localize(explainer, data, table=None) is None
    assert heatmaps.localize(None, data, table=None) is None


@pytest.fixture(scope="module")
def quick(phantom_dir, tmp_path_factory):
    """A run of `make demo`, with fewer epochs."""
    folder = tmp_path_factory.mktemp("quick")
    options = {
        "dataset": "phantom", "data_dir": str(phantom_dir), "backbone": "small_cnn",
        "weights": "none", "layers_to_unfreeze": "all", "batch_size": 16, "learning_rate": 0.002,
        "max_epochs": 6, "model_dir": str(folder / "run"), "cache_dir": str(folder / "cache"),
    }  # fmt: skip
    return train.train(Config.from_flat(options))


@pytest.mark.slow
def test_heat_is_on_the_findings_that_were_drawn(quick):
    found = quick.evaluation.report.localization
    assert found["images"] == localization.MAX_IMAGES
    assert found["top_heat"] > 0.8
    assert found["pointing"] > 5 * found["chance"]
    assert "Heat maps (gradcam), share inside the drawn finding" in str(quick.evaluation)
    assert "hottest tenth of the heat" in quick.directory.page.read_text("utf-8")


@pytest.mark.slow
def test_maps_of_a_randomised_model_are_others(quick, phantom_dir):
    """The sanity check of Adebayo et al., NeurIPS 2018: a map that stays shows the image alone."""
    data = opening.load(DataOptions(dataset="phantom", data_dir=str(phantom_dir)), 128)
    ill = np.flatnonzero(data.table("test").label == 1)[::9][:40]
    images, classes = data.images("test", ill), np.ones(len(ill), int)
    trained = gradcam.of_model(quick.model)(images, classes)
    found = []
    for seed in (1, 2, 3):
        keras.utils.set_random_seed(seed)
        random = classifier.build(quick.config.model, data.image_shape, 2).whole
        maps = gradcam.of_model(random)(images, classes)
        found += [
            abs(np.corrcoef(a.ravel(), b.ravel())[0, 1])
            for a, b in zip(trained, maps, strict=True)
            if a.any() and b.any()
        ]
    assert len(found) >= 20
    assert np.mean(found) < 0.3
