"""Makes a server of this machine unreachable from the network, where its library offers no way to.

TensorFlow's server listens on all interfaces, whatever address it is given. A listening socket that
is bound to the loopback interface (SO_BINDTODEVICE) refuses connections from all others.

    with loopback.confining({process.pid: port}):    # from another process, as soon as it listens
        ...
    loopback.confine(os.getpid(), port)              # this process's own sockets

Linux 5.7 and newer allow it to every user; the parent process reaches its child's sockets through
pidfd_getfd, which containers often forbid.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import pathlib
import socket
import sys
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

POLL_S = 0.002
"""Interval at which a process is looked at: for so long others can reach a port that it opens."""
AFTER_S = 1.0
"""How long a process is watched after its first socket: a server may open one for IPv4 as well."""
CLOSED = (errno.ENOENT, errno.EBADF)
"""What the system says of a descriptor that was closed since it was listed."""
DEVICE = b"lo\0"
PIDFD_GETFD = 438
"""Number of the system call, the same on all of Linux's architectures."""


def is_possible() -> bool:
    """Whether this system lets its users bind a socket to the loopback interface."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, DEVICE)
    except OSError:  # Before Linux 5.7; gVisor.
        return False
    return True


def reaches(pid: int) -> bool:
    """Whether this process may act on the sockets of another one."""
    try:
        os.close(_duplicate(pid, 2))  # Standard error, which every process has.
    except OSError:
        return False
    return True


def confine(pid: int, port: int) -> int:
    """Makes a process's sockets that listen on a port accept connections of this machine alone.

    Returns:
      how many sockets listen there.

    Raises:
      OSError: when the process has ended, or the system forbids it.
    """
    found = 0
    for link in pathlib.Path(f"/proc/{pid}/fd").iterdir():
        try:
            if link.readlink().name.startswith("socket:"):
                found += _confine_socket(_duplicate(pid, int(link.name)), port)
        except OSError as error:
            if error.errno not in CLOSED:
                raise
    return found


def _confine_socket(descriptor: int, port: int) -> bool:
    """Confines a socket if it listens on the port; closes the descriptor."""
    with socket.socket(fileno=descriptor) as copy:
        if not _listens(copy, port):
            return False
        copy.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, DEVICE)
        return True


@contextlib.contextmanager
def confining(ports: Mapping[int, int]) -> Iterator[None]:
    """Confines the sockets of processes, by process ID and port, as soon as they listen.

    It takes a process other than the server's: TensorFlow holds Python's lock while its server
    waits for the other workers.
    """
    ended = threading.Event()
    threads = [
        threading.Thread(target=_confine_first, args=(pid, port, ended), daemon=True)
        for pid, port in ports.items()
    ]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        ended.set()


def _confine_first(pid: int, port: int, ended: threading.Event) -> None:
    left = AFTER_S
    with contextlib.suppress(OSError):  # It has ended.
        while left > 0 and not ended.wait(POLL_S):
            left -= POLL_S if confine(pid, port) else 0


def _listens(copy: socket.socket, port: int) -> bool:
    if copy.family not in (socket.AF_INET, socket.AF_INET6):
        return False
    if not copy.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        return False
    return bool(copy.getsockname()[1] == port)


def _duplicate(pid: int, descriptor: int) -> int:
    """Returns a descriptor of another process, or of this one, as one of this process."""
    if pid == os.getpid():
        return os.dup(descriptor)
    process = os.pidfd_open(pid)
    try:
        return _system_call(PIDFD_GETFD, process, descriptor, 0)
    finally:
        os.close(process)


def _system_call(*arguments: int) -> int:
    result = ctypes.CDLL(None, use_errno=True).syscall(*map(ctypes.c_long, arguments))
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return int(result)
