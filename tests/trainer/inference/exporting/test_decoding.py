"""A server decodes files to the pixels of the data set, or refuses them."""

from __future__ import annotations

import io

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from cxr_tfds import images
from cxr_tfds.radiographs import reading
from tests.support import radiographs
from trainer.inference.exporting import decoding

SIDE = 48


@pytest.fixture(scope="module")
def decode():
    """One graph for all files, as a server has it."""
    spec = tf.TensorSpec((), tf.string)

    @tf.function(input_signature=[spec], autograph=False)
    def decode(content):
        return decoding.decode(content, SIDE)

    return decode


def test_a_file_is_stretched_twice_as_prediction_does():
    content = radiographs.draw(3, size=(301, 223))
    found = decoding.decode(tf.constant(content), 224, SIDE).numpy()[..., 0]
    np.testing.assert_array_equal(found, reading.read(content, 224, SIDE).pixels)


@pytest.mark.parametrize("size", [(48, 48), (40, 61), (301, 223), (1200, 901)])
@pytest.mark.parametrize(
    ("mode", "kind"),
    [
        ("L", "JPEG"),
        ("RGB", "JPEG"),
        ("L", "PNG"),
        ("RGB", "PNG"),
        ("RGBA", "PNG"),
        ("LA", "PNG"),
        ("P", "PNG"),
        ("L", "BMP"),
        ("RGB", "BMP"),
    ],
)
def test_pixels_are_those_of_the_data_set(decode, mode, kind, size):
    content = radiographs.draw(1, mode=mode, size=size, format=kind)
    np.testing.assert_array_equal(decode(content)[..., 0], images.decode(content, SIDE))


def test_colours_become_luma_as_pillow_rounds_it(decode):
    colours = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3)).astype(np.uint8)
    content = _file(Image.fromarray(colours), "PNG")
    np.testing.assert_array_equal(decode(content)[..., 0], images.decode(content, SIDE))


def _file(image, kind, **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def _turned(kind, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return radiographs.draw(2, format=kind, exif=exif)


def _palette_of_colours():
    image = Image.open(io.BytesIO(radiographs.draw(2, mode="P", format="BMP")))
    image.putpalette(list(range(255, -1, -1)) * 3)
    return _file(image, "BMP")


def _transparent():
    image = Image.open(io.BytesIO(radiographs.draw(2, mode="RGBA", format="PNG")))
    image.putalpha(100)
    return _file(image, "PNG")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (_turned("JPEG", 6), "upright"),
        (_turned("PNG", 3), "upright"),
        (_palette_of_colours(), "palette"),
        (_transparent(), "transparent"),
        (radiographs.draw(2, mode="CMYK"), "CMYK"),
        (_file(Image.fromarray(np.full((40, 40), 4000, np.uint16)), "PNG"), "16 bits"),
        (radiographs.draw(2)[:-300], "JPEG"),
        (b"GIF89a", "not JPEG, PNG or BMP"),
        (b"", "not JPEG, PNG or BMP"),
    ],
    ids=["JPEG", "PNG", "palette", "alpha", "CMYK", "16 bits", "truncated", "GIF", "empty"],
)
def test_what_would_decode_otherwise_is_refused(decode, content, message):
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        decode(content)


def test_an_upright_orientation_is_accepted(decode):
    content = _turned("JPEG", 1)
    np.testing.assert_array_equal(decode(content)[..., 0], images.decode(content, SIDE))
