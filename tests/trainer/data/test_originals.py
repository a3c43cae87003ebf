"""Radiographs at their original size: predictions for the file and for its record.

The files are not in the repository. The tests look for them in each folder beside it, or in the one
that CXR_REAL_DATA names, and are skipped where nobody has put them.
"""

from __future__ import annotations

import functools
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import keras
import numpy as np
import pytest
from sklearn import linear_model

from cxr_tfds import images, source
from trainer.config import Config
from trainer.data import opening, pipeline
from trainer.models import classifier
from trainer.options import DataOptions

if TYPE_CHECKING:
    from collections.abc import Callable

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
def records(tmp_path_factory) -> dict[str, np.ndarray]:
    """The pixels that training reads, [H, W, 1] uint8, by file name."""
    folder = tmp_path_factory.mktemp("originals")
    shutil.copy(ORIGINALS, folder / "archive.zip")
    options = DataOptions(dataset="paper", manual_dir=str(folder), data_dir=str(folder / "data"))
    data = opening.load(options, image_size=SIDE)
    pixels = {}
    for split in ("train", "validation", "test"):
        batch = data.images(split, np.arange(data.num_examples(split)))
        pixels |= dict(zip(data.table(split).file_name, batch, strict=True))
    return pixels


@pytest.fixture(scope="module")
def features() -> Callable[[np.ndarray], np.ndarray]:
    """A function from [B, H, W, 1] uint8 to MobileNetV2's pooled features [B, D]."""
    options = {"backbone": "mobilenet_v2", "weights": str(WEIGHTS), "image_size": SIDE}
    network = classifier.build(Config.from_flat(options).model, (SIDE, SIDE, 1), num_classes=2)
    extractor = keras.Model(
        network.preprocessing.input, network.trunk(network.preprocessing.output, training=False)
    )
    return functools.partial(extractor.predict, verbose=0)


@pytest.fixture(scope="module")
def probability(features, originals) -> Callable[[np.ndarray], np.ndarray]:
    """A function from images to P(PNEUMONIA) [B]: a head fitted on 200 other images.

    A head with random weights would answer about 0.5 to anything, and hide the difference.
    """
    archive = source.open_archive(OTHERS)
    others = [record for record in archive.records if record.file_name not in originals]
    chosen = [
        record
        for label in source.CLASSES
        for record in [record for record in others if record.label == label][:100]
    ]
    with archive.reader() as read:
        pixels = np.stack([images.decode(read(record), SIDE) for record in chosen])[..., None]
    head = linear_model.LogisticRegression(C=0.02, max_iter=1000)
    head.fit(features(pixels), [record.label == "PNEUMONIA" for record in chosen])
    return lambda batch: head.predict_proba(features(batch))[:, 1]


def test_training_reads_the_pixels_of_the_file_after_jpeg(originals, records):
    assert len(records) == len(originals) == 49
    for name, pixels in records.items():
        jpeg = images.encode_resized(originals[name], SIDE)
        np.testing.assert_array_equal(pixels[..., 0], images.decode(jpeg))


@pytest.mark.slow
def test_training_and_pillow_decode_every_real_record_to_the_same_pixels(probability):
    """And so give the same probabilities: here for the last 64 of 5,232."""
    archive, pixels = source.open_archive(OTHERS), ([], [])
    with archive.reader() as read:
        records = images.parallel_map(
            lambda record: images.encode_resized(read(record), SIDE), archive.records
        )
        for record, jpeg in records:
            by_tensorflow, by_pillow = pipeline.decode(jpeg, None).numpy(), images.decode(jpeg)
            np.testing.assert_array_equal(by_tensorflow[..., 0], by_pillow, err_msg=record.key)
            pixels = [[*of, image][-64:] for of, image in zip(
                pixels, (by_tensorflow, by_pillow[..., None]), strict=True
            )]  # fmt: skip
    assert len(archive.records) == 5_232
    ours, theirs = (probability(np.stack(of)) for of in pixels)
    np.testing.assert_allclose(ours, theirs, atol=1e-6)


def test_a_file_scores_within_0_1_of_its_record(originals, records, probability):
    """They differ only by JPEG 95. Measured: 0.072 at most, 0.027 on average."""
    names = sorted(originals)
    files = np.stack([images.decode(originals[name], SIDE) for name in names])[..., None]
    read = np.stack([records[name] for name in names])
    assert np.abs(probability(files) - probability(read)).max() < 0.1
