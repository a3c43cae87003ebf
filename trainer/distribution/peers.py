"""Watches the other hosts of a run, and explains their loss.

TensorFlow notices a stopped worker within half a minute, and then fails the waiting step with an
error that names neither the host nor a remedy. It does not notice a worker that never started or a
step that hangs, and tf.data calls a lost dispatcher forever. So each worker probes the others.

    with peers.watched(config):    # does nothing where neither TF_CONFIG nor a flag names others
        ...
        peers.part()                       # From here on, the others may end before us.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import sys
import threading
import time
from typing import TYPE_CHECKING

from trainer.errors import ConfigError, RunError
from trainer.storage import documents
from trainer.system import signals, sockets, text

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from trainer import config as config_lib

CLUSTER = "TF_CONFIG"
LAUNCHER = "CXR_TRAINER_LAUNCHER"
"""Variable with the process ID of the launcher, in the workers that --local_workers starts."""
DISPATCHER = "the dispatcher of --data_service"
PROBE_S = 5
"""Interval of the probes, and time-out of each."""

_parted = threading.Event()


@contextlib.contextmanager
def watched(config: config_lib.Config) -> Iterator[None]:
    """Ends the process when another host has not answered for `worker_timeout_s`.

    Raises:
      ConfigError: when TF_CONFIG is not valid.
      RunError: when the run fails while another host is gone.
      Stopped: when it fails so after a signal asked this host to stop as well.
    """
    runtime, service = config.runtime, config.data.data_service
    trains_with_others = runtime.strategy in ("auto", "multi_worker")
    others = others_of(os.environ.get(CLUSTER) or "{}") if trains_with_others else {}
    if service:
        others[DISPATCHER] = service
    if not others:
        yield
        return
    _parted.clear()
    args = (others, runtime.worker_timeout_s)
    threading.Thread(target=_watch, args=args, daemon=True).start()
    try:
        yield
    except (ConfigError, RunError):
        raise
    except Exception as error:
        lost = _lost(others, str(error))
        if lost is None:
            raise
        if signals.is_requested():  # A stop of all: the other host was only faster.
            signals.stop()
        raise RunError(explanation(lost, others[lost])) from error
    finally:
        part()


def has_cluster() -> bool:
    """Whether TF_CONFIG names a cluster; some platforms leave it empty."""
    try:
        return bool(documents.parse(os.environ.get(CLUSTER) or "{}").get("cluster"))
    except (ValueError, AttributeError):
        return True  # It was meant to name a cluster; `watched` reports what is wrong with it.


def part() -> None:
    """Stops watching: no host waits for another any more."""
    _parted.set()


def others_of(cluster: str) -> dict[str, str]:
    """Returns the addresses of the other workers, by their names in the cluster (`worker 1`).

    Raises:
      ConfigError: when the text is not a valid TF_CONFIG.
    """
    try:
        parsed = documents.parse(cluster)
        addresses = {
            f"{job} {index}": address
            for job, tasks in parsed.get("cluster", {}).items()
            for index, address in enumerate(tasks)
        }
        me = parsed.get("task", {})
        if addresses:  # TensorFlow allows a job `chief`; here worker 0 is the chief already.
            _require_worker(parsed["cluster"], me)
        addresses.pop(f"{me.get('type')} {me.get('index')}", None)
        for address in addresses.values():
            sockets.parse(address)
    except (ValueError, AttributeError, TypeError) as error:
        raise ConfigError(
            f"TF_CONFIG ({text.one_line(cluster):.300}) must be JSON of the form "
            '{"cluster": {"worker": ["host:port", ...]}, "task": {"type": "worker", "index": 0}}; '
            "worker 0 acts as the chief."
        ) from error
    return addresses


def _require_worker(cluster: Mapping[str, Sequence[str]], task: Mapping[str, object]) -> None:
    if set(cluster) != {"worker"} or task.get("type") != "worker":
        raise ValueError("not all are workers")
    if task.get("index") not in range(len(cluster["worker"])):
        raise ValueError("this process is none of them")


def explanation(name: str, address: str) -> str:
    """Returns the message about a lost host."""
    remedy = "restart it, and then this run" if name == DISPATCHER else "restart all workers"
    return (
        f"{name} at {address} is lost: it ended, or the network failed. Its own output says why; "
        f"{remedy}."
    )


def _lost(others: dict[str, str], error: str) -> str | None:
    """Returns the worker that does not answer, or that TensorFlow calls unhealthy."""
    for name, address in others.items():
        if not sockets.answers(address, PROBE_S):
            return name
    named = re.search(r"unhealthy.*?/job:(\w+)/replica:0/task:(\d+)", error, re.DOTALL)
    name = " ".join(named.groups()) if named else ""
    return name if name in others else None


def _watch(others: dict[str, str], timeout_s: float) -> None:
    """Probes the others in turn; the main thread may be in a step that never returns."""
    heard = dict.fromkeys(others, time.monotonic())
    launcher = int(os.environ.get(LAUNCHER, os.getppid()))
    while not _parted.wait(PROBE_S):
        if os.getppid() != launcher:  # Every worker notices it, so they all stop together.
            with contextlib.suppress(OSError):  # Its reader was the launcher.
                sys.stderr.write("trainer: the launcher of --local_workers is lost; stopping.\n")
                sys.stderr.flush()
            os.kill(os.getpid(), signal.SIGTERM)
            return
        for name, address in others.items():
            if sockets.answers(address, PROBE_S):
                heard[name] = time.monotonic()
            elif time.monotonic() - heard[name] > timeout_s and not _parted.is_set():
                sys.stderr.write(f"trainer: {explanation(name, address)}\n")
                sys.stderr.flush()
                os._exit(1)  # An exception would not end a main thread that is stuck in a step.
