"""Real processes that are killed at any moment, resume, and end like uninterrupted ones."""

from __future__ import annotations

import functools
import json
import os
import random
import signal
import time
from typing import TYPE_CHECKING

import pytest

from tests.support import runs
from tests.support.commands import Command
from trainer import config as config_lib

if TYPE_CHECKING:
    import subprocess

KILLS = int(os.environ.get("CXR_KILLS", "5"))
"""Of each feed. More take longer and prove the same more often."""
WAYS = ("SIGKILL", "SIGTERM", "SIGSTOP, SIGKILL")
STOP_S = 10


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("interruptions")


@pytest.fixture(scope="module")
def config(data_dir, folder):
    """Returns a maker of configs whose runs share a cache."""
    return functools.partial(
        runs.small_config, data_dir, folder, layers_to_unfreeze="2", augmentation="light",
        checkpoint_every_steps=2, max_epochs=4, steps_per_execution=1, patience=9,
    )  # fmt: skip


@pytest.fixture(scope="module")
def whole(config, folder):
    """Returns views -> a run that nothing interrupted, and how many seconds it took."""

    @functools.cache
    def run(views: int) -> tuple[Command, float]:
        command = Command(config(views=views), folder, f"whole{views}")
        begin = time.monotonic()
        command.finish()
        return command, time.monotonic() - begin

    return run


FEEDS = [
    pytest.param(2, id="cached"),
    pytest.param(0, id="uncached"),
]
"""Views: from the cache, and with new augmentation in every epoch."""


@pytest.mark.slow
@pytest.mark.parametrize("views", FEEDS)
def test_ends_at_random_moments_change_nothing(config, whole, tmp_path, views):
    expected, length_s = whole(views)
    ended = Command(config(views=views), tmp_path, "ended")
    chance = random.Random(views)
    for number in range(KILLS):
        with ended.started() as process:
            time.sleep(chance.uniform(0.4, 1.0) * length_s)
            _end(process, WAYS[number % len(WAYS)])
    ended.finish()
    assert ended.outcome() == expected.outcome()


@pytest.mark.slow
@pytest.mark.parametrize("views", FEEDS)
def test_deterministic_runs_are_equal_to_the_bit_also_if_one_is_killed(config, tmp_path, views):
    """Dropout, augmentation and two layers that are not frozen."""
    options = config(views=views, deterministic=True)
    whole, killed = Command(options, tmp_path, "whole"), Command(options, tmp_path, "killed")
    whole.finish()
    with killed.started() as process:
        while not list(killed.run.glob("checkpoints/00001-00000[24]")):
            assert process.poll() is None, process.stdout.read()
            time.sleep(0.002)
    assert "resuming after epoch" in killed.finish()
    assert killed.outcome() == whole.outcome()
    rows = (killed.run / "metrics.jsonl").read_text().splitlines()
    assert all(0 < json.loads(row)["input_wait"] < 1 for row in rows)


def _end(process: subprocess.Popen[str], way: str) -> None:
    if way == "SIGTERM":
        process.terminate()
        output, _ = process.communicate(timeout=60)
        # Before its first line it may still be importing; it may also have been done already.
        assert process.returncode in {75, 0, 3} or "run directory: " not in output, output
        return
    if way == "SIGSTOP, SIGKILL":
        process.send_signal(signal.SIGSTOP)
        time.sleep(0.5)
    process.kill()


@pytest.mark.long
def test_a_kill_in_any_phase_changes_nothing(config, whole, archive, tmp_path):
    """One run, killed in each of its phases, begun again each time."""
    expected, _ = whole(views=2)
    data_dir, cache = tmp_path / "data", tmp_path / "killed-cache"
    places = {"manual_dir": str(archive), "data_dir": str(data_dir), "cache_dir": str(cache)}
    killed = Command(
        config_lib.Config.from_flat(config(views=2).to_flat() | places), tmp_path, "killed"
    )
    phases = {
        "data build": (data_dir, "**/*incomplete*/*"),
        "prefix pass": (cache, "*/*.npy"),
        "training": (killed.run, "metrics.jsonl"),
        "checkpoint": (killed.run, "checkpoints/.partial-*/*/*"),
        "evaluation": (killed.run, "best.keras"),
        "predictions": (killed.run, "predictions_test.csv"),
        "report": (killed.run, "curves.png"),
    }
    for phase, (folder, sign) in phases.items():
        with killed.started() as process:
            while not any(folder.glob(sign)):
                assert process.poll() is None, (phase, process.stdout.read())
                time.sleep(0.002)
    killed.finish()
    assert killed.outcome() == expected.outcome()


@pytest.mark.long
@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 75), (signal.SIGINT, 130), (signal.SIGHUP, 75)]
)
def test_a_request_to_stop_saves_and_the_same_command_resumes(
    config, whole, tmp_path, number, code
):
    expected, _ = whole(views=2)
    stopped = Command(config(views=2), tmp_path, "stopped")
    lines, sent = [], time.monotonic()
    with stopped.started() as process:
        for line in process.stdout:
            lines.append(line)
            if line.startswith("epoch 1/4"):
                process.send_signal(number)
                sent = time.monotonic()
        process.wait()
    assert time.monotonic() - sent < STOP_S
    assert process.returncode == code, lines
    assert lines[-1].endswith("; the same command resumes from what is saved.\n")
    assert "resuming after" in stopped.finish()
    assert stopped.outcome() == expected.outcome()
