"""Searches that are killed at random moments, as real processes, find what others find."""

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

from trainer import sockets

if TYPE_CHECKING:
    from pathlib import Path

KILLS = 15
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
        assert process.wait(TIMEOUT_S) == 0, log.read_text()


def _children(pid: int) -> list[int]:
    with open(f"/proc/{pid}/task/{pid}/children") as file:  # noqa: PTH123 -- Not a file on disk.
        return [int(child) for child in file.read().split()]


def _has_begun(folder: Path) -> bool:
    return any(folder.glob("trial_*"))


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_kills_change_nothing(command, tmp_path, workers):
    """The chief or alone, and with two workers one of them or the chief, as it comes."""
    search = "neurons=8|16,learning_rate=1e-3:1e-1:log,layers_to_unfreeze=0|2"
    options = {"workers": workers, "search": search, "max_epochs": 9, "cpu_threads": 1}
    _finish(command(project_name="calm", **options), tmp_path / "calm.log")
    generator = random.Random(workers)
    killed = tmp_path / "killed"
    arguments, log = command(project_name="killed", **options), tmp_path / "killed.log"
    kills = 0
    while kills < KILLS:
        with _start(arguments, log) as process:
            chief_lives = True
            while chief_lives and kills < KILLS and process.poll() is None:
                time.sleep(generator.uniform(0.5, 6) + (0 if _has_begun(killed) else 8))
                victims = [process.pid, *(_children(process.pid) if process.poll() is None else [])]
                victim = generator.choice(victims)
                try:
                    os.kill(victim, signal.SIGKILL)
                except ProcessLookupError:
                    continue
                kills += 1
                chief_lives = victim != process.pid
            if chief_lives and kills >= KILLS:
                break
            process.wait(TIMEOUT_S)
            if process.returncode == 0:
                break
    _finish(arguments, log)
    assert kills >= min(KILLS, 5), log.read_text()
    assert _board(killed) == _board(tmp_path / "calm")


@pytest.mark.slow
def test_a_stopped_search_goes_on(command, tmp_path):
    arguments, log = command(max_epochs=9), tmp_path / "log"
    with _start(arguments, log) as process:
        while not list((tmp_path / "s").glob("trial_*/result.json")):
            time.sleep(0.2)
        process.terminate()
        assert process.wait(60) == 75, log.read_text()
    assert "the same command goes on" in log.read_text()
    _finish(arguments, log)


@pytest.mark.slow
def test_out_of_memory_is_a_trials_own_affair(command, tmp_path):
    """One configuration has a layer of gigabytes; the watchdog ends its process, not the search."""
    arguments = command(
        search="neurons=8|16|3000000", algorithm="grid", isolate_trials=True, trial_memory_gb=1.5,
        max_epochs=2, layers_to_unfreeze=0,
    )  # fmt: skip
    _finish(arguments, tmp_path / "log")
    rows = {row["neurons"]: row for row in _board(tmp_path / "s")}
    assert rows["3000000"]["reason"].startswith("out of memory: ")
    assert {rows[n]["status"] for n in ("8", "16")} == {"COMPLETED"}


@pytest.mark.slow
def test_workers_on_several_hosts(command, tmp_path):
    """Chief and workers find one another by KerasTuner's variables alone."""
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
        first.kill()  # For good: its trial goes to the other, after a while.
        chief.kill()
        chief.wait()
        with begin("chief") as again:
            assert again.wait(TIMEOUT_S) == 0, (tmp_path / "chief.log").read_text()
        assert second.wait(TIMEOUT_S) == 0, (tmp_path / "worker-b.log").read_text()
    assert len(_board(tmp_path / "s")) == 6
