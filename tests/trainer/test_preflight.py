"""What is told of a prediction before TensorFlow is loaded."""

from __future__ import annotations

import json
import re

import pytest

from tests.support.scans import folders


@pytest.fixture
def scans(tmp_path):
    """Three images."""
    return folders.drawn(tmp_path / "scans", 3)


@pytest.fixture
def refuse(command):
    """Runs a command that must end before a mode is imported."""

    def run(*arguments):
        done = command("--mode=predict", *arguments)
        assert "loading TensorFlow" not in done.stdout
        assert len(done.stderr.splitlines()) == 1
        return done

    return run


PREFLIGHT = {
    "no images": ((), 2, r'images \(""\) is empty: give files, folders, globs, zips or CSV lists'),
    "absent": (("--images={tmp}/absent",), 2, r"images \(/.*/absent\) is not there"),
    "glob": (("--images={tmp}/*.tif",), 2, r"matches no file"),
    "bucket": (("--images=gs://b/x",), 2, "must be local: copy them to this machine"),
    "bucket of output": (
        ("--images={scans}", "--output_dir=gs://b/x"), 2, r"output_dir \(gs://b/x\) must be a l"),
    "file as output": (
        ("--images={scans}", "--output_dir={scans}/1.png"), 1, "1.png can't be written: it is a f"),
    "below a file": (
        ("--images={scans}", "--output_dir={scans}/1.png/x"), 1, "can't be written: Not a directo"),
    "not of the mode": (
        ("--images={scans}", "--heatmap=hirescam"), 2, r"heatmap \(hirescam\) needs --mode=expl"),
    "maps": (("--images={scans}", "--save_maps"), 2, r"save_maps \(true\) needs --mode=explain"),
    "format": (("--images={scans}", "--format=onnx"), 2, r"format \(onnx\) needs --mode=export"),
    "of training": (("--images={scans}", "--neurons=9"), 2, r"neurons \(9\) cannot be changed aft"),
    "workers": (("--images={scans}", "--local_workers=2"), 2, "used on one host; leave out"),
}  # fmt: skip


@pytest.mark.parametrize("kind", PREFLIGHT)
def test_a_mistake_is_told_before_tensorflow_is_loaded(refuse, finished, scans, tmp_path, kind):
    arguments, code, said = PREFLIGHT[kind]
    filled = [argument.format(tmp=tmp_path, scans=scans) for argument in arguments]
    done = refuse(f"--model_dir={finished}", *filled)
    assert done.returncode == code, done.stderr
    assert re.search(said, done.stderr)


def test_a_folder_without_a_run_is_told_first(refuse, scans, tmp_path):
    done = refuse(f"--images={scans}", f"--model_dir={tmp_path / 'none'}")
    assert done.returncode == 2
    assert "there is no run at" in done.stderr
    done = refuse(f"--images={scans}")
    assert "--mode=predict needs a finished run; give its directory as --model_dir" in done.stderr


def test_several_hosts_are_refused(refuse, finished, scans, monkeypatch):
    cluster = {"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": "worker", "index": 0}}
    monkeypatch.setenv("TF_CONFIG", json.dumps(cluster))
    done = refuse(f"--images={scans}", f"--model_dir={finished}")
    assert done.returncode == 2
    assert "--mode=predict runs on one host, and TF_CONFIG names 2: unset it." in done.stderr
