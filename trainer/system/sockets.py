"""Whether an address answers, within a time limit: libraries wait for minutes, or forever.

sockets.answers("grpc://10.0.0.2:8470", timeout_s=5)    # whether something listens there
"""

from __future__ import annotations

import contextlib
import socket
from typing import TYPE_CHECKING

from trainer.errors import ConfigError
from trainer.system import text

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextlib.contextmanager
def default_timeout(seconds: float) -> Iterator[None]:
    """Sets a time-out for libraries that set none, such as downloads."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def answers(address: str, timeout_s: float) -> bool:
    """Whether something accepts connections at `host:port` or `scheme://host:port`."""
    try:
        with socket.create_connection(parse(address), timeout_s):
            return True
    except OSError:
        return False


def parse(address: str) -> tuple[str, int]:
    """Returns host and port of `scheme://host:port` or `host:port`.

    Raises:
      ValueError: for anything else.
    """
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if not host or not port.isdecimal():
        raise ValueError(f"{address} is not host:port.")
    return host.strip("[]"), int(port)


def require_address(option: str, address: str, scheme: str) -> None:
    """Raises ConfigError unless an option's value is `scheme://host:port`."""
    with contextlib.suppress(ValueError):
        parse(address)
        if address.startswith(f"{scheme}://"):
            return
    raise ConfigError(f"{option} ({text.bare(address):.200}) must be {scheme}://host:port.")


def free_ports(count: int) -> list[int]:
    """Returns free ports of this host; all are held at once, so that they differ."""
    with contextlib.ExitStack() as stack:
        listeners = [stack.enter_context(socket.socket()) for _ in range(count)]
        for listener in listeners:
            listener.bind(("127.0.0.1", 0))
        return [listener.getsockname()[1] for listener in listeners]
