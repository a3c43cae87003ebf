"""What the trainer's tests share: logical CPUs, a small real archive, and a built data set."""

from __future__ import annotations

import concurrent.futures
import contextlib
import functools
import multiprocessing
import os
import signal
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from absl.testing import flagsaver

from tests.support import bucket_server
from trainer import __main__ as trainer_main
from trainer import flags
from trainer.config import Config
from trainer.distribution import runtime

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

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


@contextlib.contextmanager
def started(command: Sequence[str], **options: Any) -> Iterator[subprocess.Popen[str]]:
    """A process with pipes; where it still runs at the end of the block, it and its are killed."""
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **(pipes | options)) as process:
        try:
            yield process
        finally:
            children = children_of(process.pid) if process.poll() is None else []
            process.kill()
            for child in children:
                os.kill(child, signal.SIGKILL)


def children_of(pid: int) -> list[int]:
    """The processes that a running one has started, in the order of their start."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def small_config(data_dir: Path, folder: Path, /, **options: Any) -> Config:
    """A small, quick run on the built data set, all of whose files go into `folder`."""
    small: dict[str, Any] = {
        "dataset": "paper",
        "data_dir": str(data_dir),
        "cache_dir": str(folder / "cache"),
        "model_dir": str(folder / "run"),
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


@pytest.fixture
def make_config(data_dir: Path, tmp_path: Path) -> Callable[..., Config]:
    """Returns a maker of small configs."""
    return functools.partial(small_config, data_dir, tmp_path)


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs a command line as `python -m trainer` does, in this process: TensorFlow is here."""

    def run(*args: str) -> subprocess.CompletedProcess[str]:
        _define_flags()
        capsys.readouterr()
        with flagsaver.flagsaver():
            try:
                code = trainer_main.main(trainer_main._parse(["trainer", *args]))
            except SystemExit as end:
                code = end.code
        return subprocess.CompletedProcess(args, code, *capsys.readouterr())

    return run


@functools.cache
def _define_flags() -> None:
    flags.define()


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
