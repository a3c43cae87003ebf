"""Fixtures of the trainer's tests: logical CPUs, fresh Keras state, small configs, a bucket."""

from __future__ import annotations

import functools
import importlib
import shutil
import subprocess
from typing import TYPE_CHECKING

import keras
import pytest
from absl.testing import flagsaver

from tests.support import bucket_server, devices, runs, shared_folders
from trainer import __main__ as trainer_main
from trainer import flags
from trainer.system import console

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from trainer.config import Config

devices.configure(devices.REPLICAS)  # Before any test module builds a tensor.


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


@pytest.fixture(scope="session")
def finished(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a finished run, to be read: `finished_copy` may be changed."""

    def train(folder: Path) -> None:
        with console.muted():
            importlib.import_module("trainer.commands.train").train(
                runs.small_config(data_dir, folder)
            )

    return shared_folders.made_once(tmp_path_factory, "finished", train) / "run"


@pytest.fixture
def finished_copy(finished: Path, tmp_path: Path) -> Path:
    """A copy of `finished`."""
    return shutil.copytree(finished, tmp_path / "run")


@pytest.fixture
def make_config(data_dir: Path, tmp_path: Path) -> Callable[..., Config]:
    """Returns a maker of small configs."""
    return functools.partial(runs.small_config, data_dir, tmp_path)


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
