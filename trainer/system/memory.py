"""The memory of this machine: what is free, and whether processes fit before they are started.

Linux ends a process that takes too much, without a word; so what can't fit is refused before.

    memory.free_bytes() / memory.GIB
    memory.require_processes("local_workers", 500)     # TooLargeError with figures
"""

from __future__ import annotations

import importlib
import os
import pathlib
import re

from trainer.errors import TooLargeError

GIB = 1 << 30
PROCESS_BYTES = 300 << 20
"""What a process takes that has imported TensorFlow and built a small model, at least."""
ADDRESS_BYTES = 5 * GIB // 2
"""Addresses that TensorFlow takes for its libraries and threads and a small model, at least."""
_MEMINFO = pathlib.Path("/proc/meminfo")
_CGROUP = pathlib.Path("/sys/fs/cgroup")
_CGROUP_FILES = (
    ("memory.max", "memory.current", "memory.stat", "file"),
    (
        "memory/memory.limit_in_bytes",
        "memory/memory.usage_in_bytes",
        "memory/memory.stat",
        "total_cache",
    ),
)
"""Limit, use, and where the files in memory are counted, which give way: versions 2 and 1."""


def free_bytes() -> int:
    """Returns the memory that is available to new processes, in this container."""
    free = _bytes_of("MemAvailable")
    if free is None:  # Not Linux, or one that does not tell: all of it counts as free.
        free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([free, *filter(None, map(_left_in_group, _CGROUP_FILES))])


def obtainable_bytes() -> int:
    """Returns the free memory and swap space: what needs more can't run, however slowly."""
    return free_bytes() + (_bytes_of("SwapFree") or 0)


def _bytes_of(entry: str) -> int | None:
    """Returns an entry of the system's account of memory; None if it has none."""
    try:
        status = _MEMINFO.read_text("utf-8")
    except OSError:
        return None
    found = re.search(rf"^{entry}:\s+(\d+) kB$", status, re.MULTILINE)
    return int(found[1]) * 1024 if found else None


def _left_in_group(names: tuple[str, str, str, str]) -> int | None:
    *paths, key = names
    try:
        limit, used, stat = ((_CGROUP / path).read_text("utf-8") for path in paths)
        found = re.search(rf"^{key} (\d+)$", stat, re.MULTILINE)
        return max(int(limit) - int(used) + (int(found[1]) if found else 0), 1)
    except (OSError, ValueError):  # Another version; or "max", without a limit.
        return None


def shown(num_bytes: float) -> str:
    """Returns "1.5 GiB" or "0.98 MiB"."""
    return f"{num_bytes / GIB:,.1f} GiB" if num_bytes >= GIB else f"{num_bytes / 2**20:,.2f} MiB"


def require_address_space() -> None:
    """Raises TooLargeError if a limit of this process (ulimit -v) leaves TensorFlow no room.

    TensorFlow would end the process with a stack trace: the limit counts addresses, of which it
    reserves far more than it uses.
    """
    try:
        resource = importlib.import_module("resource")
    except ImportError:  # Not on Windows.
        return
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit != resource.RLIM_INFINITY and limit < ADDRESS_BYTES:
        raise TooLargeError(
            f"this process may have {shown(limit)} of addresses (ulimit -v), and TensorFlow needs "
            f"at least {shown(ADDRESS_BYTES)} for the smallest model; raise the limit (ulimit -v "
            "unlimited), or limit the memory itself, as with a container or Slurm's --mem."
        )


def require_processes(option: str, count: int) -> None:
    """Raises TooLargeError unless so many processes with TensorFlow fit into memory."""
    free = obtainable_bytes()
    if count * PROCESS_BYTES > free:
        raise TooLargeError(
            f"{option} ({count}) needs at least {shown(count * PROCESS_BYTES)} of memory, and "
            f"{shown(free)} are free; give at most {max(free // PROCESS_BYTES, 1)}."
        )
