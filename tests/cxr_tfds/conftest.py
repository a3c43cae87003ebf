"""A small archive in Kaggle's layout, as a ZIP file or still to be changed."""

from __future__ import annotations

import pathlib
import shutil
import sys
from typing import TYPE_CHECKING

import pytest

from cxr_tfds import source
from tests.support import radiographs

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.fixture
def files() -> radiographs.Files:
    return radiographs.kaggle_files()


@pytest.fixture
def manual_dir(files: radiographs.Files, tmp_path: pathlib.Path) -> pathlib.Path:
    return files.zip(tmp_path / "manual")


@pytest.fixture(scope="session")
def example_dir(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return radiographs.kaggle_files().zip(tmp_path_factory.mktemp("manual"))


@pytest.fixture
def make_record() -> Callable[[str], source.Record]:
    def make(key: str) -> source.Record:
        _, label, name = key.split("/")
        etiology, patient_id = source.parse_name(name.rsplit(".", 1)[0])
        return source.Record(key, label, etiology, patient_id, path=key)

    return make


@pytest.fixture(scope="session")
def tfds_command() -> str:
    command = shutil.which("tfds", path=str(pathlib.Path(sys.executable).parent))
    assert command, "The tfds command belongs to tensorflow-datasets."
    return command
