"""Folders that all processes of one run of pytest share."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import filelock

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import pytest


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
