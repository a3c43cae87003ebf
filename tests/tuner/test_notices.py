"""What a search says before it begins."""

from __future__ import annotations

import pytest

from trainer.config import Config
from trainer.errors import ConfigError
from tuner import notices
from tuner.settings import Settings


def _lines(base=None, **given) -> list[str]:
    config, settings = Config.from_flat(base or {}), Settings(**given)
    space = settings.space_for(config)
    plan = settings.plan(space, config.optimization.max_epochs)
    return list(notices.of(config, settings, space, plan))


USUAL = ["weights: each configuration starts from the backbone's ImageNet weights."]


def test_a_usual_search_says_only_where_it_starts():
    assert _lines() == USUAL


@pytest.mark.parametrize(
    ("base", "given", "line"),
    [
        ({"layers_to_unfreeze": "all"}, {}, "so its own value (all) is not used"),
        ({"neurons": 99}, {"search": "neurons"}, "neurons is searched (neurons=64:512:64)"),
        ({"patience": 2}, {}, "patience (2) is not used in trials: every trial trains all"),
        ({"max_recoveries": 1}, {}, "max_recoveries (1) is not used in trials"),
        ({"monitor": "val_auc"}, {"objective": "val_loss"}, "monitor (val_auc) is not used"),
        ({}, {"search": "neurons=64:500:64,dropout"}, "neurons=64:500:64 ends at 448"),
        ({}, {"search": "neurons=8|16"}, "only 2 configurations, not the 62 that are planned"),
        ({}, {"search": "neurons=8", "algorithm": "random"}, "only 1 configuration, not the 30"),
        ({"backbone": "xception"}, {}, "the model enlarges them, which adds no detail; --dataset="),
        ({"weights": "none"}, {}, "each configuration starts from random weights."),
        ({"weights": "a.keras"}, {}, "each configuration starts from the weights in a.keras."),
        ({}, {"workers": 9999}, "workers (9999) exceeds the "),
        (
            {"max_epochs": 2},
            {},
            "max_epochs (2) ends before unfrozen layers join: every trial trai",
        ),
        ({"max_epochs": 2}, {}, "max_epochs (2) is less than factor (3), so Hyperband promotes"),
    ],
)
def test_what_is_unused_or_smaller_is_said_once(base, given, line):
    found = _lines(base, **given)
    assert sum(line in text for text in found) == 1, found


def test_the_objective_as_monitor_is_used():
    assert _lines({"monitor": "val_auc"}) == USUAL


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"max_trials": 12}, "max_trials (12) has no effect with --algorithm=hyperband"),
        ({"algorithm": "random", "factor": 4}, "factor (4) has no effect with --algorithm=random"),
        ({"algorithm": "bayesian", "budget_minutes": 5.0}, "budget_minutes (5) has no effect"),
        ({"algorithm": "grid", "search_seed": 3}, "search_seed (3) has no effect"),
        ({"trial_memory_gb": 2.0}, "trial_memory_gb (2) needs --isolate_trials"),
        ({"refit_seeds": 5}, "refit_seeds (5) needs --refit_best"),
        ({"budget_minutes": 5.0, "hyperband_iterations": 2}, "both set the size of the search"),
    ],
)
def test_an_option_without_effect_is_refused(given, message):
    with pytest.raises(ConfigError) as refusal:
        Settings(**given)
    assert message in str(refusal.value)


@pytest.mark.parametrize(
    ("base", "search", "message"),
    [
        (
            {"dense_layers": 0},
            "neurons",
            r"search \(neurons\) changes nothing without --dense_layers",
        ),
        ({"dense_layers": 0}, "dropout", r"search \(dropout\) changes nothing"),
        (
            {},
            "backbone_learning_rate",
            r"changes nothing without --layers_to_unfreeze of 1 or more",
        ),
        (
            {"weights": "none", "layers_to_unfreeze": "all"},
            "backbone_learning_rate",
            r"changes nothing without .* --weights other than none",
        ),
        ({"resume": "must"}, "neurons", r"resume \(must\) has no effect on a search"),
    ],
)
def test_a_search_that_an_option_of_its_trials_defeats_is_refused(base, search, message):
    with pytest.raises(ConfigError, match=message):
        Settings(search=search).space_for(Config.from_flat(base))
    searched = Settings(search="dense_layers=0|1,neurons")
    assert searched.space_for(Config.from_flat({"dense_layers": 0})).dimensions
    unfrozen = Settings(search="layers_to_unfreeze=0|4,backbone_learning_rate")
    assert unfrozen.space_for(Config()).dimensions
