"""The batch size of a search's trials, where nobody gives one."""

from __future__ import annotations

import json

import pytest

from trainer.config import Config
from trainer.errors import ConfigError
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
    assert search._with_batch_size(Config(), settings, space, 2) == Config()


def test_a_resumed_search_keeps_its_batch_size(tmp_path):
    settings = Settings(directory=str(tmp_path))
    (settings.folder / "trial_0").mkdir(parents=True)
    saved = {"began": 0.0, "max_epochs": 3, "hyperband_iterations": 1, "batch_size": 36}
    (settings.folder / "search.json").write_text(json.dumps(saved))
    space = settings.space_for(Config())
    assert search._with_batch_size(Config(), settings, space, 1).data.batch_size == 36


@pytest.mark.parametrize(
    ("searched", "replicas", "uneven", "given"),
    [
        ("16|32|64", 3, "16, 32, 64", "15|33|63"),
        ("12|16|24", 6, "16", "12|18|24"),
        ("1|2", 8, "1, 2", "8"),
        ("8:32:8", 16, "8, 24", "16|32"),
    ],
)
def test_sizes_that_replicas_cannot_share_are_refused(searched, replicas, uneven, given, tmp_path):
    settings = Settings(directory=str(tmp_path), search=f"batch_size={searched}")
    space = settings.space_for(Config())
    with pytest.raises(ConfigError) as error:
        search._with_batch_size(Config(), settings, space, replicas)
    assert str(error.value) == (
        f"batch_size ({uneven}) in the space can't be divided among the {replicas} replicas; give "
        f"--search=batch_size={given}."
    )


def test_sizes_that_replicas_can_share_are_taken(tmp_path):
    settings = Settings(directory=str(tmp_path), search="batch_size=12|24")
    assert search._with_batch_size(Config(), settings, settings.space_for(Config()), 6) == Config()
