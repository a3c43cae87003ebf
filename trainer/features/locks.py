"""File locks for processes, on one host or several, that share an entry of the feature cache.

The lock files lie beside the entry's folder, not in it, so that they survive its removal. The
operating system releases the locks of a process that ends, even by SIGKILL.

    used = locks.use(folder)           # from here on no process removes the entry
    with locks.section(folder, 3):     # no other process computes this section
        ...
"""

from __future__ import annotations

import contextlib
import shutil
import uuid
from typing import TYPE_CHECKING

import filelock

from trainer.features.shard_files import SECTIONS
from trainer.system import console

if TYPE_CHECKING:
    import pathlib
    from collections.abc import Iterator

WAIT_S = 30
"""Seconds between two messages while another process computes a section."""


@contextlib.contextmanager
def section(folder: pathlib.Path, index: int, *, waits: bool = True) -> Iterator[None]:
    """Holds the lock of a section.

    Args:
      folder: of the entry.
      index: number of the section.
      waits: whether to wait until the lock is free.

    Raises:
      filelock.Timeout: when another process holds it and `waits` is false.
    """
    lock = filelock.FileLock(folder.with_suffix(f".{index}.lock"))
    while True:
        try:
            held = lock.acquire(timeout=WAIT_S if waits else 0)
            break
        except filelock.Timeout:
            if not waits:
                raise
            console.say(f"waiting for another process to compute features in {folder} ...")
    with held:
        yield


def use(folder: pathlib.Path) -> filelock.BaseFileLock:
    """Returns a lock that protects the entry from removal until it is garbage-collected.

    Acquire it before any section: a process that removes an entry first locks all its sections and
    then looks for these locks.
    """
    users = _users(folder)
    users.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(users / uuid.uuid4().hex, thread_local=False)
    lock.acquire()
    return lock


def remove_unused(folder: pathlib.Path) -> bool:
    """Removes an entry unless a process computes or uses it; returns whether it was removed."""
    try:
        with contextlib.ExitStack() as sections:
            for index in range(SECTIONS):
                sections.enter_context(section(folder, index, waits=False))
            if _is_used(folder):
                return False
            shutil.rmtree(folder)
    except filelock.Timeout:
        return False
    return True


def _users(folder: pathlib.Path) -> pathlib.Path:
    """Returns the folder where each process that uses the entry holds its own lock file."""
    return folder.with_suffix(".users")


def _is_used(folder: pathlib.Path) -> bool:
    """Returns whether a running process uses the entry; removes lock files of ended processes."""
    for path in _users(folder).glob("*"):
        try:
            with filelock.FileLock(path).acquire(blocking=False):
                pass
        except filelock.Timeout:
            return True
        path.unlink(missing_ok=True)
    return False
