"""The trials that each algorithm chooses, in simulated searches."""

from __future__ import annotations

import random

import pytest

from tests.support.simulated_search import PLAN, SimulatedSearch
from tuner import plan as plan_lib
from tuner import statuses
from tuner.oracles import brackets
from tuner.settings import Settings
from tuner.space import Space


def test_a_search_has_the_trials_of_its_plan(tmp_path):
    found = SimulatedSearch(tmp_path).run()
    assert len(found) == PLAN.num_trials
    by_rung = [brackets.Slot.of(name) for name in found]
    for number, bracket in enumerate(PLAN.brackets):
        for level, rung in enumerate(bracket.rungs):
            assert sum(s.bracket == number and s.rung == level for s in by_rung) == rung.trials


def test_the_best_of_a_rung_are_promoted_with_their_values(tmp_path):
    found = SimulatedSearch(tmp_path).run()
    first = {n: found[n] for n in found if n.startswith("b0-r0-")}
    ranked = sorted(first, key=lambda name: -first[name][1])
    promoted = sorted(brackets.Slot.of(n).index for n in found if n.startswith("b0-r1-"))
    assert promoted == sorted(brackets.Slot.of(n).index for n in ranked[:3])
    for index in promoted:
        below, above = found[f"b0-r0-{index:02d}"][2], found[f"b0-r1-{index:02d}"][2]
        assert {k: v for k, v in below.items() if "tuner" not in k} == {
            k: v for k, v in above.items() if "tuner" not in k
        }
        assert above["tuner/initial_epoch"] == below["tuner/epochs"] == 1
        assert above["tuner/configuration"] == below["tuner/configuration"]


@pytest.mark.parametrize("seed", range(5))
def test_timing_and_workers_change_nothing(tmp_path, seed):
    alone = SimulatedSearch(tmp_path / "alone").run()
    together = SimulatedSearch(tmp_path / "together", workers=3).run(random.Random(seed))
    assert together == alone


@pytest.mark.parametrize("algorithm", ["random", "grid", "bayesian"])
def test_other_algorithms_are_as_durable(tmp_path, algorithm):
    settings = Settings(directory=str(tmp_path), algorithm=algorithm)
    space = Space.parse("neurons=64:512:64,dropout=0:0.3:0.1,learning_rate=1e-3|1e-2")
    options = {"settings": settings, "space": space, "plan": plan_lib.flat(12, 4)}
    expected = SimulatedSearch(tmp_path / "a", **options).run()
    assert len(expected) == 12
    killed = SimulatedSearch(tmp_path / "b", **options)
    for _ in range(8):
        killed.ask("worker-0")
        killed.restart()
        killed.ask("worker-0")
        killed.end("worker-0")
    killed.restart()
    assert killed.run() == expected


def test_a_failed_trial_is_replaced_by_a_new_draw(tmp_path):
    def fails(values):
        return "diverged: the loss is nan" if values["neurons"] > 380 else ""

    alone = SimulatedSearch(tmp_path / "a").run(fails=fails)
    together = SimulatedSearch(tmp_path / "b", workers=3).run(random.Random(3), fails=fails)
    assert alone == together
    failed = [name for name, (status, *_) in alone.items() if status == statuses.FAILED]
    assert failed
    completed = [
        brackets.Slot.of(n) for n, (status, *_) in alone.items() if status == statuses.COMPLETED
    ]
    assert len(completed) == PLAN.num_trials
    assert all(alone[name][2]["neurons"] > 380 for name in failed)


def test_a_space_smaller_than_the_plan_is_searched_whole(tmp_path):
    found = SimulatedSearch(tmp_path, space=Space.parse("neurons=64:256:64,dropout=0|0.5")).run()
    assert len({(v["neurons"], v["dropout"]) for _, _, v in found.values()}) == 8
    assert all(status == statuses.COMPLETED for status, *_ in found.values())
