"""Each format computes as Keras does, refuses what it refuses, and holds what belongs to it."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile

import keras
import numpy as np
import onnx
import onnxruntime
import pytest
from ai_edge_litert.interpreter import Interpreter, OpResolverType

from tests.support import radiographs
from trainer.errors import ConfigError
from trainer.inference.exporting import checks, children, exports, formats, graphs, parts

NAMES = tuple(formats.REGISTRY)
FLOATS = tuple(name for name in NAMES if formats.REGISTRY[name].tolerance)


def test_every_format_is_written_and_nothing_else(exported):
    found = {path.name for path in (exported / "export").iterdir()}
    beside = {"model.tflite.json", "model_int8.tflite.json", exports.TABLE}
    assert found == {formats.REGISTRY[name].file for name in NAMES} | beside


@pytest.mark.parametrize("name", FLOATS)
def test_probabilities_are_those_of_keras(rows, name):
    assert rows[name]["written"]
    assert rows[name]["difference"] <= formats.REGISTRY[name].tolerance
    assert rows[name]["equal_labels"] == rows[name]["images"] == 40
    assert rows[name]["accuracy"]["keras"] == rows[name]["accuracy"]["exported"]


@pytest.mark.parametrize("name", NAMES)
def test_wrong_pixels_are_refused_in_every_runtime(rows, name):
    wrong = rows[name]["wrong"]
    assert {"scaled to 0..1", "scaled to -1..1", "of 12 bits", "not a number"} <= wrong.keys()
    assert all(how.startswith("refused") for how in wrong.values()), wrong


def test_eight_bits_refuse_a_mask(rows):
    assert "gather" in rows["litert_int8"]["wrong"]["of 0 and 1"]


@pytest.mark.parametrize("name", NAMES)
def test_every_format_was_timed_alone_and_in_a_batch(rows, name):
    assert min(rows[name][key] for key in ("latency_ms", "batch_ms", "size_mb")) > 0


def test_a_saved_model_holds_the_facts(exported, facts):
    path = exported / "export" / "savedmodel" / "assets.extra" / "model.json"
    assert json.loads(path.read_text("utf-8")) == facts


@pytest.mark.parametrize("name", ["model.tflite", "model_int8.tflite"])
def test_a_litert_file_holds_the_facts(exported, facts, name):
    path = exported / "export" / name
    with zipfile.ZipFile(path) as zipped:
        assert json.loads(zipped.read("model.json")) == facts
    assert json.loads(path.with_name(f"{name}.json").read_text("utf-8")) == facts


def test_an_onnx_file_is_valid_of_any_batch_and_holds_the_facts(exported, facts):
    model = onnx.load(exported / "export" / "model.onnx")
    onnx.checker.check_model(model, full_check=True)
    assert {entry.key: json.loads(entry.value) for entry in model.metadata_props} == {
        "model.json": facts
    }
    (given,), (found,) = model.graph.input, model.graph.output
    assert (given.name, found.name) == ("images", "probabilities")
    assert given.type.tensor_type.shape.dim[0].dim_value == 0
    assert [entry.version for entry in model.opset_import if not entry.domain] == [17]


def test_eight_bits_are_whole_numbers_up_to_the_probabilities(exported):
    interpreter = Interpreter(
        str(exported / "export" / "model_int8.tflite"),
        experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
    )
    types = {d["index"]: np.dtype(d["dtype"]) for d in interpreter.get_tensor_details()}
    ops = interpreter._get_ops_details()
    computing = [op for op in ops if op["op_name"] not in ("DEQUANTIZE", "CAST")]
    assert "CONV_2D" in {op["op_name"] for op in computing}
    assert all(types[i].kind != "f" for op in computing for i in op["inputs"] if i >= 0)
    (given,) = interpreter.get_input_details()
    assert (given["dtype"], given["quantization"]) == (np.uint8, (1.0, 0))


@pytest.mark.parametrize("name", NAMES)
def test_a_runtime_runs_without_what_it_does_not_need(exported, images, tmp_path, name):
    """The script that checks a model makes importing anything else fail, and still runs it."""
    np.save(tmp_path / "images.npy", images[:2])
    np.savez(tmp_path / "wrong.npz", scaled=images[:1] / np.float32(255))
    path = exported / "export" / formats.REGISTRY[name].file
    allowed = {"savedmodel": {"tensorflow"}}.get(name, set())
    code = f"""
import importlib.util, pathlib, sys
spec = importlib.util.spec_from_file_location("run", {str(children._SCRIPTS / "run.py")!r})
run = importlib.util.module_from_spec(spec)
spec.loader.exec_module(run)
run.main({name!r}, {str(path)!r}, pathlib.Path({str(tmp_path)!r}))
for module in ("keras", "trainer", "cxr_tfds", "tensorflow"):
    try:
        __import__(module)
        print(module)
    except ImportError:
        pass
"""
    found = subprocess.run(
        [sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True
    )
    assert set(found.stdout.split()) == allowed
    assert np.load(tmp_path / "probabilities.npy").shape == (2, 2)


def _converted(model, name, calibration, facts, folder):
    """Returns the file that a converter makes of a model."""
    graphs.save_for_converting(model, [name], folder / "graph")
    np.save(folder / "calibration.npy", calibration)
    (folder / "facts.json").write_text(json.dumps(facts), "utf-8")
    assert children.run("convert", [name, str(folder)]) == ""
    return folder / "result"


def test_a_wrongly_scaled_export_is_caught(build, model, facts, images, tmp_path):
    wrong = build()
    wrong.set_weights(model.get_weights())
    scale = wrong.get_layer("preprocessing").get_layer("scale")
    scale.scale = [value / 2 for value in scale.scale]
    reference = checks.Reference.of(model, model, images, None, facts)
    path = _converted(wrong, "litert", images, facts, tmp_path)
    row = checks.check(formats.REGISTRY["litert"], path, reference, tmp_path)
    assert "differ from Keras by" in row.problem


def test_eight_bits_calibrated_on_constants_are_caught(model, facts, images, tmp_path):
    dark = np.full_like(images[:5], 3)
    reference = checks.Reference.of(model, model, images, None, facts)
    path = _converted(model, "litert_int8", dark, facts, tmp_path)
    row = checks.check(formats.REGISTRY["litert_int8"], path, reference, tmp_path)
    assert "another label; it must be under 1." in row.problem


def test_a_failed_export_is_not_written_and_the_earlier_one_stays(build, images, tmp_path, capfd):
    """Two logits that share a large number differ by less than 8 bits can tell."""
    model = build()
    last = model.get_layer("head").get_layer("probabilities")
    last.set_weights([last.get_weights()[0], np.full(2, 1000.0)])
    (tmp_path / "model_int8.tflite").write_bytes(b"earlier")
    probabilities = model(images.astype(np.float32)).numpy()[:, 1]
    facts = {"threshold": float(np.median(probabilities.astype(np.float64)))}
    table = exports.export(model, facts, iter(images), None, ["litert_int8"], tmp_path)
    printed = capfd.readouterr()
    assert table.failed
    assert (tmp_path / "model_int8.tflite").read_bytes() == b"earlier"
    assert {path.name for path in tmp_path.iterdir()} == {"model_int8.tflite", exports.TABLE}
    assert "litert_int8 was not written: it gives" in table.to_text()
    assert "model_int8.tflite of an earlier export is still there." in table.to_text()
    first, second = printed.out.splitlines()
    assert first == "litert_int8: converts it, and runs it in LiteRT …"
    assert second.startswith("litert_int8: it gives ")
    assert second.endswith("must be under 1. Again, with float32 on large feature maps …")
    assert printed.err == ""


def test_eight_bits_that_lose_too_much_start_in_float32(
    model, facts, images, exported, tmp_path, monkeypatch
):
    tries = iter(["it loses 3 points.", ""])
    monkeypatch.setattr(checks, "_loss", lambda _: next(tries))
    table = exports.export(model, facts, images, None, ["litert_int8"], tmp_path)
    (row,) = table.rows
    assert (row.problem, row.starts_in_float32) == ("", True)
    assert "litert_int8: feature maps taller than an eighth of the image are computed " in str(
        table
    )
    assert json.loads((tmp_path / exports.TABLE).read_text())["formats"][0]["starts_in_float32"]
    found = Interpreter(str(tmp_path / "model_int8.tflite"))
    alone = Interpreter(str(exported / "export" / "model_int8.tflite"))
    assert found.get_input_details()[0]["dtype"] == np.uint8
    assert np.float32 in _large_maps(found)
    assert _large_maps(alone) == {np.int8}
    earlier = json.loads((exported / "export" / exports.TABLE).read_text())["formats"]
    (whole,) = (of for of in earlier if of["format"] == "litert_int8")
    assert not whole["starts_in_float32"]


def test_what_8_bits_lost_is_said_if_the_second_try_fails(
    model, facts, images, tmp_path, monkeypatch
):
    monkeypatch.setattr(checks, "_loss", lambda _: "it loses 3 points.")
    run = children.run

    def fails(name, arguments):
        return "no memory" if "starts_in_float32" in arguments else run(name, arguments)

    monkeypatch.setattr(children, "run", fails)
    table = exports.export(model, facts, images, None, ["litert_int8"], tmp_path)
    (row,) = table.rows
    assert row.problem == (
        "it loses 3 points. With float32 on large feature maps, it can't be converted (no memory)."
    )
    assert row.images == 40
    assert "is_inaccurate" not in row.to_json()


def _large_maps(interpreter):
    """The types of what the network computes: [1, H, W, C] of more than three channels."""
    tensors = interpreter.get_tensor_details()
    maps = [of for of in tensors if len(of["shape"]) == 4 and of["shape"][0] == 1]
    return {of["dtype"] for of in maps if of["shape"][1] > 32 // 8 and of["shape"][3] > 3}


def test_a_missing_package_ends_it_before_any_work(model, images, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ConfigError, match=r'onnxruntime, which is not installed: .*"\.\[onnx\]"'):
        exports.export(model, {}, images, None, ["savedmodel", "onnx"], tmp_path / "new")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"images": []}, "there is none"),
        ({"images": np.zeros((2, 16, 16, 1), np.uint8)}, r"must be uint8 \[N, 32, 32, 1\]"),
        ({"images": np.zeros((2, 32, 32, 1), np.float32)}, "must be uint8"),
        ({"labels": ["NORMAL"] * 40}, "whole numbers below 2"),
        ({"labels": [2] * 40}, "whole numbers below 2"),
        ({"labels": [1]}, r"must be \[40\]"),
        ({"facts": {"class_names": ["one"]}}, "must be 2"),
    ],
)
def test_what_does_not_fit_is_refused(model, images, tmp_path, changed, message):
    given = {"facts": {}, "images": images, "labels": None} | changed
    with pytest.raises(ValueError, match=message):
        exports.export(model, names=["savedmodel"], folder=tmp_path, **given)


@pytest.mark.slow
def test_a_model_of_any_size_is_exported_as_one(model, facts, images, tmp_path):
    """Sides stay open, and an image of another size gets Keras's probabilities."""
    given = keras.Input((None, None, 1), dtype="float32", name="image")
    rows = keras.ops.mean(keras.ops.image.resize(given, (32, 32)), -1, keepdims=True)
    trunk = model.layers[[x.name for x in model.layers].index("preprocessing") + 1]
    pooled = trunk(model.get_layer("preprocessing")(rows))
    any_size = keras.Model(given, model.get_layer("head")(pooled))
    graphs.save_for_serving(any_size, facts, tmp_path / "savedmodel")
    path = _converted(any_size, "onnx", images, facts, tmp_path)
    session = onnxruntime.InferenceSession(path)
    wide = radiographs.noise(2, 80)[:, :50].astype(np.float32)
    (found,) = session.run(None, {"images": wide})
    np.testing.assert_allclose(found, any_size(wide).numpy(), atol=1e-4)


def test_an_export_of_mixed_precision_is_float32(build, images):
    keras.mixed_precision.set_dtype_policy("mixed_bfloat16")
    mixed = build()
    rebuilt = parts.in_float32(mixed)
    assert {layer.compute_dtype for layer in rebuilt._flatten_layers()} == {"float32"}
    reference = checks.Reference.of(mixed, rebuilt, images, None, {})
    assert 0 < np.abs(reference.own - reference.probabilities).max() < 0.05
    assert "mixed_bfloat16" in checks.precision_note(mixed)
