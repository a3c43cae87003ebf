"""A host that trains with others predicts on all of its own devices, without waiting for them."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.support import devices, processes, radiographs
from trainer.data import batches
from trainer.models import classifier
from trainer.options import ModelOptions
from trainer.system import sockets
from trainer.training.driver import Driver
from trainer.training.host_devices import HostPredictor

IMAGES = 100
"""Not a multiple of a device's part of a batch: the last ones are padding."""


def build() -> keras.Model:
    config = ModelOptions(backbone="small_cnn", weights="none", image_size=32, neurons=8)
    return classifier.build(config, (32, 32, 1), 2).whole


def images_in_batches(batch_size: int) -> batches.Batches:
    columns = (radiographs.noise(IMAGES), np.zeros(IMAGES, np.int32), np.ones(IMAGES, np.float32))
    return batches.pad(tf.data.Dataset.from_tensor_slices(columns), batch_size, IMAGES)


def local_cpus() -> list[str]:
    """The logical CPUs of this process, not of the others in its cluster."""
    found = [cpu.name for cpu in tf.config.list_logical_devices("CPU")]
    return [name for name in found if name.startswith(found[0].rpartition("/")[0])]


def test_a_devices_bits_do_not_depend_on_how_many_there_are():
    strategy = devices.strategy_of(2)
    with strategy.scope():
        model = build()
    one, two = (HostPredictor(model, strategy, local_cpus()[:count]) for count in (1, 2))
    found = [list(p.predict_blocks(images_in_batches(16 * p.num_replicas))) for p in (one, two)]
    assert [len(block) for block in found[1]] == [16] * 6 + [4]
    np.testing.assert_array_equal(*map(np.concatenate, found))
    mirrored = Driver(model, strategy).predict(images_in_batches(32))
    np.testing.assert_array_equal(np.concatenate(found[0]), mirrored)


def test_padding_is_no_block():
    """Of 100 images in batches of 64, the last device has none."""
    with devices.strategy_of(2).scope():
        model = build()
    predictor = HostPredictor(model, devices.strategy_of(2), local_cpus())
    blocks = list(predictor.predict_blocks(images_in_batches(128)))
    assert [len(block) for block in blocks] == [64, 36]
    blocks = list(predictor.predict_blocks(images_in_batches(256)))
    assert [len(block) for block in blocks] == [100]


def test_several_outputs_are_several_arrays():
    image = keras.Input((4,))
    model = keras.Model(image, [image * 2, image + 1])
    x = np.arange(12, dtype=np.float32).reshape(3, 4)
    rows = tf.data.Dataset.from_tensor_slices((x, [0, 0, 0], [1.0, 1.0, 1.0]))
    predictor = HostPredictor(model, tf.distribute.get_strategy(), local_cpus())
    (first, second) = predictor.predict_blocks(batches.pad(rows, 4, 3))
    np.testing.assert_array_equal(first[0], x[:2] * 2)
    np.testing.assert_array_equal(second[1], x[2:] + 1)


WORKER = """
import sys
from tests.support import devices
devices.configure(2)
import keras, numpy as np, tensorflow as tf
strategy = tf.distribute.MultiWorkerMirroredStrategy()
from tests.trainer.training import test_host_devices as t
from trainer.training.host_devices import HostPredictor
keras.utils.set_random_seed(0)
with strategy.scope():
    model = t.build()
sys.stdin.readline()
for count in (1, 2):
    predictor = HostPredictor(model, strategy, t.local_cpus()[:count])
    blocks = list(predictor.predict_blocks(t.images_in_batches(16 * count)))
    print(count, np.concatenate(blocks).tobytes().hex(), flush=True)
sys.stdin.read()
"""


@pytest.mark.slow
def test_hosts_predict_at_their_own_pace():
    """The first is done before the other begins: a collective operation would wait for it."""
    workers = [f"127.0.0.1:{port}" for port in sockets.free_ports(2)]
    found = []
    with contextlib.ExitStack() as running:
        hosts = []
        for index in range(2):
            task = {"cluster": {"worker": workers}, "task": {"type": "worker", "index": index}}
            environment = {**os.environ, "TF_CONFIG": json.dumps(task)}
            command = [sys.executable, "-c", WORKER]
            started = processes.started(
                command, env=environment, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL
            )
            hosts.append(running.enter_context(started))
        for host in hosts:
            host.stdin.write("begin\n")
            host.stdin.flush()
            found += [host.stdout.readline().split() for _ in range(2)]
    assert [count for count, _ in found] == ["1", "2", "1", "2"]
    assert len({outputs for _, outputs in found}) == 1
