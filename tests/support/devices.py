"""Logical CPUs as TensorFlow's devices, and strategies over them.

TensorFlow must be told of them before it starts: `tests/trainer/conftest.py` does so for the tests,
and `run_with_replicas` for a new process that needs another number.
"""

from __future__ import annotations

import concurrent.futures
import functools
import multiprocessing
from typing import TYPE_CHECKING, Any

import tensorflow as tf

from trainer.distribution import runtime

if TYPE_CHECKING:
    from collections.abc import Callable

REPLICAS = 2
"""Logical CPUs of the process that runs the tests."""


def configure(count: int) -> None:
    """Splits this process's CPU into so many logical devices."""
    tf.config.set_logical_device_configuration(
        tf.config.list_physical_devices("CPU")[0],
        [tf.config.LogicalDeviceConfiguration()] * count,
    )


@functools.cache
def strategy_of(replicas: int) -> tf.distribute.Strategy:
    """One device, or this process's logical CPUs mirrored.

    TensorFlow numbers the groups of its collectives anew for each strategy, so a process can have
    one number of mirrored replicas in its life; other numbers take `run_with_replicas`.
    """
    if replicas == 1:
        return tf.distribute.get_strategy()
    cpus = tuple(cpu.name for cpu in tf.config.list_logical_devices("CPU"))
    assert replicas == len(cpus), f"This process has {len(cpus)} logical CPUs, not {replicas}."
    return runtime.mirrored(cpus)


def run_with_replicas(replicas: int, function: Callable[..., None], *args: Any) -> None:
    """Runs `function(*args)` in a new process that has so many logical CPUs.

    The new process configures its devices before it imports the function's module, which may
    build tensors.
    """
    spawn = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(
        1, mp_context=spawn, initializer=configure, initargs=(replicas,)
    ) as pool:
        pool.submit(function, *args).result()
