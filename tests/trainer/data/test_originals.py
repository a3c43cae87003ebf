"""Radiographs at their original size: predictions for the file and for its record.

The files are not in the repository. The tests look for them in each folder beside it, or in the one
that CXR_REAL_DATA names, and are skipped where nobody has put them.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

import trainer
from cxr_tfds import images, source
from trainer.config import Config
from trainer.data import opening, pipeline
from trainer.options import DataOptions

FILES = (
    "data/chest-xray-originals-49.zip",
    "data/chest-xray-pneumonia-224.zip",
    "weights/mobilenet_v2_notop.weights.h5",
)
BESIDE = Path(os.environ.get("CXR_REAL_DATA", Path(__file__).parents[4]))
CANDIDATES = (path.parents[1] for name in ("", "*/") for path in BESIDE.glob(name + FILES[0]))
FOUND = next((c for c in CANDIDATES if all((c / name).exists() for name in FILES)), None)
ORIGINALS, OTHERS, WEIGHTS = ((FOUND or BESIDE) / name for name in FILES)
SIDE = 224

pytestmark = pytest.mark.skipif(
    FOUND is None, reason=f"no folder in {BESIDE} has the real images and weights"
)


@pytest.fixture(scope="module")
def originals() -> dict[str, bytes]:
    """Encoded files by file name."""
    archive = source.open_archive(ORIGINALS)
    with archive.reader() as read:
        return {record.file_name: read(record) for record in archive.records}


@pytest.fixture(scope="module")
def data_dir_of_originals(tmp_path_factory) -> Path:
    """Where their data set is built."""
    folder = tmp_path_factory.mktemp("originals")
    shutil.copy(ORIGINALS, folder / "archive.zip")
    options = DataOptions(dataset="paper", manual_dir=str(folder), data_dir=str(folder / "data"))
    opening.load(options, image_size=SIDE)
    return folder / "data"


@pytest.fixture(scope="module")
def records(data_dir_of_originals) -> dict[str, np.ndarray]:
    """The pixels that training reads, [H, W, 1] uint8, by file name."""
    options = DataOptions(dataset="paper", data_dir=str(data_dir_of_originals))
    data = opening.load(options, image_size=SIDE)
    pixels = {}
    for split in ("train", "validation", "test"):
        batch = data.images(split, np.arange(data.num_examples(split)))
        pixels |= dict(zip(data.table(split).file_name, batch, strict=True))
    return pixels


def test_training_reads_the_pixels_of_the_file(originals, records):
    assert len(records) == len(originals) == 49
    for name, pixels in records.items():
        np.testing.assert_array_equal(pixels[..., 0], images.decode(originals[name], SIDE))


@pytest.mark.slow
def test_training_and_pillow_decode_every_real_record_to_the_same_pixels():
    archive = source.open_archive(OTHERS)
    with archive.reader() as read:
        records = images.parallel_map(
            lambda record: (read(record), images.encode(read(record), SIDE)), archive.records
        )
        for record, (data, stored) in records:
            pixels = pipeline.decode(stored.content, None).numpy()[..., 0]
            np.testing.assert_array_equal(pixels, images.decode(data, SIDE), err_msg=record.key)
    assert len(archive.records) == 5_232


@pytest.mark.slow
@pytest.mark.parametrize("side", [SIDE, 112, 288])
def test_a_file_scores_as_its_record(data_dir_of_originals, tmp_path, side):
    """At 112 px, training shrinks records of 224 px, and prediction goes the same way.

    TensorFlow shrinks within 1 grey level of Pillow, see `test_resizing`.
    """
    config = Config.from_flat({
        "dataset": "paper", "data_dir": str(data_dir_of_originals), "backbone": "mobilenet_v2",
        "weights": str(WEIGHTS), "image_size": side, "max_epochs": 3,
        "model_dir": str(tmp_path / "run"), "feature_cache": "off", "batch_size": 8,
    })  # fmt: skip
    run = trainer.train(config)
    table = run.evaluation.predictions
    of_records = dict(zip(table.file_name.tolist(), table.probabilities[:, 1], strict=True))
    found = trainer.predict(run, ORIGINALS, tmp_path / "out")
    assert len(found.rows) == 49
    of_files = {row.file.rsplit("/", 1)[-1]: row.score for row in found.rows}
    differences = [abs(of_files[name] - score) for name, score in of_records.items()]
    assert len(differences) == 13
    assert np.mean(differences) < (0.01 if side == 112 else 1e-5)
    assert np.ptp([*of_records.values()]) > 0.2
