"""The options that say where a run computes, and how it is saved and timed."""

from __future__ import annotations

import dataclasses

from trainer import option_groups, topologies
from trainer.errors import ConfigError
from trainer.option_groups import option


@dataclasses.dataclass(frozen=True)
class RuntimeOptions(option_groups.Group):
    """Devices, precision and seed: all that must be set before the first variable exists."""

    strategy: str = option(
        "auto",
        "tf.distribute strategy: one_device, mirrored (all GPUs of this machine, or its logical "
        "devices), multi_worker (TF_CONFIG) or tpu; auto: the best one available",
        choices=("auto", "one_device", "mirrored", "multi_worker", "tpu"),
        of_result=False,
    )
    tpu: str = option("local", "name or address of the TPU; local: of this VM", of_result=False)
    tpu_topology: str = option(
        "v5e:1x1",
        "chips that --mode=tpu_check compiles for: v5e, v5p or v6e, and their grid (v5e:2x4)",
        of_result=False,
    )
    num_logical_devices: int = option(
        0,
        "number of logical devices to split the CPU into, to try --strategy=mirrored; 0: no split",
        minimum=0,
        below=2**7,
        of_result=False,
    )
    local_workers: int = option(
        0,
        "number of workers to run on this machine, to try --strategy=multi_worker; 0: none",
        minimum=0,
        of_result=False,
    )
    worker_timeout_s: float = option(
        300.0,
        "seconds without an answer after which another host is considered lost and the run fails",
        minimum=10,
        of_result=False,
    )
    precision: str = option(
        "auto",
        "Keras dtype policy; auto: mixed_bfloat16 on a TPU, mixed_float16 on a GPU, the faster of "
        "float32 and mixed_bfloat16 on a CPU (measured once)",
        choices=("auto", "float32", "mixed_bfloat16", "mixed_float16"),
    )
    cpu_threads: int = option(
        0,
        "CPU threads for TensorFlow; 0: one per CPU; affects rounding, so bitwise equal results "
        "need the same value",
        minimum=0,
        below=2**12,
        of_result=False,
    )
    deterministic: bool = option(
        default=False,
        help_text="use only TensorFlow's deterministic operations, which are slower, most of all "
        "on a GPU; on a CPU, runs repeat to the bit without them too; the two differ by rounding",
        of_result=False,
    )
    seed: int = option(
        0, "seed of initial weights, dropout, shuffling and augmentation", minimum=0, below=2**32
    )
    steps_per_execution: int = option(
        0,
        "training steps per call of the compiled loop, as in Keras; 0: 8 on a CPU, 16 on a GPU, 64 "
        "on a TPU",
        minimum=0,
        of_result=False,
    )

    def __post_init__(self) -> None:
        """Checks the options, each one and in combination."""
        super().__post_init__()
        topologies.parse(self.tpu_topology)
        if self.local_workers and self.strategy not in ("auto", "multi_worker"):
            raise ConfigError(
                f"local_workers ({self.local_workers}) needs --strategy=multi_worker, not "
                f"{self.strategy}."
            )


@dataclasses.dataclass(frozen=True)
class CheckpointOptions(option_groups.Group):
    """How often a run is saved, and how it is resumed."""

    resume: str = option(
        "auto",
        "auto: resume the run in --model_dir, or start one; never: fail if there is a run; must: "
        "fail if there is none",
        choices=("auto", "never", "must"),
        of_result=False,
    )
    checkpoint_every_s: float = option(
        300.0,
        "seconds between checkpoints within an epoch; 0: not by time (each epoch ends with a "
        "checkpoint)",
        minimum=0,
        of_result=False,
    )
    checkpoint_every_steps: int = option(
        0, "steps between checkpoints within an epoch; 0: not by steps", minimum=0, of_result=False
    )
    keep_checkpoints: int = option(
        2,
        "number of latest checkpoints to keep; each also contains the best weights so far",
        minimum=1,
        of_result=False,
    )
    max_recoveries: int = option(
        2,
        "how often a run may return to its last checkpoint and halve the learning rate when the "
        "loss is NaN or infinite",
        minimum=0,
    )


@dataclasses.dataclass(frozen=True)
class BenchmarkOptions(option_groups.Group):
    """Options of --mode=benchmark."""

    benchmark_images: int = option(
        1000,
        "number of training and validation images for timing plain Keras in --mode=benchmark; the "
        "times are scaled to all images; 0: all",
        minimum=0,
        of_result=False,
    )
