"""Who is at an entry of the feature cache, among processes of one host or of several that share it.

All locks are files beside the entry's folder, which is removed under them. The system frees those
of a process that ends, however it does.

    used = locks.use(folder)           # nobody removes the entry from here on
    with locks.section(folder, 3):     # nobody else computes this part of it
        ...
"""

from __future__ import annotations

import contextlib
import shutil
import uuid
from typing import TYPE_CHECKING

import filelock

from trainer.features.entries import SECTIONS
from trainer.system import console

if TYPE_CHECKING:
    import pathlib
    from collections.abc import Iterator

WAIT_S = 30
"""How long to wait in silence for a section that another process computes."""


@contextlib.contextmanager
def section(folder: pathlib.Path, index: int, *, waits: bool = True) -> Iterator[None]:
    """Holds the lock of a section.

    Raises:
      filelock.Timeout: when another process has it, and we don't wait.
    """
    lock = filelock.FileLock(folder.with_suffix(f".{index}.lock"))
    while True:
        try:
            held = lock.acquire(timeout=WAIT_S if waits else 0)
            break
        except filelock.Timeout:
            if not waits:
                raise
            console.say(f"waiting for another process that computes features in {folder} ...")
    with held:
        yield


def use(folder: pathlib.Path) -> filelock.BaseFileLock:
    """Returns a lock that keeps the entry from being removed as long as it is referred to.

    Take it before any section: who removes an entry locks all of them first, and then looks here.
    """
    users = _users(folder)
    users.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(users / uuid.uuid4().hex, thread_local=False)
    lock.acquire()
    return lock


def remove_unused(folder: pathlib.Path) -> bool:
    """Removes an entry, unless somebody computes or uses it; returns whether it is gone."""
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
    """Returns the folder in which each process that uses the entry holds a lock of its own."""
    return folder.with_suffix(".users")


def _is_used(folder: pathlib.Path) -> bool:
    """Whether a running process uses the entry; forgets those that have ended."""
    for path in _users(folder).glob("*"):
        try:
            with filelock.FileLock(path).acquire(blocking=False):
                pass
        except filelock.Timeout:
            return True
        path.unlink(missing_ok=True)
    return False
