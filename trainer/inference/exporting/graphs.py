"""The graphs that are exported, as SavedModels: the one for servers, and those for converters.

    graphs.save_for_serving(model, facts, folder)
    graphs.save_for_converting(model, ("litert", "onnx"), folder)

All of them refuse wrong pixels. The saved model's own check stays where it can: in TensorFlow and
ONNX. LiteRT compares numbers of 8 bits otherwise, and gets checks that it computes.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, cast

import tensorflow as tf

from trainer.inference.exporting import decoding, parts
from trainer.runs import model_facts

if TYPE_CHECKING:
    import pathlib
    from collections.abc import Mapping, Sequence

    import keras

    from trainer.models.archive import ModelFacts

INPUT, OUTPUT, FEATURES = "images", "probabilities", "features"
METADATA_FILE = "model.json"
"""Where `assets.extra` of a SavedModel has the facts."""


def save_for_serving(model: keras.Model, facts: Mapping[str, Any], folder: pathlib.Path) -> None:
    """Writes a SavedModel that TensorFlow Serving takes as it is: no code of ours or of Keras's.

    Its signatures, whose outputs all have B rows, as TensorFlow Serving's REST interface wants:

        serving_default  images [B, H, W, 1] float32, levels 0 to 255
        serve_uint8      images [B, H, W, 1] uint8
        serve_bytes      contents [B] string: JPEG, PNG or BMP files
        metadata         nothing -> json: the facts

    Args:
      model: a saved model in float32.
      facts: what it should be used with, as JSON.
      folder: to be written.
    """
    side, answer = parts.side(model), _Answer(facts, int(model.output.shape[-1]))
    sides = model_facts.sides(cast("ModelFacts", facts), side)
    shape = tuple(model.input.shape)

    def serving_default(images: tf.Tensor) -> dict[str, tf.Tensor]:
        return answer.of(model(images, training=False))

    def serve_uint8(images: tf.Tensor) -> dict[str, tf.Tensor]:
        return answer.of(model(tf.cast(images, tf.float32), training=False))

    def serve_bytes(contents: tf.Tensor) -> dict[str, tf.Tensor]:
        one = tf.TensorSpec((side, side, 1), tf.float32)
        images = tf.map_fn(
            lambda content: decoding.decode(content, *sides), contents, fn_output_signature=one
        )
        return answer.of(model(images, training=False))

    def metadata() -> dict[str, tf.Tensor]:
        return {"json": tf.constant(json.dumps(dict(facts)))}

    specs = {
        serving_default: [tf.TensorSpec(shape, tf.float32, INPUT)],
        serve_uint8: [tf.TensorSpec(shape, tf.uint8, INPUT)],
        serve_bytes: [tf.TensorSpec((None,), tf.string, "contents")],
        metadata: [],
    }
    _save(model, specs, folder)
    extra = folder / "assets.extra"
    extra.mkdir()
    text = json.dumps(dict(facts), indent=2, allow_nan=False) + "\n"
    (extra / METADATA_FILE).write_text(text, encoding="utf-8")


def save_for_converting(model: keras.Model, names: Sequence[str], folder: pathlib.Path) -> None:
    """Writes the graphs that the converters start from.

    Args:
      model: a saved model in float32.
      names: of the formats; the others are left out.
      folder: to be written.
    """
    side = parts.side(model)

    def litert(images: tf.Tensor) -> dict[str, tf.Tensor]:
        return {OUTPUT: parts.classify(model, parts.features(model, _checked(images)))}

    def litert_int8(images: tf.Tensor) -> dict[str, tf.Tensor]:
        pooled = parts.features(model, _checked_levels(images))
        return {OUTPUT: parts.classify(model, pooled), FEATURES: pooled}

    def onnx(images: tf.Tensor) -> dict[str, tf.Tensor]:
        return {OUTPUT: model(images, training=False)}

    square = tf.TensorSpec((None, side, side, 1), tf.float32, INPUT)
    own = tf.TensorSpec(tuple(model.input.shape), tf.float32, INPUT)
    specs = {litert: [square], litert_int8: [square], onnx: [own]}
    wanted = {function: given for function, given in specs.items() if function.__name__ in names}
    _save(model, wanted, folder)


def _save(model: keras.Model, specs: dict[Any, list[tf.TensorSpec]], folder: pathlib.Path) -> None:
    module = tf.Module()
    # The variables of TensorFlow, not Keras's objects: the file then asks for no Keras to load it.
    module.weights = [variable.value for variable in model.variables]
    # The converter to 8 bits corrects this bias.
    module.kernel, module.bias = (weight.value for weight in parts.first_dense(model).weights)
    with parts.without_xla():
        signatures = {
            function.__name__: tf.function(function, autograph=False).get_concrete_function(*given)
            for function, given in specs.items()
        }
    tf.saved_model.save(module, str(folder), signatures=signatures)


class _Answer:
    """What a server answers of probabilities [B, K]."""

    def __init__(self, facts: Mapping[str, Any], num_classes: int) -> None:
        numbered = [f"class_{index}" for index in range(num_classes)]
        self._names = list(facts.get("class_names") or numbered)
        self._threshold = facts.get("threshold") if num_classes == 2 else None
        self._temperature = facts.get("temperature") or 1.0
        named = facts.get("positive_class")
        self._positive = self._names.index(named) if named in self._names else 1

    def of(self, probabilities: tf.Tensor) -> dict[str, tf.Tensor]:
        chosen = self._chosen(probabilities)
        names = tf.constant(self._names)
        shown = tf.fill(tf.shape(chosen), self._positive) if len(self._names) == 2 else chosen
        return {
            OUTPUT: probabilities,
            "calibrated_probability": tf.gather(
                self._calibrated(probabilities), shown, batch_dims=1
            ),
            "class": tf.gather(names, chosen),
            "class_names": tf.tile(names[tf.newaxis], (tf.shape(probabilities)[0], 1)),
        }

    def _chosen(self, probabilities: tf.Tensor) -> tf.Tensor:
        """Returns the class's number at the operating point, or else the most probable one."""
        if self._threshold is None:
            return tf.argmax(probabilities, 1, output_type=tf.int32)
        # As `Predictions.decided`: rounding may take a softmax beyond 1, and float32 the threshold.
        score = tf.cast(tf.clip_by_value(probabilities[:, self._positive], 0.0, 1.0), tf.float64)
        is_positive = score >= tf.constant(self._threshold, tf.float64)
        return tf.where(is_positive, self._positive, 1 - self._positive)

    def _calibrated(self, probabilities: tf.Tensor) -> tf.Tensor:
        smallest = tf.constant(1.1754944e-38, tf.float32)
        logits = tf.math.log(tf.maximum(probabilities, smallest))
        return tf.nn.softmax(logits / tf.constant(self._temperature, tf.float32))


def _checked(images: tf.Tensor) -> tf.Tensor:
    """Returns images as they are; wrong ones fail on a CPU, and become NaN where that doesn't.

    As `classifier.with_checked_input`: outside of 0 to 255, and levels of 0 to 1 alone unless all
    are 0.
    """
    lowest = tf.reduce_min(images, (1, 2, 3), keepdims=True)
    highest = tf.reduce_max(images, (1, 2, 3), keepdims=True)
    is_level = (lowest >= 0.0) & (highest <= 255.0)
    is_right = is_level & (tf.equal(highest, 0.0) | (highest > 1.0))
    factor = tf.gather(tf.ones((1,)), tf.cast(~is_right, tf.int32))
    return images * tf.where(is_right, factor, float("nan"))


def _checked_levels(images: tf.Tensor) -> tf.Tensor:
    """Returns images of whole levels as they are; those of 0 and 1 alone fail, unless all are 0.

    LiteRT aborts the process when it compares quantised numbers, so int32 are compared. Elements of
    8 bits are never outside of 0 to 255.
    """
    highest = tf.cast(tf.reduce_max(images, (1, 2, 3)), tf.int32)
    index = tf.cast(tf.equal(highest, 1), tf.int32)
    return images * tf.reshape(tf.gather(tf.ones((1,)), index), (-1, 1, 1, 1))
