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
import multiprocessing.pool
import os
import re
import signal
import socket
import sys
import threading
import time
import traceback
from typing import TYPE_CHECKING

from trainer.distribution import cluster
from trainer.errors import ConfigError, RunError
from trainer.system import signals, sockets, text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from trainer import config as config_lib

LAUNCHER = "CXR_TRAINER_LAUNCHER"
"""Variable with the process ID of the launcher, in the workers that --local_workers starts."""
DISPATCHER = "the dispatcher of --data_service"
PROBE_S = 5
"""Interval of the probes, and time-out of each."""
FIRST_WORD_S = 10
"""Seconds after which a host first says for whom it waits; then after twice the time, and so on."""
MEET_S = 0.2
"""Interval at which a host looks for those that have not started yet."""

_parted = threading.Event()
_met: set[str] = set()
"""The other hosts that have answered once."""


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
    found = cluster.of_environment() if trains_with_others else None
    others = found.others if found else {}
    if service:
        others[DISPATCHER] = service
    if not others:
        yield
        return
    _parted.clear()
    _met.clear()
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
        _close_pools(error)
        if signals.is_requested():  # A stop of all: the other host was only faster.
            signals.stop()
        raise RunError(explanation(lost, others[lost])) from error
    finally:
        part()


def _close_pools(error: BaseException | None) -> None:
    """Closes what TensorFlow leaves open where a collective outside of a graph fails.

    It reduces a variable over the hosts in a pool of threads, such as to save a checkpoint. At the
    end of the process, Python would print a traceback of each open pool below our message.
    """
    while error is not None:
        for frame, _ in traceback.walk_tb(error.__traceback__):
            for value in tuple(frame.f_locals.values()):
                if isinstance(value, multiprocessing.pool.Pool):
                    value.close()
        error = error.__cause__ or error.__context__


def is_local_worker() -> bool:
    """Whether --local_workers started this process."""
    return LAUNCHER in os.environ


def starts_local_workers(count: int) -> bool:
    """Whether this process is to start `count` workers, instead of being one.

    Raises:
      ConfigError: when TF_CONFIG names other hosts already.
    """
    if not count or is_local_worker():
        return False
    found = cluster.of_environment()
    if found and found.others:
        raise ConfigError(
            f"local_workers ({count}) starts a cluster on this machine, and TF_CONFIG names one of "
            f"{found.size} hosts already: leave one of them out."
        )
    return True


def meet(mine: cluster.Cluster) -> None:
    """Waits until every other host has started; `watched` ends a wait that is too long.

    TensorFlow would wait for them without an end, and meanwhile hold Python's lock: no thread could
    watch the time, and no signal would stop this process. So the hosts meet here first, at the port
    that TensorFlow's server takes next.

    Raises:
      RunError: when this host's port is taken.
    """
    missing, start, said_at = mine.others, time.monotonic(), FIRST_WORD_S
    with _greeting(mine):
        while missing:
            missing = {n: a for n, a in missing.items() if not sockets.answers(a, PROBE_S)}
            _met.update(mine.others.keys() - missing.keys())
            if missing and time.monotonic() - start > said_at:
                said_at *= 2
                _write(_waiting(missing))
            time.sleep(MEET_S if missing else 0)


def _waiting(missing: dict[str, str]) -> str:
    name, address = next(iter(missing.items()))
    others = f" and {text.counted(len(missing) - 1, 'other')}" if len(missing) > 1 else ""
    way_out = "" if is_local_worker() else f" ({cluster.VARIABLE}; unset it to run alone)"
    return f"waiting for {name} at {address}{others}{way_out} ..."


@contextlib.contextmanager
def _greeting(mine: cluster.Cluster) -> Iterator[None]:
    """Listens at this host's port, so that the others see that it has started."""
    host = "127.0.0.1" if is_local_worker() else ""
    is_dual = not host and socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if is_dual else socket.AF_INET
    try:
        listener = socket.create_server(
            (host, mine.port), family=family, dualstack_ipv6=is_dual, backlog=mine.size
        )
    except OSError as error:
        raise RunError(port_taken(mine)) from error
    with listener:
        yield


def port_taken(mine: cluster.Cluster) -> str:
    """Returns the message about a port that another process has."""
    way = "run the command again" if is_local_worker() else "name another port in TF_CONFIG"
    return (
        f"{mine.name} can't listen at port {mine.port}: another process has it, perhaps one that "
        f"an earlier run has left; end that one, or {way}."
    )


def part() -> None:
    """Stops watching: no host waits for another any more."""
    _parted.set()


def _never_seen(name: str, address: str, waited_s: float) -> str:
    """Returns the message about a host that has never answered."""
    remedy = f"start it, or unset {cluster.VARIABLE} to run alone; --worker_timeout_s waits longer"
    if name == DISPATCHER:
        remedy = "start it first, or leave out --data_service"
    return (
        f"{name} at {address} has never answered in {waited_s:.0f} s: it was not started, or the "
        f"network keeps it out; {remedy}."
    )


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
            _write("the launcher of --local_workers is lost; stopping.")
            os.kill(os.getpid(), signal.SIGTERM)
            return
        for name, address in others.items():
            if sockets.answers(address, PROBE_S):
                heard[name] = time.monotonic()
                _met.add(name)
            elif time.monotonic() - heard[name] > timeout_s and not _parted.is_set():
                is_lost = name in _met or is_local_worker()
                _write(
                    explanation(name, address) if is_lost else _never_seen(name, address, timeout_s)
                )
                os._exit(1)  # An exception would not end a main thread that is stuck in a step.


def _write(line: str) -> None:
    """Writes a line to standard error, if anybody reads it: the launcher may be gone."""
    with contextlib.suppress(OSError):
        sys.stderr.write(f"trainer: {line}\n")
        sys.stderr.flush()
