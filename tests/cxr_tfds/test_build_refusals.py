"""What ends a build in a line, and which originals are stored as they are."""

from __future__ import annotations

import io
import pathlib
import subprocess
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds
from PIL import ExifTags, Image

import cxr_tfds
from cxr_tfds import cxr_tfds_dataset_builder, images, source
from tests.support import radiographs

pytestmark = pytest.mark.filterwarnings(
    # TFDS reads its info files by a method that protobuf 6 deprecates.
    r"ignore:label\(\) is deprecated:DeprecationWarning"
)

ROOT = pathlib.Path(cxr_tfds.__file__).parents[1]


def test_an_unknown_config_names_the_nearest(tmp_path: pathlib.Path) -> None:
    with pytest.raises(source.SourceError, match=r"no config 'groupd'\. Did you mean grouped\?"):
        tfds.builder("cxr_tfds/groupd", data_dir=tmp_path)


@pytest.mark.parametrize(
    ("arguments", "lines"),
    [
        (["--config=groupd"], ["cxr_tfds has no config 'groupd'. Did you mean grouped?"]),
        pytest.param(
            ["--config=grouped", "--manual_dir=/nowhere"],
            ["Manual directory /nowhere does not exist", *source.HOW_TO_OBTAIN.splitlines()],
            marks=pytest.mark.slow,
        ),
        pytest.param(
            ["--config=phantom", "--data_dir=/proc/nowhere"],
            ["cxr_tfds/phantom can't be built in /proc/nowhere"],
            marks=pytest.mark.slow,
        ),
    ],
)
def test_tfds_build_ends_with_our_lines_alone(
    arguments: list[str], lines: list[str], tfds_command: str, tmp_path: pathlib.Path
) -> None:
    command = [tfds_command, "build", "cxr_tfds", f"--data_dir={tmp_path}", *arguments]
    ended = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert ended.returncode == 1
    assert "Traceback" not in ended.stderr
    assert all(line in ended.stderr for line in lines)


ORIENTED = Image.Exif()
ORIENTED[ExifTags.Base.Orientation] = 6


@pytest.mark.parametrize(
    "options",
    [
        {"format": "PNG"},
        {"format": "TIFF"},
        {"format": "BMP"},
        {"format": "WEBP", "lossless": True},
        {"mode": "RGB"},
        {"mode": "CMYK"},
        {"progressive": True},
        {"restart_marker_blocks": 3},
        {"exif": ORIENTED},
        {"exif": ORIENTED, "mode": "RGB"},
    ],
)
def test_every_original_is_stored_as_tensorflow_reads_it(options: dict[str, Any]) -> None:
    data = radiographs.draw(0, size=(96, 64), **options)
    stored = images.encode_original(data)
    pixels = pipeline_pixels(stored)
    assert np.abs(pixels - images.decode(data).astype(int)).max() <= 3
    np.testing.assert_array_equal(pixels, images.decode(stored))


def pipeline_pixels(jpeg: bytes) -> np.ndarray:
    decoded = tf.io.decode_jpeg(jpeg, channels=1, dct_method="INTEGER_ACCURATE")
    return decoded.numpy()[..., 0].astype(int)


def test_bytes_that_tensorflow_decodes_to_other_pixels_are_refused() -> None:
    check = cxr_tfds_dataset_builder._require_equal_decoders
    data, other = (radiographs.draw(seed, size=(96, 64)) for seed in (0, 1))
    check(data, Image.open(io.BytesIO(data)))
    with pytest.raises(ValueError, match="different pixels by Pillow and TensorFlow"):
        check(data, Image.open(io.BytesIO(other)))
    check(radiographs.draw(0, mode="RGB"), Image.open(io.BytesIO(other)))  # Not kept.
