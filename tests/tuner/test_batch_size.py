"""The batch size of a search's trials, where nobody gives one."""

from __future__ import annotations

import json

import pytest

from trainer.config import Config
from tuner import search
from tuner.settings import Settings


@pytest.mark.parametrize(("options", "size"), [({}, 36), ({"batch_size": 12}, 12)])
def test_trials_have_the_automatic_batch_size_unless_one_is_given(options, size, tmp_path):
    config, settings = Config.from_flat(options), Settings(directory=str(tmp_path))
    space = settings.space_for(config)
    assert search._with_batch_size(config, settings, space, 6).data.batch_size == size


def test_a_search_on_several_hosts_has_the_batch_size_of_one_replica(tmp_path, monkeypatch):
    monkeypatch.setenv("KERASTUNER_TUNER_ID", "chief")
    settings = Settings(directory=str(tmp_path))
    config = Config.from_flat({"precision": "float32"})
    space = settings.space_for(config)
    assert search._with_batch_size(config, settings, space, 6).data.batch_size == 32


def test_a_batch_size_that_is_searched_stays_open(tmp_path):
    settings = Settings(directory=str(tmp_path), search="batch_size")
    space = settings.space_for(Config())
    assert search._with_batch_size(Config(), settings, space, 6) == Config()


def test_a_resumed_search_keeps_its_batch_size(tmp_path):
    settings = Settings(directory=str(tmp_path))
    (settings.folder / "trial_0").mkdir(parents=True)
    saved = {"began": 0.0, "max_epochs": 3, "hyperband_iterations": 1, "batch_size": 36}
    (settings.folder / "search.json").write_text(json.dumps(saved))
    space = settings.space_for(Config())
    assert search._with_batch_size(Config(), settings, space, 1).data.batch_size == 36
