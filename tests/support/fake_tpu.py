"""TensorFlow's own TPUStrategy over logical CPUs: everything up to execution is the real thing.

A TPUStrategy asks its resolver which cores there are and derives devices from the answer. Here the
resolver names cores that don't exist, and the devices are then pointed at this process's logical
CPUs, where variables can live. What is traced under it is what a TPU host would trace: replicated
graphs, mirrored variables, CrossReplicaSum, metrics that are synchronised on reading. Only running
it is impossible.
"""

from __future__ import annotations

import collections
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.python.tpu.tpu_system_metadata import TPUSystemMetadata

_TASK = "/job:localhost/replica:0/task:0/device:"
_HOST = f"{_TASK}CPU:0"
_Device = collections.namedtuple("_Device", ["name", "device_type"])


class _Resolver(tf.distribute.cluster_resolver.ClusterResolver):
    """Says that this host has so many TPU cores."""

    tpu_hardware_feature = None

    def __init__(self, cores: int) -> None:
        self._cores = cores

    def get_tpu_system_metadata(self) -> TPUSystemMetadata:
        return TPUSystemMetadata(
            num_cores=self._cores,
            num_hosts=1,
            num_of_cores_per_host=self._cores,
            topology=None,
            devices=[_Device(f"{_TASK}TPU:{core}", "TPU") for core in range(self._cores)],
        )

    def cluster_spec(self) -> None:
        return None

    def master(self, *args: Any, **options: Any) -> str:
        del args, options
        return ""

    def num_accelerators(self, *args: Any, **options: Any) -> dict[str, int]:
        del args, options
        return {"TPU": self._cores}


def strategy_of(cores: int) -> tf.distribute.TPUStrategy:
    """Returns a TPUStrategy with one replica on each of the first logical CPUs."""
    cpus = [f"{_TASK}CPU:{core}" for core in range(cores)]
    strategy = tf.distribute.TPUStrategy(_Resolver(cores))
    extended = strategy.extended
    extended._tpu_devices = np.array(cpus, dtype=object)[:, np.newaxis]
    extended._host_device = _HOST
    extended._device_input_worker_devices = collections.OrderedDict([(_HOST, cpus)])
    extended._host_input_worker_devices = collections.OrderedDict([(_HOST, [_HOST] * cores)])
    return strategy
