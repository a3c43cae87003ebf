"""Decoding by a real tf.data service: a dispatcher and two workers over loopback."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from tests.support import processes
from trainer.data import batches, data_service, opening, pipeline
from trainer.errors import ConfigError, RunError
from trainer.options import DataOptions
from trainer.system import sockets

SERVICE = """
import time
import tensorflow as tf
service = tf.data.experimental.service
dispatcher = service.DispatchServer(service.DispatcherConfig(port=0))
address = dispatcher.target.split("://")[1]
workers = [service.WorkerServer(service.WorkerConfig(address)) for _ in range(2)]
print(dispatcher.target, flush=True)
time.sleep(3600)
"""


@pytest.fixture(scope="module")
def service():
    """In its own process, which is killed: the servers may take minutes to stop."""
    with processes.started([sys.executable, "-c", SERVICE], stderr=subprocess.DEVNULL) as process:
        yield process.stdout.readline().strip()


@pytest.fixture
def open_data(data_dir):
    def open_(**options) -> pipeline.Data:
        options = {"dataset": "paper", "batch_size": 12, "augmentation": "light"} | options
        return opening.load(DataOptions(data_dir=str(data_dir), **options), 224)

    return open_


def _rows(dataset: tf.data.Dataset) -> list[tuple[np.ndarray, ...]]:
    return list(dataset.as_numpy_iterator())


@pytest.mark.parametrize("epoch", [0, 1])
def test_training_batches_equal_local_ones(open_data, service, epoch):
    here = _rows(open_data().training_batches(epoch, 7).dataset)
    there = _rows(open_data(data_service=service).training_batches(epoch, 7).dataset)
    for ours, theirs in zip(here, there, strict=True):
        for column, other in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(other, column)


@pytest.mark.parametrize("view", [None, 1])
def test_evaluation_has_every_example_once_in_order(open_data, service, view):
    here = open_data().evaluation_batches("test", 4, view=view)
    there = open_data(data_service=service).evaluation_batches("test", 4, view=view)
    assert (there.steps, there.num_examples) == (here.steps, here.num_examples)
    ours, theirs = _rows(here.dataset), _rows(there.dataset)
    weights = [np.concatenate([row[2] for row in rows]) for rows in (ours, theirs)]
    np.testing.assert_array_equal(*weights)
    for column in (0, 1):
        joined = [np.concatenate([row[column] for row in rows]) for rows in (ours, theirs)]
        kept = [values[weights[0] > 0] for values in joined]
        np.testing.assert_array_equal(*kept)


def test_hosts_read_their_shares(open_data, service):
    data = open_data(data_service=service).training_batches(0, 7)
    whole = np.concatenate([row[1] for row in _rows(data.dataset)])
    shares = [
        np.stack([row[1] for row in _rows(data.read(batches.Share(host, 2, 4)))])
        for host in range(2)
    ]
    joined = np.concatenate([share.reshape(-1, 6) for share in shares], axis=1)
    np.testing.assert_array_equal(joined.reshape(-1), whole)


def test_a_dispatcher_that_does_not_answer_is_an_error(open_data):
    address = f"grpc://127.0.0.1:{sockets.free_ports(1)[0]}"
    with pytest.raises(RunError, match=f"no tf.data service dispatcher answers at {address}"):
        open_data(data_service=address)


@pytest.mark.parametrize("address", ["127.0.0.1:5000", "grpc://host", "http://host:1"])
def test_a_malformed_address_is_an_error(open_data, address):
    with pytest.raises(ConfigError, match=r"data_service \(.*\) must be grpc://host:port"):
        open_data(data_service=address)


@pytest.mark.long
def test_a_run_whose_dispatcher_dies_ends(phantom_dir, tmp_path):
    """By itself, tf.data would retry for ever."""
    command = [
        sys.executable, "-m", "trainer", "--dataset=phantom", f"--data_dir={phantom_dir}",
        "--backbone=small_cnn", "--weights=none", "--image_size=32", "--feature_cache=off",
        "--max_epochs=9999", "--patience=9999", "--worker_timeout_s=10",
        f"--model_dir={tmp_path / 'run'}",
    ]  # fmt: skip
    with processes.started([sys.executable, "-c", SERVICE], stderr=subprocess.DEVNULL) as service:
        address = service.stdout.readline().strip()
        with processes.started([*command, f"--data_service={address}"]) as run:
            while not (line := run.stdout.readline()).startswith("epoch"):
                assert line, run.communicate()
            service.kill()
            _, errors = run.communicate(timeout=120)
    assert run.returncode == 1
    last = errors.strip().splitlines()[-1]
    assert last.startswith(f"trainer: the dispatcher of --data_service at {address} is lost")


@pytest.mark.slow
def test_a_lost_batch_is_an_error():
    numbered = tf.data.Dataset.from_tensor_slices(([0, 2], [10.0, 12.0]))
    with pytest.raises(tf.errors.OpError, match="lost batch 1 of 3"):
        _rows(data_service._in_order(numbered, 3))
