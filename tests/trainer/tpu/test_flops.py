from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from trainer.models import classifier
from trainer.options import ModelOptions
from trainer.tpu import flops


@pytest.mark.parametrize("side", [1, 2, 7, 8])
@pytest.mark.parametrize("kernel", [1, 2, 3, 5])
@pytest.mark.parametrize(("stride", "dilation"), [(1, 1), (2, 1), (3, 1), (1, 2)])
def test_taps_are_those_that_a_convolution_of_ones_adds_up(side, kernel, stride, dilation):
    image, ones = np.ones((1, side, 1, 1), "f4"), np.ones((kernel, 1, 1, 1), "f4")
    added = tf.nn.conv2d(image, ones, (stride, 1), "SAME", dilations=(dilation, 1))
    taps = flops.taps_inside(side, kernel, stride, dilation, padding="same")
    assert taps == int(tf.reduce_sum(added))


def test_without_padding_every_tap_is_inside():
    assert flops.taps_inside(8, 3, 1, 1, padding="valid") == 6 * 3
    assert flops.taps_inside(8, 3, 2, 1, padding="valid") == 3 * 3
    assert flops.taps_inside(8, 3, 1, 2, padding="valid") == 4 * 3


@pytest.mark.parametrize(
    ("layer", "expected"),
    [
        # 7 x 7 taps of a 3 x 3 kernel on 3 x 3 positions.
        (keras.layers.Conv2D(5, 3, padding="same"), 2 * 49 * 4 * 5),
        (keras.layers.Conv2D(6, 3, padding="same", groups=2), 2 * 49 * 2 * 6),
        (keras.layers.DepthwiseConv2D(3, padding="same"), 2 * 49 * 4),
        (keras.layers.SeparableConv2D(5, 3, padding="same"), 2 * 49 * 4 + 2 * 9 * 4 * 5),
        (keras.layers.Dense(5), 2 * 9 * 4 * 5),
        (keras.layers.BatchNormalization(), 2 * 9 * 4),
        (keras.layers.ReLU(), 9 * 4),
        (keras.layers.GlobalAveragePooling2D(), 9 * 4),
        (keras.layers.Flatten(), 0),
    ],
)
def test_layers_are_counted_as_by_hand(layer, expected):
    layer(keras.Input((3, 3, 4)))
    assert flops.forward(layer) == expected


def test_vgg16_has_its_published_operations():
    """15.3e9 multiply-adds (He et al. 2015, arXiv:1512.03385, section 3.3), less its borders.

    The three dense layers that a feature extractor does without are 0.12e9 of them.
    """
    backbone = classifier.build_backbone(ModelOptions(backbone="vgg16"))
    assert 0.96 < flops.training(_frozen(backbone), 1) / (2 * 15.18e9) < 1


def _frozen(backbone: keras.Model) -> keras.Model:
    backbone.trainable = False
    return backbone


def test_a_step_goes_back_to_the_lowest_layer_that_trains():
    image = keras.Input((4,))
    below = keras.layers.Dense(4, trainable=False)
    trains = keras.layers.Dense(4)
    above = keras.layers.Dense(4, trainable=False)
    step = keras.Model(image, above(trains(below(image))))
    dense = 2 * 4 * 4
    # Forward thrice; the gradient of one layer's weights; of the input of the layer above it.
    assert flops.training(step, batch_size=3) == 3 * (3 * dense + dense + dense)
