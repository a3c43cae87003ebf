"""Workers on one machine, each a real process, on the embedded data."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from tests.support import processes
from trainer.errors import ConfigError
from trainer.options import RuntimeOptions
from trainer.system import signals, sockets

if TYPE_CHECKING:
    from pathlib import Path

NAMES = ("loss", "accuracy", "auc", "val_loss", "val_accuracy", "val_auc")
WORKERS = ("--local_workers=2", "--strategy=multi_worker")
TRAINER = (sys.executable, "-m", "trainer", "--dataset=phantom")
TIMEOUT_S = 900


@pytest.fixture
def command(phantom_dir, tmp_path):
    """Returns a maker of commands for a short run on the phantoms."""

    def make(run: str, *flags: str) -> list[str]:
        return [
            *TRAINER, f"--data_dir={phantom_dir}", "--backbone=small_cnn", "--weights=none",
            "--image_size=32", "--neurons=8",
            "--batch_size=32", "--dropout=0", "--optimizer=sgd", "--learning_rate=0.02",
            "--max_epochs=2", "--precision=float32", f"--cache_dir={tmp_path / 'cache'}",
            f"--model_dir={tmp_path / run}", *flags,
        ]  # fmt: skip

    return make


def _run(command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)


def _history(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("feature_cache", ["auto", pytest.param("off", marks=pytest.mark.long)])
@pytest.mark.slow
def test_two_workers_give_the_metrics_of_one_device(command, tmp_path, feature_cache):
    """Each computes the features that it trains on."""
    flags, cached = f"--feature_cache={feature_cache}", feature_cache == "auto"
    one = _run(command("one", flags, "--strategy=one_device"))
    two = _run(command("two", flags, f"--cache_dir={tmp_path / 'cache2'}", *WORKERS))
    assert one.returncode in (0, 3), one.stderr
    assert two.returncode == one.returncode, two.stderr
    for ours, theirs in zip(_history(tmp_path / "one"), _history(tmp_path / "two"), strict=True):
        assert [theirs[name] for name in NAMES] == pytest.approx(
            [ours[name] for name in NAMES], abs=1e-4
        )
    assert two.stdout.count("RANK 1 Accuracy: ") == 1  # Only the chief speaks.
    folders = {path.name for path in tmp_path.iterdir() if path.is_dir()}
    assert folders == {"one", "two", *(("cache", "cache2") if cached else ())}


@pytest.mark.slow
def test_a_workers_error_is_printed_with_its_index_and_exit_code():
    """2 is wrong usage: batch_size must be divisible by the replicas; both workers say so."""
    result = _run([*TRAINER, "--batch_size=33", *WORKERS])
    assert result.returncode == 2
    assert (
        "batch_size (33) is global and must be divisible by the 2 replicas; the nearest are 32 and "
        "34." in result.stderr
    )
    assert re.search(r"trainer: worker [01] failed with 2; the other workers", result.stderr)


def _wait_for(process: subprocess.Popen[str], text: str) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        if text in line:
            return
    raise AssertionError(process.communicate())


@pytest.mark.slow
def test_only_this_machine_reaches_local_workers(command):
    """TensorFlow's server itself listens on all interfaces."""
    with processes.started(command("run", *WORKERS, *LONG)) as launcher:
        _wait_for(launcher, "epoch    1/")
        family = processes.family_of(launcher.pid)
        found = processes.listeners_of(family)
        reached = [
            (address, port)
            for address in processes.own_addresses()
            for port in found
            if sockets.answers(f"[{address}]:{port}", 5)
        ]
        launcher.terminate()
        _, errors = launcher.communicate(timeout=TIMEOUT_S)
    assert len(found) == 2
    assert set(found.values()) == {"lo"}
    assert reached == []
    assert "all interfaces" not in errors


LONG = ("--max_epochs=9999", "--patience=9999", "--feature_cache=off")


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, pytest.param(1, marks=pytest.mark.long)])
def test_a_killed_worker_ends_the_run_with_exit_code_1(command, victim):
    with processes.started(command("run", *WORKERS, *LONG)) as launcher:
        _wait_for(launcher, "epoch    1/")
        workers = processes.children_of(launcher.pid)
        killed = time.monotonic()
        os.kill(workers[victim], signal.SIGKILL)
        _, errors = launcher.communicate(timeout=TIMEOUT_S)
    assert launcher.returncode == 1
    assert f"worker {victim} was killed by SIGKILL" in errors
    assert time.monotonic() - killed < 30 + 60  # GRACE_S; the rest is for a busy machine.
    assert not any(_is_running(pid) for pid in workers)


@pytest.mark.long
def test_workers_whose_launcher_is_killed_save_and_end(command, tmp_path):
    with processes.started(command("run", *WORKERS, *LONG)) as launcher:
        _wait_for(launcher, "epoch    1/")
        workers = processes.children_of(launcher.pid)
        launcher.kill()
        launcher.wait()
        deadline = time.monotonic() + 60  # PROBE_S; the rest is for a busy machine.
        while any(map(_is_running, workers)) and time.monotonic() < deadline:
            time.sleep(0.1)
    assert not any(map(_is_running, workers))
    epochs = len(_history(tmp_path / "run"))
    assert 0 < epochs < 9999
    more = ("--max_epochs=9999", "--patience=9999", "--feature_cache=off", "--resume=must")
    with processes.started(command("run", *WORKERS, *more)) as launcher:
        _wait_for(launcher, "resuming after ")
        launcher.send_signal(signal.SIGTERM)
        _, errors = launcher.communicate(timeout=TIMEOUT_S)
    assert launcher.returncode == 75, errors


@pytest.mark.long
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_all_workers_stop_at_one_step_and_resume_from_it(command, tmp_path, number):
    """The signal goes to one worker or to the launcher: a scheduler may preempt one machine."""
    flags = (*WORKERS, "--max_epochs=12", "--patience=12", "--steps_per_execution=1")
    assert _run(command("whole", *flags)).returncode in (0, 3)
    with processes.started(command("run", *flags)) as launcher:
        _wait_for(launcher, "epoch  1/")
        workers = processes.children_of(launcher.pid)
        if number == signal.SIGTERM:
            os.kill(workers[1], number)
        else:
            launcher.send_signal(number)
        output, errors = launcher.communicate(timeout=TIMEOUT_S)
    assert launcher.returncode == signals.EXIT_CODES[number], output + errors
    assert "the same command resumes from what is saved" in errors
    assert not any(_is_running(pid) for pid in workers)
    assert 0 < len(_history(tmp_path / "run")) < 12
    assert _run(command("run", *flags)).returncode in (0, 3)
    for ours, theirs in zip(_history(tmp_path / "run"), _history(tmp_path / "whole"), strict=True):
        assert [ours[name] for name in NAMES] == [theirs[name] for name in NAMES]


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def _worker(command: list[str], addresses: list[str], index: int):
    cluster = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
    return processes.started(command, env=os.environ | {"TF_CONFIG": json.dumps(cluster)})


@pytest.mark.long
@pytest.mark.parametrize("victim", [0, 1])
def test_without_a_launcher_a_lost_worker_is_noticed_by_the_others(command, victim):
    """As on several hosts: nobody watches but the workers themselves."""
    addresses = [f"127.0.0.1:{port}" for port in sockets.free_ports(2)]
    run = command("run", "--strategy=multi_worker", "--worker_timeout_s=40", *LONG)
    with _worker(run, addresses, 0) as chief, _worker(run, addresses, 1) as other:
        _wait_for(chief, "epoch    1/")
        lost, left = (chief, other) if victim == 0 else (other, chief)
        killed = time.monotonic()
        lost.kill()
        _, errors = left.communicate(timeout=TIMEOUT_S)
    assert time.monotonic() - killed < 40 + 60  # The rest is for a busy machine.
    assert left.returncode == 1
    last = errors.strip().splitlines()[-1]
    assert last.startswith(f"trainer: worker {victim} at {addresses[victim]} is lost"), errors


@pytest.mark.slow
def test_a_chief_and_a_worker_give_the_metrics_of_one_device(command, tmp_path):
    """As Vertex AI and Kubeflow name them."""
    chief, other = (f"127.0.0.1:{port}" for port in sockets.free_ports(2))
    jobs = {"chief": [chief], "worker": [other]}
    flags = ("--strategy=multi_worker", "--feature_cache=off")
    with contextlib.ExitStack() as stack:
        hosts = []
        for job in ("worker", "chief"):
            cluster = {"cluster": jobs, "task": {"type": job, "index": "0"}, "environment": "cloud"}
            environment = os.environ | {"TF_CONFIG": json.dumps(cluster)}
            run = processes.started(command("two", *flags), env=environment)
            hosts.append(stack.enter_context(run))
        (quiet, _), (said, errors) = (host.communicate(timeout=TIMEOUT_S) for host in hosts)
    one = _run(command("one", "--feature_cache=off", "--strategy=one_device"))
    assert [host.returncode for host in hosts] == [one.returncode] * 2, errors
    assert "run directory" not in quiet
    assert f"({chief.rpartition(':')[2]} here) on all interfaces" in said
    for ours, theirs in zip(_history(tmp_path / "one"), _history(tmp_path / "two"), strict=True):
        assert [theirs[name] for name in NAMES] == pytest.approx(
            [ours[name] for name in NAMES], abs=1e-4
        )


def test_local_workers_are_a_cluster():
    with pytest.raises(ConfigError, match=r"local_workers \(2\) needs --strategy=multi_worker"):
        RuntimeOptions(local_workers=2, strategy="mirrored")
