"""The five commands of README for newcomers, as they stand there."""

from __future__ import annotations

import csv
import os
import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[4]
SECTION = "## Try it: five commands, without any data"


def _commands() -> list[str]:
    section = (ROOT / "README.md").read_text("utf-8").partition(SECTION)[2]
    return re.search(r"```sh\n(.*?)```", section, re.DOTALL)[1].strip().splitlines()


def test_there_are_five():
    assert len(_commands()) == 5


@pytest.mark.slow
def test_a_newcomer_trains_predicts_explains_exports_and_runs_the_export(tmp_path):
    # In an empty folder, with the environment's python first, as after `activate`.
    folder = str(pathlib.Path(sys.executable).parent)
    environ = {**os.environ, "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"}
    environ["PYTHONPATH"] = str(ROOT)
    outputs = []
    for command in _commands():
        line = command.replace("docs/run_onnx.py", str(ROOT / "docs" / "run_onnx.py"))
        ran = subprocess.run(
            line, shell=True, cwd=tmp_path, env=environ, capture_output=True, text=True, check=False
        )
        assert ran.returncode == 0, f"{command}\n{ran.stdout}\n{ran.stderr}"
        outputs.append(ran.stdout)
    files = sorted((tmp_path / "inbox").iterdir())
    written = (tmp_path / "runs/a/predictions/worklist.csv").read_text("utf-8")
    rows = list(csv.DictReader(written.splitlines()))
    assert len(rows) == len(files) == 24
    assert all((tmp_path / "runs/a/predictions" / row["heatmap"]).is_file() for row in rows)
    assert (tmp_path / "runs/a/predictions/worklist.html").is_file()
    predicted = {row["file"]: row["predicted"] for row in rows}
    exported = dict(re.findall(r"^(.+): (\w+) \(", outputs[-1], re.MULTILINE))
    assert exported == predicted
