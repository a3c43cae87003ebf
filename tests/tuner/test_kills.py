"""Searches in real processes find the same when they are killed as when they are not."""

from __future__ import annotations

import csv
import os
import random
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from trainer.system import exits, sockets

if TYPE_CHECKING:
    from pathlib import Path

KILLS = int(os.environ.get("CXR_KILLS", "6"))
"""Number of SIGKILLs in each search; more take longer and test more moments."""
TIMEOUT_S = 900


def _board(folder: Path) -> list[dict[str, str]]:
    with (folder / "leaderboard.csv").open() as file:
        rows = list(csv.DictReader(file))
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]


def _start(arguments: list[str], log: Path) -> subprocess.Popen[bytes]:
    with log.open("a") as output:
        return subprocess.Popen(
            [sys.executable, "-m", "tuner", *arguments], stdout=output, stderr=output
        )


def _finish(arguments: list[str], log: Path) -> None:
    with _start(arguments, log) as process:
        assert process.wait(TIMEOUT_S) in exits.TRAINED, log.read_text()


def _children(pid: int) -> list[int]:
    try:
        with open(f"/proc/{pid}/task/{pid}/children") as file:  # noqa: PTH123 -- Not on disk.
            return [int(child) for child in file.read().split()]
    except OSError:  # The process has just ended.
        return []


@pytest.mark.long
@pytest.mark.parametrize("workers", [1, 2])
def test_kills_change_nothing(command, tmp_path, workers):
    """Kills a random process of the search: its only one, or the chief or one of two workers."""
    options = {"workers": workers, "max_epochs": 4, "factor": 2, "cpu_threads": 1}
    _finish(command(project_name="calm", **options), tmp_path / "calm.log")
    generator, killed, kills = random.Random(workers), tmp_path / "killed", 0
    arguments, log = command(project_name="killed", **options), tmp_path / "killed.log"
    while kills < KILLS:
        with _start(arguments, log) as process:
            while kills < KILLS and _makes_progress(process, killed):
                time.sleep(generator.uniform(0, 3))
                victim = generator.choice([process.pid, *_children(process.pid)])
                os.kill(victim, signal.SIGKILL)
                kills += 1
                if victim == process.pid:
                    process.wait()
        assert process.returncode in {*exits.TRAINED, -signal.SIGKILL}, log.read_text()
        if process.returncode in exits.TRAINED:
            break
    _finish(arguments, log)
    assert kills >= min(KILLS, 5), log.read_text()
    assert _board(killed) == _board(tmp_path / "calm")


@pytest.mark.long
@pytest.mark.parametrize("workers", [1, 2])
def test_a_kill_within_what_was_added_changes_nothing(command, tmp_path, workers):
    options = {"workers": workers, "max_epochs": 3, "cpu_threads": 1}
    folder, log = tmp_path / "grown", tmp_path / "grown.log"
    _finish(command(project_name="whole", hyperband_iterations=2, **options), tmp_path / "log")
    _finish(command(project_name="grown", **options), log)
    arguments = command(project_name="grown", hyperband_iterations=2, **options)
    with _start(arguments, log) as process:
        while not list(folder.glob("trial_b2-*/result.json")):
            assert process.poll() is None, log.read_text()
            time.sleep(0.05)
        process.kill()
    assert not list(folder.glob("trial_b3-*/result.json"))
    _finish(arguments, log)
    assert _board(folder) == _board(tmp_path / "whole")


def _makes_progress(process: subprocess.Popen[bytes], folder: Path) -> bool:
    """Waits for a new file of the search; returns False if the process has ended instead."""
    before = _newest(folder)
    while process.poll() is None and _newest(folder) == before:
        time.sleep(0.05)
    return process.poll() is None


def _newest(folder: Path) -> int:
    paths = [*folder.glob("trial_*"), *folder.glob("runs/*/checkpoints")]
    return max((path.stat().st_mtime_ns for path in paths), default=0)


@pytest.mark.long
def test_a_stopped_search_resumes(command, tmp_path):
    arguments, log = command(max_epochs=9), tmp_path / "log"
    with _start(arguments, log) as process:
        while not list((tmp_path / "s").glob("trial_*/result.json")):
            time.sleep(0.2)
        process.terminate()
        assert process.wait(60) == 75, log.read_text()
    assert "the same command resumes" in log.read_text()
    _finish(arguments, log)


@pytest.mark.long
def test_out_of_memory_fails_only_that_trial(command, tmp_path):
    """One configuration has layers of gigabytes; only its process is killed, not the search."""
    arguments = command(
        search="neurons=8|16|30000", algorithm="grid", isolate_trials=True, trial_memory_gb=1.5,
        max_epochs=2, layers_to_unfreeze=0, dense_layers=2,
    )  # fmt: skip
    _finish(arguments, tmp_path / "log")
    rows = {row["neurons"]: row for row in _board(tmp_path / "s")}
    assert rows["30000"]["reason"].startswith("out of memory: ")
    assert {rows[n]["status"] for n in ("8", "16")} == {"COMPLETED"}


@pytest.mark.long
def test_workers_on_several_hosts(command, tmp_path):
    """Chief and workers find one another only by KerasTuner's environment variables."""
    port = sockets.free_ports(1)[0]
    arguments = command(max_epochs=3)

    def begin(name: str) -> subprocess.Popen[bytes]:
        environment = {
            "KERASTUNER_TUNER_ID": name,
            "KERASTUNER_ORACLE_IP": "127.0.0.1",
            "KERASTUNER_ORACLE_PORT": str(port),
        }
        with (tmp_path / f"{name}.log").open("a") as output:
            return subprocess.Popen(
                [sys.executable, "-m", "tuner", *arguments],
                stdout=output, stderr=output, env=os.environ | environment,
            )  # fmt: skip

    with begin("chief") as chief, begin("worker-a") as first, begin("worker-b") as second:
        while not list((tmp_path / "s").glob("trial_*/result.json")):
            time.sleep(0.2)
        first.kill()  # It stays dead: its trial goes to the other worker after trial_timeout_s.
        chief.kill()
        chief.wait()
        with begin("chief") as again:
            assert again.wait(TIMEOUT_S) in exits.TRAINED, (tmp_path / "chief.log").read_text()
        assert second.wait(TIMEOUT_S) == 0, (tmp_path / "worker-b.log").read_text()
    assert len(_board(tmp_path / "s")) == 6
