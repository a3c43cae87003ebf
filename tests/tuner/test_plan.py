from __future__ import annotations

import keras_tuner
import pytest

from tuner import plan as plan_lib


def test_the_brackets_of_20_epochs():
    plan = plan_lib.hyperband(max_epochs=20, factor=3)
    rungs = [[(rung.trials, rung.epochs) for rung in b.rungs] for b in plan.brackets]
    assert rungs == [[(12, 3), (4, 7), (2, 20)], [(6, 7), (2, 20)], [(4, 20)]]
    assert (plan.num_trials, plan.num_epochs, plan.num_configurations) == (30, 226, 22)
    assert [plan.first_draw(bracket) for bracket in range(3)] == [0, 12, 18]


@pytest.mark.parametrize("max_epochs", [1, 2, 3, 9, 20, 27, 81, 100])
@pytest.mark.parametrize("factor", [2, 3, 4])
def test_sizes_are_those_of_keras_tuner(max_epochs, factor):
    theirs = keras_tuner.oracles.HyperbandOracle("val_auc", max_epochs=max_epochs, factor=factor)
    brackets = range(theirs._get_num_brackets() - 1, -1, -1)
    expected = [
        [(theirs._get_size(b, r), theirs._get_epochs(b, r)) for r in range(b + 1)] for b in brackets
    ]
    plan = plan_lib.hyperband(max_epochs, factor)
    assert [[(r.trials, r.epochs) for r in b.rungs] for b in plan.brackets] == expected


def test_a_budget_is_used_up_and_not_exceeded():
    def cost(plan: plan_lib.Plan) -> float:
        return 10 + 2 * plan.num_epochs

    assert plan_lib.largest_within(10 + 2 * 226, cost, 20, 3) == (20, 1)
    assert plan_lib.largest_within(10 + 4 * 226, cost, 20, 3) == (20, 2)
    epochs, turns = plan_lib.largest_within(300, cost, 20, 3)
    assert turns == 1
    assert cost(plan_lib.hyperband(epochs, 3)) <= 300 < cost(plan_lib.hyperband(epochs + 1, 3))
    assert plan_lib.largest_within(10, cost, 20, 3) is None


def test_the_plan_is_a_table():
    assert plan_lib.hyperband(9, 3).to_text().splitlines()[:4] == [
        "bracket  rung  trials  epochs",
        "      0     0       9  0 to 1",
        "      0     1       3  1 to 3",
        "      0     2       1  3 to 9",
    ]
