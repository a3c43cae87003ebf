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
from trainer.system import console

if TYPE_CHECKING:
    import pathlib
    from collections.abc import Sequence

QUEUE_LENGTH = 10_000
"""Files that wait, not their content; a caller that is further ahead waits too."""
DEADLINE_S = 900.0
"""How long the end of a run waits for the bucket."""
DEADLINE_AFTER_FAILURE_S = 60.0
POLL_S = 0.1
MEBIBYTE = 1 << 20


@dataclasses.dataclass(frozen=True)
class _Version:
    """What a file was when it was looked at."""

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
    """Brings one file's version into the bucket; without a version, removes the object."""

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
        """Lists what the bucket has.

        Args:
          url: the prefix.
          folder: the folder; it need not exist.
          shared: whether several processes store the same content there, as they do features: what
            another has stored is fine then, and nothing is removed.
          files: the bucket, where it is open already.

        Raises:
          StorageError: when the bucket can't be used.
        """
        self.url, self.folder = url, folder
        self._shared = shared
        self._files = files or bucket_lib.Bucket(url.bucket)
        listed = self._files.list(url.prefix).values()
        # Consoles make empty objects named like folders.
        self._stored = {self._path_of(x): x for x in listed if x.size or x.name[-1] != "/"}
        self._in_step: dict[pathlib.Path, _Version] = {}
        self._latest: dict[pathlib.Path, _Task] = {}
        self._last: dict[pathlib.Path, None] = {}
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

    def restore(self) -> int:
        """Downloads what the folder lacks or has otherwise; returns how many bytes.

        Files come in the order in which they were written, so an interrupted restore too has no
        file that names one which is not there.
        """
        in_order = sorted(self._stored.items(), key=lambda item: item[1].generation)
        wanted = [(path, stored) for path, stored in in_order if not stored.is_copy(path)]
        total = sum(stored.size for _, stored in wanted)
        with _Progress(total, f"downloading {self.url}") as bar:
            for path, stored in wanted:
                self._stored[path] = self._files.download(stored, path, bar.add)
        for path in self._stored:
            if version := _Version.of(path):
                self._in_step[path] = version
        return total

    def sync(self, then: Sequence[pathlib.Path] = ()) -> None:
        """Asks for the upload of what has changed in the folder, and returns.

        Args:
          then: files that name others; now and later they go last, in this order.

        Raises:
          StorageError: when an earlier upload has failed for good.
        """
        self._raise_error()
        self._batch += 1
        self._last |= dict.fromkeys(then)
        found = self._scan()
        data = [path for path in found if path not in self._last]
        for path in [*data, *(path for path in self._last if path in found)]:
            if self._in_step.get(path) != found[path]:
                self._ask_for(path, found[path])
        # Where nothing is left, the disk is at fault: nobody removed all files one by one.
        if not self._shared and any(path in found for path in self._in_step):
            for path in [path for path in list(self._in_step) if path not in found]:
                self._ask_for(path, None)

    def _scan(self) -> dict[pathlib.Path, _Version]:
        paths = (path for path in sorted(self.folder.rglob("*")) if path.is_file())
        # What starts with a dot is being written.
        visible = (
            x for x in paths if not any(p[0] == "." for p in x.relative_to(self.folder).parts)
        )
        versions = ((path, _Version.of(path)) for path in visible)
        return {path: version for path, version in versions if version is not None}

    def _ask_for(self, path: pathlib.Path, version: _Version | None) -> None:
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
                # What was asked for again comes later in the queue.
                if task.batch > self._failed_batch and self._latest[task.path] is task:
                    self._carry_out(task)
            except FileNotFoundError:
                pass  # Removed since: by an eviction, say.
            except UnreachableError as error:
                self._failed_batch = self._batch
                console.say(f"{error} What is missing there is tried again later.")
            except Exception as error:  # noqa: BLE001 -- Raised where the caller waits.
                self._failed_batch = self._batch
                self._error = error
            finally:
                self._queue.task_done()

    def _carry_out(self, task: _Task) -> None:
        path, known = task.path, self._stored.get(task.path)
        if task.version is None:
            if known is not None:  # Else an earlier task has just removed it.
                self._files.delete(known)
            self._stored.pop(path, None)
            self._in_step.pop(path, None)
            return
        now = _Version.of(path)
        if now is None or (path in self._last and now != task.version):
            return  # What it names now may not be there yet: the next `sync` comes back to it.
        if known is None or not known.is_copy(path):
            name = (self.url / path.relative_to(self.folder).as_posix()).name
            generation = known.generation if known else 0
            self._stored[path] = self._files.upload(
                path, name, generation=generation, may_exist=self._shared
            )
        self._in_step[path] = now
        self._bytes_done += now.size

    def wait(self, deadline_s: float = DEADLINE_S) -> None:
        """Waits until the bucket has all that the folder has; asks again for what failed.

        Raises:
          StorageError: when it hasn't, by the deadline or for good.
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
                f"{missing} file(s) of {self.folder} have not reached {self.url} within "
                f"{deadline_s:g} s; they are kept there. Copy them when the bucket can be "
                f"reached: `gcloud storage rsync -r {self.folder} {self.url}`."
            )

    def _missing(self) -> dict[pathlib.Path, _Version]:
        """Returns what the folder has and the bucket lacks."""
        in_step = self._in_step
        return {path: new for path, new in self._scan().items() if in_step.get(path) != new}

    def _is_idle(self) -> bool:
        """Waits a little for the queue to be worked off."""
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
        """Brings all that has changed into the bucket; after an error, as much as can be."""
        self.finish(*exception)

    def finish(self, kind: type[BaseException] | None = None, *_: object) -> bool:
        """Does what leaving the block does; returns whether the bucket has all of the folder."""
        if kind is None:
            self.sync()
            self.wait()
            return True
        try:
            self.sync()
            self.wait(DEADLINE_AFTER_FAILURE_S)
        except (StorageError, OSError) as error:
            if not issubclass(kind, StorageError):  # The first error is what the user must read.
                console.say(str(error))
            return False
        return True


class _Progress:
    """A console bar that is told of bytes and shows MiB."""

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
