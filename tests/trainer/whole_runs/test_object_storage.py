"""Whole runs whose data, cache and run directory are in a bucket that fails now and then."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys
import time

import pytest

from tests.support import bucket_server
from trainer.commands import evaluate, train
from trainer.data import opening
from trainer.errors import ConfigError, RunError
from trainer.evaluation.predictions import Predictions
from trainer.features import store
from trainer.runs import trained
from trainer.storage import locations

RUN_FILES = {
    "config.json", "metrics.jsonl", "best.keras", "predictions_test.csv", "report.json",
    "trained_on.json", "curves.png", "confusion_matrix.png", "samples.png",
}  # fmt: skip


def _small(tmp_path, **options):
    flags = {
        "dataset": "paper", "backbone": "small_cnn", "weights": "none", "image_size": 32,
        "neurons": 8, "batch_size": 16, "max_epochs": 2, "precision": "float32",
        "strategy": "one_device",
        "data_dir": "gs://hospital/data", "cache_dir": "gs://hospital/cache",
        "model_dir": "gs://hospital/runs/a", "staging_dir": str(tmp_path / "staging"),
    }  # fmt: skip
    return [f"--{name}={value}" for name, value in (flags | options).items()]


def _run(*args, **env):
    return subprocess.run(
        [sys.executable, "-m", "trainer", *args],
        capture_output=True, text=True, timeout=500, check=False, env=os.environ | env,
    )  # fmt: skip


def _below(server, prefix):
    return {x.removeprefix(prefix) for x in server.names("hospital") if x.startswith(prefix)}


@pytest.mark.slow
def test_a_run_in_a_failing_bucket_is_whole_and_evaluated_again_from_the_bucket_alone(
    server, archive, tmp_path
):
    server.fail(bucket_server.at_random(0.1, seed=0))
    first = _run(*_small(tmp_path / "one", manual_dir=archive))
    assert first.returncode in (0, 3), first.stderr
    assert "the run is in gs://hospital/runs/a." in first.stdout
    assert len(server.injected) >= 5
    assert list((tmp_path / "one" / "staging").glob("run-*")) == []

    assert _below(server, "runs/a/") > RUN_FILES
    config = json.loads(server.read("hospital", "runs/a/config.json"))
    assert config["model_dir"] == "gs://hospital/runs/a"
    history = server.read("hospital", "runs/a/metrics.jsonl").decode().splitlines()
    assert [json.loads(line)["epoch"] for line in history] == [1, 2]
    staged = tmp_path / "one" / "staging" / "hospital"
    for kind in ("data", "cache"):  # What was left locally is what the bucket has.
        for name in _below(server, f"{kind}/"):
            assert (staged / kind / name).read_bytes() == server.read("hospital", f"{kind}/{name}")

    again = _run(
        "--mode=evaluate", "--model_dir=gs://hospital/runs/a",
        f"--staging_dir={tmp_path / 'two' / 'staging'}",
    )  # fmt: skip
    assert again.returncode == first.returncode, again.stderr
    assert len(server.injected) >= 10
    (folder,) = {x.split("/")[0] for x in _below(server, "runs/a/") if x.startswith("on_")}
    tables = []
    for name in ("predictions_test.csv", f"{folder}/predictions_test.csv"):
        path = tmp_path / "predictions.csv"
        path.write_bytes(server.read("hospital", f"runs/a/{name}"))
        tables.append(Predictions.load_csv(path))
    assert tables[0].file_name.tolist() == tables[1].file_name.tolist()
    assert abs(tables[0].probabilities - tables[1].probabilities).max() < 1e-5


@pytest.mark.long
def test_a_killed_run_resumes_from_the_bucket_alone(server, archive, tmp_path):
    """Killed three times, and begun again where nothing local is left, through failing requests."""
    longer = {"manual_dir": archive, "max_epochs": 5, "patience": 9, "checkpoint_every_steps": 1}
    local = {"data_dir": str(tmp_path / "data"), "cache_dir": str(tmp_path / "cache")}
    whole = _run(*_small(tmp_path / "whole", model_dir=str(tmp_path / "whole"), **longer, **local))
    assert whole.returncode in (0, 3), whole.stderr
    server.fail(bucket_server.at_random(0.1, seed=1))
    for epoch in (0, 2, 4):
        arguments = _small(tmp_path / f"machine-{epoch}", **longer)
        manifest = f"runs/a/checkpoints/{epoch:05d}-"
        log = tmp_path / "log"
        with (
            log.open("w") as output,
            subprocess.Popen(
                [sys.executable, "-m", "trainer", *arguments], stdout=output, stderr=output
            ) as process,
        ):
            while not any(x.startswith(manifest) for x in server.names("hospital")):
                assert process.poll() is None, log.read_text()
                time.sleep(0.05)
            process.kill()
    last = _run(*_small(tmp_path / "last", **longer))
    assert last.returncode == whole.returncode, last.stderr
    assert "resuming after" in last.stdout
    for name in ("predictions_test.csv", "trained_on.json"):
        assert server.read("hospital", f"runs/a/{name}") == (tmp_path / "whole" / name).read_bytes()
    clocks = {"examples_per_s", "input_wait", "epoch_s"}
    histories = (
        server.read("hospital", "runs/a/metrics.jsonl").decode(),
        (tmp_path / "whole" / "metrics.jsonl").read_text(),
    )
    ours, theirs = (
        [
            {name: value for name, value in json.loads(line).items() if name not in clocks}
            for line in text.splitlines()
        ]
        for text in histories
    )
    assert ours == theirs


@pytest.fixture
def in_bucket(make_config, tmp_path):
    def make(**options):
        return make_config(**({"staging_dir": str(tmp_path / "staging")} | options))

    return make


def test_records_are_built_once_and_read_from_the_bucket_elsewhere(
    in_bucket, archive, server, tmp_path
):
    place = {"data_dir": "gs://hospital/data", "manual_dir": str(archive)}
    built = opening.load(in_bucket(**place).data, image_size=32)
    assert any(".tfrecord" in name for name in _below(server, "data/cxr_tfds/paper/2.0.0/"))
    other = in_bucket(data_dir="gs://hospital/data", staging_dir=str(tmp_path / "other"))
    copied = opening.load(other.data, image_size=32)
    assert copied.fingerprint == built.fingerprint
    assert copied.table("test").file_name.tolist() == built.table("test").file_name.tolist()
    server.requests.clear()
    opening.load(other.data, image_size=32)
    assert len(server.requests) == 1  # The listing: nothing is downloaded twice.


@pytest.mark.usefixtures("server")
def test_records_that_are_not_built_are_told(in_bucket):
    config = in_bucket(data_dir="gs://hospital/data", dataset="grouped")
    with pytest.raises(RunError, match=r"cxr_tfds/grouped is not built in .* Give --manual_dir"):
        opening.load(config.data, image_size=32)


@pytest.mark.slow
def test_features_are_computed_once_for_all_machines(in_bucket, server, tmp_path):
    place = {"cache_dir": "gs://hospital/cache", "max_epochs": 1}
    train.run(in_bucket(model_dir=str(tmp_path / "a"), **place))
    shards = _below(server, "cache/")
    assert len([name for name in shards if name.endswith(".npy")]) == 3
    server.requests.clear()
    other = str(tmp_path / "other")
    train.run(in_bucket(model_dir=str(tmp_path / "b"), staging_dir=other, **place))
    assert [x for x in server.requests if not x.startswith("GET")] == []
    assert _below(server, "cache/") == shards
    copies = {
        str(x.relative_to(tmp_path / "other/hospital/cache"))
        for x in pathlib.Path(other).rglob("*.npy")
    }
    assert copies == {name for name in shards if name.endswith(".npy")}


def test_a_local_cache_has_no_bucket():
    assert store.remote("/local") is None
    assert store.remote("gs://b-1/x") == locations.Url("b-1", "x")


def test_a_run_in_a_bucket_is_told_apart_and_not_overwritten(in_bucket, server):
    config = in_bucket(model_dir="gs://hospital/runs/a")
    server.write("hospital", "runs/a/config.json", b"{}")
    with pytest.raises(
        ConfigError, match=r"model_dir \(gs://hospital/runs/a\) holds a run with other options"
    ):
        train.run(config)
    with pytest.raises(ConfigError, match=r"already holds a run"):
        train.run(in_bucket(model_dir="gs://hospital/runs/a", resume="never"))


@pytest.mark.parametrize("name", ["best.keras", "checkpoints/00001-000000/state.json"])
@pytest.mark.parametrize("resume", ["auto", "never", "must"])
def test_results_in_a_bucket_without_their_options_are_never_overwritten(
    in_bucket, server, command, name, resume
):
    server.write("hospital", f"runs/a/{name}", b"x")
    place = "gs://hospital/runs/a"
    message = f"{place}/config.json is missing beside {name.split('/')[0]}"
    with pytest.raises(RunError, match=message):
        train.run(in_bucket(model_dir=place, resume=resume))
    assert message in command("--mode=evaluate", f"--model_dir={place}").stderr
    assert server.names("hospital") == [f"runs/a/{name}"]


def test_a_search_in_a_bucket_is_no_run(server, command):
    server.write("hospital", "s/search.json", b"{}")
    result = command("--mode=evaluate", "--model_dir=gs://hospital/s")
    assert "(gs://hospital/s) is a search, not a run; it has no best trial yet" in result.stderr
    result = command("--mode=evaluate", "--model_dir=gs://hospital/absent")
    assert "there is no run at gs://hospital/absent; train one, or give" in result.stderr


def test_a_run_in_a_bucket_is_opened_from_a_copy_in_staging_dir(server, tmp_path):
    for name in ("config.json", "best.keras"):
        server.write("hospital", f"runs/a/{name}", b"{}")
    run = trained.open_run("gs://hospital/runs/a", staging_dir=str(tmp_path))
    assert run.path == "gs://hospital/runs/a"
    assert run.directory.path.parent == tmp_path


def test_a_run_without_a_model_in_the_bucket_is_told(in_bucket, server):
    server.write("hospital", "runs/a/config.json", b"{}")
    with pytest.raises(RunError, match="has no model yet; run its command again"):
        evaluate.run(in_bucket(model_dir="gs://hospital/runs/a"))


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (
            ["--mode=evaluate", "--model_dir=gs://hospital/none"],
            2,
            "there is no run at gs://hospital/none; train one, or give the directory of one.",
        ),
        (["--config_file=gs://absent/x.json"], 2, "can't read options from gs://absent/x.json"),
        (["--dataset=phantom", "--model_dir=gs://absent/x"], 1, "gs://absent/x/ does not exist"),
        (["--model_dir=gs://"], 2, "model_dir (gs://) has no valid bucket name ('')"),
    ],
)
@pytest.mark.usefixtures("server")
def test_a_place_that_is_not_there_is_one_line(command, args, code, message):
    result = command(*args)
    assert result.returncode == code
    assert "Traceback" not in result.stderr
    assert f"trainer: {message}" in result.stderr.splitlines()[-1]


def test_a_bucket_that_is_closed_is_one_line_and_exit_code_1(command, server, tmp_path):
    server.fail(["403"])
    result = command(*_small(tmp_path))
    assert result.returncode == 1
    line = result.stderr.splitlines()[-1]
    assert line.startswith("trainer: gs://hospital/runs/a/ denies access to these credentials (403")
    assert "gcloud auth application-default login" in line
