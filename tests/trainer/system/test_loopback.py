"""A server that listens on all interfaces, in a process of its own."""

from __future__ import annotations

import os
import socket
import sys

import pytest

from tests.support import processes
from trainer.system import loopback, sockets

pytestmark = pytest.mark.skipif(
    not loopback.is_possible(), reason="this system can't bind a socket to the loopback interface"
)
SERVER = """
import socket, sys, time
server = socket.create_server(("", int(sys.argv[1])), family=socket.AF_INET6, dualstack_ipv6=True)
print("listens", flush=True)
time.sleep(600)
"""


@pytest.fixture
def server():
    port = sockets.free_ports(1)[0]
    with processes.started([sys.executable, "-c", SERVER, str(port)]) as process:
        assert process.stdout.readline() == "listens\n"
        yield process.pid, port


def _others_reach(port: int) -> list[str]:
    """The addresses of this machine, other than loopback, at which the port answers."""
    return [a for a in processes.own_addresses() if sockets.answers(f"[{a}]:{port}", 5)]


def test_a_confined_server_answers_this_machine_alone(server):
    pid, port = server
    assert _others_reach(port) == processes.own_addresses()
    assert loopback.confine(pid, port) == 1
    assert processes.listeners_of([pid]) == {port: "lo"}
    assert _others_reach(port) == []
    assert sockets.answers(f"127.0.0.1:{port}", 5)
    assert sockets.answers(f"[::1]:{port}", 5)


def test_a_server_is_confined_as_soon_as_it_listens():
    port = sockets.free_ports(1)[0]
    with (
        processes.started([sys.executable, "-c", SERVER, str(port)]) as process,
        loopback.confining({process.pid: port}),
    ):
        assert process.stdout.readline() == "listens\n"
        processes.wait_until(lambda: processes.listeners_of([process.pid]) == {port: "lo"})


def test_this_process_can_confine_itself():
    with socket.create_server(("", 0)) as server, socket.create_server(("127.0.0.1", 0)) as other:
        port = server.getsockname()[1]
        assert loopback.confine(os.getpid(), port) == 1
        assert processes.listeners_of([os.getpid()])[port] == "lo"
        assert processes.listeners_of([os.getpid()])[other.getsockname()[1]] == "127.0.0.1"
