"""Addresses of folders: local paths, and `gs://bucket/prefix` in object storage.

url = locations.parse("gs://hospital/runs/a")
(url / "config.json").name                          # "runs/a/config.json"
locations.relative_path("runs/a/x/y.npy", url)      # PurePosixPath("x/y.npy")
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
import re
from typing import Self

from trainer.system import text as text_lib

MAX_NAME_BYTES = 255
"""Of a file or folder, on every file system in use."""
_SCHEMES = ("gs", "gcs", "s3", "s3a", "az", "abfs", "abfss", "http", "https", "hdfs", "ftp", "file")
_BUCKET = re.compile(r"[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]")


class LocationError(ValueError):
    """An invalid address; the message is a clause that says why."""


@dataclasses.dataclass(frozen=True)
class Url:
    """The address of an object, or of all objects below a prefix.

    Attributes:
      bucket: the bucket's name.
      name: the object's name; empty for the whole bucket, never with a slash at either end.
    """

    bucket: str
    name: str

    def __str__(self) -> str:
        """Returns the address as a user writes it."""
        return f"gs://{self.bucket}/{self.name}".rstrip("/")

    def __truediv__(self, part: str | pathlib.PurePosixPath) -> Self:
        """Returns the address of `part` below this one, as pathlib does."""
        return type(self)(self.bucket, f"{self.prefix}{part}")

    @property
    def prefix(self) -> str:
        """What the names of all objects below this address start with."""
        return f"{self.name}/" if self.name else ""

    def folder_in(self, root: pathlib.Path) -> pathlib.Path:
        """Returns the local folder below `root` that stands for this address."""
        return root / self.bucket / self.name


def is_url(path: str) -> bool:
    """Whether an address has a scheme, supported or not."""
    return "://" in path


def is_remote(path: str) -> bool:
    """Whether an address is meant for other storage than this machine's, well formed or not."""
    scheme, colon, _ = path.partition(":")
    return bool(colon) and scheme.lower() in _SCHEMES and scheme.lower() != "file"


def resolved(path: str) -> str:
    """Returns the one spelling of a folder: absolute, without `..` and links; a URL's, as it is."""
    return path.rstrip("/") if is_url(path) else os.path.realpath(pathlib.Path(path).expanduser())


def check(path: str) -> None:
    """Raises LocationError unless `path` is local or a well-formed `gs://bucket/prefix`."""
    if is_url(path):
        parse(path)
    else:
        check_local(path)


def check_local(path: str) -> None:
    """Raises LocationError unless `path` is a path on this machine, `~` or `~user` before it."""
    scheme, colon, rest = path.partition(":")
    if path.lower().startswith("file://"):
        parse(path)
    if is_url(path):
        raise LocationError("must be a local path, not a URL")
    if colon and scheme.lower() in _SCHEMES:
        hint = f"gs://{rest.lstrip('/')}" if scheme.lower() == "gs" else "a local path or gs://…"
        raise LocationError(f"is neither a local path nor a URL; write {hint}")
    if "\0" in path:
        raise LocationError("has a null byte in it")
    if not text_lib.is_os_string(path):
        raise LocationError("has characters that no path can have")
    if any(len(os.fsencode(name)) > MAX_NAME_BYTES for name in path.split("/")):
        raise LocationError(
            f"has a name of over {MAX_NAME_BYTES} bytes, which no file system takes"
        )
    try:
        pathlib.Path(path).expanduser()
    except RuntimeError as error:
        raise LocationError("starts with the home folder of a user that is not known") from error


def parse(text: str) -> Url:
    """Reads `gs://bucket/prefix`.

    Raises:
      LocationError: for another scheme, an invalid bucket name, or an unsafe prefix.
    """
    scheme, _, rest = text.partition("://")
    if scheme != "gs":
        shown = text_lib.visible(scheme)
        if scheme.lower() == "gs":
            raise LocationError("has its scheme in capitals; write gs://BUCKET/PREFIX")
        if scheme.lower() == "file":
            raise LocationError(f"is a URL of a local path; write {text_lib.visible(rest):.200}")
        raise LocationError(f"has the scheme {shown:.20}://; local paths and gs:// are supported")
    bucket, _, name = rest.partition("/")
    if not _BUCKET.fullmatch(bucket):
        raise LocationError(f"has no valid bucket name ({bucket!r:.80}); write gs://BUCKET/PREFIX")
    name = name.removesuffix("/")
    if name:
        _require_plain(name)
    return Url(bucket, name)


def relative_path(name: str, below: Url) -> pathlib.PurePosixPath:
    """Returns an object's path below an address.

    Anybody who can write to the bucket chooses the names of its objects. On no system may a name
    lead out of the folder that the object is downloaded into.

    Raises:
      LocationError: for a name that is not a plain relative path.
    """
    if not name.startswith(below.prefix):
        raise LocationError(f"{name!r} is not below {below}")
    relative = name.removeprefix(below.prefix)
    _require_plain(relative)
    return pathlib.PurePosixPath(relative)


def require_name(name: str) -> None:
    """Raises LocationError unless a text can only name a file or folder: no path, nothing hidden.

    Whoever writes a file that we read chooses the names in it. All that become part of a path pass
    here.
    """
    # On Windows, a colon marks a drive or a file's stream, and a backslash separates folders.
    if (
        name in ("", ".", "..")
        or re.search(r"[/\\:\x00-\x1f\x7f-\x9f\ud800-\udfff]", name)
        or len(name.encode("utf-8", "replace")) > MAX_NAME_BYTES
    ):
        raise LocationError("is not a plain name")


def _require_plain(name: str) -> None:
    try:
        for part in name.split("/"):
            require_name(part)
    except LocationError as error:
        raise LocationError(f"{name!r} is not a plain relative path") from error
