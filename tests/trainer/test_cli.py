"""The command line as users see it; in a new process only where that makes a difference."""

from __future__ import annotations

import functools
import json
import os
import re
import resource
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from trainer import backbones, flags
from trainer import config as config_lib

ROOT = Path(__file__).parents[2]


def _run(*args: str, package: str = "trainer", **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", package, *args],
        capture_output=True, text=True, timeout=900, check=False,
        env=os.environ | {"PYTHONWARNINGS": "default"} | env,
    )  # fmt: skip


def _cpu_s() -> float:
    """CPU time of finished child processes: wall time depends on other load on the machine."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def test_help_lists_every_option_quickly():
    cpu = _cpu_s()
    result = _run("--help")
    assert _cpu_s() - cpu < 1.5
    assert result.returncode == 0
    for _, field in config_lib.fields():
        assert f"--{field.name}:" in result.stdout or f"--[no]{field.name}:" in result.stdout


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--bach_size=3"], "unknown option --bach_size; did you mean --batch_size?"),
        (["--lr=1e-4"], "unknown option --lr; did you mean --learning_rate?"),
        (["--out_dir=x"], "unknown option --out_dir; did you mean --output_dir or --model_dir?"),
        (["--output_dir=x"], "a run is written to --model_dir; add that, or leave output_dir out."),
        (["--quux=3"], "unknown option --quux; --help lists them all."),
        (["--batch_size=few"], "batch_size (few) must be a whole number."),
        (["--max_epochs=1.5"], "max_epochs (1.5) must be a whole number."),
        (["--learning_rate=fast"], "learning_rate (fast) must be a number."),
        (["--learning_rate=nan"], "learning_rate (nan) must be finite."),
        (["--use_all_samples=nein"], "use_all_samples (nein) must be true or false."),
        (["--nodeterministic=false"], "--nodeterministic=false does not take an argument."),
        (["--batch_size=-1"], "batch_size (-1) must be at least 0."),
        (["--max_epochs"], "--max_epochs needs a value: a whole number."),
        (["--optimizer=lion"], "optimizer (lion) must be one of adam, adamw, sgd."),
        (["--backbone=VGG-16"], "small_cnn; did you mean vgg16?"),
        (["--dataset=groupd"], "phantom; did you mean grouped?"),
        (["--recipe=quick"], "recipe (quick) must be one of paper, quickstart; did you mean quick"),
        (["--mode=eval"], "tpu_check; did you mean evaluate?"),
        (["paper"], "unexpected argument 'paper'; options start with --; did you mean --dataset="),
        (["batch_size=a b"], "did you mean --batch_size='a b'?"),
        (["evaluate"], "'evaluate'; options start with --; did you mean --mode=evaluate?"),
        (["seed=3"], "'seed=3'; options start with --; did you mean --seed=3?"),
        (["quux"], "unexpected argument 'quux'; options start with --; --help lists them all."),
        (
            ["--model_dir=~nobody-here/run"],
            "model_dir (~nobody-here/run) starts with the home folder of a user that is",
        ),
        (["--config_file=absent.json"], "can't read options from absent.json: No such file or"),
        (["--mode=evaluate"], "--mode=evaluate needs a finished run; give"),
        (["--weights=absent.h5"], "weights file absent.h5 does not exist; give --weights=PATH"),
        (["--weights=absent.pt"], "must be imagenet, none, a .weights.h5, .h5 or .keras file,"),
        (["--weights=tests"], "weights (tests) has no best.keras: no run has finished there."),
        (["--weights="], "weights () must be"),
        (["--layers_to_unfreeze=20"], "layers_to_unfreeze (20) exceeds the 19 layers of vgg16;"),
        (["--backbone=small_cnn"], "small_cnn has no ImageNet weights; give --weights=none"),
        (["--weights=none"], "on a random, frozen vgg16; give --layers_to_unfreeze=all, or other"),
        (["--weights=none", "--mode=benchmark"], "on a random, frozen vgg16;"),
        (
            ["--mode=evaluate", "--model_dir=x", "--neurons=9"],
            "neurons (9) cannot be changed after training; leave it out: a finished run keeps",
        ),
        (
            ["--mode=evaluate", "--model_dir=x", "--local_workers=2"],
            "a trained model is used on one host; leave out",
        ),
        (
            ["--local_workers=2", "--strategy=mirrored"],
            "local_workers (2) needs --strategy=multi_w",
        ),
        (["--recipe=paper", "--config_file=x.json"], "--recipe and --config_file exclude"),
        (["--tpu_topology=v9:1x1"], "tpu_topology (v9:1x1) must be a chip (v5e, v5p, v6e) and a"),
        (
            ["--mode=evaluate", "--model_dir=absent"],
            "there is no run at absent, which does not exist; train one, or give the directory of",
        ),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(command, args, message):
    _assert_one_line(command(*args), 2, message)


def _assert_one_line(result: subprocess.CompletedProcess[str], code: int, message: str) -> None:
    assert result.returncode == code
    assert message in result.stderr
    assert result.stderr.startswith("trainer: ")
    assert len(result.stderr.splitlines()) == 1
    assert result.stdout == ""


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"[" * 100_000, "it is nested more than 32 deep"),
        (b"\xff{}", "it is not UTF-8 text"),
        (b'{"model_dir": "a\\u0000b"}', "model_dir (a\\x00b) has a null byte in it"),
        (b'{"batch_size": 1000000000000}', "must be less than 131072"),
        (b'{"\\u001b[2J": 1}', "unknown option"),
        (b'{"dataset": "\\u001b[2J"}', "must be one of grouped"),
    ],
)
def test_a_forged_run_is_one_line_and_exit_code_1(tmp_path, content, problem):
    (tmp_path / "config.json").write_bytes(content)
    result = _run("--mode=evaluate", f"--model_dir={tmp_path}")
    assert result.returncode == 1
    assert f"trainer: {tmp_path}/config.json " in result.stderr
    assert problem in result.stderr
    assert result.stderr.removesuffix("\n").isprintable()
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.yaml", "max_epochs: 3\n", 'a.yaml is YAML; options are read from JSON, such as {"max_'),
        ("a.json", "max_epochs: 3\n", "a.json is not JSON (Expecting value: line 1 column 1 (char"),
        ("a.json", "[3]", "a.json must hold one JSON object of options"),
        ("a.json", "[" * 100_000, "a.json is nested more than 32 deep; options are a JSON object"),
        ("a.json", '{"seed": 1, "seed": 2}', 'is not JSON ("seed" is given twice)'),
        ("a.json", '{"lerning_rate": 1}', "unknown option lerning_rate; did you mean learning_r"),
        ("a.json", '{"lr": 1}', "a.json: unknown option lr; did you mean learning_rate?"),
        ("a.json", '{"backbone": "vgg61"}', "small_cnn; did you mean vgg16?"),
        ("a.json", '{"max_epochs": "3"}', 'max_epochs ("3") must be a whole number.'),
        ("a.json", '{"patience": null}', "patience (null) must be a whole number."),
    ],
)
def test_a_wrong_config_file_is_one_line_and_exit_code_2(command, tmp_path, name, content, message):
    file = tmp_path / name
    file.write_text(content)
    _assert_one_line(command(f"--config_file={file}"), 2, message)


def test_a_config_file_may_start_with_the_mark_of_windows(command, tmp_path):
    file = tmp_path / "a.json"
    file.write_text('{"seed": -1}', encoding="utf-8-sig")
    _assert_one_line(command(f"--config_file={file}"), 2, "seed (-1) must be at least 0.")


@pytest.mark.parametrize("flag", ["-h", "--helpshort", "--helpfull", "--helpxml"])
def test_every_help_ends_with_exit_code_0(flag):
    result = _run(flag)
    assert result.returncode == 0
    assert "--learning_rate" in result.stdout or "<name>learning_rate</name>" in result.stdout


def test_the_version_names_what_decides_results(command):
    result = command("--version")
    assert result.returncode == 0
    assert re.fullmatch(
        r"trainer \S+ \(python 3\S+, tensorflow 2\S+, keras 3\S+\)\n", result.stdout
    )


@pytest.mark.parametrize("columns", ["60", "200"])
def test_help_breaks_lines_between_words(columns):
    printed = _run("--help", COLUMNS=columns).stdout
    assert {"<vgg16", *list(backbones.REGISTRY)[1:-1]} <= set(printed.split())
    assert max(map(len, printed.splitlines()[7:])) <= int(columns)


BROKEN = "raise SystemExit('TensorFlow was imported')"


@pytest.fixture
def early(tmp_path):
    """The command, where importing TensorFlow fails the test."""
    for name in ("tensorflow", "keras"):
        (tmp_path / "broken" / name).mkdir(parents=True)
        (tmp_path / "broken" / name / "__init__.py").write_text(BROKEN)
    path = os.pathsep.join([str(tmp_path / "broken"), os.environ.get("PYTHONPATH", "")])
    return functools.partial(_run, PYTHONPATH=path, TFDS_DATA_DIR=str(tmp_path / "data"))


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        ([], 1, "is not built in"),
        ([], 1, "--recipe=quickstart needs no data."),
        (["--weights=absent.h5"], 2, "weights file absent.h5 does not exist; give --weights=PATH"),
        (["--weights={here}/a.txt"], 2, "a.txt) must be imagenet, none, a .weights.h5, .h5"),
        (["--backbone=small_cnn"], 2, "small_cnn has no ImageNet weights; give --weights=none "),
        (["--recipe=quickstart", "--model_dir={here}/a.txt"], 1, "a.txt can't be written: it is a"),
        (["--recipe=quickstart", "--model_dir={here}/no", "--resume=must"], 2, "holds no run for"),
        (["--recipe=quickstart", "--model_dir={here}", "--resume=never"], 2, "already holds a run"),
        (["--mode=evaluate", "--model_dir={here}", "--dataset=phantom"], 1, "has no model yet"),
        (["--mode=evaluate", "--model_dir=~nobody-x/a"], 2, "~nobody-x/a starts with the ho"),
        (["--config_file=~nobody-x/a"], 2, "~nobody-x/a starts with the home folder of a user"),
        (["--strategy=multi_worker"], 2, "--strategy=multi_worker needs the environment variable"),
    ],
)  # fmt: skip
def test_what_files_tell_is_said_before_tensorflow_is_imported(
    early, tmp_path, args, code, message
):
    (tmp_path / "a.txt").write_text("")
    (tmp_path / "config.json").write_text("{}")
    result = early(*(arg.format(here=tmp_path) for arg in args))
    _assert_one_line(result, code, message)


def test_the_first_line_is_there_before_tensorflow(early, tmp_path):
    result = early("--recipe=quickstart", f"--model_dir={tmp_path / 'run'}")
    assert "TensorFlow was imported" in result.stderr
    line = f"train: small_cnn on phantom, into {tmp_path / 'run'}; loading TensorFlow ...\n"
    assert result.stdout.startswith(line)


@pytest.mark.parametrize(
    ("backend", "said"),
    [
        ("torch", "KERAS_BACKEND (torch) is not used: the trainer runs on TensorFlow.\n"),
        ("", ""),
    ],
)
@pytest.mark.parametrize(("package", "option"), [("trainer", "model_dir"), ("tuner", "directory")])
def test_a_backend_that_is_not_used_is_said(early, tmp_path, package, option, backend, said):
    option = f"--{option}={tmp_path / 'run'}"
    result = early("--recipe=quickstart", option, package=package, KERAS_BACKEND=backend)
    assert result.stdout.partition("\n")[2] == said


def test_a_run_is_looked_for_around_a_folder_that_has_none(command, tmp_path):
    run = tmp_path / "runs" / "a"
    (run / "checkpoints").mkdir(parents=True)
    (run / "config.json").write_text("{}")
    (run / "best.keras").write_text("")
    for folder in (tmp_path, run / "checkpoints"):
        result = command("--mode=evaluate", f"--model_dir={folder}")
        _assert_one_line(result, 2, f"no run at {folder}; give the directory of one: {run}.")


@pytest.mark.parametrize("path", ["trainer", "trainer/__main__.py", "tuner", "tuner/__main__.py"])
def test_a_package_runs_as_a_script(path):
    result = subprocess.run(
        [sys.executable, path, "--version"], capture_output=True, text=True, timeout=300,
        check=False, cwd=ROOT,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith(f"{path.partition('/')[0]} ")


@pytest.mark.parametrize(
    "module",
    [*(mode.module for mode in flags.MODES.values()), "trainer.benchmarks.stages", "tuner.search"],
)
def test_a_module_that_looks_like_a_command_names_the_command(module):
    path = ROOT / f"{module.replace('.', '/')}.py"
    result = subprocess.run(
        [sys.executable, path], capture_output=True, text=True, timeout=60, check=False
    )
    assert result.returncode == 1
    assert result.stderr.startswith(f"this module is no command; give: python -m {module[:5]}")


@pytest.fixture
def small(data_dir, tmp_path):
    return [
        "--dataset=paper", f"--data_dir={data_dir}", "--backbone=small_cnn", "--image_size=32",
        f"--model_dir={tmp_path / 'run'}", f"--cache_dir={tmp_path / 'cache'}", "--max_epochs=1",
        "--precision=float32",
    ]  # fmt: skip


def _last_line(result: subprocess.CompletedProcess[str]) -> str:
    assert "Traceback" not in result.stderr
    return result.stderr.strip().splitlines()[-1]


@pytest.mark.slow
def test_unreachable_imagenet_weights_are_one_line_and_exit_code_1(small, tmp_path):
    args = [arg for arg in small if "backbone" not in arg]
    # Nobody listens on the discard port of any machine. A new Keras home has no downloads yet.
    proxy = "http://127.0.0.1:9"
    home = str(tmp_path / "keras")
    result = _run(*args, "--backbone=vgg16", https_proxy=proxy, HTTPS_PROXY=proxy, KERAS_HOME=home)
    assert result.returncode == 1
    line = _last_line(result)
    assert line.startswith("trainer: ImageNet weights of vgg16 can't be downloaded")
    assert "vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5" in line
    assert "--weights=PATH" in line
    assert "--weights=none --layers_to_unfreeze=all" in line


@pytest.mark.parametrize("content", ["nothing", "a corrupt zip", "own names"])
def test_a_bad_archive_is_reported_with_exit_code_1(command, tmp_path, content):
    manual = tmp_path / "manual"
    manual.mkdir()
    if content == "own names":
        for label in ("NORMAL", "PNEUMONIA"):
            (manual / "train" / label).mkdir(parents=True)
            (manual / "train" / label / "mine.jpeg").touch()
    if content == "a corrupt zip":
        with zipfile.ZipFile(manual / "archive.zip", "w") as archive:
            archive.writestr("chest_xray/train/NORMAL/IM-0001-0001.jpeg", b"x" * 1000)
        whole = (manual / "archive.zip").read_bytes()
        (manual / "archive.zip").write_bytes(whole[:500])
    random = ("--weights=none", "--layers_to_unfreeze=all")
    result = command(f"--manual_dir={manual}", f"--data_dir={tmp_path / 'data'}", *random)
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    assert result.stderr.startswith("trainer: ")
    assert len(result.stderr.splitlines()) == 1
    assert str(manual) in result.stderr
    assert "loading TensorFlow" not in result.stdout
    assert not list((tmp_path / "data").rglob("*.tfrecord*"))


def test_a_run_whose_guard_fires_exits_with_3_and_evaluates_again_alike(command, small, tmp_path):
    result = _run(*small, "--weights=none", "--learning_rate=0")
    assert result.returncode == 3
    assert "DO NOT USE THIS MODEL:" in result.stdout
    assert "RANK 1 Accuracy: " in result.stdout
    assert "epoch 1/1" in result.stdout
    assert json.loads((tmp_path / "run" / "config.json").read_text())["learning_rate"] == 0
    again = command("--mode=evaluate", f"--model_dir={tmp_path / 'run'}")
    assert again.returncode == 3
    line = next(row for row in result.stdout.splitlines() if row.startswith("RANK 1"))
    assert line in again.stdout


def test_a_missing_tpu_is_reported_in_one_line_and_soon(small):
    """Nearly all of it is TensorFlow's import."""
    cpu = _cpu_s()
    result = _run(*small, "--weights=none", "--strategy=tpu", "--tpu=local")
    assert result.returncode == 1
    assert _last_line(result).startswith("trainer: --strategy=tpu found no TPU named 'local'")
    assert _cpu_s() - cpu < 20


def test_a_self_check_of_one_device_says_that_it_compared_nothing(command):
    result = command("--mode=selfcheck", "--backbone=small_cnn", "--image_size=32",
                     "--strategy=one_device", "--weights=none")  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-1].startswith("selfcheck compared nothing: the strategy")


@pytest.mark.slow
def test_the_self_check_ends_with_its_result():
    result = _run(
        "--mode=selfcheck", "--backbone=small_cnn", "--image_size=32", "--strategy=mirrored",
        "--num_logical_devices=2",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-1].startswith("selfcheck passed: MirroredStrategy")


def test_a_self_check_without_its_devices_is_one_line_and_exit_code_1(command):
    result = command("--mode=selfcheck", "--backbone=small_cnn", "--strategy=mirrored")
    assert result.returncode == 1
    assert _last_line(result).startswith("trainer: --strategy=mirrored found no GPU")


@pytest.mark.slow
def test_an_epoch_of_the_quickstart_is_evaluated(tmp_path):
    result = _run(
        "--recipe=quickstart", "--max_epochs=1",
        f"--data_dir={tmp_path / 'data'}", f"--model_dir={tmp_path / 'run'}",
    )  # fmt: skip
    assert result.returncode in (0, 3), result.stderr
    assert "RANK 1 Accuracy: " in result.stdout
    assert (tmp_path / "run" / "report.json").exists()


@pytest.mark.long
def test_the_quickstart_learns_the_phantom(tmp_path):
    cpu = _cpu_s()
    result = _run(
        "--recipe=quickstart", f"--data_dir={tmp_path / 'data'}", f"--model_dir={tmp_path / 'run'}"
    )
    assert result.returncode == 0, result.stderr
    assert _cpu_s() - cpu < 2 * 240  # Four minutes of two cores.
    scores = json.loads((tmp_path / "run" / "report.json").read_text())["metrics"]
    assert scores["accuracy"] >= 0.95
    assert scores["roc_auc"] >= 0.98
