from __future__ import annotations

import types
from typing import Any

import pytest

from trainer.commands import evaluate, train
from trainer.config import Config
from trainer.distribution import batch_sizes, runtime
from trainer.errors import ConfigError


def _context(replicas: int) -> runtime.Context:
    """Of a machine with so many replicas; only their number is looked at."""
    strategy: Any = types.SimpleNamespace(num_replicas_in_sync=replicas)
    return runtime.Context(strategy, "GPU", 1, ())


@pytest.mark.parametrize(
    ("replicas", "size"), [(1, 32), (2, 32), (3, 33), (6, 36), (8, 32), (32, 32), (64, 64)]
)
def test_the_automatic_size_is_the_smallest_multiple_from_32_on(replicas, size):
    assert batch_sizes.automatic(replicas) == size


def test_an_automatic_size_other_than_32_is_said():
    assert batch_sizes.note(36, 6, "replicas").startswith("batch_size 36 (6 for each of the 6 r")
    assert not batch_sizes.note(32, 8, "replicas")


@pytest.mark.parametrize(
    ("size", "replicas", "nearest"),
    [(32, 3, "nearest are 30 and 33."), (32, 64, "nearest is 64."), (1, 2, "nearest is 2.")],
)
def test_a_given_size_that_replicas_cant_share_is_refused_with_the_nearest(size, replicas, nearest):
    with pytest.raises(ConfigError, match=rf"batch_size \({size}\) is global .*; the {nearest}"):
        _context(replicas).batch_size_for(size)


@pytest.mark.parametrize("config", [Config(), Config.from_flat({}), Config.from_flat({"seed": 3})])
def test_a_run_takes_the_automatic_size_if_nobody_gave_one(config, capsys):
    taken = train._with_batch_size(config, _context(6), "runs/a")
    assert taken.data.batch_size == 36
    assert "batch_size 36 (6 for each of the 6 replicas)" in capsys.readouterr().out


def test_a_run_keeps_the_size_that_it_was_given(capsys):
    config = Config.from_flat({"batch_size": 12})
    assert train._with_batch_size(config, _context(6), "runs/a") == config
    assert not capsys.readouterr().out


def test_a_run_whose_batches_other_replicas_cant_share_is_refused():
    config = Config.from_flat({"batch_size": 32})
    with pytest.raises(ConfigError, match=r"runs/a\) has batches of 32, which 3 replicas can't"):
        train._with_batch_size(config, _context(3), "runs/a")


def test_an_evaluation_takes_the_next_size_that_its_replicas_share(capsys):
    config = Config.from_flat({"batch_size": 32})
    assert evaluate.with_batch_size(config, 32, _context(3)).data.batch_size == 33
    assert (
        "batch_size 33: the next multiple of the 3 replicas, which can't share the run's 32."
        in (capsys.readouterr().out)
    )
    assert evaluate.with_batch_size(config, 32, _context(2)) == config


def test_an_evaluation_refuses_a_given_size_that_its_replicas_cant_share():
    with pytest.raises(ConfigError, match="the nearest are 15 and 18"):
        evaluate.with_batch_size(Config.from_flat({"batch_size": 16}), 32, _context(3))
