"""The feature cache: a folder of entries that runs, seeds and search trials share.

An interrupted pass resumes with the missing shards. A damaged or misplaced shard is computed again.
Processes that need the same entry, on one host or on several that share the folder, divide its
sections among themselves: nothing is computed twice. When space runs out, the least recently used
entries are removed, except those that a running process has opened.

    cache = store.Cache(root, budget_bytes)
    arrays = cache.load_or_compute(key, shards, compute=lambda start, stop: iter([...]))

A cache in a bucket has a local folder as well: shards that the bucket has are downloaded first, and
computed ones are uploaded. Nothing is removed from the bucket; its lifecycle rules can do that.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import itertools
from typing import TYPE_CHECKING

import filelock
import numpy as np
from absl import logging

from trainer.features import locks, shard_files
from trainer.features.shard_files import Entry
from trainer.storage import locations, mirror

if TYPE_CHECKING:
    import pathlib
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from trainer.features.shard_files import Key, Rows, Shards


class Cache:
    """A folder of entries, shared by runs, seeds and trials, and bounded in size.

    Attributes:
      budget_bytes: disk space that all entries together may take; those in use are never removed.
    """

    def __init__(
        self,
        root: pathlib.Path,
        budget_bytes: float,
        *,
        worker_index: int = 0,
        num_workers: int = 1,
        remote: locations.Url | None = None,
    ) -> None:
        """Refers to the folder, without creating anything yet.

        Args:
          root: the folder.
          budget_bytes: disk space that all entries together may take.
          worker_index: of this process in its cluster; each worker starts at another section.
          num_workers: of the cluster.
          remote: prefix of a bucket that mirrors the entries for other machines; None: none.
        """
        self.budget_bytes = budget_bytes
        self._root = root
        self._remote = remote
        self._worker_index, self._num_workers = worker_index, num_workers
        self._used: dict[pathlib.Path, filelock.BaseFileLock] = {}

    def count_missing(self, key: Key, shards: Shards) -> int:
        """Returns the number of rows without a file; damaged files are detected on reading."""
        return shard_files.count_rows(Entry(self._root, key, shards).missing())

    def load_or_compute(
        self, key: Key, shards: Shards, compute: Callable[[int, int], Iterable[np.ndarray]]
    ) -> tuple[np.ndarray, ...]:
        """Returns the shards of an entry, computing those that are missing or damaged.

        Sections that another process is computing are awaited and then read. The entry is not
        removed while this cache exists.

        Args:
          key: identifies the entry.
          shards: how its rows are divided into files.
          compute: (start, stop) -> the activations of these rows, as blocks [n, …] of
            `shards.dtype`; called once for each run of missing shards, unless another process is
            computing some of them. Not all blocks are read then.

        Returns:
          Memory-mapped arrays.
        """
        entry = self._open(key, shards)
        sections = shards.sections()
        first = len(sections) * self._worker_index // self._num_workers
        order = np.roll(np.arange(len(sections)), -first).tolist()
        mapped: dict[int, list[np.ndarray]] = {}
        stream = _Stream(entry, compute)
        with self._mirrored(entry):
            self._make_room(entry.missing_bytes)
            for waits in (False, True):  # First the sections that no other process computes.
                for i in [i for i in order if i not in mapped]:
                    lock = locks.section(entry.folder, i, waits=waits)
                    with contextlib.suppress(filelock.Timeout), lock:
                        mapped[i] = _load_section(entry, sections[i], stream)
        return tuple(itertools.chain.from_iterable(mapped[i] for i in sorted(mapped)))

    def fill(
        self,
        wanted: Mapping[Key, Shards],
        compute: Callable[[int, int], Iterable[Sequence[np.ndarray]]],
    ) -> None:
        """Computes the missing shards of several entries in one pass, while other processes wait.

        Args:
          wanted: the entries, all of the same examples, and how their rows are divided into files.
          compute: (start, stop) -> the activations of these rows, in blocks [n, …] for each entry.
        """
        opened = [self._open(key, shards) for key, shards in wanted.items()]
        with contextlib.ExitStack() as held:
            # Every process locks in the same order; otherwise two could wait for each other.
            for entry in sorted(opened, key=lambda entry: entry.folder):
                held.enter_context(self._mirrored(entry))
                for i in range(len(entry.shards.sections())):
                    held.enter_context(locks.section(entry.folder, i))
            self._make_room(sum(entry.missing_bytes for entry in opened))
            for entry in opened:
                entry.begin()
            missing = [_without_file(entry.find_all(entry.shards.ranges())) for entry in opened]
            bounds = list(itertools.chain.from_iterable(missing))
            if not bounds:
                return
            first, last = min(start for start, _ in bounds), max(stop for _, stop in bounds)
            writers = [
                shard_files.Writer(entry, ranges, first)
                for entry, ranges in zip(opened, missing, strict=True)
            ]
            for blocks in compute(first, last):
                for writer, block in zip(writers, blocks, strict=True):
                    writer.add(block)

    def _open(self, key: Key, shards: Shards) -> Entry:
        entry = Entry(self._root, key, shards)
        if entry.folder not in self._used:
            self._used[entry.folder] = locks.use(entry.folder)
        return entry

    @contextlib.contextmanager
    def _mirrored(self, entry: Entry) -> Iterator[None]:
        """Downloads an entry's shards from the bucket, and uploads new ones at the end."""
        if self._remote is None:
            yield
            return
        folder = entry.folder
        with mirror.Mirror(self._remote / folder.name, folder, shared=True) as copy:
            with filelock.FileLock(folder.with_suffix(".restore.lock")):
                copy.restore()
            yield

    def _make_room(self, needed_bytes: int) -> None:
        """Removes the least recently used entries until there is room for `needed_bytes` more."""
        with filelock.FileLock(self._root / "eviction.lock"):  # One process at a time.
            # Whatever else lies there is not ours: staged data, for one.
            folders = [
                path
                for path in self._root.iterdir()
                if shard_files.is_entry(path.name) and path.is_dir() and not path.is_symlink()
            ]
            sizes = {folder: shard_files.stored_bytes(folder) for folder in folders}
            excess = sum(sizes.values()) + needed_bytes - self.budget_bytes
            # A folder without a key is left over from an interrupted removal; it sorts first.
            for folder in sorted(
                folders, key=lambda folder: shard_files.modified(folder / shard_files.KEY_FILE)
            ):
                if excess <= 0:
                    return
                if folder not in self._used and locks.remove_unused(folder):
                    logging.info(
                        "Removed the features in %s to stay within --cache_budget_gb.", folder.name
                    )
                    excess -= sizes[folder]


def remote(cache_dir: str) -> locations.Url | None:
    """Returns the bucket prefix of a cache; None for a local cache."""
    return locations.parse(cache_dir) if locations.is_url(cache_dir) else None


class _Stream:
    """The activations of an entry's rows, from one call of `compute` for as long as they follow.

    A pass goes through all sections that no other process computes, and starting an input pipeline
    takes a second or more on a small machine: one serves all of them.
    """

    def __init__(self, entry: Entry, compute: Callable[[int, int], Iterable[np.ndarray]]) -> None:
        self._entry, self._compute = entry, compute
        self._position = self._stop = 0
        self._rows = shard_files.Regrouped(())

    def take(self, rows: Rows) -> np.ndarray:
        """Returns the activations of a missing shard."""
        start, stop = rows
        if start != self._position or start == self._stop:
            self._stop = self._end(start)
            self._rows = shard_files.Regrouped(self._compute(start, self._stop))
        self._position = stop
        return self._rows.take(stop - start)

    def _end(self, start: int) -> int:
        """Returns the end of the run of missing shards that begins at row `start`."""
        end = start
        for first, stop in self._entry.missing():
            end = stop if first == end else end
        return end


def _load_section(entry: Entry, ranges: Sequence[Rows], stream: _Stream) -> list[np.ndarray]:
    """Returns the shards of a section, whose lock is held; computes the missing ones."""
    entry.begin()
    paths = entry.find_all(ranges)
    paths |= _compute(entry, _without_file(paths), stream)
    return [entry.map(path) for path in paths.values() if path is not None]


def _without_file(paths: Mapping[Rows, pathlib.Path | None]) -> list[Rows]:
    return [rows for rows, path in paths.items() if path is None]


def _compute(entry: Entry, missing: Sequence[Rows], stream: _Stream) -> dict[Rows, pathlib.Path]:
    """Computes missing shards; each is written while the next is computed."""
    written: dict[Rows, concurrent.futures.Future[pathlib.Path]] = {}
    with concurrent.futures.ThreadPoolExecutor(1) as writer:
        previous = None
        for rows in missing:
            activations = stream.take(rows)
            if previous is not None:
                previous.result()  # Keeps at most two shards in memory; raises if the disk is full.
            previous = written[rows] = writer.submit(entry.write, rows, activations)
    return {rows: future.result() for rows, future in written.items()}
