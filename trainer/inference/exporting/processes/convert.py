"""Converts a graph: `python -I convert.py FORMAT FOLDER`, in a process without Keras and trainer.

FOLDER holds `graph/` (a SavedModel), `calibration.npy` [N, S, S, 1] uint8 and `facts.json`; the
result is FOLDER/result. An error is the last line of standard error. `litert_int8` may be followed
by `starts_in_float32`: what computes on large maps then keeps 32 bits.
"""

from __future__ import annotations

import json
import os
import pathlib
import sys
import zipfile
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

OPSET = 17
"""Of 2022: ONNX Runtime 1.12 and everything newer runs it."""
INPUT, OUTPUT, FEATURES = "images", "probabilities", "features"
FACTS, SIGNATURE = "model.json", "serving_default"
_LARGE_MAP = 8
"""A map is large if its height is more than the image's divided by this."""
_DATE = (1980, 1, 1, 0, 0, 0)
"""Of a zip's member: equal models give equal files."""


def main(name: str, folder: pathlib.Path, *options: str) -> None:
    """Converts one format."""
    for module in ("keras", "tf_keras", "trainer", "cxr_tfds"):
        sys.modules[module] = None  # type: ignore[assignment]  # Importing it now fails.
    {"litert": _litert, "litert_int8": _litert_int8, "onnx": _onnx}[name](folder, *options)


def _litert(folder: pathlib.Path) -> None:
    _write_litert(folder, _converter(folder, _load(folder), "litert").convert())


def _load(folder: pathlib.Path) -> Any:
    import tensorflow as tf

    return tf.saved_model.load(str(folder / "graph"))


def _litert_int8(folder: pathlib.Path, *options: str) -> None:
    """Converts twice: the first model shows how far 8 bits move the features on average.

    Without this correction of the bias (Finkelstein et al., "Fighting quantization bias with bias",
    2019), MobileNetV2 loses 3 points of accuracy here: most of its error is the same in all images.
    """
    import numpy as np

    images, loaded = np.load(folder / "calibration.npy"), _load(folder)
    quantised = _quantised_after_the_start if options else _quantised
    rounded = _features_in_int8(quantised(folder, loaded, images, FEATURES), images)
    exact = loaded.signatures["litert_int8"]
    single = (exact(images=_floats(image))[FEATURES].numpy()[0] for image in images)
    missing = np.mean(list(single), axis=0) - rounded
    loaded.bias.assign_add(missing @ loaded.kernel.numpy())
    _write_litert(folder, quantised(folder, loaded, images, OUTPUT))


def _quantised(folder: pathlib.Path, loaded: Any, images: Any, output: str) -> bytes:
    """Returns a model that computes in 8 bits."""
    import numpy as np
    import tensorflow as tf

    converter = _converter(folder, loaded, "litert_int8", output)
    _calibrate(converter, images.astype(np.float32))
    converter.inference_input_type = tf.uint8
    return converter.convert()


def _quantised_after_the_start(
    folder: pathlib.Path, loaded: Any, images: Any, output: str
) -> bytes:
    """Returns a model that computes on large maps in float32, and on all others in 8 bits.

    The first layers have few weights, and their errors go through all others. The method is
    TensorFlow's selective quantization ("Inspecting Quantization Errors with Quantization
    Debugger").
    """
    import tensorflow as tf
    from ai_edge_litert.interpreter import Interpreter

    converter = _converter(folder, loaded, "litert_int8", output, tf.uint8)
    _calibrate(converter, images)
    debugger = tf.lite.experimental.QuantizationDebugger(
        converter=converter, debug_dataset=converter.representative_dataset
    )
    tensors = Interpreter(model_content=debugger.quant_model).get_tensor_details()
    large = [
        tensor["name"]
        for tensor in tensors
        if len(tensor["shape"]) == 4 and _LARGE_MAP * tensor["shape"][1] > images.shape[1]
    ]
    debugger.options = tf.lite.experimental.QuantizationDebugOptions(denylisted_nodes=large)
    return debugger.get_nondebug_quantized_model()


def _calibrate(converter: Any, images: Any) -> None:
    import tensorflow as tf

    def representative() -> Iterator[list[Any]]:
        for image in images.copy():
            # Black and white in every image: the input's scale is then 1, and its levels are the
            # numbers of an 8-bit image.
            image[0, 0, 0], image[0, 1, 0] = 0, 255
            yield [image[None]]

    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = representative
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]


def _features_in_int8(model: bytes, images: Any) -> Any:
    """Returns the mean features [D] of images in LiteRT."""
    import numpy as np
    from ai_edge_litert.interpreter import Interpreter

    run = Interpreter(model_content=model, num_threads=os.cpu_count()).get_signature_runner()
    return np.mean([run(images=image[None])[FEATURES][0] for image in images], axis=0)


def _floats(image: Any) -> Any:
    import tensorflow as tf

    return tf.cast(image[None], tf.float32)


def _converter(
    folder: pathlib.Path, loaded: Any, signature: str, output: str = OUTPUT, dtype: Any = None
) -> Any:
    """Returns a converter of one output of one signature, which the file has as the usual one.

    Args:
      folder: to write into.
      loaded: the SavedModel.
      signature: its name.
      output: its name.
      dtype: of the images that the result takes; None: the signature's.
    """
    import tensorflow as tf

    module = tf.Module()
    module.loaded = loaded
    function = loaded.signatures[signature]
    spec = function.structured_input_signature[1][INPUT]

    def serving_default(images: Any) -> dict[str, Any]:
        return {output: function(images=tf.cast(images, spec.dtype))[output]}

    given = tf.TensorSpec(spec.shape, dtype or spec.dtype, INPUT)
    traced = tf.function(serving_default, input_signature=[given], autograph=False)
    alone = folder / f"alone_{output}"
    tf.saved_model.save(module, str(alone), signatures={SIGNATURE: traced.get_concrete_function()})
    return tf.lite.TFLiteConverter.from_saved_model(str(alone), signature_keys=[SIGNATURE])


def _write_litert(folder: pathlib.Path, model: bytes) -> None:
    """Writes a model with its facts as an associated file: a zip at its end, as LiteRT expects."""
    path = folder / "result"
    path.write_bytes(model)
    with zipfile.ZipFile(path, "a") as zipped:
        zipped.writestr(zipfile.ZipInfo(FACTS, _DATE), (folder / "facts.json").read_text("utf-8"))


def _onnx(folder: pathlib.Path) -> None:
    import onnx
    import tf2onnx
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    loaded = _load(folder)
    frozen = convert_variables_to_constants_v2(loaded.signatures["onnx"])
    (given,), (found,) = frozen.inputs, frozen.outputs
    graph = frozen.graph.as_graph_def()
    _replace_erfc(graph)
    model, _ = tf2onnx.convert.from_graph_def(
        graph,
        name="classifier",
        input_names=[given.name],
        output_names=[found.name],
        opset=OPSET,
    )
    _rename(model, {given.name: INPUT, found.name: OUTPUT})
    facts = json.loads((folder / "facts.json").read_text("utf-8"))
    onnx.helper.set_model_props(model, {FACTS: json.dumps(facts)})
    onnx.checker.check_model(model, full_check=True)
    (folder / "result").write_bytes(model.SerializeToString(deterministic=True))


def _replace_erfc(graph: Any) -> None:
    """Writes erfc(x), which Keras's GELU has and ONNX lacks, as 1 - erf(x)."""
    import tensorflow as tf

    found = [node for node in graph.node if node.op == "Erfc"]
    if found:
        one = graph.node.add(name="one_of_erfc", op="Const")
        one.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(1.0))
        one.attr["dtype"].type = tf.float32.as_datatype_enum
    for node in found:
        erf = graph.node.add()
        erf.CopyFrom(node)
        erf.name, erf.op = f"{node.name}/erf", "Erf"
        node.op, node.input[:] = "Sub", ["one_of_erfc", erf.name]


def _rename(model: Any, names: dict[str, str]) -> None:
    """Gives the input and the output their names."""
    for node in model.graph.node:
        for members in (node.input, node.output):
            members[:] = [names.get(member, member) for member in members]
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        value.name = names.get(value.name, value.name)


if __name__ == "__main__":
    main(sys.argv[1], pathlib.Path(sys.argv[2]), *sys.argv[3:])
