"""The Python API given values of every type: converted, or refused in one sentence."""

from __future__ import annotations

import dataclasses
import enum
import inspect
import json
import pathlib

import numpy as np
import pytest

import trainer
from trainer import config as config_lib
from trainer import options
from trainer.config import Config
from trainer.errors import ConfigError
from tuner import search
from tuner import settings as settings_lib
from tuner.settings import Settings


class _Level(enum.IntEnum):
    FOUR = 4


class _Word(enum.StrEnum):
    VGG = "vgg16"


class _Unprintable:
    def __repr__(self) -> str:
        raise RuntimeError("no text")


ANY = {
    "None": None,
    "True": True,
    "an integer": 3,
    "a huge integer": 10**5000,
    "a float": 0.5,
    "a complex number": 1j,
    "a text": "three",
    "bytes": b"three",
    "a list": [3],
    "a tuple": (3,),
    "a dict": {"batch_size": 3},
    "a dict with other keys": {(1, 2): 3},
    "a set": {3},
    "a function": print,
    "a class": Config,
    "an object": object(),
    "an unprintable object": _Unprintable(),
    "an array": np.arange(3),
    "an array of no axes": np.array(3),
    "a config": Config(),
    "a path": pathlib.Path("a/b"),
    "a NumPy integer": np.int64(3),
    "a NumPy float": np.float32(0.5),
    "a NumPy bool": np.bool_(True),
    "a NumPy text": np.str_("three"),
    "a NumPy date": np.datetime64("2026-01-01"),
    "a NumPy NaN": np.float64("nan"),
    "a member of an enumeration": _Level.FOUR,
}
OPTIONS = [field.name for _, field in config_lib.fields()] + ["model_dir"]
SETTINGS = [field.name for field in settings_lib.fields()]

every_value = pytest.mark.parametrize("kind", ANY)


def _refusal(call, *args, **named) -> str:
    """Returns the sentence with which a call is refused."""
    with pytest.raises(ConfigError) as raised:
        call(*args, **named)
    sentence = str(raised.value)
    assert sentence.endswith((".", "?"))
    assert len(sentence.splitlines()) == 1
    assert len(sentence) < 400
    return sentence


def _is_taken(build, name, values) -> bool:
    """Whether the value is taken; if not, the sentence about it names the option."""
    try:
        build(values)
    except ConfigError:
        assert name in _refusal(build, values)
        return False
    return True


def _read_back(flat):
    return json.loads(json.dumps(flat))


@every_value
def test_an_option_takes_a_value_that_json_holds_or_refuses_it_by_name(kind):
    taken = [name for name in OPTIONS if _is_taken(Config.from_flat, name, {name: ANY[kind]})]
    for name in taken:
        flat = Config.from_flat({name: ANY[kind]}).to_flat()
        assert Config.from_flat(_read_back(flat)) == Config.from_flat(flat)
        assert type(flat[name]) is type(Config().to_flat()[name])


@every_value
def test_a_setting_of_a_search_takes_a_value_that_json_holds_or_refuses_it_by_name(kind):
    build = lambda values: Settings(**values)  # noqa: E731 -- Called as from_flat is.
    for name in [name for name in SETTINGS if _is_taken(build, name, {name: ANY[kind]})]:
        values = dataclasses.asdict(Settings(**{name: ANY[kind]}))
        assert Settings(**_read_back(values)) == Settings(**values)
        assert type(values[name]) is type(getattr(Settings(), name))


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("batch_size", np.int64(16), 16),
        ("batch_size", np.uint8(16), 16),
        ("batch_size", _Level.FOUR, 4),
        ("learning_rate", np.float32(1e-3), 1e-3),
        ("learning_rate", np.float64(1e-3), 1e-3),
        ("learning_rate", np.float16(0.1), 0.1),
        ("dropout", np.int32(0), 0.0),
        ("use_all_samples", np.bool_(False), False),
        ("backbone", np.str_("vgg16"), "vgg16"),
        ("backbone", _Word.VGG, "vgg16"),
        ("layers_to_unfreeze", np.int64(4), "4"),
        ("model_dir", pathlib.Path("runs/a"), "runs/a"),
        ("data_dir", pathlib.Path("/data"), "/data"),
        ("manual_dir", pathlib.Path("/zip"), "/zip"),
        ("cache_dir", pathlib.Path("/cache"), "/cache"),
        ("staging_dir", pathlib.Path("/staging"), "/staging"),
        ("weights", pathlib.Path("/best.keras"), "/best.keras"),
    ],
)
def test_paths_and_numpys_scalars_are_those_of_python(name, value, expected):
    config = Config.from_flat({name: value})
    found = config.to_flat()[name]
    assert (found, type(found)) == (expected, type(expected))
    assert config == Config.from_flat({name: expected})
    assert hash(config) == hash(Config.from_flat({name: expected}))


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("batch_size", "32", 'batch_size ("32") must be a whole number.'),
        ("batch_size", 32.0, "batch_size (32.0) must be a whole number."),
        ("batch_size", None, "batch_size (null) must be a whole number."),
        ("batch_size", np.arange(3), "batch_size (a ndarray) must be a whole number."),
        ("learning_rate", "1e-3", 'learning_rate ("1e-3") must be a number.'),
        ("use_all_samples", "true", 'use_all_samples ("true") must be true or false.'),
        ("backbone", b"vgg16", "backbone (a bytes) must be text."),
        ("layers_to_unfreeze", 4.0, "layers_to_unfreeze (4.0) must be text."),
        pytest.param(
            "max_epochs",
            10**5000,
            "max_epochs (an int) must be less than 9223372036854775808.",
            id="huge",
        ),
        ("model_dir", 3, "model_dir (3) must be text or a path."),
    ],
)
def test_another_type_is_named_with_what_the_option_takes(name, value, message):
    assert _refusal(Config.from_flat, {name: value}) == message


@pytest.mark.parametrize("kind", [kind for kind in ANY if not isinstance(ANY[kind], dict)])
def test_options_are_a_mapping_or_refused(kind):
    for call in (Config.from_flat, Config().for_finished_run):
        assert _refusal(call, ANY[kind]).endswith(
            'must be a dict of options by name, such as {"max_epochs": 5}.'
        )


@every_value
def test_a_group_is_given_as_a_group(kind):
    for field in dataclasses.fields(Config)[:-1]:
        sentence = _refusal(Config, **{field.name: ANY[kind]})
        assert f"{field.name} (" in sentence
        assert "Config.from_flat takes options by name" in sentence


@pytest.mark.parametrize(
    ("call", "name", "message"),
    [
        (Config, "modle", "Config has no field modle; did you mean model?"),
        (Config, "lr", "Config has no field lr; its fields are data, model, optimization,"),
        (options.DataOptions, "bach_size", "has no field bach_size; did you mean batch_size?"),
        (Settings, "max_trial", "Settings has no field max_trial; did you mean max_trials?"),
        (Config, "a\nb", "Config has no field a b; its fields are"),
    ],
)
def test_an_unknown_field_is_answered_with_the_nearest(call, name, message):
    assert message in _refusal(call, **{name: 3})


def test_the_constructor_still_shows_its_fields():
    assert list(inspect.signature(Config).parameters)[:2] == ["data", "model"]
    assert next(iter(inspect.signature(options.DataOptions).parameters)) == "dataset"


def test_an_option_given_to_the_constructor_is_answered_with_its_group():
    assert _refusal(Config, batch_size=3) == (
        "Config has no field batch_size; give data=DataOptions(batch_size=...), or "
        'Config.from_flat({"batch_size": ...}).'
    )


NO_CONFIGS = [kind for kind in ANY if not isinstance(ANY[kind], Config)]
NO_PATHS = [kind for kind in ANY if not isinstance(ANY[kind], str | pathlib.Path)]


@pytest.mark.parametrize("kind", NO_CONFIGS)
def test_every_function_refuses_what_is_no_config(kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    value, config = ANY[kind], Config()
    for call in (
        lambda: trainer.train(value),
        lambda: trainer.Run(value),
        lambda: search.run(value, Settings(), []),
        lambda: search.run(config, value, []),
        lambda: config.with_precision(value),
        lambda: config.changes_from(value),
        lambda: config.command_line(0 if value is None else value),
    ):
        assert "must be" in _refusal(call)


@pytest.mark.parametrize("kind", NO_PATHS)
def test_a_run_is_opened_by_text_or_a_path_alone(kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for call in (trainer.open_run, trainer.evaluate):
        assert _refusal(call, ANY[kind]).endswith("must be text or a path.")
        assert "staging_dir (" in _refusal(call, "three", staging_dir=ANY[kind])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("path", ["three", pathlib.Path("three"), np.str_("three")])
def test_text_and_paths_name_a_run(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for call in (trainer.open_run, trainer.evaluate):
        with pytest.raises(trainer.RunError, match="there is no run at three, which does not"):
            call(path)


def test_an_empty_text_names_no_run():
    assert _refusal(trainer.open_run, "") == "model_dir is empty; name the run's directory."
