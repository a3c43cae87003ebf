"""Which tests share a process under pytest-xdist, and the data that all processes share."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Any

import pytest
import tensorflow_datasets as tfds
from PIL import Image
from xdist.scheduler import LoadScopeScheduling

import cxr_tfds
from cxr_tfds import phantoms
from tests.support import shared_folders
from tests.support.pages import browsers
from trainer.data import opening
from trainer.options import DataOptions

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from xdist.remote import Producer


# Whoever runs the tests under `nohup` would have SIGHUP ignored by all their processes.
signal.signal(signal.SIGHUP, signal.SIG_DFL)

BY_CASE = ("test_conformance.py", "tpu/test_tracing.py", "test_interruptions.py")
"""Files whose tests share what is made for their first parameter, as a backbone, and no more."""
FIRST = (
    "test_every_option",
    "test_search",
    "test_train",
    "test_checkpoint",
    "test_driver",
    "test_cli",
    "test_builder",
)
"""Files that take longest."""


class _Scheduling(LoadScopeScheduling):
    """Gives a file to one process, or in some what has one first parameter: it shares fixtures."""

    def _split_scope(self, nodeid: str) -> str:
        file, _, test = nodeid.partition("::")
        name = test.partition("[")[2].partition("-")[0].rstrip("]")
        return f"{file}[{name}]" if file.endswith(BY_CASE) else file


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Starts with what takes longest, so that no process ends with it."""
    items.sort(key=lambda item: item.path.stem not in FIRST)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> _Scheduling:
    return _Scheduling(config, log)


@pytest.fixture(scope="session")
def phantom_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where cxr_tfds/phantom is built."""

    def build(folder: Path) -> None:
        builder = cxr_tfds.Builder(config="phantom", data_dir=folder)
        builder.download_and_prepare(download_config=tfds.download.DownloadConfig())

    return shared_folders.made_once(tmp_path_factory, "phantom", build)


@pytest.fixture(scope="session")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in Kaggle's layout: 40 NORMAL and 60 PNEUMONIA radiographs of 50 patients."""

    def draw(root: Path) -> None:
        for record in _balanced(phantoms.records()):
            folder = root / "chest_xray" / "train" / record.label
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(phantoms.render(record)).save(folder / record.file_name, quality=80)

    return shared_folders.made_once(tmp_path_factory, "archive", draw)


def _balanced(records: Any) -> list[Any]:
    normal = [record for record in records if record.label == "NORMAL"][:40]
    return normal + [record for record in records if record.label == "PNEUMONIA"][:60]


@pytest.fixture(scope="session")
def data_dir(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where cxr_tfds/paper of the archive is built."""

    def build(folder: Path) -> None:
        options = DataOptions(dataset="paper", manual_dir=str(archive), data_dir=str(folder))
        opening.load(options, image_size=224)

    return shared_folders.made_once(tmp_path_factory, "data", build)


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """A running Chromium."""
    with browsers.launched() as found:
        yield found
