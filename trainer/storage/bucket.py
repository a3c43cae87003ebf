"""Objects of a Google Cloud Storage bucket: list, download and upload, each whole or not at all.

Every transfer is verified by CRC32C. Every upload names the generation of the object that it
replaces (0: none), so that two writers can't overwrite each other unnoticed. Transient errors (too
many requests, server errors, broken connections, truncated bodies) are retried with growing random
delays for `PATIENCE_S`, and raised after that. Memory is bounded by `CHUNK_BYTES`.

    files = bucket.Bucket("hospital")
    stored = files.list("runs/a/")["runs/a/config.json"]
    files.download(stored, local_path)
    files.upload(local_path, "runs/a/config.json", generation=stored.generation)

As in Google's library, `STORAGE_EMULATOR_HOST` selects an emulator, which needs no credentials.
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
"""How long a call is retried before it fails."""
TIMEOUTS_S = (10.0, 60.0)
"""For connecting, and for the next bytes of a response."""
CHUNK_BYTES = 8 << 20
"""What one request of an upload holds in memory; a smaller object is sent in a single request."""
MAX_DELAY_S = 20.0


class _DamagedError(Exception):
    """The bytes that arrived are not those of the object."""


_TRANSIENT_CODES = {408, 410, 429, 500, 502, 503, 504}
# 410: the server has dropped the session of a resumable upload.
_TRANSIENT_ERRORS = (
    _DamagedError,
    ConnectionError,
    TimeoutError,
    http.client.HTTPException,
    urllib3.exceptions.HTTPError,
    requests.ConnectionError,
    requests.Timeout,
    requests.exceptions.ChunkedEncodingError,
    requests.exceptions.InvalidJSONError,  # A truncated response.
    google.auth.exceptions.TransportError,
)
_LOG_IN = (
    "run `gcloud auth application-default login`, or set GOOGLE_APPLICATION_CREDENTIALS to a "
    "service account's key file"
)


class StorageError(RunError):
    """The bucket can't be used as requested."""


class UnreachableError(StorageError):
    """All retries failed; the bucket may be reachable later."""


class MissingError(StorageError):
    """The object or the bucket does not exist."""


class ConflictError(StorageError):
    """Another process has written the object."""


@dataclasses.dataclass(frozen=True)
class Stored:
    """One version of an object.

    Attributes:
      name: the name in the bucket.
      generation: changes with every write.
      size: in bytes.
      crc32c: checksum of the bytes, in base64 as the API has it.
    """

    name: str
    generation: int
    size: int
    crc32c: str

    @classmethod
    def of(cls, blob: Any) -> Self:
        """Converts the library's blob."""
        return cls(blob.name, int(blob.generation), int(blob.size), blob.crc32c)

    def is_copy(self, path: pathlib.Path) -> bool:
        """Whether a local file has the same bytes."""
        if not path.is_file():
            return False
        with path.open("rb") as file:
            return self.has_bytes(file, os.fstat(file.fileno()).st_size)

    def has_bytes(self, file: BinaryIO, size: int) -> bool:
        """Whether the first `size` bytes of an open file are the object's."""
        file.seek(0)
        return size == self.size and checksum(file, size) == self.crc32c


def _ignore(_: int) -> None:
    """Ignores progress."""


class Bucket:
    """The objects of one bucket."""

    def __init__(
        self, name: str, *, patience_s: float = PATIENCE_S, first_delay_s: float = 0.5
    ) -> None:
        """Finds credentials; does not contact the bucket yet.

        Args:
          name: the bucket's name.
          patience_s: how long a call is retried before it fails.
          first_delay_s: upper limit of the first delay; it doubles with each retry.

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
        # Otherwise the library fetches the bucket's metadata in a background thread, for tracing.
        os.environ.setdefault("DISABLE_GCS_PYTHON_CLIENT_OTEL_BUCKET_METADATA", "true")
        with self._explained():
            # No project: objects need none, and the library takes seconds to look for one.
            self._client = gcs.Client(project=None)
            self._bucket = self._client.bucket(name)

    def list(self, prefix: str) -> dict[str, Stored]:
        """Returns the objects whose names start with `prefix`, by name.

        Raises:
          StorageError: when the bucket does not exist, denies access or can't be reached.
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
        """Downloads an object; the file appears once it is complete and verified.

        Args:
          stored: the version; if it has been replaced meanwhile, the newest is downloaded.
          path: the file to write.
          progress: called with the number of bytes that arrive; with a negative number when a
            failed attempt is discarded.

        Returns:
          The version that was downloaded.

        Raises:
          StorageError: when the object does not exist, or can't be downloaded.
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
                # The library resumes after a broken connection, but then verifies nothing: the
                # sink does. Raw, because the checksum is of the bytes as stored, not decompressed.
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
        """Uploads a file; a reader sees the old object or the complete new one.

        Args:
          path: the file. It may grow or be replaced meanwhile: its present content is uploaded.
          name: the object's name.
          generation: the version to replace; 0: none.
          may_exist: whether to accept an object of the same bytes from another writer.

        Returns:
          The new version.

        Raises:
          ConflictError: when the bucket holds another version than `generation`.
          StorageError: when the upload fails.
        """
        attempts = 0

        def attempt() -> Stored:
            nonlocal attempts
            attempts += 1
            try:
                return self._upload_once(file, size, name, generation)
            except api.PreconditionFailed:
                # An earlier attempt may have succeeded, and only its response was lost.
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
        # With this, the server verifies before the object is visible; the library only afterwards.
        blob.crc32c = checksum(file, size)
        file.seek(0)
        blob.upload_from_file(
            file,
            size=size,
            content_type=mimetypes.guess_type(name)[0],
            checksum=None,
            if_generation_match=generation,
            timeout=TIMEOUTS_S,
            # A chunk may be sent twice. A whole object may not: `attempt` first has to find out
            # whether the earlier request succeeded.
            retry=self._retry if size > CHUNK_BYTES else None,
        )
        return Stored.of(blob)

    def delete(self, stored: Stored) -> None:
        """Deletes a version of an object; does nothing if it is already gone.

        Raises:
          ConflictError: when another version has taken its place.
          StorageError: when the deletion fails.
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
        """Turns the libraries' errors into sentences that say what to do."""
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
                "Only one process at a time may write there: stop the other, or name another "
                "address."
            ) from error
        except api.NotFound as error:
            raise MissingError(
                f"{what} does not exist ({text.first_line(error)}). Check the bucket's name, or "
                f"create it: `gcloud storage buckets create gs://{self.name}`."
            ) from error
        except (api.Unauthorized, api.Forbidden) as error:
            raise StorageError(
                f"{what} denies access to these credentials ({text.first_line(error)}). Ask for "
                f"the role Storage Object User on the bucket; or {_LOG_IN}."
            ) from error
        except google.auth.exceptions.GoogleAuthError as error:
            raise StorageError(
                f"gs://{self.name} needs credentials ({text.first_line(error)}); {_LOG_IN}."
            ) from error
        except (api.GoogleAPIError, requests.RequestException) as error:
            raise StorageError(f"{what}: {text.first_line(error)}.") from error


class _Sink:
    """A file that is being downloaded, with its size and checksum so far."""

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
        """Raises _DamagedError unless the object has arrived complete and unchanged."""
        if self.size != stored.size or _base64(self._checksum) != stored.crc32c:
            raise _DamagedError(
                f"{self.size} of {stored.size} bytes arrived, or their checksum is wrong"
            )


def checksum(file: BinaryIO, size: int) -> str:
    """Returns the CRC32C of a file's next `size` bytes, in base64 as the API has it."""
    result = google_crc32c.Checksum()
    while size > 0 and (piece := file.read(min(size, 1 << 20))):
        result.update(piece)
        size -= len(piece)
    return _base64(result)


def _base64(crc32c: Any) -> str:
    return base64.b64encode(crc32c.digest()).decode("ascii")


def _is_transient(error: BaseException) -> bool:
    """Whether a retry may help."""
    if isinstance(error, gcs.exceptions.InvalidResponse):
        return error.response.status_code in _TRANSIENT_CODES
    if isinstance(error, api.GoogleAPICallError):
        return error.code in _TRANSIENT_CODES or _is_damaged_upload(error)
    return isinstance(error, _TRANSIENT_ERRORS)


def _is_damaged_upload(error: api.GoogleAPICallError) -> bool:
    """Whether the server rejected an upload because its checksum was wrong."""
    return isinstance(error, api.BadRequest) and "crc32c" in str(error).lower()
