"""Trials on disk: what the search can't have tried is refused."""

from __future__ import annotations

import json

import pytest

from tests.support.simulated_search import SimulatedSearch
from trainer.errors import RunError
from tuner.space import Space

SPACE = Space.parse("neurons=64:512:64,learning_rate=1e-4:1e-2:log,augmentation=none|light")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("neurons", 63),
        ("neurons", -64),
        ("neurons", "64"),
        ("learning_rate", 0.0),
        ("learning_rate", -1e300),
        ("learning_rate", 0.0103),
        ("augmentation", "strong"),
        ("augmentation", 1),
    ],
)
def test_a_value_outside_the_space_is_refused(tmp_path, name, value):
    search = SimulatedSearch(tmp_path, space=SPACE)
    search.ask("worker-0")
    (path,) = tmp_path.rglob("trial.json")
    content = json.loads(path.read_text())
    content["hyperparameters"]["values"][name] = value
    path.write_text(json.dumps(content))
    with pytest.raises(RunError, match=f"has {name} = .*, which the search does not try"):
        search.restart()


def test_sampled_values_are_of_the_space(tmp_path):
    search = SimulatedSearch(tmp_path, space=SPACE)
    for _ in range(20):
        search.ask("worker-0")
        search.end("worker-0")
    search.restart()
