"""The registry of backbones: a row each, and nothing that imports TensorFlow.

A row names a constructor that has the signature of `keras.applications`, beside a
`preprocess_input` in the same module. `model.build` reads the input scaling out of that function,
so a new backbone is one row here; the conformance tests then cover it.
"""

from __future__ import annotations

import dataclasses
import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclasses.dataclass(frozen=True)
class Backbone:
    """Where a feature extractor comes from, and the image side (px) that it was trained on."""

    module: str
    constructor: str
    image_size: int = 224

    def load_constructor(self) -> Callable[..., Any]:
        """Returns the constructor; imports Keras."""
        return getattr(importlib.import_module(self.module), self.constructor)

    def load_preprocessing(self) -> Callable[[Any], Any]:
        """Returns the `preprocess_input` that belongs to the constructor; imports Keras."""
        return importlib.import_module(self.module).preprocess_input


REGISTRY: dict[str, Backbone] = {
    # The paper's.
    "vgg16": Backbone("keras.applications.vgg16", "VGG16"),
    "inception_resnet_v2": Backbone(
        "keras.applications.inception_resnet_v2", "InceptionResNetV2", 299
    ),
    "mobilenet_v2": Backbone("keras.applications.mobilenet_v2", "MobileNetV2"),
    # What users reach for now.
    "xception": Backbone("keras.applications.xception", "Xception", 299),
    "densenet121": Backbone("keras.applications.densenet", "DenseNet121"),
    "efficientnet_v2_b0": Backbone("keras.applications.efficientnet_v2", "EfficientNetV2B0"),
    "convnext_tiny": Backbone("keras.applications.convnext", "ConvNeXtTiny"),
    # Trains from nothing on `phantom`.
    "small_cnn": Backbone("trainer.models.small_cnn", "SmallCNN", 128),
}
