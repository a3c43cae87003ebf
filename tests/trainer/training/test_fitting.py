"""Fine-tuning in two phases: first the head alone, then the unfrozen layers with it, slowly."""

from __future__ import annotations

import json

import keras
import numpy as np
import pytest

from tests.support import commands, runs
from trainer.commands import train
from trainer.data import opening
from trainer.distribution import runtime
from trainer.errors import DivergedError
from trainer.models import classifier
from trainer.runs import run_directory
from trainer.training import checkpoint, fitting, setups


@pytest.fixture(scope="module")
def pretrained(data_dir, tmp_path_factory):
    """Weights of small_cnn, for which a run's random ones stand in."""
    folder = tmp_path_factory.mktemp("pretrained")
    keras.utils.set_random_seed(7)
    model = runs.small_config(data_dir, folder).model
    path = folder / "small_cnn.weights.h5"
    classifier.build(model, (32, 32, 1), 2).trunk.save_weights(path)
    return path


@pytest.fixture
def tune(make_config, pretrained, tmp_path):
    """Returns options -> the history and predictions of a run; it goes to the folder `name`."""

    def run(name: str, **options):
        given = {"weights": str(pretrained), "layers_to_unfreeze": "2", "dropout": 0.0}
        config = make_config(**(given | {"model_dir": str(tmp_path / name)} | options))
        train.run(config)
        return _history(tmp_path / name), (tmp_path / name / "predictions_test.csv").read_bytes()

    return run


def _history(run) -> list[dict[str, float]]:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if k not in commands.WALL_CLOCK} for row in rows]


def _losses(history, name: str = "loss") -> list[float]:
    return [row[name] for row in history]


def test_the_page_of_a_run_whose_evaluation_fails_says_so_and_loads_no_more(make_config, tmp_path):
    folder = tmp_path / "run"
    config = make_config(model_dir=str(folder), max_epochs=1)
    train.run(config)
    before = (folder / "report.html").read_text("utf-8")
    (folder / "confusion_matrix.png").unlink()
    (folder / "confusion_matrix.png").mkdir()  # In the way of the picture.
    with pytest.raises(OSError, match=r"confusion_matrix\.png"):
        train.run(config)
    assert (folder / "report.html").read_text("utf-8") == before  # Nothing was trained.
    with pytest.raises(OSError, match=r"confusion_matrix\.png"):
        train.run(make_config(model_dir=str(folder), max_epochs=2))
    page = (folder / "report.html").read_text("utf-8")
    assert "<strong>Failed</strong>" in page
    assert 'http-equiv="refresh"' not in page


def test_the_first_epochs_are_those_of_a_frozen_backbone(tune, capsys):
    frozen, _ = tune("frozen", layers_to_unfreeze="0", max_epochs=3)
    tuned, _ = tune("tuned", max_epochs=3)
    assert (
        "epochs 1 to 2 train the head alone; then the unfrozen layers train too, at learning rate "
        "1e-05 (the head: 0.001).\n"
    ) in capsys.readouterr().out
    assert tuned[:2] == frozen[:2]
    assert tuned[2] != frozen[2]


def test_features_and_images_give_the_same_losses_in_both_phases(tune):
    cached, _ = tune("cached", max_epochs=4)
    uncached, _ = tune("uncached", max_epochs=4, feature_cache="off")
    for name in ("loss", "val_loss"):
        np.testing.assert_allclose(_losses(cached, name), _losses(uncached, name), rtol=1e-3)


def test_two_replicas_train_both_phases_like_one(tune):
    rules = {"max_epochs": 4, "optimizer": "sgd", "learning_rate": 0.01}
    one, _ = tune("one", **rules)
    two, _ = tune("two", **rules, strategy="mirrored", num_logical_devices=2)
    np.testing.assert_allclose(_losses(one), _losses(two), rtol=1e-5)


@pytest.mark.parametrize(
    ("stop", "cache"),
    [
        (2, "auto"),
        *(
            pytest.param(stop, cache, marks=pytest.mark.slow)
            for stop, cache in ((1, "auto"), (3, "auto"), (1, "off"), (2, "off"), (3, "off"))
        ),
    ],
)
def test_a_run_continues_to_the_bit_from_either_phase(tune, stop, cache):
    whole = tune("whole", max_epochs=4, dropout=0.5, feature_cache=cache)
    tune("parts", max_epochs=stop, dropout=0.5, feature_cache=cache)
    assert tune("parts", max_epochs=4, dropout=0.5, feature_cache=cache) == whole


def test_patience_waits_for_the_unfrozen_layers(tune):
    """Nothing is learnt: without phases, the run would stop after two epochs."""
    history, _ = tune("run", learning_rate=0.0, head_epochs=3, patience=2, max_epochs=9)
    assert len(history) == 5


def test_the_best_epoch_may_be_of_the_head_alone(tune, tmp_path):
    """Unfrozen layers that are ruined do no harm."""
    rates = {"learning_rate": 0.0, "backbone_learning_rate": 1.0}
    history, _ = tune("run", **rates, max_epochs=4, monitor="val_auc")
    best = max(range(4), key=lambda epoch: history[epoch]["val_auc"])
    assert best < 2
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert report["best_epoch"] == best + 1


def test_epochs_that_end_before_the_layers_join_are_said(tune, capsys):
    tune("run", max_epochs=2)
    assert (
        "max_epochs (2) ends before the unfrozen layers join: the head trains alone for 2 epochs; "
        "give a larger --max_epochs, or --head_epochs=0.\n"
    ) in capsys.readouterr().out


def test_without_phases_the_rates_are_said(tune, capsys):
    tune("run", max_epochs=1, head_epochs=0, backbone_learning_rate=2e-4)
    assert "the unfrozen layers train at learning rate 0.0002 (the head: 0.001).\n" in (
        capsys.readouterr().out
    )


@pytest.mark.parametrize("options", [{"layers_to_unfreeze": "0"}, {"weights": "none"}])
def test_nothing_is_said_where_one_rate_trains_all(tune, capsys, options):
    tune("run", **{"layers_to_unfreeze": "all", "max_epochs": 1} | options)
    assert "unfrozen layers" not in capsys.readouterr().out


def test_random_weights_train_at_the_rate_of_the_head(tune, tmp_path):
    history, _ = tune("run", weights="none", layers_to_unfreeze="all", max_epochs=1)
    low, _ = tune("low", layers_to_unfreeze="all", max_epochs=1, head_epochs=0)
    assert history != low
    assert checkpoint.saved_in(tmp_path / "run" / "checkpoints")


def test_a_sum_of_gradients_that_is_not_finite_is_no_checkpoint(make_config, tmp_path):
    """It would wait there for its update, and every recovery from it would fail."""
    config = make_config(gradient_accumulation_steps=4, batch_size=16)
    data = opening.load(config.data, config.model.backbone_image_size)
    context = runtime.build(config.runtime)
    setup = setups.build(config, data, context)
    directory = run_directory.RunDirectory(tmp_path / "run")
    hooks = fitting._build_callbacks(config, context, setup, directory, None)
    sums = setup.feed.model.optimizer._sums[0]
    sums.assign(sums + np.nan)
    with pytest.raises(DivergedError, match="a weight or gradient is NaN or infinite"):
        hooks.saving.save_first()
