"""Real processes that are killed at any moment, and end as if nothing had been."""

from __future__ import annotations

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

from trainer import config as config_lib

KILLS = int(os.environ.get("CXR_KILLS", "5"))
"""Of each feed. More take longer and prove the same more often."""
WALL_CLOCK = ("examples_per_s", "input_wait", "epoch_s")


class Command:
    """The trainer in a process of its own, on one run directory."""

    def __init__(self, config, folder, name: str) -> None:
        self.run = folder / name
        self._options = folder / "options.json"
        self._options.write_text(json.dumps(config.to_flat()))

    def start(self) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "trainer", f"--config_file={self._options}",
             f"--model_dir={self.run}"],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip

    def finish(self) -> str:
        process = self.start()
        output, _ = process.communicate(timeout=300)
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


@pytest.fixture
def config(make_config, tmp_path):
    def make(**options):
        return make_config(
            layers_to_unfreeze="2", augmentation="light", checkpoint_every_steps=2, max_epochs=4,
            steps_per_call=1, patience=9, cache_dir=str(tmp_path / "cache"), **options,
        )  # fmt: skip

    return make


FEEDS = [{"views": 2}, {"views": 0}]
"""From the cache, and with new augmentation in every epoch."""


@pytest.mark.slow
@pytest.mark.parametrize("feed", FEEDS, ids=["cached", "uncached"])
def test_kills_at_random_moments_change_nothing(config, tmp_path, feed):
    whole = Command(config(**feed), tmp_path, "whole")
    begin = time.monotonic()
    whole.finish()
    length_s = time.monotonic() - begin
    killed = Command(config(**feed), tmp_path, "killed")
    moments = random.Random(0)
    for _ in range(KILLS):
        process = killed.start()
        time.sleep(moments.uniform(0.4, 1.0) * length_s)
        process.kill()
        process.communicate()
    killed.finish()
    assert killed.outcome() == whole.outcome()


@pytest.mark.slow
def test_a_kill_in_any_phase_changes_nothing(config, archive, tmp_path):
    """One run, killed in each of its phases, begun again each time."""
    whole = Command(config(views=2), tmp_path, "whole")
    whole.finish()
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
        with killed.start() as process:
            while not any(folder.glob(sign)):
                assert process.poll() is None, (phase, process.stdout.read())
                time.sleep(0.002)
            process.kill()
    killed.finish()
    assert killed.outcome() == whole.outcome()


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 75), (signal.SIGINT, 130)])
def test_a_request_to_stop_saves_and_the_same_command_goes_on(config, tmp_path, number, code):
    whole = Command(config(views=2), tmp_path, "whole")
    whole.finish()
    stopped = Command(config(views=2), tmp_path, "stopped")
    lines = []
    with stopped.start() as process:
        for line in process.stdout:
            lines.append(line)
            if line.startswith("epoch 1/4"):
                process.send_signal(number)
    assert process.returncode == code, lines
    assert lines[-1].endswith("; the same command goes on with what is saved.\n")
    assert "going on after" in stopped.finish()
    assert stopped.outcome() == whole.outcome()
