"""Options that change nothing: refused where the user gave them, and said where a file did."""

from __future__ import annotations

import json
import shlex

import pytest

from trainer import config as config_lib
from trainer import effects, flags
from trainer.commands import train
from trainer.config import Config
from trainer.errors import ConfigError

FIELDS = {field.name: field for _, field in config_lib.fields()}
IN_VAIN = {
    "fixed_step_size": (10, {}),
    "tail": ("drop", {"use_all_samples": False}),
    "backbone_learning_rate": (0.5, {}),
    "head_epochs": (3, {}),
    "schedule_epochs": (40, {}),
    "neurons": (9, {"dense_layers": 0}),
    "dropout": (0.1, {"dense_layers": 0}),
    "tpu": ("my-tpu", {}),
    "num_logical_devices": (2, {}),
    "tpu_topology": ("v5e:2x4", {}),
    "benchmark_images": (10, {}),
    "backbones": ("vgg16,xception", {}),
    "seeds": (5, {}),
    "runs": ("runs/a,runs/b", {}),
    "images": ("scans", {}),
    "output_dir": ("out", {}),
    "heatmap": ("hirescam", {}),
    "save_maps": (True, {}),
    "format": ("onnx", {}),
    "stage_data": (False, {}),
    "staging_dir": ("/x", {}),
    "cache_budget_gb": (1.0, {"feature_cache": "off"}),
    "worker_timeout_s": (20.0, {"strategy": "one_device"}),
}
"""By option that needs another: a value, and other options, with which it changes nothing."""
MET = {
    "fixed_step_size": {"use_all_samples": False},
    "tail": {"use_all_samples": True},
    "backbone_learning_rate": {"layers_to_unfreeze": "4"},
    "head_epochs": {"layers_to_unfreeze": "4"},
    "schedule_epochs": {"schedule": "cosine"},
    "neurons": {"dense_layers": 1},
    "dropout": {"dense_layers": 1},
    "tpu": {"strategy": "tpu"},
    "num_logical_devices": {"strategy": "mirrored"},
    "tpu_topology": {"mode": "tpu_check"},
    "benchmark_images": {"mode": "benchmark"},
    "backbones": {"mode": "compare"},
    "seeds": {"mode": "compare"},
    "runs": {"mode": "compare --runs"},
    "images": {"mode": "predict"},
    "output_dir": {"mode": "explain"},
    "heatmap": {"mode": "explain"},
    "save_maps": {"mode": "explain"},
    "format": {"mode": "export"},
    "stage_data": {"data_dir": "gs://hospital/data"},
    "staging_dir": {"model_dir": "gs://hospital/run"},
    "cache_budget_gb": {"feature_cache": "auto"},
    "worker_timeout_s": {"strategy": "multi_worker"},
}
"""By option: what it needs."""


def _flags(**options) -> list[str]:
    return [f"--{name}={value}" for name, value in options.items()]


def test_every_need_has_a_row():
    assert set(IN_VAIN) == set(MET) == set(effects.NEEDS)
    named = {name for need in effects.NEEDS.values() for name in need.others}
    assert named <= {*FIELDS, "model_dir", "mode"}


@pytest.mark.parametrize("name", [n for n, need in effects.NEEDS.items() if need.is_refused])
def test_a_value_that_changes_nothing_is_refused(command, name):
    value, others = IN_VAIN[name]
    result = command(*_flags(**others, **{name: value}))
    assert result.returncode == 2
    shown = str(value).lower() if isinstance(value, bool) else value
    assert result.stderr.startswith(f"trainer: {name} ({shown}) needs --")
    assert result.stderr.endswith(f"; add that, or leave {name} out.\n")
    assert len(result.stderr.splitlines()) == 1
    assert result.stdout == ""


@pytest.mark.parametrize("name", [n for n, need in effects.NEEDS.items() if not need.is_refused])
def test_a_value_that_scripts_give_to_every_run_is_said_to_change_nothing(name):
    value, others = IN_VAIN[name]
    values = Config.from_flat({**others, name: value}).to_flat()
    (line,) = effects.lines({name: value}, values, Config().to_flat())
    assert line.startswith(f"{name} (")
    assert line.endswith(": it changes nothing here.")


@pytest.mark.parametrize("name", effects.NEEDS)
def test_a_value_that_has_what_it_needs_is_taken(name):
    value, _ = IN_VAIN[name]
    met = dict(MET[name])
    mode = met.pop("mode", "train")
    values = Config.from_flat({**met, name: value}).to_flat()
    effects.refuse({name: value}, values, mode)
    assert not list(effects.lines({name: value}, values, Config().to_flat(), mode))


@pytest.mark.parametrize("name", [n for n in IN_VAIN if "mode" not in effects.NEEDS[n].others])
def test_a_file_with_such_a_value_opens_with_a_line(name):
    """A run's config.json and a search's best_config.json have the values of all options."""
    value, others = IN_VAIN[name]
    config = Config.from_flat({**others, name: value})
    (line,) = flags.check_effects({}, config, "train")
    assert line.startswith(f"{name} (")


def test_a_file_of_defaults_opens_in_silence():
    for mode in (*flags.MODES, "search"):
        assert not flags.check_effects({}, Config(), mode)


@pytest.mark.parametrize("name", effects.NEEDS)
def test_the_command_of_a_run_is_never_refused(name):
    value, others = IN_VAIN[name]
    config = Config.from_flat({**others, name: value})
    given = [word.partition("=")[0].lstrip("-") for word in shlex.split(config.command_line())[3:]]
    effects.refuse(dict.fromkeys(given), config.to_flat())


@pytest.mark.parametrize("name", effects.NEEDS)
def test_a_run_resumes_without_the_value_that_changed_nothing(name):
    value, others = IN_VAIN[name]
    with_it, without = Config.from_flat({**others, name: value}), Config.from_flat(others)
    in_vain = set(effects.idle(without.to_flat()))
    assert name not in with_it.changes_from(without) or name not in in_vain


def test_what_a_search_varies_is_never_in_vain():
    values = Config.from_flat({"dense_layers": 0, "neurons": 9}).to_flat()
    effects.refuse({"neurons": 9}, values, "search", ["dense_layers"])


@pytest.mark.parametrize(
    ("mode", "given", "unused"),
    [
        ("selfcheck", {"model_dir": "runs/q", "seed": 3}, "model_dir (runs/q)"),
        ("selfcheck", {"fixed_step_size": 3, "data_dir": "x"}, "fixed_step_size (3), data_dir (x)"),
        ("evaluate", {"keep_checkpoints": 3, "batch_size": 8}, "keep_checkpoints (3)"),
        ("evaluate", {"fixed_step_size": 3, "augmentation": "light"},
         "fixed_step_size (3), augmentation (light)"),
        ("tpu_check", {"model_dir": "x", "batch_size": 8, "deterministic": True},
         "model_dir (x), deterministic (true)"),
        ("compare", {"backbones": "vgg16,xception", "resume": "must"}, "resume (must)"),
        ("compare --runs", {"runs": "a,b", "neurons": 8, "model_dir": "x"}, "neurons (8)"),
        ("benchmark", {"cache_dir": "x", "neurons": 8}, "cache_dir (x)"),
        ("predict", {"images": "x", "output_dir": "y", "dataset": "paper", "batch_size": 8},
         "dataset (paper)"),
        ("explain", {"images": "x", "heatmap": "hirescam", "judge_by": "age"}, "judge_by (age)"),
        ("evaluate --images", {"images": "x", "judge_by": "age", "manual_dir": "y"},
         "manual_dir (y)"),
    ],
)  # fmt: skip
def test_a_mode_names_the_options_that_it_does_not_use(mode, given, unused):
    config = Config.from_flat(given)
    assert flags.check_effects(given, config, mode) == (f"not used by --mode={mode}: {unused}.",)


def test_every_option_that_a_mode_uses_exists():
    for names in (*effects._USED.values(), *effects._REPLACED.values()):
        assert names <= {*FIELDS, "model_dir"}


def test_the_modes_line_is_printed_before_it_runs(command):
    seeds = ("--seed=1", "--seed=2")
    result = command("--mode=selfcheck", "--backbone=small_cnn", "--image_size=32",
                     "--strategy=one_device", "--model_dir=runs/q", *seeds)  # fmt: skip
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert lines[1] == "--seed is given 2 times; the last value is used: 2."
    assert lines[2] == "not used by --mode=selfcheck: model_dir (runs/q)."


def test_a_call_from_python_says_so_too(make_config, capsys):
    config = make_config(tpu="my-tpu", resume="must")
    with pytest.raises(ConfigError, match="holds no run"):
        train.train(config)
    assert (
        "tpu (my-tpu) needs --strategy=tpu: it changes nothing here.\n" in capsys.readouterr().out
    )


def test_a_saved_run_with_values_in_vain_still_opens(tmp_path):
    saved = tmp_path / "config.json"
    saved.write_text(json.dumps(Config.from_flat({"tpu": "x", "schedule_epochs": 99}).to_flat()))
    assert flags.load_options(saved)["tpu"] == "x"
