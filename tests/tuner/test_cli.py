"""`python -m tuner` in a process of its own."""

from __future__ import annotations

import functools
import os
import re
import subprocess
import sys

import pytest

from tests.support import processes
from trainer.errors import RunError
from trainer.system import exits
from tuner.trials import chief

HEAVY = ("tensorflow", "keras", "keras_tuner", "matplotlib", "sklearn")
"""What takes seconds to import."""


def _run(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tuner", *arguments],
        capture_output=True, text=True, timeout=600, check=False, env=os.environ | env,
    )  # fmt: skip


@pytest.fixture
def light(tmp_path):
    """The command where no heavy package can be imported: a clock would also measure other load."""
    for name in HEAVY:
        (tmp_path / "broken" / name).mkdir(parents=True)
        (tmp_path / "broken" / name / "__init__.py").write_text(f"raise SystemExit('{name}')")
    path = os.pathsep.join([str(tmp_path / "broken"), os.environ.get("PYTHONPATH", "")])
    return functools.partial(_run, PYTHONPATH=path)


def test_help_lists_options_of_search_and_trials_and_loads_nothing(light):
    result = light("--help")
    assert result.returncode == 0
    for name in ("--algorithm", "--search", "--workers", "--backbone", "--[no]dry_run"):
        assert name in result.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--search=nerons"], "label_smoothing; did you mean neurons?"),
        (["--search=lr"], "label_smoothing; did you mean learning_rate?"),
        (["--search=optimizer"], "search (optimizer) can't be searched: --optimizer=VALUE sets it"),
        (["help"], "did you mean --help?"),
        (["--algorithm=magic"], "algorithm"),
        (["--factor=1"], "factor (1) must be at least 2"),
        (["--search=neurons", "--search_file=x"], "give one"),
        (["--strategy=multi_worker"], "a trial trains on one host"),
        (["--algorithm=grid"], "a grid needs a step"),
        (
            ["--search=neurons", "--search=dropout"],
            "--search is given more than once; name",
        ),
        (["--tpu=my-tpu"], "tpu (my-tpu) needs --strategy=tpu"),
        (["--schedule_epochs=40"], "schedule_epochs (40) needs --schedule=cosine"),
        (["--trials=5"], "unknown option --trials; did you mean --max_trials?"),
        (["--algorithm=hyperbnad"], "bayesian, grid; did you mean hyperband?"),
        (["--max_trials=many"], "max_trials (many) must be a whole number."),
        (["--dry_run=perhaps"], "dry_run (perhaps) must be true or false."),
        (["random"], "unexpected argument 'random'; options start with --; did you mean --algor"),
        (["--model_dir=runs/a"], "a search has --directory (parent folder) and --project_name"),
        (["--mode=train"], "a search has no modes"),
        (["--iterations", "2"], "Hyperband's are --hyperband_iterations"),
        (["--max_trials=4"], "max_trials (4) has no effect with --algorithm=hyperband"),
        (["--search=learning_rate=1e-2:1e-5"], "the lower one first"),
    ],
)
def test_a_usage_error_is_reported_in_one_line(arguments, message, tmp_path):
    result = _run("--dataset=phantom", "--backbone=small_cnn", "--weights=none", *arguments,
                  f"--directory={tmp_path}", "--precision=float32", "--image_size=32")  # fmt: skip
    assert result.returncode == 2, result.stderr
    assert message in result.stderr.splitlines()[-1]
    assert len(result.stderr.splitlines()) == 1
    assert result.stdout == ""


def test_a_search_without_data_says_so_before_it_loads_anything(light, tmp_path):
    result = light(f"--data_dir={tmp_path}")
    assert result.returncode == 1
    assert result.stderr.startswith(f"tuner: cxr_tfds/grouped is not built in {tmp_path}.")
    assert len(result.stderr.splitlines()) == 1


def test_an_invalid_tf_config_is_reported_before_anything_starts(monkeypatch, tmp_path):
    monkeypatch.setenv("TF_CONFIG", "worker:1")
    result = _run("--dataset=phantom", f"--directory={tmp_path}")
    assert result.returncode == 2
    assert result.stderr.startswith("tuner: TF_CONFIG (worker:1) is not JSON")


def test_a_port_has_one_chief():
    """By default, gRPC lets a second server share it, and the system divides the calls."""
    with (
        chief.serving(None, "127.0.0.1:0") as address,
        pytest.raises(RunError, match=f"can't listen at {address}: the port is in use"),
        chief.serving(None, address),
    ):
        pass


TWO_HOSTS = '{"cluster": {"worker": ["a:1", "b:2"]}, "task": {"type": "worker", "index": 0}}'


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("TF_CONFIG", TWO_HOSTS, "TF_CONFIG names 2 hosts, and a trial trains on one"),
        ("KERASTUNER_TUNER_ID", "chief", "KERASTUNER_ORACLE_IP (not set) and KERASTUNER_ORACLE_"),
        ("KERASTUNER_TUNER_ID", "worker-0", "KERASTUNER_ORACLE_PORT (not set) must name its ch"),
    ],
)
def test_an_environment_of_other_hosts_that_names_no_chief_is_one_line(
    monkeypatch, tmp_path, name, value, message
):
    monkeypatch.setenv(name, value)
    result = _run("--dataset=phantom", f"--directory={tmp_path}", "--precision=float32")
    assert result.returncode == 2, result.stderr
    assert message in result.stderr.splitlines()[-1]


def test_a_process_of_a_search_on_several_hosts_has_no_plan_of_its_own(monkeypatch):
    monkeypatch.setenv("KERASTUNER_TUNER_ID", "worker-0")
    result = _run("--dataset=phantom", "--precision=float32", "--dry_run")
    assert result.returncode == 2, result.stderr
    assert "dry_run prints the plan of a whole search" in result.stderr.splitlines()[-1]


@pytest.mark.slow
def test_only_this_machine_reaches_a_search_with_workers(command):
    arguments = [sys.executable, "-m", "tuner", *command(workers=2, max_epochs=9)]
    with processes.started(arguments, stderr=subprocess.DEVNULL) as search:
        processes.wait_until(lambda: len(processes.children_of(search.pid)) == 2, 300)
        found = processes.listeners_of(processes.family_of(search.pid))
        search.terminate()
        search.communicate(timeout=300)
    assert len(found) == 1
    assert set(found.values()) == {"127.0.0.1"}


@pytest.mark.slow
def test_a_worthless_search_ends_with_code_3(command, tmp_path):
    wild = {"algorithm": "grid", "search": "learning_rate=1e30|2e30", "optimizer": "sgd"}
    result = _run(*command(**wild))
    assert result.returncode == 3, result.stderr
    reason = "DO NOT USE THIS RESULT: No trial has a score: 2 trials failed (diverged: 2)."
    assert result.stdout.splitlines()[-1] == reason
    assert reason in (tmp_path / "s" / "report.html").read_text()


@pytest.mark.slow
def test_two_workers_find_the_same_as_one(command, tmp_path):
    few = {"algorithm": "random", "max_trials": 3}
    one = _run(*command(project_name="one", cpu_threads=1, **few))
    two = _run(*command(project_name="two", workers=2, **few))
    assert one.returncode == two.returncode, two.stderr
    assert two.returncode in exits.TRAINED, two.stderr
    assert _board(tmp_path / "one") == _board(tmp_path / "two")
    for index in range(2):
        assert (tmp_path / "two" / f"worker-{index}.log").exists()


def _board(folder) -> list[list[str]]:
    """The leaderboard without its column of seconds."""
    rows = [line.split(",") for line in (folder / "leaderboard.csv").read_text().splitlines()]
    place = rows[0].index("seconds")
    return [row[:place] + row[place + 1 :] for row in rows]


@pytest.mark.long
def test_the_benchmark_compares_with_plain_keras_tuner(command):
    result = subprocess.run(
        [sys.executable, "-m", "tuner.benchmarks.race", "--timed_only", "--benchmark_images=100",
         *command()],
        capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    last = result.stdout.splitlines()[-1]
    assert re.search(r"6 trials, 11 epochs of .* s \(scaled\), plain KerasTuner .*: 1/\d", last)
