"""What a saved model takes and refuses."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from tests.support import radiographs
from trainer.errors import ConfigError
from trainer.models import classifier, inputs, saved

SIZE = 32


@pytest.fixture(scope="module")
def model(path):
    loaded = saved.load(path)
    saved.explain_refusals(loaded)
    return loaded


@pytest.fixture(scope="module")
def plain(path):
    """The model as plain Keras loads it."""
    return keras.saving.load_model(path)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int32", "float32", "float64"])
def test_eight_bit_images_are_classified_as_in_training_whatever_holds_them(
    network, model, images, dtype
):
    expected = network.whole(images)
    np.testing.assert_array_equal(model(images.astype(dtype)), expected)
    np.testing.assert_array_equal(model(images.astype(dtype)[..., 0]), expected)


def test_a_black_image_is_classified(network, model):
    black = np.zeros((1, SIZE, SIZE, 1), np.uint8)
    np.testing.assert_array_equal(model(black), network.whole(black))


WRONG = {
    "divided by 255": lambda x: x / 255,
    "divided by 127.5, minus 1": lambda x: x / 127.5 - 1,
    "standardised": lambda x: (x - x.mean()) / x.std(),
    "12 bits": lambda x: x.astype(np.uint16) * 16,
    "16 bits": lambda x: x.astype(np.uint16) * 257,
    "not a number": lambda x: x * np.nan,
    "divided by 255 and rounded": lambda x: np.round(x / 255),
}


@pytest.mark.parametrize("how", WRONG)
def test_images_that_are_not_eight_bit_grey_levels_are_refused(plain, images, how):
    with pytest.raises(Exception, match="needs_grey_images_with_levels_0_to_255"):
        plain.predict(WRONG[how](images.astype(np.float64)), verbose=0)
    with pytest.raises(Exception, match=r"indices\[0\] = 1 is not in \[0, 1\)"):
        plain(WRONG[how](images.astype(np.float64)))


@pytest.mark.parametrize("channels", [3, 4])
@pytest.mark.parametrize("has_seen_other_shapes", [False, True])
@pytest.mark.parametrize("is_called", [False, True])
def test_colours_are_refused_by_the_name_of_the_check(
    path, images, channels, has_seen_other_shapes, is_called
):
    plain = keras.saving.load_model(path)
    for batch in [images, images[:1]][: 2 * has_seen_other_shapes]:
        plain.predict(batch, verbose=0)
    with pytest.raises(Exception, match="needs_grey_images_with_levels_0_to_255"):
        (plain if is_called else plain.predict)(np.repeat(images, channels, axis=-1))


def test_fractions_of_levels_are_classified_as_in_training(network, plain, images):
    fractions = images.astype(np.float32) * np.float32(0.987)
    features = network.trunk(network.preprocessing(fractions), training=False)
    np.testing.assert_array_equal(plain(fractions), network.head(features))


REMEDIES = {
    "divided by 255": "multiply by 255",
    "divided by 127.5, minus 1": "undo the standardisation",
    "standardised": "undo the standardisation",
    "12 bits": "dividing 12 bits by 16",
    "16 bits": "16 bits by 256",
    "not a number": "replace what is not finite",
    "divided by 255 and rounded": "multiply by 255",
}
WRONG_ARRAYS = {
    "colours": ((2, 32, 32, 3), r"PIL\.Image\.convert\('L'\)"),
    "colours and alpha": ((2, 32, 32, 4), "make colours grey"),
    "too small": ((2, 16, 64, 1), "16 x 64 pixels are too small to show a lung"),
    "a column": ((32,), r"cxr_tfds\.images\.decode reads a file"),
    "channels first": ((2, 1, 32, 32), r"give np\.moveaxis\(images, 1, -1\), with the ch"),
    "colours first": ((2, 3, 32, 32), r"np\.moveaxis\(images, 1, -1\).*, and make colours grey"),
    "one image in colours": ((32, 32, 3), "make colours grey"),
    "images last": ((32, 32, 5), "32 x 5 pixels are too small"),
    "one image": ((32, 32, 1), r"give images\[None\]"),
    "one image without an axis": ((32, 32), r"give images\[None\]"),
}


@pytest.mark.parametrize("how", WRONG)
def test_the_error_says_how_to_scale_images(model, images, how):
    with pytest.raises(
        ConfigError, match=rf"grey, \[B, H, W, 1\], .*: .*{REMEDIES[how]}"
    ) as raised:
        model.predict(WRONG[how](images.astype(np.float64)), verbose=0)
    assert "of shape (3, 32, 32, 1) and type" in str(raised.value)
    assert "\n" not in str(raised.value)
    with pytest.raises(ConfigError, match=REMEDIES[how]):
        model(WRONG[how](images.astype(np.float64)))


@pytest.mark.parametrize("kind", WRONG_ARRAYS)
def test_the_error_says_how_to_shape_images(model, kind):
    shape, remedy = WRONG_ARRAYS[kind]
    with pytest.raises(ConfigError, match=remedy):
        model.predict(np.ones(shape, np.uint8), verbose=0)
    with pytest.raises(ConfigError, match=remedy):
        model(tf.ones(shape))


def test_a_called_model_has_gradients_and_can_be_part_of_another(model, images):
    pixels = tf.constant(images.astype(np.float32))
    with tf.GradientTape() as tape:
        tape.watch(pixels)
        probabilities = model(pixels)
    assert tape.gradient(probabilities, pixels) is not None
    image = keras.Input((SIZE, SIZE, 1))
    np.testing.assert_array_equal(keras.Model(image, model(image))(pixels), probabilities)
    np.testing.assert_array_equal(tf.function(model)(pixels), model.predict(pixels, verbose=0))


@pytest.mark.parametrize(
    "files", ["a.jpeg", b"a.jpeg", ["a.jpeg"], ["a.jpeg", "b.jpeg"], {}, np.array(["a.jpeg"])]
)
def test_a_file_is_no_image(model, files):
    with pytest.raises(ConfigError, match=r"cxr_tfds\.images\.decode reads a file"):
        model.predict(files, verbose=0)


@pytest.mark.parametrize(
    ("convert", "remedy"),
    [
        (lambda x: x[:0], "there is no image in it"),
        (list, r"np\.stack\(images\)"),
        (lambda x: Image.fromarray(x[0, ..., 0]), r"give images\[None\]"),
        (lambda x: tf.constant(x / 255), "multiply by 255"),
        (lambda x: {"image": x / 255}, "multiply by 255"),
        (lambda x: (x / 255).astype(np.uint8), "divided by 255 and rounded"),
        (lambda x: x > 99, "a mask"),
        (lambda x: tf.data.Dataset.from_tensors(x / 255), "a batch of .*Dataset has images"),
    ],
)
def test_what_is_no_array_of_grey_levels_is_one_sentence(model, images, convert, remedy):
    with pytest.raises(ConfigError, match=remedy) as raised:
        model.predict(convert(images.astype(np.uint8)), verbose=0)
    assert "\n" not in str(raised.value)


def test_right_images_are_predicted_and_saved_again(model, images, tmp_path):
    bright = np.maximum(images.astype(np.uint8), 1)
    bright[0, 0, 0, 0] = 255
    for right in (images, images[..., 0], np.zeros_like(images), bright):
        batch = inputs.images(right)
        np.testing.assert_array_equal(batch[..., 0], right.reshape(-1, SIZE, SIZE))
    expected = model.predict(images, verbose=0)
    alike = (images[..., 0], tf.constant(images), [images], {"image": tf.constant(images)})
    for same in alike:  # The second has fewer axes than the first, which Keras does not take.
        np.testing.assert_array_equal(model.predict(same, verbose=0), expected)
    stored = tf.data.Dataset.from_tensor_slices(images).batch(2)
    np.testing.assert_array_equal(model.predict(stored, verbose=0), expected)
    model.save(tmp_path / "again.keras")
    again = keras.saving.load_model(tmp_path / "again.keras")
    np.testing.assert_array_equal(again.predict(images, verbose=0), expected)


@pytest.mark.parametrize("how", WRONG)
def test_where_nothing_can_fail_the_answer_is_nan(model, images, how):
    """XLA, as a TPU uses it, reads the last element in place of one that isn't there."""
    compiled = tf.function(model, jit_compile=True)
    wrong = np.float32(WRONG[how](images.astype(np.float64)))
    assert np.isnan(compiled(wrong)).all()


@pytest.mark.parametrize("count", [1, 2, 3])
def test_colours_are_refused_also_after_tracing_for_any_shape(path, count):
    model = keras.saving.load_model(path)
    for side in (SIZE, 40, 50):
        model.predict(np.zeros((count, side, SIZE, 1), np.uint8), verbose=0)
    with pytest.raises(Exception, match=classifier.INPUT_CHECK):
        model.predict(np.ones((count, 32, 32, 3), np.uint8), verbose=0)


SIZES = [(64, 64), (300, 500), (33, 200), (32, 31), (20, 20), (1000, 40)]


@pytest.mark.parametrize("size", SIZES)
def test_images_of_any_size_are_stretched_as_the_data_set_stretches_them(plain, size):
    large = radiographs.noise(1, 64)[0, ..., 0]
    image = Image.fromarray(large).resize(size, Image.Resampling.BICUBIC)
    right = np.asarray(image.resize((SIZE, SIZE), Image.Resampling.BILINEAR))
    stretched = plain.get_layer("stretch")(np.float32(image)[None])[0, ..., 0]
    # Pillow rounds twice: the columns, and then the rows.
    np.testing.assert_allclose(stretched, right, atol=1.001)
    assert abs(np.mean(stretched - right)) < 0.5
    assert plain.predict(np.asarray(image)[None, ..., None], verbose=0).shape == (1, 2)


@pytest.mark.parametrize("level", [0, 1.5, 200, 255])
def test_a_plain_image_keeps_its_level_in_any_size(plain, level):
    image = np.full((1, 77, 1234), level, np.float32)
    np.testing.assert_allclose(plain.get_layer("stretch")(image), level, rtol=1e-5)


def test_a_model_of_one_size_as_earlier_versions_saved_says_which(network):
    old = keras.Model(network.whole.input, network.whole.output)
    saved.explain_refusals(old)
    with pytest.raises(ConfigError, match=r"\[B, 32, 32, 1\], .*: resize each, as .*, 32\) does"):
        old.predict(np.ones((2, 64, 64, 1), np.uint8), verbose=0)
