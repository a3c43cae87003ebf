"""The event files of a search, read as TensorBoard reads them."""

from __future__ import annotations

import math

import pytest
import tensorflow as tf
from tensorboard.backend.event_processing import event_file_loader
from tensorboard.plugins.hparams import api_pb2, metadata

from tests.support.searches import DIMENSIONS, VALUES, failed, large, search, trial
from tuner import statuses
from tuner.reports import hparams


def values_in(folder):
    """Every summary value of the folder's one event file, with its step."""
    (path,) = folder.glob("events.out.tfevents.*")
    events = event_file_loader.EventFileLoader(str(path)).Load()
    return [(event.step, value) for event in events for value in event.summary.value]


def plugin_data(folder, tag):
    (value,) = [value for _, value in values_in(folder) if value.tag == tag]
    content = value.metadata.plugin_data.content
    return {
        metadata.EXPERIMENT_TAG: metadata.parse_experiment_plugin_data,
        metadata.SESSION_START_INFO_TAG: metadata.parse_session_start_info_plugin_data,
        metadata.SESSION_END_INFO_TAG: metadata.parse_session_end_info_plugin_data,
    }[tag](content)


def scalars(folder):
    return {
        (value.tag, step): float(tf.make_ndarray(value.tensor))
        for step, value in values_in(folder)
        if value.metadata.plugin_data.plugin_name == "scalars"
    }


def test_the_experiment_has_dimensions_with_their_bounds_and_the_objective(tmp_path):
    hparams.write(search(trial()), tmp_path)
    found = plugin_data(tmp_path, metadata.EXPERIMENT_TAG)
    infos = {info.name: info for info in found.hparam_infos}
    assert list(infos) == [dimension.name for dimension in DIMENSIONS]
    assert infos["learning_rate"].domain_interval.max_value == 1e-2
    assert set(infos["augmentation"].domain_discrete) == {"none", "light", "strong"}
    assert infos["augmentation"].type == api_pb2.DATA_TYPE_STRING
    assert [info.name.tag for info in found.metric_infos] == ["best_val_auc", "epochs"]


def test_a_configuration_has_its_values(tmp_path):
    hparams.write(search(trial(configuration="b0-00")), tmp_path)
    found = plugin_data(tmp_path / "b0-00", metadata.SESSION_START_INFO_TAG)
    assert found.group_name == "b0-00"
    assert found.hparams["neurons"].number_value == VALUES["neurons"]
    assert found.hparams["augmentation"].string_value == "light"
    assert found.start_time_secs == 2.0


def test_a_configuration_has_its_best_score_and_the_curves_of_all_its_rungs(tmp_path):
    first = trial("r0", configuration="x", curve=[{"epoch": 1, "val_auc": 0.75}])
    second = trial(
        "r1", configuration="x", first_epoch=1, epochs=2, curve=[{"epoch": 2, "val_auc": 0.5}]
    )
    hparams.write(search(second, first), tmp_path)
    assert scalars(tmp_path / "x") == {
        ("val_auc", 1): 0.75,
        ("val_auc", 2): 0.5,
        ("best_val_auc", 2): 0.75,
        ("epochs", 2): 2,
    }


def test_nan_and_infinity_are_left_out(tmp_path):
    curve = [{"epoch": 1, "loss": math.inf, "val_auc": math.nan}, {"epoch": 2, "loss": 0.5}]
    hparams.write(search(failed("a", curve=curve)), tmp_path)
    assert scalars(tmp_path / "a") == {("loss", 2): 0.5}


@pytest.mark.parametrize(
    ("subject", "status"),
    [
        (trial("a"), api_pb2.STATUS_SUCCESS),
        (failed("a"), api_pb2.STATUS_FAILURE),
        (trial("a", status=statuses.RUNNING, score=None, ended_at=None), api_pb2.STATUS_RUNNING),
    ],
)
def test_a_configuration_has_its_status(subject, status, tmp_path):
    hparams.write(search(subject), tmp_path)
    assert plugin_data(tmp_path / "a", metadata.SESSION_END_INFO_TAG).status == status


def test_writing_again_replaces_older_event_files(tmp_path):
    hparams.write(search(trial("a")), tmp_path)
    hparams.write(search(trial("a"), trial("b")), tmp_path)
    names = sorted(path.parent.name for path in tmp_path.rglob("events.*"))
    assert names == sorted([tmp_path.name, "a", "b"])


def test_other_files_are_left_alone(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    hparams.write(search(), tmp_path)
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_a_search_of_many_trials_is_written(tmp_path):
    found = large(27)
    hparams.write(found, tmp_path)
    assert len([path for path in tmp_path.iterdir() if path.is_dir()]) == 27
    best = found.best
    written = scalars(tmp_path / best.configuration)
    assert written["best_val_auc", best.epochs] == pytest.approx(best.score)
