"""What a search will train: brackets of rungs, each with so many trials of so many epochs.

    plan = hyperband(max_epochs=20, factor=3)
    plan.num_trials, plan.num_epochs     # 30, 226
    largest_within(3600, cost=lambda plan: 2.0 * plan.num_epochs, max_epochs=99, factor=3)

Sizes and epochs are those of KerasTuner's Hyperband (Li et al., JMLR 18, 2018).
"""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_ITERATIONS = 10
"""Of Hyperband, that a budget is filled with; more would draw ever the same sizes."""


@dataclasses.dataclass(frozen=True)
class Rung:
    """Trials that are trained to the same epoch, and then compared.

    Attributes:
      trials: how many.
      epochs: to which epoch, counted from a configuration's start.
    """

    trials: int
    epochs: int


@dataclasses.dataclass(frozen=True)
class Bracket:
    """Rungs of which each resumes the best trials of the one before."""

    rungs: tuple[Rung, ...]

    @property
    def num_epochs(self) -> int:
        """All epochs that are trained in it."""
        before = [0, *(rung.epochs for rung in self.rungs)]
        return sum(r.trials * (r.epochs - b) for r, b in zip(self.rungs, before, strict=False))


@dataclasses.dataclass(frozen=True)
class Plan:
    """All brackets of a search."""

    brackets: tuple[Bracket, ...]

    @property
    def num_trials(self) -> int:
        """All trials; a promoted configuration counts once for each rung."""
        return sum(rung.trials for bracket in self.brackets for rung in bracket.rungs)

    @property
    def num_configurations(self) -> int:
        """How many configurations are drawn."""
        return sum(bracket.rungs[0].trials for bracket in self.brackets)

    @property
    def num_epochs(self) -> int:
        """All epochs that are trained."""
        return sum(bracket.num_epochs for bracket in self.brackets)

    @property
    def rungs(self) -> dict[tuple[int, int], int]:
        """The trials of each rung, by (bracket, rung)."""
        return {
            (number, level): rung.trials
            for number, bracket in enumerate(self.brackets)
            for level, rung in enumerate(bracket.rungs)
        }

    def first_draw(self, bracket: int) -> int:
        """Returns the number of the first configuration of a bracket."""
        return sum(b.rungs[0].trials for b in self.brackets[:bracket])

    def to_text(self) -> str:
        """Returns a table of the rungs."""
        lines = ["bracket  rung  trials  epochs"]
        for number, bracket in enumerate(self.brackets):
            before = 0
            for level, rung in enumerate(bracket.rungs):
                epochs = f"{before} to {rung.epochs}"
                lines.append(f"{number:>7}  {level:>4}  {rung.trials:>6}  {epochs}")
                before = rung.epochs
        return "\n".join(lines)


def hyperband(max_epochs: int, factor: int, iterations: int = 1) -> Plan:
    """Plans Hyperband: from many configurations of few epochs to few of `max_epochs`.

    Args:
      max_epochs: of a configuration that survives every rung.
      factor: one of so many is promoted, to so many times the epochs.
      iterations: how often all brackets are gone through.
    """
    rungs_most = 1
    while max_epochs / factor**rungs_most >= 1:
        rungs_most += 1
    survivors = math.ceil(1 + math.log(max_epochs, factor))
    brackets = tuple(
        Bracket(
            tuple(
                Rung(
                    math.ceil(survivors / (last + 1) * factor ** (last - level)),
                    math.ceil(max_epochs / factor ** (last - level)),
                )
                for level in range(last + 1)
            )
        )
        for last in reversed(range(rungs_most))
    )
    return Plan(brackets * iterations)


def flat(trials: int, epochs: int) -> Plan:
    """Plans trials that are all trained to the end."""
    return Plan((Bracket((Rung(trials, epochs),)),))


def largest_within(
    seconds: float, cost: Callable[[Plan], float], max_epochs: int, factor: int
) -> tuple[int, int] | None:
    """Returns (max_epochs, iterations) of the Hyperband of most epochs whose cost fits.

    Args:
      seconds: that it may take.
      cost: seconds that a plan takes.
      max_epochs: upper limit of a configuration's epochs.
      factor: of Hyperband.

    Returns:
      None if even one epoch does not fit.
    """
    sizes = [(epochs, 1) for epochs in range(1, max_epochs + 1)]
    sizes += [(max_epochs, turns) for turns in range(2, MAX_ITERATIONS + 1)]
    plans = {size: hyperband(size[0], factor, size[1]) for size in sizes}
    fitting = [size for size, plan in plans.items() if cost(plan) <= seconds]
    return max(fitting, key=lambda size: plans[size].num_epochs, default=None)
