"""What goes together where tests run in several processes, and what those share."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import filelock
import pytest
import tensorflow_datasets as tfds

import cxr_tfds

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.hookimpl(tryfirst=True)  # Before pytest-xdist reads the marks.
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keeps a file's tests in one process, which makes once what they share, unless marked."""
    for item in items:
        if item.get_closest_marker("xdist_group") is None:
            item.add_marker(pytest.mark.xdist_group(item.path.stem))


def made_once(
    tmp_path_factory: pytest.TempPathFactory, name: str, make: Callable[[Path], None]
) -> Path:
    """A folder for all processes of this run of pytest; the first one that wants it fills it."""
    root = tmp_path_factory.getbasetemp()
    root = root.parent if "PYTEST_XDIST_WORKER" in os.environ else root
    folder, partial = root / name, root / f"partial_{name}"
    with filelock.FileLock(root / f"{name}.lock"):
        if not folder.exists():
            partial.mkdir()
            make(partial)
            partial.rename(folder)
    return folder


@pytest.fixture(scope="session")
def phantom_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where cxr_tfds/phantom is built."""

    def build(folder: Path) -> None:
        builder = cxr_tfds.Builder(config="phantom", data_dir=folder)
        builder.download_and_prepare(download_config=tfds.download.DownloadConfig())

    return made_once(tmp_path_factory, "phantom", build)
