"""Atomic writes: a file or a folder appears complete, or not at all.

with files.replacing(run_dir / "report.json") as partial:
    partial.write_text(...)
"""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import tempfile
from typing import TYPE_CHECKING, Any

from trainer.errors import DiskError

if TYPE_CHECKING:
    from collections.abc import Iterator


TAIL_BYTES = 1 << 16


@contextlib.contextmanager
def replacing(path: pathlib.Path, *, makes_folder: bool = True) -> Iterator[pathlib.Path]:
    """Yields a temporary path; what the block writes there is renamed to `path` if it succeeds.

    The temporary name keeps the suffix, because Keras and Matplotlib choose the format by it.
    A reader sees the old file or the new one, never a part; a failed block leaves no file behind.

    Args:
      path: the file to write.
      makes_folder: whether to create a missing folder for it. False where the folder must already
        exist: creating it would hide that it has vanished.

    Raises:
      DiskError: when the folder has vanished.
    """
    if makes_folder:
        path.parent.mkdir(parents=True, exist_ok=True)
    with _beside(path) as partial:
        yield partial
        # Else a crash of the machine could leave the renamed file empty.
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.replace(path)


@contextlib.contextmanager
def replacing_folder(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """Yields a temporary folder, which is renamed to `path` if the block succeeds.

    Raises:
      DiskError: when the parent folder does not exist.
    """
    with _beside(path) as partial:
        partial.mkdir()
        yield partial
        for file in partial.iterdir():
            with file.open("rb") as written:
                os.fsync(written.fileno())
        if path.exists():  # A folder that is not empty can't be replaced by renaming alone.
            path.replace(partial.with_name("replaced"))
        partial.replace(path)


@contextlib.contextmanager
def _beside(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """Yields a path of the same name in a temporary folder beside it, on the same disk."""
    try:
        with tempfile.TemporaryDirectory(
            prefix=".partial-", dir=path.parent, ignore_cleanup_errors=True
        ) as folder:
            yield pathlib.Path(folder) / path.name
    except FileNotFoundError as error:
        require_folder(path.parent, error)
        raise


def require_folder(path: pathlib.Path, cause: Exception | None = None) -> None:
    """Raises DiskError if a folder that did exist is gone."""
    if not path.is_dir():
        raise DiskError(
            f"{path} has vanished: it was removed, or its disk was unmounted."
        ) from cause


def tail(path: pathlib.Path) -> str:
    """Returns the end of a text file, however long it is; undecodable bytes are replaced."""
    with path.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL_BYTES))
        return file.read(TAIL_BYTES).decode("utf-8", "replace")


def save_json(path: pathlib.Path, value: Any) -> None:
    """Writes `value` as indented JSON; NaN and infinity are refused (they are not JSON)."""
    with replacing(path) as partial:
        partial.write_text(json.dumps(value, indent=2, allow_nan=False) + "\n", encoding="utf-8")
