"""The snippets of docs/serving.md run as they are, and what they name exists."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from cxr_tfds.radiographs import reading
from trainer.inference.exporting import exports

TEXT = (Path(__file__).parents[4] / "docs" / "serving.md").read_text("utf-8")
SNIPPETS = re.findall(r"^```python\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE)
COMMANDS = re.findall(r"^```sh\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE)
GRPC = [snippet for snippet in SNIPPETS if "grpc" in snippet]
LOCAL = [snippet for snippet in SNIPPETS if "grpc" not in snippet]


def _expected(model, folder):
    """What prediction gives for the image: it is stretched to the size of records first."""
    pixels = reading.read((folder / "image.png").read_bytes(), 64, 32).pixels
    return model(pixels[None, ..., None].astype(np.float32)).numpy()[0]


def _answer(snippet, folder):
    found = subprocess.run(
        [sys.executable, "-c", snippet], capture_output=True, text=True, cwd=folder, check=True
    )
    name, _, probabilities = found.stdout.strip().partition(" ")
    return name, json.loads(probabilities)


@pytest.mark.parametrize("snippet", LOCAL, ids=["TensorFlow", "ONNX Runtime", "LiteRT"])
def test_a_snippet_answers_as_the_model(exported, model, facts, snippet):
    expected = _expected(model, exported)
    name, probabilities = _answer(snippet, exported)
    np.testing.assert_allclose(probabilities, expected, atol=1e-3)
    assert name == facts["class_names"][int(expected[1] >= facts["threshold"])]


@pytest.mark.parametrize("known", [{}, {"pixels": {"side": 32, "takes": "grey levels"}}])
def test_snippets_take_models_that_name_no_size_of_records(build, images, facts, tmp_path, known):
    """Exports of earlier versions have no `pixels`."""
    model, told = build(), {name: of for name, of in facts.items() if name != "pixels"} | known
    exports.export(model, told, images, None, ["litert", "onnx"], tmp_path / "export")
    Image.fromarray(images[7, ..., 0]).resize((50, 70)).save(tmp_path / "image.png")
    pixels = reading.read((tmp_path / "image.png").read_bytes(), 32).pixels
    expected = model(pixels[None, ..., None].astype(np.float32)).numpy()[0]
    for snippet in (of for of in LOCAL if "PIL" in of):
        np.testing.assert_allclose(_answer(snippet, tmp_path)[1], expected, atol=2e-3)
    found = _pillow_answers(tmp_path, RUN_ONNX, tmp_path / "image.png")
    said = [float(of) for of in re.findall(r"0\.\d{4}|1\.0000", found.stdout)]
    np.testing.assert_allclose(said, expected, atol=2e-3)


def test_the_snippet_of_litert_runs_the_model_of_8_bits(exported, model):
    (snippet,) = (snippet for snippet in LOCAL if "model.tflite" in snippet)
    _, found = _answer(snippet.replace("model.tflite", "model_int8.tflite"), exported)
    np.testing.assert_allclose(found, _expected(model, exported), atol=0.05)


def _pillow_answers(exported, snippet, path):
    """Runs a snippet that reads a file by Pillow; returns its exit code and what it prints."""
    code = snippet.replace('"image.png"', repr(str(path)))
    arguments = ["-c", code]
    if snippet == RUN_ONNX:
        arguments = [snippet, "export/model.onnx", path]
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, cwd=exported, check=False
    )


RUN_ONNX = str(Path(__file__).parents[4] / "docs" / "run_onnx.py")
BY_PILLOW = pytest.mark.parametrize(
    "snippet",
    [*(snippet for snippet in LOCAL if "PIL" in snippet), RUN_ONNX],
    ids=["ONNX Runtime", "LiteRT", "run_onnx.py"],
)


@BY_PILLOW
def test_what_is_not_of_8_bits_is_refused(exported, tmp_path, snippet):
    grey = np.asarray(Image.open(exported / "image.png"))
    for name, image in {
        "16.png": Image.fromarray(grey.astype(np.uint16) * 257),
        "float.tiff": Image.fromarray(grey.astype(np.float32)),
        "cmyk.tiff": Image.fromarray(grey).convert("CMYK"),
    }.items():
        image.save(tmp_path / name)
        found = _pillow_answers(exported, snippet, tmp_path / name)
        assert found.returncode == 1, found.stdout
        assert f"mode {image.mode} is not of 8 bits" in found.stderr
        assert found.stdout == ""


@BY_PILLOW
def test_an_image_that_lies_on_its_side_is_turned_upright(exported, tmp_path, snippet):
    upright = Image.open(exported / "image.png")
    exif = Image.Exif()
    exif[0x0112] = 6  # To be turned by 90° clockwise.
    upright.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "turned.png", exif=exif)
    upright.save(tmp_path / "upright.png")
    answers = [
        _pillow_answers(exported, snippet, tmp_path / name)
        for name in ("turned.png", "upright.png")
    ]
    said = [answer.stdout.replace("turned.png", "upright.png") for answer in answers]
    assert answers[0].returncode == 0, answers[0].stderr
    assert said[0] == said[1]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_valid_bash(command):
    subprocess.run(["bash", "-n", "-c", command], check=True)


@pytest.fixture(scope="module")
def signatures(exported):
    return tf.saved_model.load(str(exported / "export" / "savedmodel")).signatures


def test_what_is_sent_to_a_server_has_the_names_of_the_model(signatures):
    (docker,) = (command for command in COMMANDS if command.startswith("docker"))
    (curl,) = (command for command in COMMANDS if command.startswith("curl"))
    (model,) = re.findall(r"MODEL_NAME=(\w+)", docker)
    assert f"/export/savedmodel:/models/{model}/1" in docker
    assert f"/v1/models/{model}:predict" in curl
    body = json.loads(re.search(r'-d "(.*)" \\', curl)[1].replace('\\"', '"'))
    (instance,) = body["instances"]
    _, inputs = signatures[body["signature_name"]].structured_input_signature
    assert instance.keys() == inputs.keys()
    (snippet,) = GRPC
    ast.parse(snippet)
    assert f'model_spec.name = "{model}"' in snippet
    named = re.search(r'signature_name = "(\w+)"', snippet)[1]
    (given,) = re.findall(r'inputs\["(\w+)"\]', snippet)
    assert {given} == signatures[named].structured_input_signature[1].keys()
    (found,) = re.findall(r'outputs\["(\w+)"\]', snippet)
    assert found in signatures[named].structured_outputs


def test_the_tables_list_the_signatures_and_their_outputs(signatures):
    outputs = signatures["serve_bytes"].structured_outputs
    for name in (*signatures, *outputs):
        assert f"| `{name}` |" in TEXT
