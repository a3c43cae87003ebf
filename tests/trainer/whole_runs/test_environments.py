"""Whole runs in the environments that people have: each trains, evaluates and draws its plots."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from tests.support import runs

pytestmark = pytest.mark.slow

IN_A_NOTEBOOK = """
import json, sys

class Stream:
    encoding = "utf-8"

    def __init__(self, inner):
        self._inner = inner

    def write(self, text):
        return self._inner.write(text)

    def flush(self):
        self._inner.flush()

sys.argv = ["ipykernel_launcher.py", "-f", "kernel.json"]
options = json.load(open({options!r}))
sys.stdout, sys.stderr = Stream(sys.stdout), Stream(sys.stderr)
import trainer
run = trainer.train(trainer.Config.from_flat(options))
print(run)
"""


@pytest.fixture
def options(data_dir, tmp_path):
    config = runs.small_config(data_dir, tmp_path, max_epochs=1)
    file = tmp_path / "options.json"
    file.write_text(json.dumps(config.to_flat()))
    return file


def _run(*command: object, **env: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, *map(str, command)], capture_output=True, timeout=900, check=False,
        env={name: value for name, value in (os.environ | env).items() if value != "-"},
    )  # fmt: skip


def _assert_trained(result: subprocess.CompletedProcess[bytes], folder) -> None:
    assert result.returncode in {0, 3}, result.stderr.decode()
    assert b"Traceback" not in result.stderr
    assert b"RANK 1 Accuracy" in result.stdout
    assert (folder / "run" / "samples.png").exists()


@pytest.mark.parametrize(
    "env",
    [
        {"MPLBACKEND": "module://matplotlib_inline.backend_inline", "TERM": "dumb"},
        {"MPLBACKEND": "TkAgg", "MPLCONFIGDIR": "/proc/none", "TMPDIR": "/proc/none"},
        {"PYTHONIOENCODING": "ascii", "HOME": "/proc/none", "COLUMNS": "20"},
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONOPTIMIZE": "2"},
        {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "-1", "PYTHONSAFEPATH": "1"},
    ],
    ids=lambda env: next(iter(env)),
)
def test_a_run_trains_in_an_odd_environment(options, tmp_path, env):
    result = _run("-m", "trainer", f"--config_file={options}", f"--model_dir={tmp_path / 'run'}",
                  **env)  # fmt: skip
    _assert_trained(result, tmp_path)


def test_a_run_trains_in_a_notebook(options):
    result = _run("-c", IN_A_NOTEBOOK.format(options=str(options)))
    assert result.returncode == 0, result.stderr.decode()
    assert b"<Run " in result.stdout


def test_a_run_whose_reader_leaves_resumes_to_its_end(options, tmp_path):
    command = f'"$PYTHON" -m trainer --config_file={options} --model_dir={tmp_path}/run'
    pipe = subprocess.run(
        ["/bin/bash", "-o", "pipefail", "-c", f"{command} | head -1"], capture_output=True,
        timeout=900, check=False, env=os.environ | {"PYTHON": sys.executable},
    )  # fmt: skip
    assert pipe.returncode == 141
    assert b"trainer: " not in pipe.stderr
    assert b"Traceback" not in pipe.stderr
    result = _run("-m", "trainer", f"--config_file={options}", f"--model_dir={tmp_path / 'run'}")
    _assert_trained(result, tmp_path)
