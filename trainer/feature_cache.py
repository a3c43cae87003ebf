"""The store of computed features: a folder that runs, seeds and search trials share.

An entry is a folder named by the hash of its key, with the key in clear in `key.json` and the
activations in `.npy` shards. A shard's name ends in a checksum of its place and its bytes, and a
shard appears by one rename: an interrupted pass goes on with the shards that are missing, and a
damaged or foreign one is computed again, never used.

Shards are locked in sections. Processes that want the same entry, on one host or on several that
share the folder, divide its sections among themselves: nothing is computed twice. Who has opened an
entry holds a lock of its own beside it, and the entry stays as long as there is one.

    cache = feature_cache.Cache(root, budget_bytes)
    arrays = cache.load_or_compute(key, shards, compute=lambda start, stop: iter([...]))

A cache in a bucket has a local folder as well: what the bucket has of an entry is downloaded first,
and what was computed is uploaded. Nothing is removed from the bucket; it has rules of its own.
"""

from __future__ import annotations

import collections
import concurrent.futures
import contextlib
import dataclasses
import hashlib
import io
import itertools
import json
import math
import os
import shutil
import time
import uuid
from typing import TYPE_CHECKING, Any

import filelock
import numpy as np
import tensorflow as tf
from absl import logging

from trainer import augment, console, locations, mirror, storage
from trainer.errors import DiskError

if TYPE_CHECKING:
    import pathlib
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

FORMAT_VERSION = 2
"""Raise it by hand whenever the meaning of stored bytes changes."""
PASS_BATCH_SIZE = 32
"""The prefix pass has its own batch size, so that what is stored doesn't depend on the run's."""
SHARD_BYTES = 64 << 20
SHARD_ROWS = 256
"""Upper limits of a shard (of several batches); an interrupted pass repeats at most two."""
SECTIONS = 8
"""Into how many parts an entry is locked; a section is a run of shards."""
WAIT_S = 30
"""How long to wait in silence for a section that another process computes."""
STALE_S = 3600
"""A shard is written in seconds: one that is half-written after so long was given up."""

Rows = tuple[int, int]
"""(first row, one past the last row) of a shard."""


@dataclasses.dataclass(frozen=True)
class Key:
    """All that decides what the prefix gives for one view of one split; nothing else does.

    The seed of the run is not in it: views have seeds of their own, so that runs share them.
    """

    data_fingerprint: str
    split: str
    backbone: str
    weights_hash: str
    image_shape: tuple[int, ...]
    backbone_image_shape: tuple[int, ...]
    cut_at: int
    row_shape: tuple[int, ...]
    precision: str
    dtype: str
    augmentation: augment.Strength | None
    view: int | None
    format_version: int = FORMAT_VERSION

    @property
    def digest(self) -> str:
        """The name of the entry's folder."""
        text = json.dumps(dataclasses.asdict(self), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:24]


@dataclasses.dataclass(frozen=True)
class Shards:
    """How the rows of an entry are cut into files."""

    num_examples: int
    row_shape: tuple[int, ...]
    dtype: tf.DType

    @property
    def stored_dtype(self) -> np.dtype[Any]:
        """What NumPy's own format can name."""
        return np.dtype(np.uint16 if self.dtype == tf.bfloat16 else self.dtype.as_numpy_dtype)

    @property
    def row_bytes(self) -> int:
        """Size of one example's activations."""
        return math.prod(self.row_shape) * self.stored_dtype.itemsize

    @property
    def num_bytes(self) -> int:
        """Size of all rows."""
        return self.num_examples * self.row_bytes

    @property
    def rows_per_shard(self) -> int:
        """Whole batches of the pass; the size of a row alone decides, so every run cuts alike."""
        batches = min(SHARD_BYTES // self.row_bytes, SHARD_ROWS) // PASS_BATCH_SIZE
        return max(1, batches) * PASS_BATCH_SIZE

    def ranges(self) -> list[Rows]:
        """The rows of each shard."""
        step, count = self.rows_per_shard, self.num_examples
        return [(start, min(start + step, count)) for start in range(0, count, step)]

    def sections(self) -> list[list[Rows]]:
        """The shards, in at most SECTIONS runs of equal length (the last ones may be shorter)."""
        ranges = self.ranges()
        length = math.ceil(len(ranges) / SECTIONS)
        return [ranges[i : i + length] for i in range(0, len(ranges), length)]


class Cache:
    """A folder of entries, shared by runs, seeds and trials, and bounded in size.

    Attributes:
      budget_bytes: what all entries may take, those in use apart.
    """

    def __init__(
        self,
        root: pathlib.Path,
        budget_bytes: float,
        *,
        place: tuple[int, int] = (0, 1),
        remote: locations.Url | None = None,
    ) -> None:
        """Takes the folder; makes nothing yet.

        Args:
          root: the folder.
          budget_bytes: what all entries may take, those in use apart.
          place: (index, count) of this process among those that train together; each starts at
            another section.
          remote: where in a bucket the entries are kept, for other machines; None: nowhere.
        """
        self._root = root
        self._remote = remote
        self.budget_bytes = budget_bytes
        self._place = place
        self._opened: dict[pathlib.Path, filelock.BaseFileLock] = {}

    def load_or_compute(
        self, key: Key, shards: Shards, compute: Callable[[int, int], Iterable[np.ndarray]]
    ) -> tuple[np.ndarray, ...]:
        """Returns the shards of an entry, computing those that are missing or damaged.

        What another process is computing at the same time is waited for and then read.

        Args:
          key: which entry.
          shards: how it is cut.
          compute: (start, stop) -> the activations of these rows, as blocks [n, …] of
            `shards.dtype`; called once for each run of missing shards in a section.

        Returns:
          Arrays mapped from the entry's files.
        """
        entry = self._open(key)
        with self._mirrored(entry):
            self._evict(reserve=self._missing_bytes(key, shards))
            return self._load_or_compute(entry, key, shards, compute)

    def fill(
        self,
        entries: Mapping[Key, Shards],
        compute: Callable[[int, int], Iterable[Sequence[np.ndarray]]],
    ) -> None:
        """Computes what is missing of several entries in one pass; others wait until it is done.

        Args:
          entries: how each is cut; all have the same examples.
          compute: (start, stop) -> the activations of these rows for each entry, in blocks [n, …].
        """
        with contextlib.ExitStack() as held:
            folders = {key: self._open(key) for key in sorted(entries, key=_digest)}
            for entry in folders.values():
                held.enter_context(self._mirrored(entry))
            self._evict(reserve=sum(self._missing_bytes(*both) for both in entries.items()))
            for key, entry in folders.items():
                for section in range(len(entries[key].sections())):
                    held.enter_context(self._lock(entry, section, wait=True))
                storage.save_json(entry / "key.json", dataclasses.asdict(key))
            missing = {
                key: [
                    rows for rows in shards.ranges() if not self._find(folders[key], shards, *rows)
                ]
                for key, shards in entries.items()
            }
            bounds = [rows for ranges in missing.values() for rows in ranges]
            if not bounds:
                return
            first, last = min(start for start, _ in bounds), max(stop for _, stop in bounds)
            writers = [
                _Writer(folders[key], shards, missing[key], first)
                for key, shards in entries.items()
            ]
            for blocks in compute(first, last):
                for writer, block in zip(writers, blocks, strict=True):
                    writer.add(block)

    def _open(self, key: Key) -> pathlib.Path:
        """Returns the folder of an entry, which nobody removes as long as this cache lives."""
        entry = self._root / key.digest
        if entry not in self._opened:
            users = _users(entry)
            users.mkdir(parents=True, exist_ok=True)
            # Before any section of it is locked: who removes it locks all of them and looks here.
            lock = filelock.FileLock(users / uuid.uuid4().hex, thread_local=False)
            lock.acquire()
            self._opened[entry] = lock
        return entry

    @contextlib.contextmanager
    def _mirrored(self, entry: pathlib.Path) -> Iterator[None]:
        """Fetches what the bucket has of an entry, and brings there what it lacks."""
        if self._remote is None:
            yield
            return
        with mirror.Mirror(self._remote / entry.name, entry, shared=True) as kept:
            with filelock.FileLock(entry.with_suffix(".restore.lock")):
                kept.restore()
            yield

    def _load_or_compute(
        self,
        entry: pathlib.Path,
        key: Key,
        shards: Shards,
        compute: Callable[[int, int], Iterable[np.ndarray]],
    ) -> tuple[np.ndarray, ...]:
        sections = shards.sections()
        index, count = self._place
        order = np.roll(np.arange(len(sections)), -(len(sections) * index // count)).tolist()
        mapped: dict[int, list[np.ndarray]] = {}
        for wait in (False, True):  # First what nobody else is at.
            for section in [i for i in order if i not in mapped]:
                with contextlib.suppress(filelock.Timeout), self._lock(entry, section, wait):
                    mapped[section] = self._load_section(entry, key, shards, section, compute)
        return tuple(itertools.chain.from_iterable(mapped[i] for i in sorted(mapped)))

    def count_missing(self, key: Key, shards: Shards) -> int:
        """Returns how many rows have no file yet; a damaged one is found out when it is read."""
        entry = self._root / key.digest
        return sum(
            stop - start for start, stop in shards.ranges() if not _files(entry, start, stop)
        )

    def _missing_bytes(self, key: Key, shards: Shards) -> int:
        return self.count_missing(key, shards) * shards.row_bytes

    @contextlib.contextmanager
    def _lock(self, entry: pathlib.Path, section: int, wait: bool) -> Iterator[None]:  # noqa: FBT001
        """Holds a section's lock; it lies beside the entry, which is removed under all of them."""
        lock = filelock.FileLock(entry.with_suffix(f".{section}.lock"))
        while True:
            try:
                held = lock.acquire(timeout=WAIT_S if wait else 0)
                break
            except filelock.Timeout:
                if not wait:
                    raise
                console.say(f"waiting for another process that computes features in {entry} ...")
        with held:
            yield

    def _load_section(
        self,
        entry: pathlib.Path,
        key: Key,
        shards: Shards,
        section: int,
        compute: Callable[[int, int], Iterable[np.ndarray]],
    ) -> list[np.ndarray]:
        storage.save_json(entry / "key.json", dataclasses.asdict(key))
        for partial in entry.glob(".partial-*.npy"):  # Of a process that was killed.
            if time.time() - _modified(partial) > STALE_S:
                partial.unlink(missing_ok=True)
        ranges = shards.sections()[section]
        found = {rows: self._find(entry, shards, *rows) for rows in ranges}
        paths = {rows: path for rows, path in found.items() if path is not None}
        for run in _runs_of_missing(found):
            paths |= self._compute(entry, shards, run, compute)
        # Mapped under the lock: from then on the rows stay readable, whoever removes the file.
        return [np.load(paths[rows], mmap_mode="r", allow_pickle=False) for rows in ranges]

    def _compute(
        self,
        entry: pathlib.Path,
        shards: Shards,
        run: Sequence[Rows],
        compute: Callable[[int, int], Iterable[np.ndarray]],
    ) -> dict[Rows, pathlib.Path]:
        """Computes a run of shards in one go; a shard is written while the next is computed."""
        written: dict[Rows, concurrent.futures.Future[pathlib.Path]] = {}
        blocks = _cut(compute(run[0][0], run[-1][1]), [stop - start for start, stop in run])
        with concurrent.futures.ThreadPoolExecutor(1) as writer:
            previous = None
            for rows in run:
                activations = next(blocks)
                if previous is not None:
                    previous.result()  # Two shards in memory, not more; and a full disk is told.
                previous = writer.submit(_write, entry, shards, *rows, activations)
                written[rows] = previous
        return {rows: future.result() for rows, future in written.items()}

    def _find(
        self, entry: pathlib.Path, shards: Shards, start: int, stop: int
    ) -> pathlib.Path | None:
        """Returns the valid file of a shard; a damaged one is removed with a message."""
        for path in _files(entry, start, stop):
            with path.open("rb") as file:
                sound = hashlib.file_digest(file, lambda: _hash(entry, start, stop))
            if path.name.split(".")[1] == _short(sound) and _matches(path, shards, stop - start):
                return path
            logging.warning("Damaged features at %s: computing them again.", path)
            path.unlink()
        return None

    def _evict(self, reserve: int) -> None:
        """Removes the entries used longest ago until the rest fits, with what is to come.

        What a running process has opened stays, this one or another. One removes at a time.

        Args:
          reserve: bytes that are about to be stored.
        """
        with filelock.FileLock(self._root / "eviction.lock"):
            self._evict_alone(reserve)

    def _evict_alone(self, reserve: int) -> None:
        folders = [path for path in self._root.iterdir() if path.is_dir() and not path.suffix]
        # One without a key is what was left when its removal was cut short: it goes first.
        used = sorted((_modified(entry / "key.json"), entry) for entry in folders)
        sizes = {entry: sum(map(_size, entry.glob("*.npy"))) for entry in folders}
        excess = sum(sizes.values()) + reserve - self.budget_bytes
        for _, entry in used:
            if excess <= 0:
                return
            if entry not in self._opened and self._remove(entry):
                excess -= sizes[entry]

    def _remove(self, entry: pathlib.Path) -> bool:
        try:
            with contextlib.ExitStack() as locks:
                for section in range(SECTIONS):
                    locks.enter_context(self._lock(entry, section, wait=False))
                if _is_used(entry):
                    return False
                shutil.rmtree(entry)
        except filelock.Timeout:
            return False
        logging.info("Removed features %s: over --cache_budget_gb.", entry.name)
        return True


class _Writer:
    """Takes the rows from `position` on, as they come, and writes the shards that are missing."""

    def __init__(
        self, entry: pathlib.Path, shards: Shards, missing: Sequence[Rows], position: int
    ) -> None:
        self._entry, self._shards, self._position = entry, shards, position
        self._missing = collections.deque(missing)
        self._held: list[np.ndarray] = []

    def add(self, block: np.ndarray) -> None:
        first, self._position = self._position, self._position + len(block)
        while self._missing:
            start, stop = self._missing[0]
            self._held.append(block[max(start - first, 0) : max(stop - first, 0)])
            if self._position < stop:
                return
            _write(self._entry, self._shards, start, stop, np.concatenate(self._held))
            self._missing.popleft()
            self._held = []


def remote(cache_dir: str) -> locations.Url | None:
    """Returns where in a bucket a cache is kept; None for a local one."""
    return locations.parse(cache_dir) if locations.is_url(cache_dir) else None


def _digest(key: Key) -> str:
    return key.digest


def _users(entry: pathlib.Path) -> pathlib.Path:
    """Returns the folder in which each process that has opened the entry holds a lock."""
    return entry.with_suffix(".users")


def _is_used(entry: pathlib.Path) -> bool:
    """Whether a running process has opened the entry; forgets those that have ended."""
    for path in _users(entry).glob("*"):
        try:
            with filelock.FileLock(path).acquire(blocking=False):
                pass
        except filelock.Timeout:
            return True
        path.unlink(missing_ok=True)
    return False


def _files(entry: pathlib.Path, start: int, stop: int) -> list[pathlib.Path]:
    """Returns what is there of a shard: nothing, or one file, unless somebody meddled."""
    return sorted(entry.glob(f"{start:08d}-{stop:08d}.*.npy"))


def _runs_of_missing(paths: dict[Rows, pathlib.Path | None]) -> list[list[Rows]]:
    """Groups the shards that have no file into runs of neighbours."""
    groups = itertools.groupby(paths, key=lambda rows: paths[rows] is None)
    return [list(run) for is_missing, run in groups if is_missing]


def _cut(blocks: Iterable[np.ndarray], sizes: Sequence[int]) -> Iterator[np.ndarray]:
    """Cuts a stream of blocks [n, …] anew, into blocks of these sizes."""
    source = iter(blocks)
    held: list[np.ndarray] = []
    for size in sizes:
        while sum(map(len, held)) < size:
            held.append(next(source))
        joined = np.concatenate(held)
        held = [joined[size:].copy()]  # A view would keep the whole block alive.
        yield joined[:size]


def _write(
    entry: pathlib.Path, shards: Shards, start: int, stop: int, activations: np.ndarray
) -> pathlib.Path:
    """Writes a shard under a name that tells its rows and its checksum."""
    # A name of its own: a file system whose locks don't hold costs work then, and no bytes.
    partial = entry / f".partial-{uuid.uuid4().hex}.npy"
    array = np.ascontiguousarray(activations.view(shards.stored_dtype))
    # As np.save does, which keeps to itself why nothing more can be written.
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, np.lib.format.header_data_from_array_1_0(array))
    digest = _hash(entry, start, stop)
    try:
        with partial.open("wb") as file:
            for part in (header.getbuffer(), array.data):
                digest.update(part)
                file.write(part)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise DiskError(
            f"features can't be stored in {entry}: {error.strerror}. Make room there, or name "
            "another --cache_dir; the next run goes on with what is stored."
        ) from error
    return partial.replace(entry / f"{start:08d}-{stop:08d}.{_short(digest)}.npy")


def _size(path: pathlib.Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:  # Another process has just renamed it, or found it damaged.
        return 0


def _modified(path: pathlib.Path) -> float:
    """Returns when a file was written, 0 where there is none."""
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0


def _hash(entry: pathlib.Path, start: int, stop: int) -> hashlib._Hash:
    """Begins a shard's checksum with its place: the bytes of another don't belong there."""
    return hashlib.sha256(f"{entry.name} {start}-{stop}".encode())


def _short(digest: hashlib._Hash) -> str:
    return digest.hexdigest()[:16]


def _matches(path: pathlib.Path, shards: Shards, rows: int) -> bool:
    array = np.load(path, mmap_mode="r", allow_pickle=False)
    return array.shape == (rows, *shards.row_shape) and array.dtype == shards.stored_dtype
