"""The order in which a schedule assigns the slots of a plan."""

from __future__ import annotations

import pytest

from tests.support.simulated_search import PLAN, SPACE
from tuner import statuses
from tuner.oracles import brackets
from tuner.space import Space


def test_a_trial_that_fails_after_promotion_is_replaced_by_the_next_best():
    schedule = brackets.BracketSchedule(PLAN, [brackets.Draws.random(SPACE, 0)], "max")
    outcomes = {
        f"b0-r0-{i:02d}": brackets.TrialOutcome(statuses.COMPLETED, score=i / 10) for i in range(9)
    }
    outcomes |= {
        "b0-r1-08": brackets.TrialOutcome(statuses.FAILED),
        "b0-r1-07": brackets.TrialOutcome(statuses.COMPLETED, 0.9),
    }
    outcomes |= {"b0-r1-06": brackets.TrialOutcome(statuses.RUNNING)}
    assert schedule.next(outcomes) == brackets.Slot(0, 1, 5)


def test_a_rung_waits_for_the_one_below_but_other_brackets_do_not():
    schedule = brackets.BracketSchedule(PLAN, [brackets.Draws.random(SPACE, 0)], "max")
    outcomes = {
        f"b0-r0-{i:02d}": brackets.TrialOutcome(statuses.COMPLETED, score=i / 10) for i in range(8)
    }
    outcomes["b0-r0-08"] = brackets.TrialOutcome(statuses.RUNNING)
    assert schedule.next(outcomes) == brackets.Slot(1, 0, 0)


def test_a_slot_is_parsed_from_its_trial_id():
    slot = brackets.Slot(0, 1, 3)
    assert (slot.trial_id, slot.configuration) == ("b0-r1-03", "b0-03")
    assert brackets.Slot.of(slot.trial_id) == slot


def test_an_invalid_trial_id_is_refused():
    with pytest.raises(ValueError, match="'0007' is not a trial id"):
        brackets.Slot.of("0007")


def test_draws_are_distinct_and_exhaust_the_space():
    draws = brackets.Draws.random(Space.parse("neurons=64:256:64"), seed=0)
    assert sorted(draws.get(i)["neurons"] for i in range(4)) == [64, 128, 192, 256]
    assert draws.get(4) is None
