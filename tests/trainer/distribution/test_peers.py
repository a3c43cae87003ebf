from __future__ import annotations

import concurrent.futures
import contextlib
import json
import multiprocessing.pool
import os
import signal
import socket
import subprocess
import sys

import pytest

from tests.support import processes
from trainer.config import Config
from trainer.distribution import cluster, peers
from trainer.errors import ConfigError, RunError, Stopped
from trainer.system import signals, sockets


@pytest.fixture
def listener():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield f"127.0.0.1:{server.getsockname()[1]}"


def _cluster(*addresses: str, index: int = 0) -> str:
    workers = {"worker": list(addresses)}
    return json.dumps({"cluster": workers, "task": {"type": "worker", "index": index}})


@pytest.mark.parametrize("text", ["", "{}", '{"task": {"type": "worker", "index": 0}}'])
def test_an_empty_tf_config_names_no_cluster(monkeypatch, text):
    monkeypatch.setenv("TF_CONFIG", text)
    assert peers.starts_local_workers(2)
    with peers.watched(Config()):
        pass


def test_local_workers_beside_a_cluster_are_an_error(monkeypatch):
    """They would not start, and nobody would say so."""
    monkeypatch.setenv("TF_CONFIG", _cluster("a:1", "b:2"))
    with pytest.raises(
        ConfigError, match=r"local_workers \(2\) starts a cluster .* one of 2 hosts"
    ):
        peers.starts_local_workers(2)
    monkeypatch.setenv(peers.LAUNCHER, "1")  # A worker that a launcher has started.
    assert not peers.starts_local_workers(2)


def test_hosts_meet_before_they_train():
    first, second = sockets.free_ports(2)
    clusters = [
        cluster.parse(_cluster(f"127.0.0.1:{first}", f"127.0.0.1:{second}", index=index))
        for index in range(2)
    ]
    with concurrent.futures.ThreadPoolExecutor() as pool, contextlib.ExitStack() as servers:

        def start(host: cluster.Cluster) -> None:
            peers.meet(host)  # Then TensorFlow's server takes the port.
            servers.enter_context(socket.create_server(("127.0.0.1", host.port)))

        for started in [pool.submit(start, host) for host in clusters]:
            started.result(timeout=60)


def test_a_taken_port_is_an_error(listener):
    port = listener.rpartition(":")[2]
    with pytest.raises(RunError, match=f"worker 0 can't listen at port {port}: another process"):
        peers.meet(cluster.parse(_cluster(listener, "127.0.0.1:9")))


MEETS = """
from trainer.config import Config
from trainer.distribution import cluster, peers
from trainer.system import signals
with signals.watched(), peers.watched(Config.from_flat({"worker_timeout_s": 10})):
    print("waits", flush=True)
    peers.meet(cluster.of_environment())
"""


@pytest.fixture
def waiting():
    """A host that waits for one that never starts."""
    here, gone = (f"127.0.0.1:{port}" for port in sockets.free_ports(2))
    environment = os.environ | {"TF_CONFIG": _cluster(here, gone)}
    with processes.started([sys.executable, "-c", MEETS], env=environment) as process:
        assert process.stdout.readline() == "waits\n"
        yield process, gone


def test_a_host_that_waits_says_for_whom_and_how_to_run_alone(monkeypatch, capsys):
    here, late, later = sockets.free_ports(3)
    addresses = [f"127.0.0.1:{port}" for port in (here, late, later)]
    monkeypatch.setattr(peers, "FIRST_WORD_S", 0.3)
    with concurrent.futures.ThreadPoolExecutor() as pool, contextlib.ExitStack() as servers:
        waiting = pool.submit(peers.meet, cluster.parse(_cluster(*addresses)))
        for port in (late, later):
            with pytest.raises(TimeoutError):
                waiting.result(timeout=2)
            servers.enter_context(socket.create_server(("127.0.0.1", port)))
        waiting.result(timeout=60)
    lines = capsys.readouterr().err.splitlines()
    way_out = "(TF_CONFIG; unset it to run alone) ..."
    assert lines[0] == f"trainer: waiting for worker 1 at {addresses[1]} and 1 other {way_out}"
    assert lines[-1] == f"trainer: waiting for worker 2 at {addresses[2]} {way_out}"
    assert len(lines) < 6  # At growing intervals.


@pytest.mark.slow
def test_a_host_that_never_starts_ends_the_others(waiting):
    process, gone = waiting
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 1
    assert f"trainer: worker 1 at {gone} has never answered in 10 s" in errors


def test_a_host_that_waits_for_others_can_be_stopped(waiting):
    process, _ = waiting
    process.terminate()
    _, errors = process.communicate(timeout=60)
    assert "Stopped: stopped by SIGTERM" in errors


def test_an_error_while_another_worker_is_gone_names_it(monkeypatch, listener):
    gone = f"127.0.0.1:{sockets.free_ports(1)[0]}"
    monkeypatch.setenv("TF_CONFIG", _cluster(listener, gone))
    with (
        pytest.raises(RunError, match=f"worker 1 at {gone} is lost"),
        peers.watched(Config()),
    ):
        raise ValueError("of a step")


def test_a_worker_that_was_lost_after_a_request_to_stop_is_that_stop(monkeypatch, listener):
    """The request goes to all of them, and one may end while another is in a step."""
    monkeypatch.setenv("TF_CONFIG", _cluster(listener, f"127.0.0.1:{sockets.free_ports(1)[0]}"))
    with (  # noqa: PT012 -- The request must come before the error.
        signals.watched(),
        pytest.raises(Stopped) as stop,
        peers.watched(Config()),
        signals.deferred(),
    ):
        signal.raise_signal(signal.SIGTERM)
        raise ValueError("of a step")
    assert stop.value.exit_code == 75


def test_an_error_while_all_answer_stays_what_it_is(monkeypatch, listener):
    monkeypatch.setenv("TF_CONFIG", _cluster("127.0.0.1:9", listener))
    with pytest.raises(ValueError, match="of a step"), peers.watched(Config()):
        raise ValueError("of a step")


def test_a_worker_that_tensorflow_reports_dead_is_named(monkeypatch, listener):
    """It may answer and still be stopped."""
    monkeypatch.setenv("TF_CONFIG", _cluster("127.0.0.1:9", listener))
    text = "tasks are unhealthy (stopped sending heartbeats):\n/job:worker/replica:0/task:1\nThe"
    with pytest.raises(RunError, match="worker 1 at"), peers.watched(Config()):
        raise ValueError(text)


STUCK = """
import time
from trainer.distribution import peers
from trainer.config import Config
peers.PROBE_S = 0.5
clock = time.monotonic
time.monotonic = lambda: 5 * clock()  # Ten seconds pass in two.
options = {{"strategy": "{strategy}", "data_service": "{service}", "worker_timeout_s": 10}}
with peers.watched(Config.from_flat(options)):
    {parted}
    time.sleep(8)  # A step that waits for the other worker.
"""


@pytest.mark.parametrize(
    ("strategy", "parted", "code"),
    [
        ("multi_worker", "pass", 1),
        pytest.param("multi_worker", "peers.part()", 0, marks=pytest.mark.slow),
        pytest.param("one_device", "pass", 0, marks=pytest.mark.slow),
    ],
)
def test_a_step_that_waits_for_a_worker_that_never_joined_ends(strategy, parted, code):
    gone = f"127.0.0.1:{sockets.free_ports(1)[0]}"
    result = _run_stuck(_cluster("127.0.0.1:9", gone), strategy=strategy, parted=parted, service="")
    assert result.returncode == code, result.stderr
    assert (f"trainer: worker 1 at {gone} has never answered in" in result.stderr) == bool(code)


@pytest.mark.slow
def test_a_step_that_waits_for_a_dispatcher_that_is_gone_ends():
    gone = f"grpc://127.0.0.1:{sockets.free_ports(1)[0]}"
    result = _run_stuck("{}", strategy="one_device", parted="pass", service=gone)
    assert result.returncode == 1, result.stderr
    assert (
        f"trainer: the dispatcher of --data_service at {gone} has never answered" in result.stderr
    )


def _run_stuck(cluster: str, **options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", STUCK.format(**options)],
        env={"TF_CONFIG": cluster},
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip


def test_a_pool_that_a_failed_collective_leaves_is_closed(monkeypatch, listener):
    """As TensorFlow's `_all_reduce_per_replica_values` does; Python complains of an open one."""
    left = []

    def reduce():
        pool = multiprocessing.pool.ThreadPool(1)
        left.append(pool)
        pool.map(lambda _: 1 // 0, [0])

    def save():
        try:
            reduce()
        except ZeroDivisionError as error:
            raise RuntimeError("UNAVAILABLE") from error

    gone = f"127.0.0.1:{sockets.free_ports(1)[0]}"
    monkeypatch.setenv("TF_CONFIG", _cluster(listener, gone))
    with pytest.raises(RunError, match="is lost"), peers.watched(Config()):
        save()
    with pytest.raises(ValueError, match="not running"):
        left[0].apply(int)
