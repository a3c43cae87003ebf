"""A local folder that is mirrored to a prefix of a bucket.

The folder is an ordinary one, as fast as its disk; one thread uploads what has changed. The caller
decides the order: files that name others are uploaded last (`then`), so that a reader of the bucket
never finds a name without its data. If an upload fails, all later ones fail too, until the next
`sync` retries what is missing.

    with mirror.Mirror(locations.parse("gs://hospital/runs/a"), folder) as mirrored:
        mirrored.restore()                                  # what the bucket has, verified
        ...
        mirrored.sync(then=[folder / "manifest.json"])      # returns at once
    # All of it is in the bucket now, or the block has raised.
"""

from __future__ import annotations

import dataclasses
import queue
import threading
import time
from typing import TYPE_CHECKING, Any, Self

from trainer.storage import bucket as bucket_lib
from trainer.storage import locations
from trainer.storage.bucket import StorageError, UnreachableError
from trainer.system import console, text

if TYPE_CHECKING:
    import pathlib
    from collections.abc import Sequence

QUEUE_LENGTH = 10_000
"""Number of files that may wait for upload (not their content); when full, `sync` blocks."""
DEADLINE_S = 900.0
"""How long the end of a run waits for its uploads."""
DEADLINE_AFTER_FAILURE_S = 60.0
"""The same, after an error."""
POLL_S = 0.1
MEBIBYTE = 1 << 20


@dataclasses.dataclass(frozen=True)
class _Version:
    """A file's version: a changed file has another, and no content is read to notice."""

    inode: int
    size: int
    modified_ns: int

    @classmethod
    def of(cls, path: pathlib.Path) -> Self | None:
        try:
            status = path.stat()
        except FileNotFoundError:
            return None
        return cls(status.st_ino, status.st_size, status.st_mtime_ns)


@dataclasses.dataclass(frozen=True)
class _Task:
    """Uploads one version of a file; without a version, deletes the object."""

    batch: int
    path: pathlib.Path
    version: _Version | None


class Mirror:
    """Mirrors a folder to a prefix of a bucket, in both directions; used by one thread."""

    def __init__(
        self,
        url: locations.Url,
        folder: pathlib.Path,
        *,
        shared: bool = False,
        files: bucket_lib.Bucket | None = None,
    ) -> None:
        """Lists the objects in the bucket.

        Args:
          url: the prefix.
          folder: the folder; it need not exist.
          shared: whether several processes upload the same content, such as features. Then an
            object that another process has uploaded is accepted, and none is deleted.
          files: the bucket, if it is already open.

        Raises:
          StorageError: when the bucket can't be used.
        """
        self.url, self.folder = url, folder
        self._shared = shared
        self._files = files or bucket_lib.Bucket(url.bucket)
        listed = self._files.list(url.prefix).values()
        # Web consoles create empty objects as folders.
        self._stored = {self._path_of(x): x for x in listed if x.size or x.name[-1] != "/"}
        self._synced: dict[pathlib.Path, _Version] = {}
        self._latest: dict[pathlib.Path, _Task] = {}
        self._uploaded_last: dict[pathlib.Path, None] = {}
        self._queue: queue.Queue[_Task] = queue.Queue(QUEUE_LENGTH)
        self._thread: threading.Thread | None = None
        self._batch, self._failed_batch = 0, 0
        self._error: Exception | None = None
        self._bytes_done = 0

    def _path_of(self, stored: bucket_lib.Stored) -> pathlib.Path:
        try:
            return self.folder / locations.relative_path(stored.name, self.url)
        except locations.LocationError as error:
            raise StorageError(f"gs://{self.url.bucket} has an unsafe object: {error}.") from error

    def has(self, name: str) -> bool:
        """Whether the bucket has a file of the folder."""
        return self.folder / name in self._stored

    def entries(self) -> list[str]:
        """Returns the names at the top of the prefix, those of folders with a slash at the end."""
        paths = [path.relative_to(self.folder).parts for path in self._stored]
        return sorted({f"{first}{'/' if rest else ''}" for first, *rest in paths})

    def restore(self) -> int:
        """Downloads files that are missing or differ in the folder; returns the number of bytes.

        Files are downloaded in the order of their upload: even after an interrupted restore, no
        file names a missing one.
        """
        in_order = sorted(self._stored.items(), key=lambda item: item[1].generation)
        wanted = [(path, stored) for path, stored in in_order if not stored.is_copy(path)]
        total = sum(stored.size for _, stored in wanted)
        with _Progress(total, f"downloading {self.url}") as bar:
            for path, stored in wanted:
                self._stored[path] = self._files.download(stored, path, bar.add)
        for path in self._stored:
            if version := _Version.of(path):
                self._synced[path] = version
        return total

    def sync(self, then: Sequence[pathlib.Path] = ()) -> None:
        """Queues the upload of what has changed in the folder, and returns.

        Args:
          then: files that name others; from now on they are uploaded last, in this order.

        Raises:
          StorageError: when an earlier upload has failed permanently.
        """
        self._raise_error()
        self._batch += 1
        self._uploaded_last |= dict.fromkeys(then)
        found = self._scan()
        data = [path for path in found if path not in self._uploaded_last]
        for path in [*data, *(path for path in self._uploaded_last if path in found)]:
            if self._synced.get(path) != found[path]:
                self._enqueue(path, found[path])
        # If every file is gone, the disk has failed: nothing is deleted from the bucket.
        if not self._shared and any(path in found for path in self._synced):
            for path in [path for path in list(self._synced) if path not in found]:
                self._enqueue(path, None)

    def _scan(self) -> dict[pathlib.Path, _Version]:
        paths = (path for path in sorted(self.folder.rglob("*")) if path.is_file())
        # A name that starts with a dot is of a lock, or of a file that is being written.
        visible = (
            x for x in paths if not any(p[0] == "." for p in x.relative_to(self.folder).parts)
        )
        versions = ((path, _Version.of(path)) for path in visible)
        return {path: version for path, version in versions if version is not None}

    def _enqueue(self, path: pathlib.Path, version: _Version | None) -> None:
        task = _Task(self._batch, path, version)
        self._latest[path] = task
        self._start()
        self._queue.put(task)

    def _start(self) -> None:
        if self._thread is None:
            # A daemon: after its deadline, an upload must not keep the process alive.
            self._thread = threading.Thread(target=self._work, name="mirror", daemon=True)
            self._thread.start()

    def _work(self) -> None:
        while True:
            task = self._queue.get()
            try:
                # Skipped: tasks queued before a failure, and tasks that a newer one replaces.
                if task.batch > self._failed_batch and self._latest[task.path] is task:
                    self._perform(task)
            except FileNotFoundError:
                pass  # Removed meanwhile, for example evicted from the cache.
            except UnreachableError as error:
                self._failed_batch = self._batch
                console.say(f"{error} Missing files are uploaded later.")
            except Exception as error:  # noqa: BLE001 -- Raised where the caller waits.
                self._failed_batch = self._batch
                self._error = error
            finally:
                self._queue.task_done()

    def _perform(self, task: _Task) -> None:
        path, known = task.path, self._stored.get(task.path)
        if task.version is None:
            if known is not None:  # Otherwise an earlier task has removed it.
                self._files.delete(known)
            self._stored.pop(path, None)
            self._synced.pop(path, None)
            return
        now = _Version.of(path)
        if now is None or (path in self._uploaded_last and now != task.version):
            return  # What it names now may not be uploaded yet: the next `sync` queues it again.
        if known is None or not known.is_copy(path):
            name = (self.url / path.relative_to(self.folder).as_posix()).name
            generation = known.generation if known else 0
            self._stored[path] = self._files.upload(
                path, name, generation=generation, may_exist=self._shared
            )
        self._synced[path] = now
        self._bytes_done += now.size

    def wait(self, deadline_s: float = DEADLINE_S) -> None:
        """Waits until every file of the folder is in the bucket; retries failed uploads.

        Raises:
          StorageError: when an upload fails permanently, or the deadline passes.
        """
        end, done = time.monotonic() + deadline_s, self._bytes_done
        total = sum(version.size for version in self._missing().values())
        with _Progress(total, f"uploading to {self.url}") as progress:
            while time.monotonic() < end and (not self._is_idle() or self._missing()):
                progress.add(self._bytes_done - done)
                done = self._bytes_done
                self._raise_error()
                if self._is_idle():
                    self.sync()
        self._raise_error()
        if missing := len(self._missing()):
            raise StorageError(
                f"{text.counted(missing, 'file')} of {self.folder} did not reach {self.url} within "
                f"{deadline_s:g} s; they stay in the folder. Copy them when the bucket can be "
                f"reached: `gcloud storage rsync -r "
                f"{text.quoted(str(self.folder))} {text.quoted(str(self.url))}`."
            )

    def _missing(self) -> dict[pathlib.Path, _Version]:
        """Returns the files that are missing or outdated in the bucket."""
        synced = self._synced
        return {path: new for path, new in self._scan().items() if synced.get(path) != new}

    def _is_idle(self) -> bool:
        """Waits at most POLL_S for the queue to empty; returns whether it has."""
        with self._queue.all_tasks_done:
            return self._queue.all_tasks_done.wait_for(
                lambda: not self._queue.unfinished_tasks, POLL_S
            )

    def _raise_error(self) -> None:
        if self._error is not None:
            raise self._error

    def __enter__(self) -> Self:
        """Returns itself."""
        return self

    def __exit__(self, *exception: Any) -> None:
        """Uploads all that has changed; after an error, as much as the shorter deadline allows."""
        self.finish(*exception)

    def finish(self, kind: type[BaseException] | None = None, *_: object) -> bool:
        """Does what leaving the block does; returns whether the upload is complete."""
        if kind is None:
            self.sync()
            self.wait()
            return True
        try:
            self.sync()
            self.wait(DEADLINE_AFTER_FAILURE_S)
        except (StorageError, OSError) as error:
            if not issubclass(kind, StorageError):  # Else the block's own error already says so.
                console.say(str(error))
            return False
        return True


class _Progress:
    """A progress bar that counts bytes and shows MiB."""

    def __init__(self, total_bytes: int, label: str) -> None:
        self._bytes = 0
        self._bar: Any = console.bar(-(-total_bytes // MEBIBYTE), label, "MiB")

    def add(self, count: int) -> None:
        self._bytes += count
        self._bar.update(self._bytes // MEBIBYTE - self._bar.n)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.close()
