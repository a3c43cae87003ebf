"""Malformed input of every kind gives a clear error or a sound result, and quickly.

Over 2,000 inputs in all; each kind names the errors that it may end in.
"""

from __future__ import annotations

import io
import json
import pathlib
import random
import tempfile
import zipfile

import hypothesis
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import strategies
from PIL import Image

from cxr_tfds import images, source
from tests.support import radiographs
from trainer import config, flags, topologies
from trainer.distribution import cluster
from trainer.errors import ConfigError, RunError
from trainer.evaluation import predictions
from trainer.features import shard_files, store
from trainer.storage import locations
from tuner.space import Space

JSON = strategies.recursive(
    strategies.none() | strategies.booleans() | strategies.floats() | strategies.integers()
    | strategies.text(max_size=8),
    lambda children: strategies.lists(children, max_size=3)
    | strategies.dictionaries(strategies.text(max_size=8), children, max_size=3),
    max_leaves=5,
)  # fmt: skip
OPTIONS = [field.name for _, field in config.fields()] + ["model_dir", "nonsense"]


def many(count: int):
    return hypothesis.settings(
        max_examples=count,
        deadline=10_000,
        derandomize=True,
        suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
    )


def damaged(data: bytes, seed: int) -> bytes:
    """Cuts, flips, repeats or fills a part of it."""
    generator = random.Random(seed)
    result = bytearray(data)
    for _ in range(generator.randint(1, 4)):
        start = generator.randrange(len(result) + 1)
        stop = min(len(result), start + generator.choice([1, 2, 16, 400]))
        kind = generator.randrange(4)
        if kind == 0:
            del result[start:]
        elif kind == 1:
            result[start:stop] = generator.randbytes(stop - start)
        elif kind == 2:
            result[start:start] = result[start:stop] * 3
        else:
            result[start:stop] = b"\xff" * (stop - start)
    return bytes(result)


def attempt(errors, function, *args):
    """Returns (what it returned, None), or (None, what it said); another error is a bug."""
    try:
        return function(*args), None
    except errors as error:
        return None, str(error)


@many(400)
@hypothesis.given(strategies.dictionaries(strategies.sampled_from(OPTIONS), JSON, max_size=4))
def test_options(values):
    made, message = attempt(ConfigError, config.Config.from_flat, values)
    assert message or config.Config.from_flat(made.to_flat()) == made


@many(200)
@hypothesis.given(
    strategies.binary(max_size=60) | JSON.map(lambda value: json.dumps(value).encode())
)
def test_files_of_options(content):
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "config.json"
        path.write_bytes(content)
        values, message = attempt(ConfigError, flags.load_options, path)
    assert isinstance(values, dict) or "config.json" in message


@many(300)
@hypothesis.given(
    strategies.text(strategies.sampled_from("neuros=,:|0123456789.e-_ lg\x00"), max_size=40)
)
def test_search_spaces(text):
    space, message = attempt(ConfigError, Space.parse, text)
    assert message or Space.parse(str(space)) == space


@many(150)
@hypothesis.given(strategies.text(max_size=30) | JSON.map(json.dumps))
def test_clusters(text):
    found, message = attempt(ConfigError, cluster.parse, text)
    assert found is None or found.size > found.index
    assert not message or "TF_CONFIG" in message


@many(150)
@hypothesis.given(strategies.text("v5ep6:x0123456789- ", max_size=12))
def test_topologies(text):
    topology, message = attempt(ConfigError, topologies.parse, text)
    assert message or topology.chips >= 1


@many(200)
@hypothesis.given(strategies.text("gs:/.\\abZ~\x00\n ?#*", max_size=20))
def test_places_in_buckets(text):
    url, message = attempt(locations.LocationError, locations.parse, f"gs://{text}")
    root = pathlib.Path("/staging")
    assert message or url.folder_in(root).resolve().is_relative_to(root)


@many(400)
@hypothesis.given(strategies.integers(0, 2**32))
def test_images(seed):
    kind = random.Random(seed).choice([{}, {"format": "PNG"}, {"mode": "RGB"}])
    data = damaged(radiographs.draw(seed % 7, **kind), seed)
    archive = source.Archive(
        "/nowhere.zip",
        (source.Record("train/NORMAL/IM-0001-0001.jpeg", "NORMAL", "normal", "IM-0001", "x"),),
        (), (),
    )  # fmt: skip
    facts, issues = _inspect(archive, data)
    assert len(facts) + len(issues) == 1
    if facts:
        with Image.open(io.BytesIO(images.encode(data, 32).content)) as image:
            assert image.size == (32, 32)


def _inspect(archive: source.Archive, data: bytes):
    with tempfile.TemporaryDirectory() as folder:
        root = pathlib.Path(folder) / "a.zip"
        with zipfile.ZipFile(root, "w") as file:
            file.writestr("x", data)
        return images.inspect(source.Archive(str(root), archive.records, (), ()))


ARCHIVE = io.BytesIO()
with zipfile.ZipFile(ARCHIVE, "w", zipfile.ZIP_DEFLATED) as whole:
    for path, content in radiographs.kaggle_files().content.items():
        if "-0001" in path or "person0" in path:
            whole.writestr(path, content)


@many(300)
@hypothesis.given(strategies.integers(0, 2**32))
def test_archives(seed):
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "archive.zip"
        path.write_bytes(damaged(ARCHIVE.getvalue(), seed))
        archive, message = attempt(source.SourceError, source.open_archive, folder)
        assert any(images.inspect(archive)) if archive else folder in message
        assert [x.name for x in pathlib.Path(folder).iterdir()] == ["archive.zip"]


@pytest.mark.parametrize(
    "name",
    [
        "../../train/NORMAL/IM-0001-0001.jpeg",
        "/etc/train/NORMAL/IM-0001-0001.jpeg",
        "a/../../train/PNEUMONIA/person1_virus_2.jpeg",
        "train/NORMAL/..\\..\\IM-0001-0001.jpeg",
    ],
)
def test_an_archive_writes_nowhere(tmp_path, name):
    """Members are read in place, by their name inside of the zip; nothing is extracted."""
    folder = tmp_path / "manual"
    radiographs.kaggle_files().zip(folder)
    with zipfile.ZipFile(folder / "archive.zip", "a") as archive:
        archive.writestr(name, radiographs.draw(5))
    before = set(tmp_path.rglob("*"))
    images.inspect(source.open_archive(folder))
    assert set(tmp_path.rglob("*")) == before


KEY = shard_files.Key(
    data_fingerprint="d", split="train", backbone="vgg16", weights_hash="w",
    image_shape=(8, 8, 1), backbone_image_shape=(8, 8, 3), cut_at=3, row_shape=(4,),
    precision="float32", device="CPU", dtype="float32", augmentation=None, view=None,
)  # fmt: skip


@many(150)
@hypothesis.given(strategies.integers(0, 2**32))
def test_cached_features(seed):

    rows = np.arange(160, dtype=np.float32).reshape(40, 4)
    shards = shard_files.Shards(40, (4,), tf.float32)
    with tempfile.TemporaryDirectory() as folder:
        cache = store.Cache(pathlib.Path(folder), 1 << 30)
        cache.load_or_compute(KEY, shards, lambda start, stop: [rows[start:stop]])
        (path,) = pathlib.Path(folder).rglob("*.npy")
        path.write_bytes(damaged(path.read_bytes(), seed))
        found = cache.load_or_compute(KEY, shards, lambda start, stop: [rows[start:stop]])
        np.testing.assert_array_equal(np.concatenate(found), rows)


TABLE = (
    "file_name,patient_id,etiology,label,predicted,p_NORMAL,p_PNEUMONIA\n"
    "a.jpeg,IM-1,normal,NORMAL,NORMAL,0.75,0.25\nb.jpeg,person1,virus,PNEUMONIA,PNEUMONIA,0.1,0.9\n"
)


@many(150)
@hypothesis.given(strategies.integers(0, 2**32))
def test_tables_of_predictions(seed):
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "predictions.csv"
        path.write_bytes(damaged(TABLE.encode(), seed))
        table, message = attempt((ValueError, RunError), predictions.Predictions.load_csv, path)
        if message:
            return
        table.save_csv(path)
        again = predictions.Predictions.load_csv(path)
    np.testing.assert_array_equal(again.probabilities, table.probabilities)
    assert list(again.file_name) == list(table.file_name)
