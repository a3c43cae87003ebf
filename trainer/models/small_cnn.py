"""A small CNN without batch norm that trains from random weights in a minute or two.

Has the same interface as a module of `keras.applications`: a constructor and `preprocess_input`.
"""

from __future__ import annotations

from typing import Any

import keras


def SmallCNN(  # noqa: N802 -- Named as keras.applications names its constructors.
    *,
    weights: str | None = None,
    include_top: bool = False,
    input_shape: tuple[int, int, int] = (128, 128, 3),
    name: str = "small_cnn",
) -> keras.Model:
    """Builds the feature extractor: [B, H, W, 3] in [-1, 1] -> [B, H/16, W/16, 128].

    Raises:
      ValueError: when pretrained weights or a classification top are requested; it has neither.
    """
    if weights is not None or include_top:
        raise ValueError(
            f"small_cnn has no weights ({weights!r}) to load and no top ({include_top})."
        )
    image = keras.Input(input_shape)
    x = image
    for block, filters in enumerate((16, 32, 64, 128), start=1):
        x = keras.layers.Conv2D(
            filters,
            3,
            padding="same",
            activation="relu",
            kernel_initializer="he_normal",
            name=f"block{block}_conv",
        )(x)
        x = keras.layers.MaxPooling2D(name=f"block{block}_pool")(x)
    return keras.Model(image, x, name=name)


def preprocess_input(x: Any) -> Any:
    """Maps pixels in [0, 255] to [-1, 1]."""
    return x / 127.5 - 1.0
