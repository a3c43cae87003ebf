"""One entry of the feature cache on disk: what its key is, and shards that prove themselves.

An entry is a folder named by the hash of its key, with the key in clear in `key.json` and the
activations in `.npy` shards. A shard's name ends in a checksum of its place and its bytes, and a
shard appears by one rename: it is whole and the right one, or it is not used.

    entry = Entry(root, key, Shards(num_examples, row_shape, dtype))
    path = entry.find((0, 256)) or entry.write((0, 256), activations)
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
    from collections.abc import Iterable, Iterator, Sequence

    from trainer.data import augment

FORMAT_VERSION = 3
"""Raise it by hand whenever the meaning of stored bytes changes."""
PASS_BATCH_SIZE = 32
"""The prefix pass has its own batch size, so that what is stored doesn't depend on the run's."""
SHARD_BYTES = 64 << 20
SHARD_ROWS = 256
"""Upper limits of a shard (of several batches); an interrupted pass repeats at most two."""
SECTIONS = 8
"""Into how many parts an entry is locked; a section is a run of shards."""
STALE_S = 3600
"""A shard is written in seconds: one that is half-written after so long was given up."""
KEY_FILE = "key.json"

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


class Entry:
    """The files of a key.

    Attributes:
      folder: where they are.
      shards: how the rows are cut.
    """

    def __init__(self, root: pathlib.Path, key: Key, shards: Shards) -> None:
        self.folder, self.shards = root / key.digest, shards
        self._key = key

    def begin(self) -> None:
        """Makes the folder, or notes that it is used now; clears what killed processes left."""
        files.save_json(self.folder / KEY_FILE, dataclasses.asdict(self._key))
        for partial in self.folder.glob(".partial-*.npy"):
            if time.time() - modified(partial) > STALE_S:
                partial.unlink(missing_ok=True)

    def count_missing(self) -> int:
        """Returns how many rows have no file yet; a damaged one is found out when it is read."""
        return sum(
            stop - start for start, stop in self.shards.ranges() if not self._files(start, stop)
        )

    @property
    def missing_bytes(self) -> int:
        """What the missing rows will take."""
        return self.count_missing() * self.shards.row_bytes

    def find(self, rows: Rows) -> pathlib.Path | None:
        """Returns the valid file of a shard; a damaged one is removed with a message."""
        for path in self._files(*rows):
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, lambda: self._hash(rows))
            if path.name.split(".")[1] == _short(digest) and self._fits(path, rows):
                return path
            logging.warning("Damaged features at %s: computing them again.", path)
            path.unlink()
        return None

    def write(self, rows: Rows, activations: np.ndarray) -> pathlib.Path:
        """Writes a shard under a name that tells its rows and its checksum.

        Raises:
          DiskError: when it can't be stored.
        """
        # A name of its own: a file system whose locks don't hold costs work then, and no bytes.
        partial = self.folder / f".partial-{uuid.uuid4().hex}.npy"
        array = np.ascontiguousarray(activations.view(self.shards.stored_dtype))
        # As np.save does, which keeps to itself why nothing more can be written.
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
                f"features can't be stored in {self.folder}: {error.strerror}. Make room there, or "
                "name another --cache_dir; the next run goes on with what is stored."
            ) from error
        return partial.replace(self.folder / f"{_range(*rows)}.{_short(digest)}.npy")

    @staticmethod
    def map(path: pathlib.Path) -> np.ndarray:
        """Returns a shard, mapped from its file."""
        return np.load(path, mmap_mode="r", allow_pickle=False)

    def _files(self, start: int, stop: int) -> list[pathlib.Path]:
        """Returns what is there of a shard: nothing, or one file, unless somebody meddled."""
        return sorted(self.folder.glob(f"{_range(start, stop)}.*.npy"))

    def _hash(self, rows: Rows) -> hashlib._Hash:
        """Begins a shard's checksum with its place: the bytes of another don't belong there."""
        return hashlib.sha256(f"{self.folder.name} {_range(*rows)}".encode())

    def _fits(self, path: pathlib.Path, rows: Rows) -> bool:
        array, shape = self.map(path), (rows[1] - rows[0], *self.shards.row_shape)
        return array.shape == shape and array.dtype == self.shards.stored_dtype


class Writer:
    """Takes rows in order, as they come, and writes those shards of an entry that are missing."""

    def __init__(self, entry: Entry, missing: Sequence[Rows], position: int) -> None:
        """Starts at a row.

        Args:
          entry: where to write.
          missing: which shards.
          position: the first row that comes.
        """
        self._entry, self._position = entry, position
        self._missing = collections.deque(missing)
        self._held: list[np.ndarray] = []

    def add(self, block: np.ndarray) -> None:
        """Takes the next rows, [n, …]."""
        first, self._position = self._position, self._position + len(block)
        while self._missing:
            start, stop = self._missing[0]
            self._held.append(block[max(start - first, 0) : max(stop - first, 0)])
            if self._position < stop:
                return
            self._entry.write((start, stop), np.concatenate(self._held))
            self._missing.popleft()
            self._held = []


def cut(blocks: Iterable[np.ndarray], sizes: Sequence[int]) -> Iterator[np.ndarray]:
    """Cuts a stream of blocks [n, …] anew, into blocks of these sizes."""
    source = iter(blocks)
    held: list[np.ndarray] = []
    for size in sizes:
        while sum(map(len, held)) < size:
            held.append(next(source))
        joined = np.concatenate(held)
        held = [joined[size:].copy()]  # A view would keep the whole block alive.
        yield joined[:size]


def stored_bytes(folder: pathlib.Path) -> int:
    """Returns what an entry takes, half-written shards too."""
    return sum(map(_size, folder.glob("*.npy")))


def modified(path: pathlib.Path) -> float:
    """Returns when a file was written, 0 where there is none."""
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0


def _size(path: pathlib.Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:  # Another process has just renamed it, or found it damaged.
        return 0


def _range(start: int, stop: int) -> str:
    return f"{start:08d}-{stop:08d}"


def _short(digest: hashlib._Hash) -> str:
    return digest.hexdigest()[:16]
