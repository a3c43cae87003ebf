"""Saves and loads the model of a run, in a form that plain Keras reads.

    saved.save(network, run_dir / "best.keras")
    model = saved.load(run_dir / "best.keras")
    saved.require_built_by(model, config.model, run_dir / "best.keras")
    saved.precision_of(model)                      # "mixed_bfloat16"

A run may come from someone else: `archive` checks the file before Keras builds anything from it.
"""

from __future__ import annotations

import functools
import json
import zipfile
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import tensorflow as tf

from trainer.errors import ConfigError, RunError
from trainer.models import archive, classifier, inputs
from trainer.system import text

if TYPE_CHECKING:
    import pathlib

    from trainer.options import ModelOptions

_NEW_ARGUMENTS = {
    "input_axes": None,
    "output_axes": None,
    "quantization_config": None,
    "renorm": False,
    "renorm_clipping": None,
    "renorm_momentum": 0.99,
}
"""Arguments of layers and initializers, with their defaults, that Keras 3.13 doesn't know."""


def save(
    network: classifier.Network, path: pathlib.Path, facts: archive.ModelFacts | None = None
) -> None:
    """Saves a network for every version of Keras that the trainer supports.

    Keras writes every argument of a layer, also those that an older version doesn't know, and that
    version then refuses the file. Those that have their default are left out.

    Args:
      network: the network.
      path: the `.keras` file.
      facts: what the model says of itself: classes, operating point, origin. They are stored in the
        archive's metadata.json, which Keras does not read.
    """
    classifier.with_checked_input(network).save(path)
    with zipfile.ZipFile(path) as zipped:
        members = [(info, zipped.read(info)) for info in zipped.infolist()]
    with zipfile.ZipFile(path, "w") as zipped:
        for info, content in members:
            zipped.writestr(info, _rewritten(info.filename, content, facts))


def _rewritten(name: str, content: bytes, facts: archive.ModelFacts | None) -> bytes:
    if name == archive.CONFIG:
        return _without_new_arguments(content)
    if name == archive.METADATA and facts is not None:
        return json.dumps({**json.loads(content), archive.FACTS: facts}).encode()
    return content


def load(path: pathlib.Path) -> keras.Model:
    """Loads a saved model without executing code from the file.

    Raises:
      RunError: when the file does not exist, can't be read, is not a model of the trainer, or has
        weights that are not finite.
    """
    if not path.is_file():
        raise RunError(f"there is no trained model at {path}; train one, or give another file.")
    try:
        archive.check_model(path)
        model = keras.saving.load_model(path, compile=False, safe_mode=True)
    except Exception as error:  # Keras has no error of its own for what a file may hold.
        raise RunError(f"{path} is not a readable model: {_reason(path, error)}.") from error
    for weight in model.weights:
        if not np.isfinite(keras.ops.convert_to_numpy(weight)).all():
            raise RunError(
                f"{path} can't be used: its weights {weight.path} are not finite; restore it from "
                "a copy, or train again."
            )
    return model


def explain_refusals(model: keras.Model) -> None:
    """Lets a model say in one sentence what it can't classify; Keras's error is a trace.

    The sentence is a ConfigError, of `model.predict(images)` and of `model(images)`.
    """
    predict, kind = model.predict, type(model)
    height, width = model.input.shape[1:3]
    size = (height, width) if height else None  # Models of earlier versions take one size.

    def call(self: keras.Model, x: Any, *args: Any, **named: Any) -> Any:
        if inputs.is_batch(x) and not _is_symbolic(x):
            inputs.images(x, size)  # The tensor itself goes on: it may have a gradient.
        return kind.__call__(self, x, *args, **named)

    # Python looks up __call__ in the class. By these names, Keras saves it as its own class.
    names = {"__call__": call, "__module__": kind.__module__, "__qualname__": kind.__qualname__}
    model.__class__ = type(kind.__name__, (kind,), names)

    @functools.wraps(predict)
    def checked(x: Any, *args: Any, **named: Any) -> Any:
        if inputs.is_batch(x):
            return predict(inputs.images(x, size), *args, **named)
        try:
            return predict(x, *args, **named)
        except tf.errors.InvalidArgumentError as error:
            if "needs_grey_images" not in error.message:
                raise
            raise ConfigError(
                f"a batch of {type(x).__name__} has images that are not grey, "
                f"{inputs.shape_of(size)}, with levels 0 to 255; predict one batch to see what is "
                "wrong."
            ) from error

    model.predict = checked


def _is_symbolic(x: Any) -> bool:
    """Whether `x` has no values: TensorFlow or Keras builds a graph with it."""
    return isinstance(x, keras.KerasTensor) or (tf.is_tensor(x) and not hasattr(x, "numpy"))


def require_built_by(model: keras.Model, options: ModelOptions, path: pathlib.Path) -> None:
    """Checks that a saved model is one of a run with these options: a file can be of another run.

    Raises:
      RunError: when it has another backbone, image size, pooling or head, or is not the trainer's.
    """
    try:
        found = _built_with(model)
    except (ValueError, AttributeError, IndexError, TypeError) as error:
        raise RunError(
            f"{path} is not a model of the trainer: it has no backbone with a head; restore the "
            "run's own file from a copy, or train again."
        ) from error
    wanted = {
        "backbone": options.backbone,
        "image_size": options.backbone_image_size,
        "pooling": options.pooling,
        "dense_layers": options.dense_layers,
        "neurons": options.neurons if options.dense_layers else None,
    }
    for name, value in wanted.items():
        if found[name] != value:
            raise RunError(
                f"{path} is of another run than config.json beside it: its {name} is "
                f"{text.visible(str(found[name])):.80}, not {value}; restore the wrong one of the "
                "two from a copy, or train again."
            )


def _built_with(model: keras.Model) -> dict[str, Any]:
    """Returns the options that a model of the trainer shows."""
    _, trunk, head = classifier.parts_of(model)
    dense = [layer for layer in head.layers if isinstance(layer, keras.layers.Dense)]
    return {
        "backbone": trunk.name,
        "image_size": trunk.input.shape[1],
        "pooling": classifier.POOLINGS.get(trunk.layers[-1].name, trunk.layers[-1].name),
        "dense_layers": len(dense) - 1,
        "neurons": dense[0].units if dense[1:] else None,
    }


def _reason(path: pathlib.Path, error: Exception) -> str:
    version = archive.keras_version(path)
    if isinstance(error, TypeError | ValueError) and _numbers(version) > _numbers(
        keras.__version__
    ):
        return (
            f"Keras {version} saved it, and this is Keras {keras.__version__}, which may be too "
            f"old ({text.first_line(error)}); install that version"
        )
    return f"{text.first_line(error)}; restore it from a copy, or train again"


def _numbers(version: str) -> list[int]:
    return [int(part) if part.isdecimal() else 0 for part in version.split(".")[:3]]


def _without_new_arguments(config: bytes) -> bytes:
    def kept(found: dict[str, Any]) -> dict[str, Any]:
        return {
            name: value
            for name, value in found.items()
            if name not in _NEW_ARGUMENTS or value != _NEW_ARGUMENTS[name]
        }

    return json.dumps(json.loads(config, object_hook=kept)).encode()


def precision_of(model: keras.Model) -> str:
    """Returns the dtype policy that the model was saved under, in which it always computes."""
    # Each layer stores its own policy. Those that compute in float32 under every policy, such as
    # the softmax, don't reveal the model's.
    policies = {layer.dtype_policy.name for layer in model._flatten_layers()}  # noqa: SLF001
    return next((name for name in sorted(policies) if name.startswith("mixed")), "float32")
