"""Real processes that are killed at any moment, and end as if nothing had been."""

from __future__ import annotations

import functools
import json
import os
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import tensorflow as tf

from tests.trainer.conftest import small_config, started
from trainer import config as config_lib

KILLS = int(os.environ.get("CXR_KILLS", "5"))
"""Of each feed. More take longer and prove the same more often."""
WALL_CLOCK = ("examples_per_s", "input_wait", "epoch_s")


class Command:
    """The trainer in a process of its own, on one run directory."""

    def __init__(self, config, folder, name: str) -> None:
        self.run = folder / name
        options = folder / f"{name}.json"
        options.write_text(json.dumps(config.to_flat()))
        self._command = [
            sys.executable, "-m", "trainer", f"--config_file={options}", f"--model_dir={self.run}",
        ]  # fmt: skip

    def started(self):
        return started(self._command, stderr=subprocess.STDOUT)

    def finish(self) -> str:
        with self.started() as process:
            output, _ = process.communicate(timeout=900)
        assert process.returncode in {0, 3}, output
        return output

    def outcome(self) -> dict[str, object]:
        """Everything that must not depend on interruptions."""
        rows = [json.loads(line) for line in (self.run / "metrics.jsonl").read_text().splitlines()]
        report = json.loads((self.run / "report.json").read_text())
        newest = max((self.run / "checkpoints").iterdir())
        variables = tf.train.load_checkpoint(str(newest / "variables"))
        return {
            "history": [{k: v for k, v in row.items() if k not in WALL_CLOCK} for row in rows],
            "predictions": (self.run / "predictions_test.csv").read_bytes(),
            "judgement": report["judgement"],
            "best_epoch": report["best_epoch"],
            "variables": {
                name: np.asarray(variables.get_tensor(name)).tobytes()
                for name in variables.get_variable_to_shape_map()
                if name.startswith("values")
            },
        }


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("interruptions")


@pytest.fixture(scope="module")
def config(data_dir, folder):
    """Returns a maker of configs whose runs share a cache."""
    return functools.partial(
        small_config, data_dir, folder, layers_to_unfreeze="2", augmentation="light",
        checkpoint_every_steps=2, max_epochs=4, steps_per_call=1, patience=9,
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


@pytest.mark.long
@pytest.mark.parametrize("views", FEEDS)
def test_kills_at_random_moments_change_nothing(config, whole, tmp_path, views):
    expected, length_s = whole(views)
    killed = Command(config(views=views), tmp_path, "killed")
    moments = random.Random(0)
    for _ in range(KILLS):
        with killed.started():
            time.sleep(moments.uniform(0.4, 1.0) * length_s)
    killed.finish()
    assert killed.outcome() == expected.outcome()


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
        "judgement": (killed.run, "predictions_test.csv"),
        "report": (killed.run, "curves.png"),
    }
    for phase, (folder, sign) in phases.items():
        with killed.started() as process:
            while not any(folder.glob(sign)):
                assert process.poll() is None, (phase, process.stdout.read())
                time.sleep(0.002)
    killed.finish()
    assert killed.outcome() == expected.outcome()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "code"),
    [pytest.param(signal.SIGTERM, 75, marks=pytest.mark.long), (signal.SIGINT, 130)],
)
def test_a_request_to_stop_saves_and_the_same_command_goes_on(
    config, whole, tmp_path, number, code
):
    expected, _ = whole(views=2)
    stopped = Command(config(views=2), tmp_path, "stopped")
    lines = []
    with stopped.started() as process:
        for line in process.stdout:
            lines.append(line)
            if line.startswith("epoch 1/4"):
                process.send_signal(number)
        process.wait()
    assert process.returncode == code, lines
    assert lines[-1].endswith("; the same command goes on with what is saved.\n")
    assert "going on after" in stopped.finish()
    assert stopped.outcome() == expected.outcome()
