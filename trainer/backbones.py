"""The registry of backbones, one row each. Does not import TensorFlow.

A row names a constructor with the signature of those in `keras.applications`. The same module must
have a `preprocess_input`: `classifier.build` derives the input scaling from it. A new backbone
therefore takes one new row, which the conformance tests then check and cover.

    backbones.REGISTRY["vgg16"].load_constructor()      # keras.applications.vgg16.VGG16
"""

from __future__ import annotations

import dataclasses
import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclasses.dataclass(frozen=True)
class TopLayer:
    """The last layer of a backbone whose weights train if it is unfrozen.

    Layers above it have none: pools and activations, and batch norm, which stays frozen.

    Attributes:
      name: of the layer; Keras may add a number to it.
      position: counted from the top, from 1: the smallest `layers_to_unfreeze` that adds weights.
      num_weights: how many it adds.
    """

    name: str
    position: int
    num_weights: int


@dataclasses.dataclass(frozen=True)
class Backbone:
    """Where a feature extractor is defined.

    Attributes:
      module: the module to import.
      constructor: the name of the constructor in this module.
      num_layers: number of its layers, the limit of `layers_to_unfreeze`.
      landmark: a layer with weights that none of the others has, by which a file is recognized.
      top: the last layer that unfreezing lets train.
      image_size: side (px) of the square images that the pretrained weights were trained on.
      is_pretrained: whether there are ImageNet weights.
      has_batch_norm: whether some of its layers are batch norm's.
    """

    module: str
    constructor: str
    num_layers: int
    landmark: str
    top: TopLayer
    image_size: int = 224
    is_pretrained: bool = True
    has_batch_norm: bool = True

    def load_constructor(self) -> Callable[..., Any]:
        """Returns the constructor; imports Keras."""
        return getattr(importlib.import_module(self.module), self.constructor)

    def load_preprocessing(self) -> Callable[[Any], Any]:
        """Returns the `preprocess_input` of the same module; imports Keras."""
        return importlib.import_module(self.module).preprocess_input


REGISTRY: dict[str, Backbone] = {
    # The paper's backbones.
    "vgg16": Backbone(
        "keras.applications.vgg16",
        "VGG16",
        19,
        "block5_conv3",
        TopLayer("block5_conv3", 2, 2_359_808),
        has_batch_norm=False,
    ),
    "inception_resnet_v2": Backbone(
        "keras.applications.inception_resnet_v2",
        "InceptionResNetV2",
        780,
        "conv_7b",
        TopLayer("conv_7b", 3, 3_194_880),
        299,
    ),
    "mobilenet_v2": Backbone(
        "keras.applications.mobilenet_v2",
        "MobileNetV2",
        154,
        "Conv_1",
        TopLayer("Conv_1", 3, 409_600),
    ),
    # Common choices today.
    "xception": Backbone(
        "keras.applications.xception",
        "Xception",
        132,
        "block14_sepconv2",
        TopLayer("block14_sepconv2", 3, 3_159_552),
        299,
    ),
    "densenet121": Backbone(
        "keras.applications.densenet",
        "DenseNet121",
        427,
        "conv5_block16_2_conv",
        TopLayer("conv5_block16_2_conv", 4, 36_864),
    ),
    "efficientnet_v2_b0": Backbone(
        "keras.applications.efficientnet_v2",
        "EfficientNetV2B0",
        270,
        "block6h_project_conv",
        TopLayer("top_conv", 3, 245_760),
    ),
    "convnext_tiny": Backbone(
        "keras.applications.convnext",
        "ConvNeXtTiny",
        133,
        "convnext_tiny_stem_conv",
        TopLayer("layer_normalization", 1, 1_536),
        has_batch_norm=False,
    ),
    # Without pretrained weights: trains on `phantom` from random ones.
    "small_cnn": Backbone(
        "trainer.models.small_cnn",
        "SmallCNN",
        9,
        "block4_conv",
        TopLayer("block4_conv", 2, 73_856),
        128,
        is_pretrained=False,
        has_batch_norm=False,
    ),
}
