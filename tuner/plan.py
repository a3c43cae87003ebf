"""The plan of a search: brackets of rungs, each with a number of trials and epochs.

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
"""Upper limit of Hyperband iterations that a time budget plans."""


@dataclasses.dataclass(frozen=True)
class Rung:
    """Trials that are trained to the same epoch and then compared.

    Attributes:
      trials: number of trials.
      epochs: last epoch of each trial, counted from the start of its configuration.
    """

    trials: int
    epochs: int


@dataclasses.dataclass(frozen=True)
class Bracket:
    """Successive rungs; each resumes the best trials of the rung before."""

    rungs: tuple[Rung, ...]

    @property
    def num_epochs(self) -> int:
        """Total of the epochs that its trials train."""
        before = [0, *(rung.epochs for rung in self.rungs)]
        return sum(r.trials * (r.epochs - b) for r, b in zip(self.rungs, before, strict=False))


@dataclasses.dataclass(frozen=True)
class Plan:
    """The brackets of a search.

    Attributes:
      brackets: of all iterations, one after the other; every iteration has the same.
      iterations: number of times that all brackets run.
    """

    brackets: tuple[Bracket, ...]
    iterations: int = 1

    @property
    def iteration(self) -> Plan:
        """The plan of one iteration."""
        return Plan(self.brackets[: len(self.brackets) // self.iterations])

    @property
    def num_trials(self) -> int:
        """Total number of trials; a promoted configuration has one in each of its rungs."""
        return sum(rung.trials for bracket in self.brackets for rung in bracket.rungs)

    @property
    def num_configurations(self) -> int:
        """Number of configurations that are sampled, without replacements of failed ones."""
        return sum(bracket.rungs[0].trials for bracket in self.brackets)

    @property
    def num_epochs(self) -> int:
        """Total of the epochs that all trials train."""
        return sum(bracket.num_epochs for bracket in self.brackets)

    @property
    def rungs(self) -> dict[tuple[int, int], int]:
        """Number of trials by (bracket, rung)."""
        return {
            (number, level): rung.trials
            for number, bracket in enumerate(self.brackets)
            for level, rung in enumerate(bracket.rungs)
        }

    def first_draw(self, bracket: int) -> int:
        """Returns the number of the first configuration that a bracket samples."""
        return sum(b.rungs[0].trials for b in self.brackets[:bracket])

    def to_text(self) -> str:
        """Returns the rungs as a table."""
        lines = ["bracket  rung  trials  epochs"]
        for number, bracket in enumerate(self.brackets):
            before = 0
            for level, rung in enumerate(bracket.rungs):
                epochs = f"{before} to {rung.epochs}"
                lines.append(f"{number:>7}  {level:>4}  {rung.trials:>6}  {epochs}")
                before = rung.epochs
        return "\n".join(lines)


def hyperband(max_epochs: int, factor: int, iterations: int = 1) -> Plan:
    """Plans a Hyperband: each bracket trades number of configurations against epochs.

    Args:
      max_epochs: epochs of a configuration that survives every rung.
      factor: reduction factor: 1/factor of the trials are promoted, to factor times the epochs.
      iterations: number of times to run all brackets.
    """
    rungs_most = 1
    while max_epochs / factor**rungs_most >= 1:
        rungs_most += 1
    # Rounded as in KerasTuner's `_get_size` and `_get_epochs`, for the same sizes.
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
    return Plan(brackets * iterations, iterations)


def flat(trials: int, epochs: int) -> Plan:
    """Plans independent trials of the same number of epochs, without promotion."""
    return Plan((Bracket((Rung(trials, epochs),)),))


def largest_within(
    seconds: float, cost: Callable[[Plan], float], max_epochs: int, factor: int
) -> tuple[int, int] | None:
    """Returns (max_epochs, iterations) of the Hyperband with the most epochs that fits a budget.

    Args:
      seconds: the budget.
      cost: returns the seconds that a plan takes.
      max_epochs: upper limit of a configuration's epochs.
      factor: Hyperband's reduction factor.

    Returns:
      None if even one epoch does not fit.
    """
    sizes = [(epochs, 1) for epochs in range(1, max_epochs + 1)]
    sizes += [(max_epochs, iterations) for iterations in range(2, MAX_ITERATIONS + 1)]
    plans = {size: hyperband(size[0], factor, size[1]) for size in sizes}
    fitting = [size for size, plan in plans.items() if cost(plan) <= seconds]
    return max(fitting, key=lambda size: plans[size].num_epochs, default=None)
