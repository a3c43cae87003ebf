"""`--mode=tpu_check`: compiles the training step for a TPU and reports what it needs.

Needs neither a TPU nor data: shapes and classes come from the config. The step is the driver's and
contains every layer, from uint8 images on, as with --feature_cache=off. Training on cached features
runs only a part of it.

    python -m trainer --mode=tpu_check --backbone=vgg16 --batch_size=256 --tpu_topology=v5e:2x4
"""

from __future__ import annotations

if __name__ == "__main__":  # Said before TensorFlow is imported.
    raise SystemExit("this module is no command; give: python -m trainer --mode=tpu_check")

import dataclasses
import importlib
import math
from typing import TYPE_CHECKING, Any

import keras
import tensorflow as tf

from trainer import topologies
from trainer.data import opening
from trainer.distribution import batch_sizes, runtime
from trainer.errors import RunError
from trainer.models import classifier, precision, session
from trainer.options import resolution
from trainer.system import console, text
from trainer.tpu import flops, tracing
from trainer.training import optimization

if TYPE_CHECKING:
    from collections.abc import Callable

    from trainer.config import Config
    from trainer.topologies import Topology
    from trainer.tpu.aot import Program

GIB = topologies.GIB
STEPS = 1_000
"""Steps per epoch: only a constant in the learning rate schedule; no shape depends on it."""
FULL = 0.99
"""The search ends at a batch that fills this share of memory, or that is this share of the smallest
batch that does not fit. A closer result would take more compilations, and memory grows in steps
anyway, because the compiler pads batches."""
AIM = 0.995
"""The share of memory that the search aims at: not quite all, to find a batch that fits."""


@dataclasses.dataclass(frozen=True)
class Check:
    """The results of a check.

    Attributes:
      program: the compiler's analysis of one step, per chip.
      analytic_flops: operations per chip and step, counted from the layers.
      largest_batch_size: largest global batch size that fits.
    """

    program: Program
    analytic_flops: float
    largest_batch_size: int


def run(config: Config) -> None:
    """Compiles the training step for `tpu_topology` and prints what it needs.

    Raises:
      ConfigError: when the batch size is not divisible by the number of chips.
      RunError: when the step doesn't fit, can't be compiled, or the compiler isn't installed.
    """
    check(config)


def check(config: Config) -> Check:
    """Does the same as `run`, and returns the results."""
    aot = _load_compiler()
    topology = topologies.parse(config.runtime.tpu_topology)
    what = f"chips of {topology.name}"
    batch_sizes.require(config.data.batch_size, topology.chips, what)
    if not config.data.batch_size:
        config = config.with_batch_size(batch_sizes.automatic(topology.chips))
        if note := batch_sizes.note(config.data.batch_size, topology.chips, what):
            console.say(note)
    batch_size = config.data.batch_size
    step = Step(config, topology, aot)
    for line in filter(None, (resolution.note(config.data, config.model), step.describe())):
        console.say(line)
    program = step.compile(batch_size // topology.chips)
    analytic = flops.training(step.model, batch_size // topology.chips)
    for line in _describe(program, analytic, topology):
        console.say(line)
    largest = topology.chips * largest_batch(
        step.memory, {batch_size // topology.chips: program.memory_bytes}, topology.chip.hbm_bytes
    )
    console.say(f"largest batch: {largest:,} ({largest // topology.chips:,} per chip)")
    return Check(program, analytic, largest)


def _load_compiler() -> Any:
    try:
        return importlib.import_module("trainer.tpu.aot")
    except ImportError as error:
        raise RunError(
            f"--mode=tpu_check needs JAX and the TPU compiler ({text.clause(error)}). Install "
            "the extra `tpu-aot` with TensorFlow: "
            '`pip install ".[cpu,tpu-aot]"`, or run `make .venv-tpu`.'
        ) from error


class Step:
    """The training step of a config, which can be compiled for any batch size."""

    def __init__(self, config: Config, topology: Topology, aot: Any) -> None:
        self._config, self._topology, self._aot = config, topology, aot
        strategy = tf.distribute.get_strategy()
        policy = precision.choose(config, runtime.Context(strategy, "TPU", 1, ())).policy
        session.begin(policy, config.runtime.seed)
        data = opening.describe(config.data, config.model.backbone_image_size)
        self._image_shape = data.image_shape
        # The compiled program depends on neither the values of weights nor the class counts.
        num_classes = len(data.class_names)
        network = classifier.build(config.model, data.image_shape, num_classes, loads_weights=False)
        self.model = network.whole
        backbone = None if config.model.is_untrained else network.trunk
        optimization.compile_model(
            self.model, config.optimization, [1] * num_classes, STEPS, backbone
        )
        self._step = tracing.train_step(self.model, self._batch_spec(replica_batch_size=1))

    def describe(self) -> str:
        """Returns a line that describes what is compiled, and for which chips."""
        return (
            f"{self._config.model.backbone}, {self._image_shape[0]} px images, "
            f"{keras.mixed_precision.dtype_policy().name}, "
            f"layers_to_unfreeze {self._config.model.layers_to_unfreeze}, "
            f"batch {self._config.data.batch_size:,} on {self._topology.name} "
            f"({text.counted(self._topology.chips, 'chip')})"
        )

    def compile(self, replica_batch_size: int) -> Program:
        """Compiles the step.

        Raises:
          RunError: when it does not fit (with needed and available memory), or has an op without a
            TPU kernel.
        """
        try:
            return self._compile(replica_batch_size)
        except self._aot.OutOfMemoryError as error:
            available = self._topology.chip.hbm_bytes / GIB
            known = math.isfinite(error.needed_bytes)
            needed = f"{error.needed_bytes / GIB:.2f} of" if known else "more than"
            raise RunError(
                f"batch_size ({replica_batch_size * self._topology.chips}) does not fit "
                f"{self._topology.name}: it needs {needed} {available:.2f} GiB per chip. Give a "
                "smaller --batch_size or more chips."
            ) from error

    def memory(self, replica_batch_size: int) -> float:
        """Returns the bytes needed per chip, which may be more than a chip has."""
        try:
            needed = float(self._compile(replica_batch_size).memory_bytes)
        except self._aot.OutOfMemoryError as error:
            needed = error.needed_bytes
        except RunError:  # A size that is too large can also fail in other ways.
            needed = math.inf
        console.say(f"  tried batch {replica_batch_size:,} per chip: {needed / GIB:.2f} GiB")
        return needed

    def _compile(self, replica_batch_size: int) -> Program:
        return self._aot.compile_for(
            self._topology, self._step, self._batch_spec(replica_batch_size)
        )

    def _batch_spec(self, replica_batch_size: int) -> tuple[tf.TensorSpec, ...]:
        return tracing.batch_spec(self._image_shape, replica_batch_size * self._topology.chips)


def _describe(program: Program, analytic_flops: float, topology: Topology) -> list[str]:
    chip = topology.chip
    intensity, balance = program.flops / program.moved_bytes, chip.peak_flops / chip.hbm_bytes_per_s
    excess = program.flops / analytic_flops - 1
    return [
        f"memory: {program.memory_bytes / GIB:.3f} of {chip.hbm_bytes / GIB:.2f} GiB per chip",
        f"compute: {program.flops / 1e9:,.1f} GFLOP per chip and step, as compiled",
        f"         {analytic_flops / 1e9:,.1f} GFLOP counted from the layers ({excess:+.1%})",
        f"intensity: {intensity:.0f} FLOP per byte; memory-bound below {balance:.0f}",
        f"all-reduces: {program.all_reduces} (0 on one chip; 1 on more, if only the head trains)",
        f"compiled in {program.compile_s:.0f} s of CPU time",
    ]


def largest_batch(memory: Callable[[int], float], known: dict[int, float], available: float) -> int:
    """Searches for the largest batch that fits, with few compilations.

    Memory is roughly an affine function of the batch, so the line through two compiled batches
    predicts the batch that reaches the limit. Usually three compilations are enough.

    Args:
      memory: batch -> bytes that it needs, possibly infinite; each call compiles.
      known: bytes by batch, for batches already compiled; at least one of them fits.
      available: bytes.

    Returns:
      A batch that fits, and either fills the share FULL of memory or is at least the share FULL of
      a batch that does not fit.
    """
    needed = dict(known)
    while True:
        fits = max(batch for batch in needed if needed[batch] <= available)
        refused = min((batch for batch in needed if needed[batch] > available), default=None)
        is_close = refused is not None and (fits >= FULL * refused or refused == fits + 1)
        if needed[fits] >= FULL * available or is_close:
            return fits
        # A prediction from one small batch alone is rough: aim at half of the memory, because
        # compiling a batch that does not fit takes longest.
        wanted = (0.5 if len(needed) == 1 and needed[fits] < available / 4 else AIM) * available
        batch = max(_predict(needed, fits, refused, wanted), fits + 1)
        if refused is not None:
            batch = min(batch, refused - 1)
        needed[batch] = memory(batch)


def _predict(needed: dict[int, float], fits: int, refused: int | None, wanted: float) -> int:
    """Returns the batch that needs `wanted` bytes, on the line through two compiled batches."""
    if refused is not None and math.isinf(needed[refused]):
        return (fits + refused) // 2
    below = max((batch for batch in needed if batch < fits), default=0)
    other = below if refused is None else refused
    slope = (needed.get(other, 0.0) - needed[fits]) / (other - fits)
    # A larger batch may need less memory if the compiler plans it differently: no line then.
    return fits + int((wanted - needed[fits]) / slope) if slope > 0 else 2 * fits
