"""The command line as users see it; in a new process only where that makes a difference."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import zipfile

import pytest

from trainer import config as config_lib


def _run(*args: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "trainer", *args],
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
    for _, field in config_lib.fields():
        assert f"--{field.name}:" in result.stdout or f"--[no]{field.name}:" in result.stdout


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--bach_size=3"], "Unknown command line flag 'bach_size'. Did you mean: batch_size ?"),
        (["--batch_size=few"], "flag --batch_size=few: invalid literal"),
        (["--batch_size=0"], "batch_size (0) must be at least 1."),
        (["--optimizer=lion"], "flag --optimizer=lion: value should be one of"),
        (["paper"], "unexpected argument 'paper'; options start with --."),
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
            "neurons cannot be changed after training;",
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
        (["--mode=evaluate", "--model_dir=absent"], "can't read options from absent/config.json"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(args, message):
    result = _run(*args)
    assert result.returncode == 2
    assert result.stderr.startswith("trainer: ")
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert result.stdout == ""


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


@pytest.mark.parametrize("content", ["nothing", "a corrupt zip"])
def test_a_bad_archive_is_reported_with_exit_code_1(command, tmp_path, content):
    manual = tmp_path / "manual"
    manual.mkdir()
    if content == "a corrupt zip":
        with zipfile.ZipFile(manual / "archive.zip", "w") as archive:
            archive.writestr("chest_xray/train/NORMAL/IM-0001-0001.jpeg", b"x" * 1000)
        whole = (manual / "archive.zip").read_bytes()
        (manual / "archive.zip").write_bytes(whole[:500])
    random = ("--weights=none", "--layers_to_unfreeze=all")
    result = command(f"--manual_dir={manual}", f"--data_dir={tmp_path / 'data'}", *random)
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    assert "trainer: " in result.stderr
    assert str(manual) in result.stderr
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
