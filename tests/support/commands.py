"""The trainer as a process that a test stops and restarts, and the results that must not change."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import tensorflow as tf

from tests.support import processes

WALL_CLOCK = ("examples_per_s", "input_wait", "epoch_s")


class Command:
    """The trainer in a process of its own, on one run directory."""

    def __init__(self, config, folder, name: str) -> None:
        self.run = folder / name
        options = folder / f"{name}.json"
        options.write_text(json.dumps(config.to_flat()))
        self.arguments = [
            sys.executable, "-m", "trainer", f"--config_file={options}", f"--model_dir={self.run}",
        ]  # fmt: skip

    def started(self, **options):
        return processes.started(self.arguments, stderr=subprocess.STDOUT, **options)

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
            "metrics": report["metrics"],
            "best_epoch": report["best_epoch"],
            "variables": {
                name: np.asarray(variables.get_tensor(name)).tobytes()
                for name in variables.get_variable_to_shape_map()
                if name.startswith("values")
            },
        }
