"""What the trainer's tests share: logical CPUs, a small real archive, and a built data set."""

from __future__ import annotations

import concurrent.futures
import functools
import multiprocessing
import os
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from cxr_tfds import phantom
from tests.trainer import bucket_server
from trainer import config as config_lib
from trainer import pipeline, runtime
from trainer.config import Config

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

REPLICAS = int(os.environ.get("TEST_REPLICAS", "2"))
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0],
    [tf.config.LogicalDeviceConfiguration()] * REPLICAS,
)


@pytest.fixture(autouse=True)
def _fresh_state() -> Iterator[None]:
    """Each test starts from the same seed and policy, and leaves none behind."""
    keras.utils.set_random_seed(0)
    yield
    keras.mixed_precision.set_dtype_policy("float32")


@pytest.fixture(autouse=True, scope="module")
def _free_memory() -> Iterator[None]:
    """Drops the models of a module at its end; after each test it would cost minutes."""
    yield
    keras.backend.clear_session()


@functools.cache
def strategy_of(replicas: int) -> tf.distribute.Strategy:
    """One device, or this process's logical CPUs mirrored.

    TensorFlow numbers the groups of its collectives anew for each strategy, so a process can have
    one number of mirrored replicas in its life; other numbers take `run_with_replicas`.
    """
    if replicas == 1:
        return tf.distribute.get_strategy()
    assert replicas == REPLICAS
    return runtime.mirrored(tuple(cpu.name for cpu in tf.config.list_logical_devices("CPU")))


def run_with_replicas(replicas: int, function: Callable[..., None], *args: Any) -> None:
    """Runs `function(*args)` in a new process that has so many logical CPUs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TEST_REPLICAS", str(replicas))
        spawn = multiprocessing.get_context("spawn")
        with concurrent.futures.ProcessPoolExecutor(1, mp_context=spawn) as pool:
            pool.submit(function, *args).result()


@pytest.fixture(scope="session")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in Kaggle's layout: 40 NORMAL and 60 PNEUMONIA radiographs of 50 patients."""
    root = tmp_path_factory.mktemp("manual")
    for index, record in enumerate(_balanced(phantom.records())):
        folder = root / "chest_xray" / "train" / record.label
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(phantom.render(record)).save(folder / record.file_name, quality=80)
        del index
    return root


def _balanced(records: Any) -> list[Any]:
    normal = [record for record in records if record.label == "NORMAL"][:40]
    return normal + [record for record in records if record.label == "PNEUMONIA"][:60]


@pytest.fixture(scope="session")
def data_dir(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where cxr_tfds/paper of the archive is built."""
    folder = tmp_path_factory.mktemp("data")
    options = config_lib.Data(dataset="paper", manual_dir=str(archive), data_dir=str(folder))
    pipeline.load(options, image_size=224)
    return folder


@pytest.fixture
def make_config(data_dir: Path, tmp_path: Path) -> Callable[..., Config]:
    """Returns a maker of configs for a small, quick run on the built data set."""

    def make(**options: Any) -> Config:
        small: dict[str, Any] = {
            "dataset": "paper",
            "data_dir": str(data_dir),
            "cache_dir": str(tmp_path / "cache"),
            "model_dir": str(tmp_path / "run"),
            "backbone": "small_cnn",
            "weights": "none",
            "image_size": 32,
            "neurons": 8,
            "batch_size": 16,
            "max_epochs": 2,
            "strategy": "one_device",
            "precision": "float32",
        }
        return Config.from_flat(small | options)

    return make


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[bucket_server.Server]:
    """A bucket `hospital` on loopback, which the storage library is sent to."""
    with bucket_server.serve("hospital") as running:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", running.url)
        yield running


def images(count: int, size: int = 32, seed: int = 0) -> np.ndarray:
    """Random grey images, [count, size, size, 1] uint8."""
    generator = np.random.default_rng(seed)
    return generator.integers(0, 256, (count, size, size, 1), dtype=np.uint8)
