from __future__ import annotations

import dataclasses
import json
import re
import shlex
from pathlib import Path

import pytest

from trainer import config as config_lib
from trainer.config import Config
from trainer.errors import ConfigError
from trainer.options import initial_weights


def test_the_flat_form_reads_back_to_the_same_config():
    config = Config.from_flat(
        {"dataset": "paper", "layers_to_unfreeze": "all", "dropout": 0, "model_dir": "x"}
    )
    assert Config.from_flat(json.loads(json.dumps(config.to_flat()))) == config


def test_flag_names_are_unique():
    names = [field.name for _, field in config_lib.fields()]
    assert len(names) == len(set(names))


def test_defaults_are_those_of_the_documentation():
    flat = Config().to_flat()
    documented = {
        "dataset": "grouped", "backbone": "vgg16", "weights": "imagenet", "image_size": 0,
        "layers_to_unfreeze": "0", "neurons": 256, "dense_layers": 1, "dropout": 0.5,
        "pooling": "avg", "learning_rate": 1e-3, "optimizer": "adam", "schedule": "constant",
        "warmup_epochs": 0, "weight_decay": 0.0, "global_clipnorm": 0.0, "label_smoothing": 0.0,
        "max_epochs": 30, "patience": 5, "batch_size": 0, "fixed_step_size": 100,
        "use_all_samples": True, "class_weights": "none", "augmentation": "none", "views": 0,
        "strategy": "auto", "precision": "auto", "seed": 0,
    }  # fmt: skip
    assert documented.items() <= flat.items()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"batch_size": -1}, "batch_size (-1) must be at least 0."),
        ({"batch_size": "many"}, 'batch_size ("many") must be a whole number.'),
        ({"batch_size": True}, "batch_size (true) must be a whole number."),
        ({"use_all_samples": 1}, "use_all_samples (1) must be true or false."),
        ({"dropout": 1.0}, "dropout (1) must be less than 1."),
        ({"dropout": 50.0}, "dropout (50) must be less than 1; did you mean 0.5?"),
        ({"dropout": 100.0}, "dropout (100) must be less than 1."),
        ({"learning_rate": float("nan")}, "learning_rate (nan) must be finite."),
        ({"optimizer": "lion"}, "optimizer (lion) must be one of adam, adamw, sgd."),
        ({"layers_to_unfreeze": "-1"}, "layers_to_unfreeze (-1) must be a number of layers"),
        ({"warmup_epochs": 31}, "warmup_epochs (31) exceeds max_epochs (30)."),
        ({"schedule_epochs": 9}, "schedule_epochs (9) must be at least max_epochs (30), or 0."),
        (
            {"warmup_epochs": 41, "schedule_epochs": 40},
            "warmup_epochs (41) exceeds schedule_epochs (40).",
        ),
        ({"monitor": "val_f1"}, "monitor (val_f1) must be one of val_loss, val_auc."),
        ({"views": 3}, "views (3) needs --augmentation"),
        ({"views": 3, "augmentation": "light", "feature_cache": "off"}, "feature_cache is off"),
        ({"seed": 2**32}, "seed (4294967296) must be less than"),
        ({"model_dir": "s3://bucket/run"}, "model_dir (s3://bucket/run) has the scheme s3://"),
        ({"data_dir": "gs:///run"}, "data_dir (gs:///run) has no valid bucket name ('')"),
        (
            {"data_dir": "gs://Bucket/run"},
            "has no valid bucket name ('Bucket'); write gs://BUCKET/PREFIX.",
        ),
        ({"cache_dir": "gs://bucket/a//b"}, "'a//b' is not a plain relative path."),
        ({"manual_dir": "gs://bucket/zip"}, "manual_dir (gs://bucket/zip) must be a local path"),
        ({"weights": "gs://bucket/x.h5"}, "weights (gs://bucket/x.h5) must be a local path"),
        ({"staging_dir": "gs://bucket/x"}, "staging_dir (gs://bucket/x) must be a local path"),
        ({"bach_size": 3}, "unknown option bach_size; did you mean batch_size?"),
    ],
)
def test_bad_values_are_named_with_their_limits(values, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        Config.from_flat(values)


def test_the_command_of_a_config_is_one_for_a_shell():
    names = ("model_dir", "data_dir", "manual_dir", "cache_dir", "staging_dir", "weights")
    paths = {name: f'/x/a b\'s "{name}" $HOME' for name in names}
    words = shlex.split(Config.from_flat(paths).command_line())
    assert words[:3] == ["python", "-m", "trainer"]
    assert sorted(words[3:]) == sorted(f"--{name}={path}" for name, path in paths.items())


def test_a_run_opens_where_its_weights_file_is_not():
    assert Config.from_flat({"weights": "/absent/best.keras"}).model.weights.startswith("/absent")


@pytest.mark.parametrize(
    "options",
    [
        {"backbone": "small_cnn", "weights": "none"},  # It has no others, and is for trying.
        {"backbone": "vgg16", "weights": "none", "layers_to_unfreeze": "all"},
        {"backbone": "vgg16", "layers_to_unfreeze": "19"},
    ],
)
def test_what_can_train_passes_the_check_before_training(options):
    initial_weights.check(Config.from_flat(options).model)


def test_a_number_of_layers_may_be_a_number_in_json():
    assert Config.from_flat({"layers_to_unfreeze": 4}).model.layers_to_unfreeze == "4"


def test_every_option_is_read_outside_of_config():
    """Otherwise a flag would have no effect."""
    folder = Path(config_lib.__file__).parent
    declared = {folder / "config.py", *(folder / "options").glob("*.py")}
    sources = [path for path in folder.rglob("*.py") if path not in declared]
    text = "\n".join(path.read_text("utf-8") for path in sources)
    properties = {
        "staging_dir": "staging_root",
        "image_size": "backbone_image_size",
        "schedule_epochs": "horizon",
        "backbone_learning_rate": "backbone_rate",
        "operating_point": "rule",
        "backbones": "backbone_names",
        "format": "formats",
    }
    groups = "config|features|runtime|data|model|optimization|benchmark|checkpoints|rules"
    groups += "|evaluation|comparison|inference|options"

    def is_read(name):
        return re.search(rf"({groups})\.{name}\b", text)

    unread = [
        field.name
        for _, field in config_lib.fields()
        if not is_read(field.name) and not is_read(properties.get(field.name, field.name))
    ]
    assert not unread


def test_a_cache_in_a_bucket_has_a_local_folder():
    config = Config.from_flat({"cache_dir": "gs://bucket/a/b/", "staging_dir": "/big"})
    assert config.cache_root == Path("/big/bucket/a/b")


def test_the_tree_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Config().model_dir = "elsewhere"  # type: ignore[misc]


@pytest.mark.parametrize(
    "name", ["model_dir", "data_dir", "manual_dir", "cache_dir", "staging_dir", "weights"]
)
@pytest.mark.parametrize("path", ["gs:/bucket/x", "~nobody-of-this-name/x", "s3://bucket/x"])
def test_every_folder_that_is_neither_local_nor_in_a_bucket_is_refused(name, path):
    with pytest.raises(ConfigError, match=rf"{name} \({path}\)"):
        Config.from_flat({name: path})


@pytest.mark.parametrize(
    "weights", ["runs/a", "runs/a/", "runs/../runs/a/best.keras", "link", "{}"]
)
@pytest.mark.parametrize("model_dir", ["runs/a", "./runs/a/", "link", "{}"])
def test_a_run_does_not_start_from_its_own_model(tmp_path, monkeypatch, weights, model_dir):
    monkeypatch.chdir(tmp_path)
    run = tmp_path / "runs" / "a"
    run.mkdir(parents=True)
    (run / "best.keras").write_text("")
    (tmp_path / "link").symlink_to(run, target_is_directory=True)
    model = Config.from_flat({"weights": weights.format(run)}).model
    with pytest.raises(ConfigError, match="are the same run: name another --model_dir to start"):
        initial_weights.check(model, model_dir.format(run))
    for other in ("", "runs/b", "gs://runs/a"):
        initial_weights.check(model, other)


@pytest.mark.parametrize(
    ("name", "end"),
    [
        ("batch_size", "; from 0 to 131071"),
        ("neurons", "; from 1 to 131071"),
        ("dropout", "; from 0 to less than 1"),
        ("max_epochs", "; at least 1"),
        ("patience", "for this reason"),
    ],
)
def test_help_ends_with_the_range_of_a_number(name, end):
    field = next(field for _, field in config_lib.fields() if field.name == name)
    assert field.metadata["option"].full_help(field.default).endswith(end)


def _check(**options):
    initial_weights.check(Config.from_flat(options).model)


@pytest.mark.parametrize(
    "name", ["weights", "data_service", "layers_to_unfreeze", "model_dir", "staging_dir"]
)
@pytest.mark.parametrize("value", ["x" * 200_000, "x" * 4000, "a\0b"])
def test_what_is_said_of_a_text_that_is_refused_is_short_and_printable(name, value):
    with pytest.raises(ConfigError) as refusal:
        _check(**{name: value})
    assert len(str(refusal.value)) < 1500
    assert str(refusal.value).isprintable()


def test_leading_zeros_are_no_other_number_of_layers():
    assert Config.from_flat({"layers_to_unfreeze": "04"}) == Config.from_flat(
        {"layers_to_unfreeze": "4"}
    )
    assert Config.from_flat({"layers_to_unfreeze": "00"}).model.layers_to_unfreeze == "0"


def test_an_automatic_batch_size_is_no_change_of_a_runs_own():
    run = Config.from_flat({"batch_size": 36})
    assert Config().changes_from(run) == {}
    assert run.changes_from(Config()) == {"batch_size": (0, 36)}
