"""The chips of Cloud TPU, and how many of them a run has; nothing here imports TensorFlow.

topology = topologies.parse("v5e:2x4")
topology.chips, topology.chip.hbm_bytes        # 8, 15.75 GiB
"""

from __future__ import annotations

import dataclasses
import math
import re

from trainer.errors import ConfigError

GIB = 1 << 30


@dataclasses.dataclass(frozen=True)
class Chip:
    """One generation of chips.

    Attributes:
      hbm_bytes: memory that a program may fill. Less than the data sheet says, because the runtime
        keeps some; it is what libtpu's compiler names when it refuses ("exceeds available HBM").
      peak_flops: bf16 multiply-adds a second, each counted twice.
      hbm_bytes_per_s: how fast memory is read.
      dimensions: of the torus that the chips form.
      chips_per_host: of a slice that is larger than one host.
    """

    hbm_bytes: int
    peak_flops: float
    hbm_bytes_per_s: float
    dimensions: int
    chips_per_host: tuple[int, ...]


# Peak, bandwidth, dimensions and shapes: https://docs.cloud.google.com/tpu/docs/v5e, …/v5p and
# …/v6e. Memory: libtpu 0.0.42.1 (the data sheets say 16 GB, 95 GB and 32 GB).
CHIPS = {
    "v5e": Chip(int(15.75 * GIB), 197e12, 819e9, 2, (2, 2, 1)),
    "v5p": Chip(int(95.74 * GIB), 459e12, 2765e9, 3, (2, 2, 1)),
    "v6e": Chip(int(31.25 * GIB), 918e12, 1600e9, 2, (2, 2, 1)),
}


@dataclasses.dataclass(frozen=True)
class Topology:
    """A slice: which chips, and in what grid."""

    name: str
    chip: Chip
    grid: tuple[int, ...]

    @property
    def chips(self) -> int:
        """How many chips, each with one replica."""
        return math.prod(self.grid)

    @property
    def host_grid(self) -> tuple[int, ...]:
        """The chips of one host, of three dimensions."""
        return tuple(map(min, self.chip.chips_per_host, (*self.grid, 1)))


def parse(name: str) -> Topology:
    """Reads a topology's name: generation, colon, grid of chips.

    Raises:
      ConfigError: for a chip that is not in the table, or a grid that its chips don't form.
    """
    generation, _, text = name.partition(":")
    if generation not in CHIPS or not re.fullmatch(r"\d+(x\d+)+", text):
        raise ConfigError(
            f"tpu_topology ({name}) must be a chip ({', '.join(CHIPS)}) and a grid, as v5e:2x4."
        )
    chip, grid = CHIPS[generation], tuple(map(int, text.split("x")))
    if len(grid) != chip.dimensions or not _is_power_of_2(math.prod(grid)):
        raise ConfigError(
            f"tpu_topology ({name}) must have a grid of {chip.dimensions} powers of 2."
        )
    return Topology(name, chip, grid)


def _is_power_of_2(number: int) -> bool:
    return number.bit_count() == 1
