"""Processes that tests start: none of them outlives its test."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer.system import loopback

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence


@contextlib.contextmanager
def started(command: Sequence[str], **options: Any) -> Iterator[subprocess.Popen[str]]:
    """A process with pipes; if it still runs at the end, it and its children are killed."""
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **(pipes | options)) as process:
        try:
            yield process
        finally:
            children = children_of(process.pid) if process.poll() is None else []
            process.kill()
            for child in children:
                os.kill(child, signal.SIGKILL)


def children_of(pid: int) -> list[int]:
    """The processes that a running one has started, in the order of their start."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def family_of(pid: int) -> list[int]:
    """A process and all that it has started, and they have started."""
    return [pid, *(each for child in children_of(pid) for each in family_of(child))]


def listeners_of(pids: Sequence[int]) -> dict[int, str]:
    """The TCP ports on which processes listen, each with its interface or else its address."""
    found = {}
    for pid in pids:
        links = [link for link in Path(f"/proc/{pid}/fd").iterdir() if link.is_socket()]
        for link in links:  # A copy of a pipe would keep it open, and its reader waiting.
            with (
                contextlib.suppress(OSError),  # It was closed meanwhile.
                socket.socket(fileno=loopback._duplicate(pid, int(link.name))) as copy,
            ):
                if copy.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                    address, port = copy.getsockname()[:2]
                    device = copy.getsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, 16)
                    # gRPC's sockets are of IPv6 and show an address of IPv4 within it.
                    shown = address.removeprefix("::ffff:")
                    found[port] = device.rstrip(b"\0").decode() or shown
    return found


def own_addresses() -> list[str]:
    """The addresses of this machine at which the network reaches it; none without a network."""
    found = []
    for family, outside in ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1")):
        with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((outside, 9))  # Sends nothing: it asks the system for the route.
            found.append(probe.getsockname()[0])
    return found


def wait_until(is_true: Callable[[], bool], seconds: float = 60) -> None:
    """Waits for something that another process does."""
    deadline = time.monotonic() + seconds
    while not is_true():
        assert time.monotonic() < deadline
        time.sleep(0.01)
