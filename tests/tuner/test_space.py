from __future__ import annotations

import json
import math

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies

from trainer.config import Config
from trainer.errors import ConfigError
from trainer.system.text import quoted
from tuner import space as space_lib
from tuner.space import Space


def test_the_papers_three_dimensions_are_searched_by_default():
    names = [dimension.name for dimension in Space.parse("").dimensions]
    assert names == ["neurons", "learning_rate", "layers_to_unfreeze"]


def test_ranges_are_parsed_from_text():
    space = Space.parse("neurons=64:512:64, learning_rate=1e-5:1e-2:log, layers_to_unfreeze=0|4|8")
    neurons, rate, layers = space.dimensions
    assert (neurons.kind, neurons.low, neurons.high, neurons.step) == ("int", 64, 512, 64)
    assert (rate.kind, rate.low, rate.high, rate.log) == ("float", 1e-5, 1e-2, True)
    assert layers.choices == ("0", "4", "8")
    assert Space.parse(str(space)) == space


def test_a_name_alone_has_its_default_range_and_one_value_is_fixed():
    dropout, neurons = Space.parse("dropout,neurons=128").dimensions
    assert (dropout.low, dropout.high) == (0, 0.6)
    assert neurons.choices == (128,)


def test_ranges_are_read_from_a_file(tmp_path):
    path = tmp_path / "space.json"
    path.write_text(json.dumps({"batch_size": [16, 32], "neurons": "64:128", "dropout": 0.5}))
    batch_size, neurons, dropout = Space.load(path).dimensions
    assert batch_size.choices == (16, 32)
    assert (neurons.low, neurons.high) == (64, 128)
    assert dropout.choices == (0.5,)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nerons=1:2", r"search \(nerons\) must be one of neurons, "),
        ("neurons=a:b", r"neurons=a:b\) must be low:high"),
        ("neurons=9:1", "finite bounds, the lower one first"),
        ("neurons=1:9:0", "must be low:high"),
        ("neurons=1:9:2:log", "must be low:high"),
        ("learning_rate=0:1:log", "positive lower bound"),
        ("learning_rate=nan:1", "finite bounds"),
        ("layers_to_unfreeze=0:8", r"must list its choices, as a\|b\|c"),
        ("dropout=0|0.0", "a choice twice"),
        ("neurons,neurons=3", "names neurons twice"),
    ],
)
def test_an_invalid_range_is_refused(text, message):
    with pytest.raises(ConfigError, match=message):
        Space.parse(text)


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("neurons=[64,128,256]", "neurons=64|128|256"),
        ("neurons=(64, 128)", "neurons=64|128"),
        ("neurons={64,128}, dropout", "neurons=64|128,dropout"),
        ("neurons=64,128,256", "neurons=64|128|256"),
        (
            "neurons=64|128,256,learning_rate=1e-4,1e-3",
            "neurons=64|128|256,learning_rate=1e-4|1e-3",
        ),
        ("neurons,64", "neurons=64"),
        ("neurons=[64|128]", "neurons=64|128"),
        ("neurons=[64:512:64]", "neurons=64:512:64"),
        ("layers_to_unfreeze=0,4,all", "layers_to_unfreeze=0|4|all"),
        ("augmentation=none,light", "augmentation=none|light"),
        ("augmentation=['none', \"light\"]", "augmentation=none|light"),
        ('{"neurons": [64, 128]}', "neurons=64|128"),
        ("{'neurons': (64, 128), 'dropout': 0.5}", "neurons=64|128,dropout=0.5"),
        ('{"neurons": "64:512:64", "batch_size": [16, 32]}', "neurons=64:512:64,batch_size=16|32"),
        ("{neurons: [64,128]}", "neurons=64|128"),
        ("neurons: [64, 128]", "neurons=64|128"),
        ("neurons:64:512", "neurons=64:512"),
    ],
)
def test_a_list_in_another_spelling_is_refused_with_ours(text, meant):
    with pytest.raises(ConfigError) as refusal:
        Space.parse(text)
    assert str(refusal.value).endswith(f": write --search={quoted(meant)}.")
    Space.parse(meant)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nerons=[64,128]", "did you mean neurons"),
        ("neurons=[64,a]", r"search \(neurons=64\|a\) must be low:high"),
        ('{"neurons": {"low": 64}}', r"search \(neurons=low: 64\) must be low:high"),
        ("neurons=[64,128", r"neurons=\[64\|128\) must be low:high"),
    ],
)
def test_a_list_of_something_wrong_says_what_is_wrong(text, message):
    with pytest.raises(ConfigError, match=message):
        Space.parse(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("dropout=0:1", r"dropout \(1\) must be less than 1"),
        ("neurons=0:8", r"neurons \(0\) must be at least 1"),
        ("augmentation=none|wild", r"augmentation \(wild\) must be one of"),
        ("layers_to_unfreeze=0|-3", "layers_to_unfreeze"),
        ("batch_size=0|16", r"has a batch_size of 0, which stands for an automatic one"),
        ("batch_size=0:64", r"has a batch_size of 0, which stands for an automatic one"),
        (
            "layers_to_unfreeze=0|1|4",
            r"\(1\) adds no weights: .*=2 adds 2,359,808 \(block5_conv3\)",
        ),
    ],
)
def test_bounds_that_the_trainer_refuses_are_refused(text, message):
    with pytest.raises(ConfigError, match=message):
        Space.parse(text).check(Config())


@pytest.mark.parametrize("content", ["[]", "{", "{}", None])
def test_an_invalid_file_is_refused_with_its_name(tmp_path, content):
    path = tmp_path / "space.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ConfigError, match=r"space\.json"):
        Space.load(path)


@hypothesis.given(
    strategies.lists(
        strategies.floats(0, 1, exclude_max=True),
        min_size=len(space_lib.DEFAULTS),
        max_size=len(space_lib.DEFAULTS),
    )
)
def test_every_draw_is_within_the_bounds_and_survives_32_bits(places):
    space = Space.parse(",".join(space_lib.DEFAULTS))
    values = space.values_at(places)
    for dimension in space.dimensions:
        value = values[dimension.name]
        assert dimension.choices.count(value) or dimension.low <= value <= dimension.high
    sent = {k: float(np.float32(v)) if isinstance(v, float) else v for k, v in values.items()}
    assert space.canonical(sent) == values
    space_lib.with_value(Config(), values)


def test_each_value_of_a_stepped_range_is_drawn_equally_often():
    neurons = Space.parse("neurons=64:256:64").dimensions[0]
    drawn = [neurons.value_at(place) for place in np.linspace(0, 1, 400, endpoint=False)]
    assert np.unique(drawn, return_counts=True)[1].tolist() == [100] * 4


def test_each_decade_of_a_logarithmic_range_is_drawn_equally_often():
    rate = Space.parse("learning_rate=1e-4:1e-2:log").dimensions[0]
    drawn = np.array([rate.value_at(place) for place in np.linspace(0, 1, 400, endpoint=False)])
    assert (drawn < 1e-3).sum() == 200


def test_a_grid_has_every_configuration_once():
    space = Space.parse("neurons=64:192:64,layers_to_unfreeze=0|all,dropout=0:0.2:0.1")
    grid = [tuple(values.values()) for values in space.grid()]
    assert len(grid) == len(set(grid)) == space.size == 18
    assert grid[:2] == [(64, "0", 0.0), (64, "0", 0.1)]
    with pytest.raises(ConfigError, match="a grid needs a step"):
        next(Space.parse("learning_rate").grid())
    assert Space.parse("learning_rate").size == math.inf
