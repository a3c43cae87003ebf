"""The schedule of a plan: computes the next trial from the outcomes of the trials so far.

A trial's id names its slot: `b0-r1-03` is the fourth configuration of bracket 0 in its second rung.
The order in which workers finish changes nothing: configurations are drawn by number, and a rung
is promoted only when it is complete.

    schedule = brackets.BracketSchedule(plan, [brackets.Draws.random(space, seed)], "max")
    slot = schedule.next({"b0-r0-00": brackets.TrialOutcome(statuses.COMPLETED, 0.9)})
    schedule.values(slot)      # its configuration; but `next` may also return IDLE or STOPPED
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import re
from typing import TYPE_CHECKING, Any

import numpy as np

from tuner import statuses

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from tuner.plan import Plan
    from tuner.space import Space

Key = tuple[Any, ...]
MAX_COLLISIONS = 10_000
"""Repeated draws in a row after which a space counts as exhausted."""


@dataclasses.dataclass(frozen=True, order=True)
class Slot:
    """A place in the plan: bracket, rung, and index of the bracket's configuration, from 0."""

    bracket: int
    rung: int
    index: int

    @property
    def trial_id(self) -> str:
        """The trial's id, such as "b0-r1-03"."""
        return f"b{self.bracket}-r{self.rung}-{self.index:02d}"

    @property
    def configuration(self) -> str:
        """The configuration's name, such as "b0-03": the same in every rung."""
        return f"b{self.bracket}-{self.index:02d}"

    @classmethod
    def of(cls, trial_id: str) -> Slot:
        """Returns the slot of a trial id."""
        match = re.fullmatch(r"b(\d+)-r(\d+)-(\d+)", trial_id)
        if match is None:
            raise ValueError(f"{trial_id!r} is not a trial id of the form b0-r0-00.")
        return cls(*map(int, match.groups()))


class Draws:
    """The configurations of a search by number, all different."""

    def __init__(self, source: Iterator[dict[str, Any]]) -> None:
        self._source = source
        self._drawn: list[dict[str, Any]] = []

    @classmethod
    def random(
        cls, space: Space, seed: int | list[int], without: frozenset[Key] = frozenset()
    ) -> Draws:
        """Samples distinct configurations at random, without those that are named by `key`."""
        return cls(_distinct(space, seed, set(without)))

    @classmethod
    def of_iterations(cls, space: Space, seed: int, plan: Plan) -> list[Draws]:
        """Samples the configurations of each iteration of a plan.

        Each iteration has a random sequence of its own: more iterations change no earlier one,
        however many failed trials were replaced in that. It leaves out what those before planned.
        """
        planned = plan.iteration.num_configurations
        seen: frozenset[Key] = frozenset()
        found = []
        for iteration in range(plan.iterations):
            draws = cls.random(space, [seed, iteration] if iteration else seed, seen)
            drawn = (draws.get(number) for number in range(planned))
            seen |= {key(values) for values in drawn if values is not None}
            found.append(draws)
        return found

    @classmethod
    def grid(cls, space: Space) -> Draws:
        """Enumerates a finite space."""
        return cls(space.grid())

    def get(self, number: int) -> dict[str, Any] | None:
        """Returns configuration `number`, from 0; None when the space is exhausted."""
        self._drawn += itertools.islice(self._source, max(0, number + 1 - len(self._drawn)))
        return self._drawn[number] if number < len(self._drawn) else None


def key(values: Mapping[str, Any]) -> Key:
    """Returns what two equal configurations share."""
    return tuple(values.values())


def _distinct(space: Space, seed: int | list[int], seen: set[Key]) -> Iterator[dict[str, Any]]:
    generator = np.random.default_rng(seed)
    collisions = 0
    while collisions < MAX_COLLISIONS and len(seen) < space.size:
        values = space.values_at(generator.uniform(size=len(space.dimensions)).tolist())
        collisions = collisions + 1 if key(values) in seen else 0
        if not collisions:
            seen.add(key(values))
            yield values


@dataclasses.dataclass(frozen=True)
class TrialOutcome:
    """The status of a trial, and its score once it has completed."""

    status: str
    score: float | None = None


class BracketSchedule:
    """Assigns the slots of a plan, given the outcomes so far; it has no state of its own."""

    def __init__(self, plan: Plan, draws: Sequence[Draws], direction: str) -> None:
        """Creates the schedule of a plan.

        Args:
          plan: brackets and rungs.
          draws: the configurations of each iteration of the plan, by number.
          direction: "max" or "min": which scores are promoted.
        """
        self._plan, self._draws, self._sign = plan, draws, -1 if direction == "max" else 1

    def next(self, outcomes: Mapping[str, TrialOutcome]) -> Slot | str:
        """Returns the next slot; IDLE if it depends on running trials; STOPPED if none is left."""
        has_running = False
        for number, bracket in enumerate(self._plan.brackets):
            for level in range(len(bracket.rungs)):
                free, is_complete = self._free_slot(number, level, outcomes)
                if free is not None:
                    return free
                if not is_complete:
                    has_running = True
                    break  # Higher rungs of this bracket must wait; other brackets need not.
        return statuses.IDLE if has_running else statuses.STOPPED

    def values(self, slot: Slot) -> dict[str, Any]:
        """Returns the configuration of a slot, as values by option name."""
        values = self._draw(slot.bracket, slot.index)
        if values is None:
            raise ValueError(
                f"{slot.trial_id} exceeds the number of configurations in the search space."
            )
        return values

    def rung_epochs(self, slot: Slot) -> tuple[int, int]:
        """Returns (epochs trained before, epochs trained after) a slot's trial."""
        rungs = self._plan.brackets[slot.bracket].rungs
        return rungs[slot.rung - 1].epochs if slot.rung else 0, rungs[slot.rung].epochs

    def _free_slot(
        self, bracket: int, level: int, outcomes: Mapping[str, TrialOutcome]
    ) -> tuple[Slot | None, bool]:
        """Returns (first free slot of a rung or None, whether the rung is complete)."""
        wanted = self._plan.brackets[bracket].rungs[level].trials
        is_complete = True
        for slot in self._candidates(bracket, level, outcomes):
            if not wanted:
                break
            outcome = outcomes.get(slot.trial_id)
            if outcome is None:
                return slot, False
            if outcome.status == statuses.FAILED:
                continue  # The next candidate takes its place.
            wanted -= 1
            is_complete &= outcome.status == statuses.COMPLETED
        return None, is_complete

    def _candidates(
        self, bracket: int, level: int, outcomes: Mapping[str, TrialOutcome]
    ) -> Iterator[Slot]:
        """Yields the slots that may fill a rung: new draws, or the best of the rung below."""
        if level == 0:
            for index in itertools.count():
                if self._draw(bracket, index) is None:
                    return
                yield Slot(bracket, 0, index)
        below = [
            (self._sign * outcome.score, Slot.of(trial_id).index)
            for trial_id, outcome in outcomes.items()
            if outcome.status == statuses.COMPLETED
            and outcome.score is not None
            and math.isfinite(outcome.score)  # NaN would sort to any place.
            and (slot := Slot.of(trial_id)).bracket == bracket
            and slot.rung == level - 1
        ]
        for _, index in sorted(below):
            yield Slot(bracket, level, index)

    def _draw(self, bracket: int, index: int) -> dict[str, Any] | None:
        """Returns a configuration of a bracket: planned ones first, then for failed trials.

        Replacements alternate between the brackets of an iteration, so that each bracket's numbers
        are fixed however many trials fail in the others, and however many iterations follow.
        """
        plan = self._plan.iteration
        iteration, place = divmod(bracket, len(plan.brackets))
        planned = plan.brackets[place].rungs[0].trials
        number = plan.first_draw(place) + index
        if index >= planned:
            number = plan.num_configurations + (index - planned) * len(plan.brackets) + place
        return self._draws[iteration].get(number)
