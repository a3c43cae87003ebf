"""What `best.keras` says of itself, to whoever has no more than Python, or plain Keras."""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
import sys
import types
import zipfile

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.support import radiographs
from trainer.models import archive
from trainer.runs import model_facts, trained


@pytest.fixture(scope="module")
def facts(finished):
    """As a stranger reads them."""
    with zipfile.ZipFile(finished / "best.keras") as zipped:
        return json.loads(zipped.read("metadata.json"))["trainer"]


def test_the_facts_are_plain_json_with_all_that_using_the_model_takes(facts, finished):
    run = trained.open_run(finished)
    chosen = json.loads((finished / "operating_point.json").read_text())
    assert facts["class_names"] == ["NORMAL", "PNEUMONIA"]
    assert facts["positive_class"] == "PNEUMONIA"
    for name in ("rule", "threshold", "temperature"):
        assert facts[name] == chosen[name]
    assert facts["pixels"]["side"] == 32
    assert facts["pixels"]["record_side"] == 224
    assert "0 black" in facts["pixels"]["takes"]
    assert facts["data"]["name"].startswith("cxr_tfds/paper/")
    assert facts["data"]["fingerprint"] == run.data_fingerprint
    assert facts["versions"] == {
        "trainer": importlib.metadata.version("cxr-trainer"),
        "keras": keras.__version__,
        "tensorflow": tf.__version__,
    }
    assert facts["license"].startswith("code: Apache-2.0; training images: CC BY 4.0")
    assert facts["intended_use"] == "Research. Not a medical device."


def test_what_a_stranger_reads_is_what_the_trainer_reads(facts, finished):
    assert archive.facts(finished / "best.keras") == facts


SCRIPT = """
import json, sys, zipfile
import keras
import numpy as np
assert not any(name.startswith(("trainer", "cxr_tfds")) for name in sys.modules)
model = keras.saving.load_model(sys.argv[1], safe_mode=True)
images = np.load(sys.argv[2])
probabilities = model.predict(images, verbose=0)
with zipfile.ZipFile(sys.argv[1]) as zipped:
    facts = json.loads(zipped.read("metadata.json"))["trainer"]
positive = facts["class_names"].index(facts["positive_class"])
print(json.dumps(probabilities[:, positive].tolist()))
"""


@pytest.mark.slow
def test_plain_keras_loads_it_in_safe_mode_and_takes_images_of_any_size(finished, tmp_path):
    images = radiographs.noise(2, 50)
    np.save(tmp_path / "images.npy", images)
    model = trained.open_run(finished).model
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(finished / "best.keras"), "images.npy"],
        cwd=tmp_path, check=True, capture_output=True, text=True,
    )  # fmt: skip
    expected = model.predict(images, verbose=0)[:, 1]
    np.testing.assert_allclose(json.loads(done.stdout), expected, atol=1e-6)


def _described(*names, record_side=224, **metadata):
    info = types.SimpleNamespace(
        full_name="x/y/1.0.0",
        redistribution_info=types.SimpleNamespace(license=""),
        features={"image": types.SimpleNamespace(shape=(record_side, record_side, 1))},
    )
    data = types.SimpleNamespace(
        builder=types.SimpleNamespace(info=info), fingerprint="f", metadata=metadata
    )
    choice = {"class_names": names, "rule": "youden", "threshold": None, "temperature": 1.5}
    return model_facts.describe(choice, data, 224)


@pytest.mark.parametrize(
    ("record_side", "sides"), [(224, (224,)), (299, (299, 224)), (128, (224,)), (None, (224,))]
)
def test_files_go_the_way_of_the_records(record_side, sides):
    """A record that is smaller than the model's images is not shrunk: it is never `side`."""
    assert model_facts.sides(_described("A", "B", record_side=record_side), 224) == sides
    assert model_facts.sides({}, 224) == (224,)


def test_of_three_classes_none_is_the_positive_one():
    assert _described("A", "B", "C")["positive_class"] is None


@pytest.mark.parametrize(
    ("metadata", "said"),
    [({}, "training images: not stated"), ({"is_phantom": True}, "none needed, they are drawn")],
)
def test_the_licence_of_the_images_is_said(metadata, said):
    assert said in _described("A", "B", **metadata)["license"]
