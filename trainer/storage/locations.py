"""Addresses of folders: local paths, and `gs://bucket/prefix` in object storage.

url = locations.parse("gs://hospital/runs/a")
(url / "config.json").name                          # "runs/a/config.json"
locations.relative_path("runs/a/x/y.npy", url)      # PurePosixPath("x/y.npy")
"""

from __future__ import annotations

import dataclasses
import pathlib
import re
from typing import Self

_BUCKET = re.compile(r"[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]")


class LocationError(ValueError):
    """An address that can't be used; the message is a clause that says why."""


@dataclasses.dataclass(frozen=True)
class Url:
    """An object, or all objects below it.

    Attributes:
      bucket: the bucket's name.
      name: the object's name; empty for the whole bucket, never with a slash at either end.
    """

    bucket: str
    name: str

    def __str__(self) -> str:
        """As a user writes it."""
        return f"gs://{self.bucket}/{self.name}".rstrip("/")

    def __truediv__(self, part: str | pathlib.PurePosixPath) -> Self:
        """Returns what is below, as with a path."""
        return type(self)(self.bucket, f"{self.prefix}{part}")

    @property
    def prefix(self) -> str:
        """What the names of all objects below start with."""
        return f"{self.name}/" if self.name else ""

    def folder_in(self, root: pathlib.Path) -> pathlib.Path:
        """Returns the local folder that stands for this address."""
        return root / self.bucket / self.name


def is_url(path: str) -> bool:
    """Whether an address has a scheme, known or not."""
    return "://" in path


def check(path: str) -> None:
    """Raises LocationError unless `path` is local or a well-formed `gs://bucket/prefix`."""
    if is_url(path):
        parse(path)


def parse(text: str) -> Url:
    """Reads `gs://bucket/prefix`.

    Raises:
      LocationError: for another scheme, no bucket, or a prefix that is no relative path.
    """
    scheme, _, rest = text.partition("://")
    if scheme != "gs":
        raise LocationError(f"has the scheme {scheme}://; local paths and gs:// are read")
    bucket, _, name = rest.partition("/")
    if not _BUCKET.fullmatch(bucket):
        raise LocationError(f"names no bucket ({bucket!r}); write gs://BUCKET/PREFIX")
    name = name.removesuffix("/")
    if name:
        _require_plain(name)
    return Url(bucket, name)


def relative_path(name: str, below: Url) -> pathlib.PurePosixPath:
    """Returns an object's path below an address.

    Whoever may write to the bucket chooses the names of its objects. None of them may lead out of
    the folder that it is copied into, on any system.

    Raises:
      LocationError: for a name that is no plain relative path.
    """
    if not name.startswith(below.prefix):
        raise LocationError(f"{name!r} is not below {below}")
    relative = name.removeprefix(below.prefix)
    _require_plain(relative)
    return pathlib.PurePosixPath(relative)


def _require_plain(name: str) -> None:
    parts = name.split("/")
    # A colon is a drive or a stream of a file on Windows; so is a backslash a separator there.
    if {"", ".", ".."} & set(parts) or re.search(r"[\\:\x00-\x1f\x7f]", name):
        raise LocationError(f"{name!r} is not a plain relative path")
