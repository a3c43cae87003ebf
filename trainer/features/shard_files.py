"""One entry of the feature cache on disk: its key, and shards that carry their own checksums.

An entry is a folder named by the hash of its key. It contains the key as text in `key.json` and the
activations in `.npy` shards. A shard's name ends in a checksum of its rows and its bytes, and the
file appears by one rename: an incomplete, damaged or misplaced shard is never used.

    entry = Entry(root, key, Shards(num_examples, row_shape, dtype))
    path = entry.find_all([(0, 256)])[0, 256] or entry.write((0, 256), activations)
    entry.map(path)                       # an array, mapped from the file
"""

from __future__ import annotations

import collections
import dataclasses
import hashlib
import io
import json
import math
import os
import re
import time
import uuid
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf
from absl import logging

from trainer.errors import DiskError
from trainer.storage import files

if TYPE_CHECKING:
    import pathlib
    from collections.abc import Iterable, Sequence

    from trainer.data import augment

FORMAT_VERSION = 4
"""Raise it by hand whenever the meaning of stored bytes changes. 4: shards of large splits are
longer, and the layers compute 32 images at a time on each replica, not on all together."""
PASS_BATCH_SIZE = 32
"""Images that a replica takes at a time in the prefix pass, whatever the run's batch size and
however many replicas there are: the stored bits depend on neither."""
SHARD_BYTES = 64 << 20
"""Upper limit of a shard of several batches."""
SHARD_ROWS = 256
SHARDS_OF_SPLIT = 64
"""A shard has at most 256 rows, or a 64th of its split where that is more. An interrupted pass
repeats at most two shards: 512 images or a 32nd of the pass, whatever the device's speed. Of small
rows, a fixed number would make either a slow CPU repeat minutes or a large split a hundred
thousand files."""
SECTIONS = 8
"""Number of parts of an entry that are locked separately; a section is a run of shards."""
STALE_S = 3600
"""Writing a shard takes seconds: a partial file this old was left by a process that has ended."""
KEY_FILE = "key.json"
DIGITS = 24
"""Of the hash that names an entry's folder."""
MAX_HEADER_BYTES = 1 << 16
"""More than a `.npy` file ever has before its rows."""

Rows = tuple[int, int]
"""(first row, one past the last row) of a shard."""


@dataclasses.dataclass(frozen=True)
class Key:
    """Everything that the prefix's outputs for one view of one split depend on.

    The run's seed is left out: each view has its own seed, so that runs can share the features.
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
    device: str
    dtype: str
    augmentation: augment.Strength | None
    view: int | None
    format_version: int = FORMAT_VERSION

    @property
    def digest(self) -> str:
        """The name of the entry's folder."""
        text = json.dumps(dataclasses.asdict(self), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:DIGITS]


@dataclasses.dataclass(frozen=True)
class Shards:
    """How the rows of an entry are divided into files."""

    num_examples: int
    row_shape: tuple[int, ...]
    dtype: tf.DType

    @property
    def stored_dtype(self) -> np.dtype[Any]:
        """The NumPy dtype in the files; `.npy` has no bfloat16, whose bits are stored as uint16."""
        return np.dtype(np.uint16 if self.dtype == tf.bfloat16 else self.dtype.as_numpy_dtype)

    @property
    def row_bytes(self) -> int:
        """Size of one example's activations in bytes."""
        return math.prod(self.row_shape) * self.stored_dtype.itemsize

    @property
    def num_bytes(self) -> int:
        """Size of all rows in bytes."""
        return self.num_examples * self.row_bytes

    @property
    def rows_per_shard(self) -> int:
        """A multiple of PASS_BATCH_SIZE; all runs agree on it, as it follows from the split."""
        rows = max(SHARD_ROWS, self.num_examples // SHARDS_OF_SPLIT)
        batches = min(SHARD_BYTES // self.row_bytes, rows) // PASS_BATCH_SIZE
        return max(1, batches) * PASS_BATCH_SIZE

    def ranges(self) -> list[Rows]:
        """The rows of each shard."""
        step, count = self.rows_per_shard, self.num_examples
        return [(start, min(start + step, count)) for start in range(0, count, step)]

    def sections(self) -> list[list[Rows]]:
        """The shards in at most SECTIONS runs of equal length; the last run may be shorter."""
        ranges = self.ranges()
        length = math.ceil(len(ranges) / SECTIONS)
        return [ranges[i : i + length] for i in range(0, len(ranges), length)]


class Entry:
    """The files that belong to a key.

    Attributes:
      folder: the folder that contains them.
      shards: how the rows are divided into files.
    """

    def __init__(self, root: pathlib.Path, key: Key, shards: Shards) -> None:
        self.folder, self.shards = root / key.digest, shards
        self._key = key

    def begin(self) -> None:
        """Creates the folder or marks it as used now; removes files that killed processes left.

        Raises:
          DiskError: when the folder is a link: what is written into it would be elsewhere. When a
            folder is where the key is written.
        """
        if self.folder.is_symlink():
            raise DiskError(f"{self.folder} is a link; remove it, or give another --cache_dir.")
        if (self.folder / KEY_FILE).is_dir():
            raise DiskError(
                f"{self.folder / KEY_FILE} is a folder; remove it, or give another --cache_dir."
            )
        files.save_json(self.folder / KEY_FILE, dataclasses.asdict(self._key))
        for partial in self.folder.glob(".partial-*.npy"):
            if time.time() - modified(partial) > STALE_S:
                partial.unlink(missing_ok=True)

    def missing(self) -> list[Rows]:
        """Returns the shards without a file; damaged files are detected only by `find_all`."""
        stored = self._list()
        return [rows for rows in self.shards.ranges() if _range(*rows) not in stored]

    @property
    def missing_bytes(self) -> int:
        """Disk space that the missing rows will take, in bytes."""
        return count_rows(self.missing()) * self.shards.row_bytes

    def find_all(self, ranges: Iterable[Rows]) -> dict[Rows, pathlib.Path | None]:
        """Returns the valid file of each shard or None; removes damaged ones and logs warnings.

        Raises:
          DiskError: when something else than a file has the name of a shard.
        """
        stored = self._list()
        return {rows: self._find(rows, stored.get(_range(*rows), ())) for rows in ranges}

    def _find(self, rows: Rows, paths: Iterable[pathlib.Path]) -> pathlib.Path | None:
        for path in sorted(paths):
            if not path.is_file():
                raise DiskError(f"{path} is not a regular file; remove it, or clear --cache_dir.")
            if self._is_intact(path, rows):
                return path
            logging.warning("Damaged features in %s; they will be computed again.", path)
            path.unlink()
        return None

    def write(self, rows: Rows, activations: np.ndarray) -> pathlib.Path:
        """Writes a shard to a file named by its rows and its checksum.

        Raises:
          DiskError: when it can't be written.
        """
        # The name is unique: where a file system ignores locks, two processes that write the same
        # shard repeat work, but don't corrupt it.
        partial = self.folder / f".partial-{uuid.uuid4().hex}.npy"
        array = np.ascontiguousarray(activations.view(self.shards.stored_dtype))
        # Not np.save, whose errors hide why the system refused to write; the format is the same.
        header = io.BytesIO()
        described = np.lib.format.header_data_from_array_1_0(array)
        np.lib.format.write_array_header_1_0(header, described)
        digest = self._hash(rows)
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
                f"features can't be written to {self.folder}: {error.strerror}. Free disk space or "
                "give another --cache_dir; the next run resumes from the features already stored."
            ) from error
        return partial.replace(self.folder / f"{_range(*rows)}.{_short(digest)}.npy")

    @staticmethod
    def map(path: pathlib.Path) -> np.ndarray:
        """Returns a shard as a memory-mapped array; never unpickles anything, as np.load could."""
        return np.lib.format.open_memmap(path, mode="r")

    def _list(self) -> dict[str, list[pathlib.Path]]:
        """Maps the rows in the name of each shard to its files: one, unless somebody copied some.

        One scan for all shards: a scan for each would take the square of their number.
        """
        stored = collections.defaultdict(list)
        for path in self.folder.glob("*.npy"):
            stored[path.name.partition(".")[0]].append(path)
        return dict(stored)

    def _hash(self, rows: Rows) -> hashlib._Hash:
        """Starts a shard's checksum with its entry and rows, so that a misplaced file fails it."""
        return hashlib.sha256(f"{self.folder.name} {_range(*rows)}".encode())

    def _is_intact(self, path: pathlib.Path, rows: Rows) -> bool:
        expected = (rows[1] - rows[0]) * self.shards.row_bytes
        if path.stat().st_size > expected + MAX_HEADER_BYTES:
            return False
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, lambda: self._hash(rows))
        return path.name.split(".")[1] == _short(digest) and self._fits(path, rows)

    def _fits(self, path: pathlib.Path, rows: Rows) -> bool:
        try:
            array, shape = self.map(path), (rows[1] - rows[0], *self.shards.row_shape)
        except OSError:
            raise
        except Exception:  # noqa: BLE001 -- A checksum is no secret: the header can be anything.
            return False
        return array.shape == shape and array.dtype == self.shards.stored_dtype


class Writer:
    """Collects consecutive rows and writes the missing shards of an entry."""

    def __init__(self, entry: Entry, missing: Sequence[Rows], position: int) -> None:
        """Starts before any row has arrived.

        Args:
          entry: the entry to write to.
          missing: the shards to write.
          position: index of the first row that will arrive.
        """
        self._entry, self._position = entry, position
        self._missing = collections.deque(missing)
        self._held: list[np.ndarray] = []

    def add(self, block: np.ndarray) -> None:
        """Adds the next rows, [n, …]; rows of shards that are not missing are dropped."""
        first, self._position = self._position, self._position + len(block)
        while self._missing:
            start, stop = self._missing[0]
            self._held.append(block[max(start - first, 0) : max(stop - first, 0)])
            if self._position < stop:
                return
            self._entry.write((start, stop), np.concatenate(self._held))
            self._missing.popleft()
            self._held = []


class Regrouped:
    """Regroups a stream of blocks [n, …] into blocks of any sizes."""

    def __init__(self, blocks: Iterable[np.ndarray]) -> None:
        self._blocks = iter(blocks)
        self._held: list[np.ndarray] = []

    def take(self, size: int) -> np.ndarray:
        """Returns the next `size` rows."""
        left = size - sum(map(len, self._held))
        while left > 0:
            self._held.append(next(self._blocks))
            left -= len(self._held[-1])
        joined = np.concatenate(self._held)
        self._held = [joined[size:].copy()]  # A view would keep the whole block alive.
        return joined[:size]


def count_rows(ranges: Iterable[Rows]) -> int:
    """Returns the number of rows in several shards."""
    return sum(stop - start for start, stop in ranges)


def is_entry(name: str) -> bool:
    """Whether a folder of this name in a cache is an entry, see `Key.digest`."""
    return bool(re.fullmatch(rf"[0-9a-f]{{{DIGITS}}}", name))


def stored_bytes(folder: pathlib.Path) -> int:
    """Returns the disk space that an entry takes in bytes, partial shards included."""
    return sum(map(_size, folder.glob("*.npy")))


def modified(path: pathlib.Path) -> float:
    """Returns the time when a file was last written; 0 if it does not exist."""
    try:
        return path.stat().st_mtime
    except OSError:  # Perhaps also a link that leads to itself.
        return 0


def _size(path: pathlib.Path) -> int:
    try:
        return path.stat().st_size
    except OSError:  # Another process has renamed it, or removed it as damaged.
        return 0


def _range(start: int, stop: int) -> str:
    return f"{start:08d}-{stop:08d}"


def _short(digest: hashlib._Hash) -> str:
    return digest.hexdigest()[:16]
