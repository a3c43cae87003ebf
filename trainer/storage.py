"""Where run directories live, and how a file in them comes to be: whole or not at all.

with storage.replacing(run_dir / "report.json") as partial:
    partial.write_text(...)
"""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import tempfile
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextlib.contextmanager
def replacing(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """Yields a temporary path beside `path` that takes its place when the block succeeds.

    The temporary name keeps the suffix, because Keras and Matplotlib choose the format by it.
    A reader sees the old file or the new one, never a part; a failed block leaves nothing.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".partial-", dir=path.parent) as directory:
        partial = pathlib.Path(directory) / path.name
        yield partial
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.replace(path)


@contextlib.contextmanager
def replacing_folder(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """Yields a temporary folder beside `path` that takes its place when the block succeeds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(
        prefix=".partial-", dir=path.parent, ignore_cleanup_errors=True
    ) as directory:
        partial = pathlib.Path(directory) / path.name
        partial.mkdir()
        yield partial
        for file in partial.iterdir():
            with file.open("rb") as written:
                os.fsync(written.fileno())
        if path.exists():  # A folder that is not empty can't be replaced by renaming alone.
            path.replace(pathlib.Path(directory) / "replaced")
        partial.replace(path)


def save_json(path: pathlib.Path, value: Any) -> None:
    """Writes `value` as indented JSON; NaN and infinity are refused (they are not JSON)."""
    with replacing(path) as partial:
        partial.write_text(json.dumps(value, indent=2, allow_nan=False) + "\n", encoding="utf-8")
