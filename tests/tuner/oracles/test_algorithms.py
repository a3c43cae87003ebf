"""The trials that each algorithm chooses, in simulated searches."""

from __future__ import annotations

import json
import math
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


@pytest.mark.parametrize("score", [None, math.nan, math.inf])
@pytest.mark.parametrize("algorithm", ["hyperband", "random", "grid", "bayesian"])
def test_an_undefined_objective_is_never_best_or_promoted(tmp_path, algorithm, score):
    """The lowest score beats an undefined one."""

    def wild(values):
        return score if values["dropout"] > 0.15 else -1.0

    plan = PLAN if algorithm == "hyperband" else plan_lib.flat(6, 4)
    space = Space.parse("neurons=64:512:64,dropout=0:0.3:0.1")
    settings = Settings(
        directory=str(tmp_path), algorithm=algorithm, max_consecutive_failed_trials=99
    )
    found = SimulatedSearch(tmp_path, settings, space, plan).run(score=wild)
    ended = {name: (status, values["dropout"]) for name, (status, _, values) in found.items()}
    assert all((status == statuses.FAILED) == (rate > 0.15) for status, rate in ended.values())
    assert {rate > 0.15 for _, rate in ended.values()} == {True, False}
    assert all(rate <= 0.15 for name, (_, rate) in ended.items() if "-r0-" not in name)


def test_a_completed_trial_without_a_score_on_disk_counts_as_failed(tmp_path):
    search = SimulatedSearch(tmp_path)
    search.run()
    path = search.oracle.trial_folder("b0-r0-00") / "trial.json"
    state = json.loads(path.read_text())
    path.write_text(json.dumps({**state, "score": None}))
    search.restart()
    trial = search.oracle.trials[state["trial_id"]]
    assert (trial.status, trial.message) == (statuses.FAILED, "undefined: its score is None")


@pytest.mark.parametrize(
    ("algorithm", "small", "large"),
    [
        ("random", plan_lib.flat(3, 4), plan_lib.flat(9, 4)),
        ("grid", plan_lib.flat(3, 4), plan_lib.flat(9, 4)),
        ("bayesian", plan_lib.flat(3, 4), plan_lib.flat(9, 4)),
        ("hyperband", plan_lib.hyperband(9, 3), plan_lib.hyperband(9, 3, 3)),
    ],
)
@pytest.mark.parametrize("limit", [380, 10_000])
def test_a_search_that_goes_on_equals_the_larger_one(tmp_path, algorithm, small, large, limit):
    """Also with failed trials, whose replacements must not take a later iteration's numbers."""

    def fails(values):
        return "diverged: the loss is nan" if values["neurons"] > limit else ""

    settings = Settings(
        directory=str(tmp_path), algorithm=algorithm, max_consecutive_failed_trials=99
    )
    space = Space.parse("neurons=64:512:64,dropout=0:0.3:0.1,learning_rate=1e-4|1e-3|1e-2")
    options = {"settings": settings, "space": space}
    expected = SimulatedSearch(tmp_path / "whole", plan=large, **options).run(fails=fails)
    first = SimulatedSearch(tmp_path / "grown", plan=small, **options).run(fails=fails)
    grown = SimulatedSearch(tmp_path / "grown", plan=large, **options)
    for _ in range(2):  # Killed within what was added.
        grown.ask("worker-0")
        grown.restart()
    assert grown.run(fails=fails) == expected
    assert first.items() <= expected.items()
    assert len(first) < len(expected)


def test_iterations_plan_no_configuration_twice(tmp_path):
    space = Space.parse("neurons=64:512:64,dropout=0:0.3:0.1")
    options = {"space": space, "plan": plan_lib.hyperband(9, 3, 2)}
    found = SimulatedSearch(tmp_path, **options).run()
    first = [v for name, (_, _, v) in found.items() if "-r0-" in name]
    drawn = {(values["neurons"], values["dropout"]) for values in first}
    assert len(drawn) == len(first) == 32
