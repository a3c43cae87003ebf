"""Reads files of options, here or in a bucket, and recipes; `trainer.flags` checks what is in them.

option_files.load("runs/a/config.json")["max_epochs"]
option_files.load_recipe("quickstart")
"""

from __future__ import annotations

import contextlib
import errno
import importlib
import importlib.resources
import os
import pathlib
import tempfile
from typing import TYPE_CHECKING, Any

from trainer import errors
from trainer.storage import contents, documents, locations
from trainer.system import text

if TYPE_CHECKING:
    from collections.abc import Iterator

EXAMPLE = 'such as {"max_epochs": 5}'
OTHER_FORMATS = ("yaml", "yml", "toml", "ini", "py", "csv")


def load(path: str | pathlib.Path) -> dict[str, Any]:
    """Reads a JSON object of options; their names and values are not checked.

    Args:
      path: a local file, or an object in a bucket (`gs://…`).

    Raises:
      ConfigError: when the file is missing, or is not a JSON object.
      RunError: when the bucket can't be read.
    """
    if not locations.is_url(str(path)) and local(path).is_dir():
        raise errors.ConfigError(contents.no_file_of_options(str(path), local(path)))
    with on_disk(path) as file:
        try:
            content = documents.read_text(file, way_out=f"options are a JSON object, {EXAMPLE}")
        except documents.DocumentError as error:
            raise errors.ConfigError(_unread(path, error)) from error
    try:
        values = documents.parse(content)
    except ValueError as error:
        raise errors.ConfigError(_not_json(path, error)) from error
    if not isinstance(values, dict):
        raise errors.ConfigError(f"{path} must hold one JSON object of options, {EXAMPLE}.")
    return values


def recipes() -> list[str]:
    """Returns the names of the recipes."""
    folder = importlib.resources.files("trainer") / "recipes"
    return sorted(file.name.removesuffix(".json") for file in folder.iterdir())


def load_recipe(name: str | None) -> dict[str, Any]:
    """Returns the options of a recipe; none of None."""
    if name is None:
        return {}
    recipe = importlib.resources.files("trainer") / "recipes" / f"{name}.json"
    return dict(documents.parse(recipe.read_text("utf-8")))


def entries(folder: str) -> list[str]:
    """Returns what a folder, here or in a bucket, holds at its top."""
    if not locations.is_url(folder):
        return contents.entries(local(folder))
    try:
        url = locations.parse(folder)
    except locations.LocationError as error:
        raise errors.ConfigError(f"{folder} {error}.") from error
    # Imported only here: Google's client library takes most of a second to import.
    return importlib.import_module("trainer.storage.mirror").Mirror(url, pathlib.Path()).entries()


@contextlib.contextmanager
def on_disk(path: str | pathlib.Path) -> Iterator[pathlib.Path]:
    """Yields the local path of a file; downloads it from a bucket if need be."""
    if not locations.is_url(str(path)):
        yield local(path)
        return
    try:
        url = locations.parse(str(path))
    except locations.LocationError as error:
        raise errors.ConfigError(f"{path} {error}.") from error
    # Imported only here: Google's client library takes most of a second to import.
    bucket = importlib.import_module("trainer.storage.bucket").Bucket(url.bucket)
    stored = bucket.stat(url.name)
    if stored is None:
        raise errors.ConfigError(f"can't read options from {path}: there is no such object.")
    with tempfile.TemporaryDirectory() as folder:
        copy = pathlib.Path(folder) / "config.json"
        bucket.download(stored, copy)
        yield copy


def local(path: str | pathlib.Path) -> pathlib.Path:
    """Returns a path of this machine.

    Raises:
      ConfigError: when it is no path of a file.
    """
    try:
        locations.check_local(str(path))
    except locations.LocationError as error:
        raise errors.ConfigError(f"{text.visible(str(path))} {error}.") from error
    return pathlib.Path(path).expanduser()


def _unread(path: str | pathlib.Path, error: documents.DocumentError) -> str:
    if error.is_missing:
        hint = contents.options_near(str(path), local(path))
        return f"can't read options from {path}: {os.strerror(errno.ENOENT)}; {hint}"
    return str(error)


def _not_json(path: str | pathlib.Path, error: ValueError) -> str:
    kind = pathlib.Path(path).suffix.lstrip(".").lower()
    if kind in OTHER_FORMATS:
        return f"{path} is {kind.upper()}; options are read from JSON, {EXAMPLE}."
    return f"{path} {text.one_line(str(error))}; options are a JSON object, {EXAMPLE}."
