"""Objects of a bucket in Google Cloud Storage: list, download and upload them, whole or not at all.

Every byte is checked both ways by CRC32C. Every upload says which generation of the object it
replaces (0: none), so that two writers can't overwrite one another unnoticed. What may pass (too
many requests, server errors, broken connections, truncated bodies) is tried again with growing,
random delays for `PATIENCE_S`, then the caller hears of it. Memory is bounded by `CHUNK_BYTES`.

    files = bucket.Bucket("hospital")
    stored = files.list("runs/a/")["runs/a/config.json"]
    files.download(stored, local_path)
    files.upload(local_path, "runs/a/config.json", generation=stored.generation)

`STORAGE_EMULATOR_HOST` is respected, as by the library: no credentials are needed then.
"""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import http.client
import mimetypes
import os
from typing import TYPE_CHECKING, Any, BinaryIO, Self

import google.auth.exceptions
import google_crc32c
import requests
import urllib3
from google.api_core import exceptions as api
from google.api_core import retry as api_retry
from google.cloud import storage as gcs

from trainer.errors import RunError
from trainer.storage import files
from trainer.system import text

if TYPE_CHECKING:
    import pathlib
    from collections.abc import Callable, Iterator

PATIENCE_S = 120.0
"""How long a call is tried again before it fails."""
TIMEOUTS_S = (10.0, 60.0)
"""To connect, and between two pieces of an answer."""
CHUNK_BYTES = 8 << 20
"""What one request of an upload holds in memory; a smaller object is sent in one request."""
MAX_DELAY_S = 20.0


class _DamagedError(Exception):
    """What arrived is not what is stored."""


_TRANSIENT_CODES = {408, 410, 429, 500, 502, 503, 504}
# 410: an upload in pieces that the server has forgotten.
_TRANSIENT_ERRORS = (
    _DamagedError,
    ConnectionError,
    TimeoutError,
    http.client.HTTPException,
    urllib3.exceptions.HTTPError,
    requests.ConnectionError,
    requests.Timeout,
    requests.exceptions.ChunkedEncodingError,
    requests.exceptions.InvalidJSONError,  # An answer that was cut.
    google.auth.exceptions.TransportError,
)
_LOG_IN = (
    "run `gcloud auth application-default login`, or set GOOGLE_APPLICATION_CREDENTIALS to a "
    "service account's key file"
)


class StorageError(RunError):
    """The bucket can't be used as asked."""


class UnreachableError(StorageError):
    """The bucket did not answer well for as long as patience lasted; later it may."""


class MissingError(StorageError):
    """There is no such object, or no such bucket."""


class ConflictError(StorageError):
    """Another process has written the object."""


@dataclasses.dataclass(frozen=True)
class Stored:
    """One version of an object.

    Attributes:
      name: in the bucket.
      generation: changes with every write.
      size: bytes.
      crc32c: of the bytes, in base64.
    """

    name: str
    generation: int
    size: int
    crc32c: str

    @classmethod
    def of(cls, blob: Any) -> Self:
        """Reads it from the library's blob."""
        return cls(blob.name, int(blob.generation), int(blob.size), blob.crc32c)

    def is_copy(self, path: pathlib.Path) -> bool:
        """Whether a local file has the same bytes."""
        if not path.is_file():
            return False
        with path.open("rb") as file:
            return self.has_bytes(file, os.fstat(file.fileno()).st_size)

    def has_bytes(self, file: BinaryIO, size: int) -> bool:
        """Whether the first `size` bytes of an open file are those of the object."""
        file.seek(0)
        return size == self.size and checksum(file, size) == self.crc32c


def _ignore(_: int) -> None:
    """Tells nobody of progress."""


class Bucket:
    """The objects of one bucket."""

    def __init__(
        self, name: str, *, patience_s: float = PATIENCE_S, first_delay_s: float = 0.5
    ) -> None:
        """Finds credentials; asks the bucket nothing yet.

        Args:
          name: of the bucket.
          patience_s: upper limit of the time in which a call is tried again.
          first_delay_s: upper limit of the first delay; of each further one, twice that.

        Raises:
          StorageError: without credentials.
        """
        self.name = name
        self._patience_s = patience_s
        self._retry = api_retry.Retry(
            predicate=_is_transient,
            initial=first_delay_s,
            maximum=MAX_DELAY_S,
            multiplier=2,
            timeout=patience_s,
        )
        # Or the library asks for the bucket's metadata, from a thread of its own, for traces.
        os.environ.setdefault("DISABLE_GCS_PYTHON_CLIENT_OTEL_BUCKET_METADATA", "true")
        with self._explained():
            # Without a project: none is needed for objects, and looking for one takes seconds.
            self._client = gcs.Client(project=None)
            self._bucket = self._client.bucket(name)

    def list(self, prefix: str) -> dict[str, Stored]:
        """Returns what is stored under names that start with `prefix`.

        Raises:
          StorageError: when the bucket is missing, closed to us or out of reach.
        """
        with self._explained(prefix):
            blobs = self._client.list_blobs(
                self._bucket, prefix=prefix, retry=self._retry, timeout=TIMEOUTS_S
            )
            return {blob.name: Stored.of(blob) for blob in blobs}

    def stat(self, name: str) -> Stored | None:
        """Returns the newest version of an object; None if there is none."""
        with self._explained(name):
            blob = self._bucket.get_blob(name, retry=self._retry, timeout=TIMEOUTS_S)
        return None if blob is None else Stored.of(blob)

    def download(
        self, stored: Stored, path: pathlib.Path, progress: Callable[[int], None] = _ignore
    ) -> Stored:
        """Copies an object to a file, which appears when all of it is there and correct.

        Args:
          stored: which version. If it has been replaced meanwhile, the newest takes its place.
          path: where to.
          progress: told of bytes as they arrive; of a negative number when a try was in vain.

        Returns:
          The version that was copied.

        Raises:
          StorageError: when there is no such object, or it can't be had.
        """
        while True:
            try:
                with self._explained(stored.name), files.replacing(path) as partial:
                    self._retry(self._download_once)(stored, partial, progress)
            except MissingError:
                newest = self.stat(stored.name)
                if newest is None or newest == stored:
                    raise
                stored = newest
            else:
                return stored

    def _download_once(
        self, stored: Stored, path: pathlib.Path, progress: Callable[[int], None]
    ) -> None:
        blob = self._bucket.blob(stored.name, generation=stored.generation)
        with path.open("wb") as file:
            sink = _Sink(file, progress)
            try:
                # The library goes on where a connection broke, and then checks nothing. We do.
                # Raw: the bytes as they are stored, which is what the checksum is of.
                blob.download_to_file(
                    sink, raw_download=True, checksum=None, retry=self._retry, timeout=TIMEOUTS_S
                )
                sink.require(stored)
            except BaseException:
                progress(-sink.size)
                raise

    def upload(
        self, path: pathlib.Path, name: str, *, generation: int, may_exist: bool = False
    ) -> Stored:
        """Stores a file; a reader sees the old object or all of the new one.

        Args:
          path: the file. It may be replaced meanwhile, or grow: what it is now is stored.
          name: of the object.
          generation: which version it replaces; 0: none.
          may_exist: whether it is well if another writer has stored the same bytes.

        Returns:
          The new version.

        Raises:
          ConflictError: when the bucket holds another version than `generation`.
          StorageError: when it can't be stored.
        """
        attempts = 0

        def attempt() -> Stored:
            nonlocal attempts
            attempts += 1
            try:
                return self._upload_once(file, size, name, generation)
            except api.PreconditionFailed:
                # An earlier try may have succeeded, and only its answer was lost.
                newest = self.stat(name) if attempts > 1 or may_exist else None
                if newest is None or not newest.has_bytes(file, size):
                    raise
                return newest

        with self._explained(name), path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            return self._retry(attempt)()

    def _upload_once(self, file: BinaryIO, size: int, name: str, generation: int) -> Stored:
        blob = self._bucket.blob(name, chunk_size=CHUNK_BYTES)
        file.seek(0)
        # The server compares before it shows the object; the library only afterwards.
        blob.crc32c = checksum(file, size)
        file.seek(0)
        blob.upload_from_file(
            file,
            size=size,
            content_type=mimetypes.guess_type(name)[0],
            checksum=None,
            if_generation_match=generation,
            timeout=TIMEOUTS_S,
            # A piece may be sent twice; a whole object may not, before we know of the first.
            retry=self._retry if size > CHUNK_BYTES else None,
        )
        return Stored.of(blob)

    def delete(self, stored: Stored) -> None:
        """Removes a version of an object; one that is gone already is fine.

        Raises:
          ConflictError: when another version has taken its place.
          StorageError: when it can't be removed.
        """
        blob = self._bucket.blob(stored.name)
        options = {"retry": self._retry, "timeout": TIMEOUTS_S}
        with self._explained(stored.name), contextlib.suppress(api.NotFound):
            try:
                blob.delete(if_generation_match=stored.generation, **options)
            except api.PreconditionFailed:
                if self.stat(stored.name) is not None:
                    raise

    @contextlib.contextmanager
    def _explained(self, name: str = "") -> Iterator[None]:
        """Turns what the libraries raise into a sentence that says what to do."""
        what = f"gs://{self.name}/{name}"
        try:
            yield
        except api.RetryError as error:
            raise UnreachableError(
                f"{what} can't be reached; tried for {self._patience_s:g} s: "
                f"{text.first_line(error.cause)}."
            ) from error
        except api.PreconditionFailed as error:
            raise ConflictError(
                f"{what} has been written by another process; nothing was overwritten. "
                "Let one process at a time write there, or name another place."
            ) from error
        except api.NotFound as error:
            raise MissingError(
                f"{what} does not exist ({text.first_line(error)}). Is the bucket's name right? "
                f"`gcloud storage buckets create gs://{self.name}` makes one."
            ) from error
        except (api.Unauthorized, api.Forbidden) as error:
            raise StorageError(
                f"{what} is closed to these credentials ({text.first_line(error)}). Ask for the "
                f"role Storage Object User on the bucket; or {_LOG_IN}."
            ) from error
        except google.auth.exceptions.GoogleAuthError as error:
            raise StorageError(
                f"gs://{self.name} needs credentials ({text.first_line(error)}); {_LOG_IN}."
            ) from error
        except (api.GoogleAPIError, requests.RequestException) as error:
            raise StorageError(f"{what}: {text.first_line(error)}.") from error


class _Sink:
    """A file that is being downloaded, and what is known of it so far."""

    def __init__(self, file: BinaryIO, progress: Callable[[int], None]) -> None:
        self._file, self._progress = file, progress
        self._checksum = google_crc32c.Checksum()
        self.size = 0

    def write(self, piece: bytes) -> int:
        self._checksum.update(piece)
        self.size += len(piece)
        self._progress(len(piece))
        return self._file.write(piece)

    def require(self, stored: Stored) -> None:
        """Raises _DamagedError unless all of the object has arrived."""
        if self.size != stored.size or _base64(self._checksum) != stored.crc32c:
            raise _DamagedError(
                f"{self.size} of {stored.size} bytes arrived, or others than stored"
            )


def checksum(file: BinaryIO, size: int) -> str:
    """Returns the CRC32C of a file's next `size` bytes, as the bucket writes it."""
    result = google_crc32c.Checksum()
    while size > 0 and (piece := file.read(min(size, 1 << 20))):
        result.update(piece)
        size -= len(piece)
    return _base64(result)


def _base64(crc32c: Any) -> str:
    return base64.b64encode(crc32c.digest()).decode("ascii")


def _is_transient(error: BaseException) -> bool:
    """Whether trying again may help."""
    if isinstance(error, gcs.exceptions.InvalidResponse):
        return error.response.status_code in _TRANSIENT_CODES
    if isinstance(error, api.GoogleAPICallError):
        return error.code in _TRANSIENT_CODES or _is_damaged_upload(error)
    return isinstance(error, _TRANSIENT_ERRORS)


def _is_damaged_upload(error: api.GoogleAPICallError) -> bool:
    """Whether the server has found other bytes than were sent, and has stored none."""
    return isinstance(error, api.BadRequest) and "crc32c" in str(error).lower()
