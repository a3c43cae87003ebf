"""What of this machine each of several local workers has: its CPU threads, and a GPU.

shares.with_threads(base, settings).runtime.cpu_threads
chief.environments(settings.workers, shares.gpus_of_workers(base))
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from trainer.distribution import accelerators, runtime
from trainer.errors import ConfigError
from trainer.system import processes, text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trainer.config import Config
    from tuner.settings import Settings
    from tuner.space import Space


def with_threads(base: Config, settings: Settings) -> Config:
    """Divides the CPUs among the workers, unless cpu_threads is set."""
    if settings.workers == 1 or base.runtime.cpu_threads:
        return base
    threads = max(1, processes.num_cores() // settings.workers)
    runtime = dataclasses.replace(base.runtime, cpu_threads=threads)
    return dataclasses.replace(base, runtime=runtime)


def for_chief(base: Config, settings: Settings) -> Config:
    """Returns the config of the chief, which builds what each of several workers trains.

    A worker has one GPU, and a batch size for all GPUs together would not be a trial's. The best
    trial is repeated on one GPU, too.
    """
    if settings.workers == 1 or base.runtime.strategy != "auto" or len(runtime.gpus()) < 2:
        return base
    one = dataclasses.replace(base.runtime, strategy="one_device")
    return dataclasses.replace(base, runtime=one)


def gpus_of_workers(base: Config) -> tuple[str, ...]:
    """Returns the GPUs to divide among workers; none if each trial is to train on all of them."""
    if base.runtime.strategy not in ("auto", "one_device"):
        return ()
    return accelerators.gpu_ids(len(runtime.gpus()))


def require_divisible(space: Space, replicas: int) -> None:
    """Checks that the replicas divide every batch size of a space.

    Raises:
      ConfigError: when some can't be; each of their trials would fail.
    """
    for dimension in space.dimensions:
        if dimension.name != "batch_size":
            continue
        sizes = [int(size) for size in dimension.values()]
        uneven = [size for size in sizes if size % replicas]
        if uneven:
            nearest = sorted({max(replicas, round(size / replicas) * replicas) for size in sizes})
            shown = ", ".join(map(str, uneven[:4])) + (" ..." if len(uneven) > 4 else "")
            raise ConfigError(
                f"batch_size ({shown}) in the space can't be divided among the {replicas} "
                f"replicas; give --search=batch_size={'|'.join(map(str, nearest[:4]))}."
            )


def note(workers: int, gpus: Sequence[str]) -> str:
    """Returns a sentence on which GPUs the workers have."""
    listed = ", ".join(gpus)
    if workers <= len(gpus):
        return f"each of the {workers} workers has a GPU of its own, of {listed}."
    return f"{workers} workers share {text.counted(len(gpus), 'GPU')} ({listed}) and its memory."
