"""Cloud TPU chips and the slices they form. Does not import TensorFlow.

topology = topologies.parse("v5e:2x4")
topology.chips, topology.chip.hbm_bytes        # 8 chips with 15.75 GiB each
"""

from __future__ import annotations

import dataclasses
import math
import re

from trainer.errors import ConfigError

GIB = 1 << 30


@dataclasses.dataclass(frozen=True)
class Chip:
    """One generation of TPU chips.

    Attributes:
      hbm_bytes: memory available to a program. This is less than the data sheet says, because the
        runtime reserves some; libtpu's compiler reports it ("exceeds available HBM").
      peak_flops: peak bf16 FLOP per second; a multiply-add counts as two.
      hbm_bytes_per_s: memory bandwidth.
      dimensions: number of dimensions of the torus that connects the chips.
      chips_per_host: grid of chips on one host, in a slice that spans several hosts.
    """

    hbm_bytes: int
    peak_flops: float
    hbm_bytes_per_s: float
    dimensions: int
    chips_per_host: tuple[int, ...]


# Peak, bandwidth, dimensions and host grid: https://docs.cloud.google.com/tpu/docs/v5e, …/v5p and
# …/v6e. Memory: libtpu 0.0.42.1 (the data sheets say 16 GB, 95 GB and 32 GB).
CHIPS = {
    "v5e": Chip(int(15.75 * GIB), 197e12, 819e9, 2, (2, 2, 1)),
    "v5p": Chip(int(95.74 * GIB), 459e12, 2765e9, 3, (2, 2, 1)),
    "v6e": Chip(int(31.25 * GIB), 918e12, 1600e9, 2, (2, 2, 1)),
}


@dataclasses.dataclass(frozen=True)
class Topology:
    """A TPU slice: the generation of its chips, and their grid."""

    name: str
    chip: Chip
    grid: tuple[int, ...]

    @property
    def chips(self) -> int:
        """The number of chips; each runs one replica."""
        return math.prod(self.grid)

    @property
    def host_grid(self) -> tuple[int, ...]:
        """The grid of chips on one host; always three numbers, as libtpu expects."""
        return tuple(map(min, self.chip.chips_per_host, (*self.grid, 1)))


def parse(name: str) -> Topology:
    """Parses the name of a topology: generation, colon, grid of chips.

    Raises:
      ConfigError: for an unknown generation, or a grid that its chips don't come in.
    """
    generation, _, text = name.partition(":")
    if generation not in CHIPS or not re.fullmatch(r"\d+(x\d+)+", text):
        raise ConfigError(
            f"tpu_topology ({name}) must be a chip ({', '.join(CHIPS)}) and a grid, for example "
            "v5e:2x4."
        )
    chip, grid = CHIPS[generation], tuple(map(int, text.split("x")))
    if len(grid) != chip.dimensions or not _is_power_of_2(math.prod(grid)):
        raise ConfigError(
            f"tpu_topology ({name}) must have a grid of {chip.dimensions} powers of 2, such as "
            f"{generation}:{'x'.join(['2'] * chip.dimensions)}."
        )
    return Topology(name, chip, grid)


def _is_power_of_2(number: int) -> bool:
    return number.bit_count() == 1
