"""Wrong turns on the command line: each is one line that names what was meant."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--max_epochs="], "max_epochs is empty; it must be a whole number."),
        (["--strategy"], "--strategy needs a value: one of auto, one_device, mirrored, multi_work"),
        (["--model_dir", "--seed=3"], "--model_dir needs a value, and --seed=3 follows it; give"),
        (["--max_epochs", "2", "3"], "unexpected argument '3': --max_epochs takes one value; put"),
        (["--use_all_samples", "false"], "write --use_all_samples=false, or --nouse_all_samples"),
        (["--seed=1e3"], "seed (1e3) must be a whole number, in digits; did you mean 1000?"),
        (["--seed=4294967296"], "seed (4294967296) must be less than 4294967296."),
        (["--learning_rate=0,001"], "must be a number, with a point; did you mean 0.001?"),
        (["—epochs=2"], "starts with a long dash instead of two hyphens; did you mean --max_epo"),
        (["–seed", "2"], "starts with a long dash instead of two hyphens; did you mean --seed?"),
        (["--dataset=‘paper’"], "has typographic quotes, which are part of the value; write ' or"),
        (["“--seed=2”"], "has typographic quotes, which are part of the value; write ' or"),
        (["--flagfile=absent"], "flagfile (absent) can't be read: No such file or directory."),
        (["--flagfile=tests"], "flagfile (tests) can't be read: Is a directory."),
        (["--flagfile"], "--flagfile needs a value: a file of options."),
        (["--h"], "unknown option --h; did you mean --help?"),
        (["help"], "'help'; options start with --; did you mean --help?"),
        (["version"], "'version'; options start with --; did you mean --version?"),
        (["eval"], "'eval'; options start with --; did you mean --mode=evaluate?"),
        (["--strategy=gpu"], "multi_worker, tpu; did you mean auto or mirrored?"),
        (["--mode=predict"], "tpu_check; did you mean evaluate?"),
        (["--model_dir=GS://b/a"], "(GS://b/a) has its scheme in capitals; write gs://BUCKET/PREF"),
        (["--data_dir=file:///a"], "data_dir (file:///a) is a URL of a local path; write /a."),
        (["--manual_dir=gs:/a"], "manual_dir (gs:/a) must be a local path; only model_dir, data_"),
    ],
)
def test_a_wrong_turn_is_one_line_that_names_what_was_meant(command, args, message):
    _assert_one_line(command(*args), message)


def _assert_one_line(result: subprocess.CompletedProcess[str], message: str) -> None:
    assert result.returncode == 2
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert result.stdout == ""


@pytest.mark.parametrize(
    ("line", "message"), [("--bach_size=3", "did you mean --batch_size?"), ("quux", "'quux'; opt")]
)
def test_a_flagfile_is_explained_as_the_command_line_is(command, tmp_path, line, message):
    file = tmp_path / "flags"
    file.write_text(line)
    _assert_one_line(command(f"--flagfile={file}"), message)


def test_a_config_file_of_nested_objects_shows_a_flat_one(command, tmp_path):
    file = tmp_path / "a.json"
    file.write_text('{"model": {"backbone": "vgg16"}}')
    _assert_one_line(command(f"--config_file={file}"), "is an object; options stand side by side")


@pytest.mark.parametrize(
    "module",
    ["trainer.benchmarks.plain_keras", "trainer.tpu.matrix", "tuner.benchmarks.plain_keras_tuner"],
)
@pytest.mark.parametrize("argument", ["--help", "absent.json"])
def test_a_module_that_takes_a_file_says_so(module, argument):
    result = subprocess.run(
        [sys.executable, "-m", module, argument], capture_output=True, text=True, timeout=60,
        check=False, cwd=ROOT,
    )  # fmt: skip
    assert result.returncode == 1
    assert result.stderr.startswith("this module takes ")
    assert len(result.stderr.splitlines()) == 1
