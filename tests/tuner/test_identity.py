"""A search resumes only if its identity has not changed."""

from __future__ import annotations

import dataclasses
import json

import pytest

from trainer.config import Config
from trainer.errors import ConfigError, RunError
from tuner import identity
from tuner.settings import OF_SEARCH, Settings
from tuner.space import Space

SPACE = Space.parse("neurons=8|16")


@pytest.fixture
def trial(settings) -> None:
    """A search is one that resumes only once it has a trial."""
    identity.agree(settings(), identity.of(Config(), settings(), SPACE, "data"))
    (settings().folder / "trial_b0-r0-00").mkdir(parents=True)


@pytest.mark.usefixtures("trial")
def test_a_search_resumes_with_the_time_it_began(settings, capsys):
    found = identity.of(Config(), settings(), SPACE, "data")
    began = identity.agree(settings(), found)
    assert identity.agree(settings(), found) == began
    assert f"resuming the search in {settings().folder}." in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        ({"fingerprint": "other"}, "data 'data' -> 'other'"),
        ({"settings": {"factor": 4}}, "factor 3 -> 4"),
        ({"base": {"dropout": 0.25}}, "dropout 0.5 -> 0.25"),
    ],
)
@pytest.mark.usefixtures("trial")
def test_another_search_is_refused_with_the_difference(settings, change, difference):
    identity.agree(settings(), identity.of(Config(), settings(), SPACE, "data"))
    base = Config.from_flat(change.get("base", {}))
    changed = settings(**change.get("settings", {}))
    found = identity.of(base, changed, SPACE, change.get("fingerprint", "data"))
    with pytest.raises(ConfigError) as refusal:
        identity.agree(changed, found)
    assert f"({difference}); choose another" in str(refusal.value)


@pytest.mark.usefixtures("trial")
def test_options_that_affect_no_result_may_change(settings):
    identity.agree(settings(), identity.of(Config(), settings(), SPACE, "data"))
    faster = settings(workers=2, isolate_trials=True)
    identity.agree(faster, identity.of(Config(), faster, SPACE, "data"))


def test_the_base_value_of_a_searched_option_does_not_matter(settings):
    found = identity.of(Config.from_flat({"neurons": 99}), settings(), SPACE, "data")
    assert found == identity.of(Config(), settings(), SPACE, "data")


@pytest.mark.parametrize("name", identity.GROWING)
def test_a_search_may_grow_and_never_shrinks(settings, capsys, name):
    def grown(size):
        return settings(**({"algorithm": "random"} if name == "max_trials" else {}), **{name: size})

    def agree(size):
        return identity.agree(grown(size), identity.of(Config(), grown(size), SPACE, "data"))

    began = agree(4)
    (settings().folder / "trial_b0-r0-00").mkdir()
    assert agree(7) == began
    assert f"goes on: {name} 4 -> 7." in capsys.readouterr().out
    assert agree(7) == began
    assert f"resuming the search in {settings().folder}." in capsys.readouterr().out
    with pytest.raises(ConfigError, match=rf"{name} \(5\) is less than the 7 of the search"):
        agree(5)
    other = identity.of(Config.from_flat({"dropout": 0.25}), grown(9), SPACE, "data")
    with pytest.raises(ConfigError, match=rf"holds another search \(.*{name} 7 -> 9"):
        identity.agree(grown(9), other)


@pytest.mark.usefixtures("trial")
def test_a_damaged_identity_is_reported_with_its_path(settings):
    path = settings().folder / identity.FILE
    path.write_text("{half")
    with pytest.raises(RunError, match=r"search\.json can't be read .* restore it from a copy"):
        identity.load(settings())


def test_a_new_search_has_no_identity_yet(settings):
    assert identity.load(settings()) is None
    began = identity.agree(settings(), identity.of(Config(), settings(), SPACE, "data"))
    saved = json.loads((settings().folder / identity.FILE).read_text())
    assert saved["began"] == began
    assert saved["space"] == str(SPACE)


def test_a_search_without_a_trial_may_change(settings, capsys):
    """A command that failed before its first trial must not refuse the corrected one."""
    identity.agree(settings(), identity.of(Config(), settings(), SPACE, "data"))
    identity.agree(settings(), identity.of(Config(), settings(), Space.parse("dropout"), "data"))
    saved = json.loads((settings().folder / identity.FILE).read_text())
    assert saved["space"] == "dropout=0:0.6:0.1"
    assert capsys.readouterr().out == ""


@pytest.mark.usefixtures("trial")
def test_trials_without_an_identity_are_not_taken_over(settings):
    (settings().folder / identity.FILE).unlink()
    with pytest.raises(
        ConfigError, match=r"search\.json is missing in .*s beside trial_b0-r0-00/: "
    ):
        settings().require_free_folder()
    with pytest.raises(RunError, match=r"search\.json can't be read .* restore it from a copy"):
        identity.load(settings())


def test_a_search_json_of_something_else_is_not_written_over(settings):
    settings().folder.mkdir()
    (settings().folder / identity.FILE).write_text('{"neurons": "64:128"}')
    with pytest.raises(RunError, match=r"search\.json can't be read .* another --project_name"):
        identity.agree(settings(), identity.of(Config(), settings(), SPACE, "data"))


WRITTEN = (
    "oracle.json", "trial_b0-r0-00/", "runs/", "leaderboard.csv", "report.html", "best_config.json",
    "tensorboard/", "refit/",
)  # fmt: skip


@pytest.mark.parametrize("name", WRITTEN)
def test_what_a_search_writes_is_not_its_own_without_its_identity(tmp_path, name):
    settings = Settings(directory=str(tmp_path), project_name="a b")
    path = settings.folder / name
    path.mkdir(parents=True) if name.endswith("/") else (path.parent.mkdir(), path.write_text("my"))
    with pytest.raises(ConfigError) as refusal:
        settings.require_free_folder()
    assert str(refusal.value) == (
        f"search.json is missing in {settings.folder} beside {name}: restore it from a copy, or "
        "give another --project_name, such as --project_name='a b-2'."
    )


def test_what_a_search_writes_is_listed_whole():
    assert set(WRITTEN) == {n.replace("*", "b0-r0-00") for n in OF_SEARCH} - {identity.FILE}


def test_a_directory_of_other_files_is_no_search(tmp_path):
    settings = Settings(directory=str(tmp_path), project_name="a b")
    settings.require_free_folder()
    (settings.folder / "images").mkdir(parents=True)  # Of the benchmark.
    for name in ("worker-0.log", ".lock", "README.md"):
        (settings.folder / name).write_text("")
    settings.require_free_folder()
    (settings.folder / "main.py").write_text("")
    with pytest.raises(
        ConfigError, match=r"holds other files \(main.py\); .* --project_name='a b-"
    ):
        settings.require_free_folder()
    (settings.folder / "search.json").write_text("{}")
    settings.require_free_folder()


@pytest.mark.parametrize("inside", ["", "trial_b0-r0-00", "runs/b0-00"])
@pytest.mark.usefixtures("trial")
def test_a_search_is_not_begun_inside_another(settings, tmp_path, inside):
    link = tmp_path / "link"
    link.symlink_to(settings().folder / inside)
    for directory in (settings().folder / inside, link):
        with pytest.raises(ConfigError, match=f"is inside the search at .*--directory={tmp_path}"):
            settings(directory=str(directory), project_name="t").require_free_folder()
    with pytest.raises(ConfigError, match="is inside the search at"):
        settings(directory=str(settings().folder), project_name="runs").require_free_folder()


def test_a_file_of_ranges_makes_no_search_of_its_folder(settings, tmp_path):
    (tmp_path / "search.json").write_text('{"neurons": "64:128"}')
    settings().require_free_folder()


@pytest.fixture
def resumed(settings):
    """A search with a trial, whose precision was measured and whose size a budget chose."""
    given = settings(search="neurons=8|16")
    chosen = Config.from_flat({"precision": "mixed_bfloat16", "max_epochs": 7})
    identity.agree(given, identity.of(chosen, given, SPACE, "data"))
    (given.folder / "trial_b0-r0-00").mkdir()
    return given


@pytest.mark.parametrize(
    ("options", "changes"),
    [
        ({"max_epochs": 7}, {}),
        ({"max_epochs": 7}, {"hyperband_iterations": 2}),
        ({"max_epochs": 7, "precision": "mixed_bfloat16"}, {"workers": 2}),
        ({"max_epochs": 20}, {"budget_minutes": 5.0}),
        ({"max_epochs": 20}, {"search_seed": 1, "dry_run": True}),
        ({"max_epochs": 20}, {"project_name": "new"}),
    ],
)
def test_before_tensorflow_only_known_options_are_compared(resumed, options, changes):
    given = dataclasses.replace(resumed, **changes)
    identity.require_same_options(Config.from_flat(options), given)


@pytest.mark.parametrize(
    ("options", "changes", "message"),
    [
        ({}, {"search_seed": 1}, r"another search \(search_seed 0 -> 1, max_epochs 7 -> 30\)"),
        ({"max_epochs": 7}, {"search": "dropout"}, r"\(space 'neurons=8\|16' -> 'dropout="),
        ({"max_epochs": 7, "precision": "float32"}, {}, "precision 'mixed_bfloat16' -> 'float32'"),
    ],
)
def test_changed_options_are_refused_before_tensorflow_loads(resumed, options, changes, message):
    given = dataclasses.replace(resumed, **changes)
    with pytest.raises(ConfigError, match=message):
        identity.require_same_options(Config.from_flat(options), given)


def test_a_smaller_search_is_refused_before_tensorflow_loads(resumed):
    path = resumed.folder / identity.FILE
    path.write_text(json.dumps(json.loads(path.read_text()) | {"hyperband_iterations": 3}))
    with pytest.raises(ConfigError, match=r"hyperband_iterations \(1\) is less than the 3"):
        identity.require_same_options(Config.from_flat({"max_epochs": 7}), resumed)
