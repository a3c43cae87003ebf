"""Builds the network: preprocessing, a partly frozen backbone and a head, in one Keras model.

    image [B, H, W, 1] uint8 -> preprocessing -> trunk (backbone, pooling) -> head -> [B, K] float32

Everything between a grey image and class probabilities is part of the model and consists of Keras's
own layers: a saved model loads without this package, and refuses wrongly scaled images.

    network = classifier.build(config.model, image_shape=(224, 224, 1), num_classes=2)
    network.whole(images)
"""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING

import keras
import numpy as np

from trainer import backbones, options
from trainer.errors import ConfigError
from trainer.models import dropout, footprint, inference_mode, weights
from trainer.options import unfreezing
from trainer.system import text

if TYPE_CHECKING:
    from trainer.options import ModelOptions

POOLINGS = {"flatten": "flatten", "average_pool": "avg", "average_max_pool": "avgmax"}
"""The option's value by the name of the trunk's last layer, which tells it in a saved model."""

INPUT_CHECK = "needs_grey_images_with_levels_0_to_255"
"""The model that refuses what a classifier can't take; errors carry its name."""
_CHANNEL_FIRST = (0, 3, 1, 2)


@dataclasses.dataclass(frozen=True)
class Network:
    """The whole model and the three models that it consists of; all share their variables.

    Attributes:
      whole: [B, H, W, 1] uint8 -> [B, K] float32 probabilities.
      preprocessing: [B, H, W, 1] in 0..255 -> [B, S, S, 3] float32, scaled for the backbone.
      trunk: preprocessed images -> pooled features [B, D]; one graph without nested models, so
        that it can be cut at any layer.
      head: pooled features -> [B, K] float32 probabilities.
      origin: where the weights come from, a sentence; empty if the option `weights` says it all.
      unfrozen: what `layers_to_unfreeze` adds to what trains, a sentence; empty if it is 0.
    """

    whole: keras.Model
    preprocessing: keras.Model
    trunk: keras.Model
    head: keras.Model
    origin: str = ""
    unfrozen: str = ""


def build(
    config: ModelOptions,
    image_shape: tuple[int, int, int],
    num_classes: int,
    *,
    loads_weights: bool = True,
) -> Network:
    """Builds the network under the current dtype policy, distribution strategy and seed.

    Args:
      config: the model options.
      image_shape: (H, W, 1) of the images in a batch.
      num_classes: number of outputs.
      loads_weights: false: the values of the weights don't matter, but what trains is the same.

    Raises:
      ConfigError: when the backbone does not support this image size, has fewer layers than are
        to be unfrozen or none of them has weights, or the head can't fit into memory.
      RunError: when the weights can't be loaded or don't fit.
    """
    unfreezing.check(config)
    backbone = build_backbone(config)
    origin = weights.load(backbone, config) if loads_weights else weights.Origin()
    freeze(backbone, config.layers_to_unfreeze)
    if config.is_untrained and config.layers_to_unfreeze == options.ALL_LAYERS:
        inference_mode.leave(backbone)
    else:
        inference_mode.keep(backbone)
    pooled = _pool(config.pooling, backbone.output)
    trunk = keras.Model(backbone.input, pooled, name=config.backbone)
    preprocessing = _build_preprocessing(config, image_shape)
    footprint.require_head(pooled.shape[-1], config.neurons, config.dense_layers)
    head = _build_head(config, pooled.shape[-1], num_classes)
    said = weights.load_head(head, origin)
    image = keras.Input(image_shape, dtype="uint8", name="image")
    probabilities = head(trunk(preprocessing(image)))
    whole = keras.Model(image, probabilities, name=f"{config.backbone}_classifier")
    added = _unfrozen_weights(backbone, config.layers_to_unfreeze)
    return Network(whole, preprocessing, trunk, head, said, added)


def with_checked_input(network: Network) -> keras.Model:
    """Returns the form in which a network is saved: any grey image in, or none that it can't read.

    It takes float32 instead of uint8. Keras casts what a model is fed, and a model of uint8 would
    see an image in [0, 1] as black, without a word. This one gives every 8-bit image of the
    network's size the same probabilities, and stretches images of other sizes to it, as the data
    set does. It fails for colours, for images that are not in 0..255, and for those that have
    levels of 0 to 1 alone, unless they are black. Training and its evaluation use the network
    without all this.

    Returns:
      [B, H, W, 1] of any H and W, grey levels 0 to 255 -> [B, K] float32 probabilities; it shares
      the network's variables.
    """
    shape = network.whole.input.shape[1:]
    image = keras.Input((None, None, 1), dtype="float32", name="image")
    checked, factor = _build_check()(keras.ops.transpose(image, _CHANNEL_FIRST))
    stretched = _build_stretch(*shape[:2])(checked)
    probabilities = network.head(network.trunk(network.preprocessing(stretched)))
    name = network.whole.name
    return keras.Model(image, keras.ops.multiply(probabilities, factor), name=name)


def without_check(model: keras.Model) -> keras.Model:
    """Returns a saved model for images that are known to be right: without check and stretch.

    Returns:
      [B, S, S, 1] uint8 -> [B, K] float32 probabilities; it shares the model's variables.
    """
    preprocessing, trunk, head = parts_of(model)
    image = keras.Input(preprocessing.input.shape[1:], dtype="uint8", name="image")
    return keras.Model(image, head(trunk(preprocessing(image))), name=model.name)


def parts_of(model: keras.Model) -> tuple[keras.Model, keras.Model, keras.Model]:
    """Returns preprocessing, trunk and head of a whole network, or of a saved one."""
    names = [layer.name for layer in model.layers]
    first = names.index("preprocessing")  # Keras sorts layers by their depth.
    return model.layers[first], model.layers[first + 1], model.get_layer("head")


def side_of(model: keras.Model) -> int:
    """Returns the height and width, in pixels, of the images that a saved model was trained on."""
    side: int = model.get_layer("preprocessing").input.shape[1]
    return side


def _build_check() -> keras.Model:
    """Builds images [B, 1, H, W] -> images [B, H, W] and 1 [B, 1].

    It fails, or returns NaN, for what the classifier can't take, and comes before all other layers,
    so that the error has its name. Plain Keras has no assertion. Reading element 1 of a vector of
    length 1 fails on a CPU, with the name of this model in the message; where it doesn't (on a GPU,
    under XLA), the factor is NaN. Keras's own check of the shape lets any number of channels pass
    where one is expected in the last place, so they come first here; and it ends when a loaded
    model has been traced for images of any size: a matrix product fails for another number.
    """
    ops = keras.ops
    image = keras.Input((1, None, None), dtype="float32", name="image")
    grey = ops.max(image, 1)
    nothing = ops.matmul(ops.max(image, (2, 3)), ops.zeros((1, 1)))
    is_level = ops.logical_and(ops.greater_equal(grey, 0.0), ops.less_equal(grey, 255.0))
    # Divided by 255, an image has no level above 1; neither has a black one, whose level is 0.
    highest = ops.max(grey, (1, 2))
    is_levels = ops.logical_or(ops.equal(highest, 0.0), ops.greater(highest, 1.0))
    is_right = ops.logical_and(ops.all(is_level, (1, 2)), is_levels)
    factor = ops.take(ops.ones((1,)), ops.cast(ops.logical_not(is_right), "int32"))
    factor = ops.add(ops.expand_dims(ops.where(is_right, factor, float("nan")), -1), nothing)
    checked = ops.multiply(grey, ops.expand_dims(factor, 1))
    return keras.Model(image, [checked, factor], name=INPUT_CHECK)


def _build_stretch(height: int, width: int) -> keras.Model:
    """Builds images [B, H, W] of any size -> [B, height, width, 1].

    The filter is the data set's (`cxr_tfds.images.decode`): bilinear, widened where it reduces. As
    two matrix products it runs on every device and in every format that a model is exported to;
    Keras's own Resizing doesn't widen, which lets a radiograph of 2,000 pixels alias, and
    TensorFlow's antialiasing resize has no kernel for GPUs, TPUs, ONNX and LiteRT. An image that
    has the right size is multiplied by the identity, and is the same to the bit.
    """
    ops = keras.ops
    image = keras.Input((None, None), dtype="float32", name="image")
    rows = _bilinear_weights(ops.max(image, (0, 2)), height)
    columns = _bilinear_weights(ops.max(image, (0, 1)), width)
    stretched = ops.matmul(ops.matmul(rows, image), ops.transpose(columns))
    return keras.Model(image, ops.expand_dims(stretched, -1), name="stretch")


def _bilinear_weights(line: keras.KerasTensor, size: int) -> keras.KerasTensor:
    """Returns what each of `size` pixels takes from each of the N of a line, [size, N]; sums are 1.

    Keras has no symbolic shape: the running sum of N ones gives positions, and the largest is N.
    """
    ops = keras.ops
    ends = ops.cumsum(ops.ones_like(line))
    scale = ops.divide(ops.max(ends), size)
    middles = ops.expand_dims(ops.arange(size, dtype="float32") + 0.5, 1)
    centres = ops.multiply(middles, scale)
    distance = ops.absolute(ops.subtract(ops.subtract(ends, 0.5), centres))
    weights = ops.relu(ops.subtract(1.0, ops.divide(distance, ops.maximum(scale, 1.0))))
    return ops.divide(weights, ops.sum(weights, 1, keepdims=True))


def build_backbone(config: ModelOptions) -> keras.Model:
    """Builds the feature extractor with random weights.

    Raises:
      ConfigError: when the backbone does not support this image size.
    """
    size = config.backbone_image_size
    constructor = backbones.REGISTRY[config.backbone].load_constructor()
    try:
        return constructor(weights=None, include_top=False, input_shape=(size, size, 3))
    except ValueError as error:
        own, reason = backbones.REGISTRY[config.backbone].image_size, text.first_line(error)
        raise ConfigError(
            f"image_size ({size}) does not fit {config.backbone} ({reason}); its own is {own}."
        ) from error


def freeze(backbone: keras.Model, layers_to_unfreeze: str) -> None:
    """Freezes all layers but the last ones, and every batch norm layer.

    A frozen batch norm layer uses its stored statistics. Fine-tuning on small batches would replace
    them by noisy ones.
    """
    count = len(backbone.layers)
    unfrozen = count if layers_to_unfreeze == options.ALL_LAYERS else int(layers_to_unfreeze)
    for position, layer in enumerate(backbone.layers):
        is_batch_norm = isinstance(layer, keras.layers.BatchNormalization)
        layer.trainable = position >= count - unfrozen and not is_batch_norm


def _unfrozen_weights(backbone: keras.Model, layers_to_unfreeze: str) -> str:
    """Returns what unfreezing adds: of N layers, many have no weights, or stay frozen."""
    layers = [layer for layer in backbone.layers if layer.trainable_weights]
    if not layers:
        return ""
    count = sum(math.prod(weight.shape) for layer in layers for weight in layer.trainable_weights)
    names = " … ".join(dict.fromkeys((layers[0].name, layers[-1].name)))
    return (
        f"--layers_to_unfreeze={layers_to_unfreeze} adds {count:,} weights of "
        f"{text.counted(len(layers), 'layer')} ({names})."
    )


def _pool(pooling: str, feature_map: keras.KerasTensor) -> keras.KerasTensor:
    average = keras.layers.GlobalAveragePooling2D(name="average_pool")
    if pooling == "flatten":
        return keras.layers.Flatten(name="flatten")(feature_map)
    if pooling == "avg":
        return average(feature_map)
    maximum = keras.layers.GlobalMaxPooling2D(name="max_pool")
    return keras.layers.Concatenate(name="average_max_pool")(
        [average(feature_map), maximum(feature_map)]
    )


def _build_preprocessing(config: ModelOptions, image_shape: tuple[int, int, int]) -> keras.Model:
    """Builds the model that resizes if need be, repeats grey to three channels and scales.

    It computes in float32 under every dtype policy: 16-bit floats would round the pixels.
    """
    size = config.backbone_image_size
    scale, offset = input_scaling(config.backbone)
    x = image = keras.Input(image_shape, dtype="float32", name="image")
    if image_shape[:2] != (size, size):
        # Only ever enlarges: the input pipeline shrinks larger images, with antialiasing, which
        # this layer lacks.
        x = keras.layers.Resizing(size, size, dtype="float32", name="resize")(x)
    x = keras.layers.Concatenate(dtype="float32", name="grey_to_rgb")([x, x, x])
    x = keras.layers.Rescaling(scale, offset, dtype="float32", name="scale")(x)
    return keras.Model(image, x, name="preprocessing")


def input_scaling(backbone: str) -> tuple[list[float], list[float]]:
    """Returns the scale and offset of each channel in the backbone's own `preprocess_input`.

    Every `preprocess_input` of keras.applications is affine in each channel, so two probes suffice
    (on grey images, swapping red and blue changes nothing). A saved model contains a Rescaling
    layer with these numbers; it could not contain the function. Conformance tests compare the two.
    """
    preprocess_input = backbones.REGISTRY[backbone].load_preprocessing()
    black, white = (
        np.reshape(preprocess_input(np.full((1, 1, 1, 3), value, np.float32)), 3).astype(float)
        for value in (0.0, 255.0)
    )
    return ((white - black) / 255).tolist(), black.tolist()


def _build_head(config: ModelOptions, width: int, num_classes: int) -> keras.Model:
    """Builds the head, which computes in float32 under every policy.

    In 16 bits, softmax loses small probabilities, and the dense layers round what is trained. 16
    bits gain nothing here, as the weights are float32 and would be cast in every step: on two CPUs
    with AVX-512's bf16, a step on VGG16's features takes 1.1 ms either way if they are pooled, and
    52 against 51 ms if they are not (25,088 of them; 256 neurons, batches of 32).
    """
    features = keras.Input((width,), name="features")
    x = features
    for i in range(1, config.dense_layers + 1):
        x = keras.layers.Dense(
            config.neurons, activation="relu", dtype="float32", name=f"dense_{i}"
        )(x)
        x = dropout.layer(config.dropout, f"dropout_{i}")(x)
    probabilities = keras.layers.Dense(
        num_classes, activation="softmax", dtype="float32", name="probabilities"
    )(x)
    return keras.Model(features, probabilities, name="head")
