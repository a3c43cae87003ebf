"""Which runs a comparison trains, and whose weights a value of --weights is."""

from __future__ import annotations

import re

import pytest

from trainer.errors import ConfigError
from trainer.options import ComparisonOptions, ModelOptions, initial_weights, planned_runs

PAIR = ("vgg16", "mobilenet_v2")


@pytest.fixture
def folder(tmp_path):
    for name in ("vgg16_weights_notop.h5", "MobileNet_V2_1.0.weights.h5", "notes.txt"):
        (tmp_path / name).touch()
    return tmp_path


def _weights(value, names=PAIR) -> dict[str, str]:
    found = planned_runs.networks(ModelOptions(weights=str(value)), names)
    return {name: model.weights for name, model in found.items()}


def test_every_backbone_trains_with_each_seed_one_seed_after_the_other():
    plan = planned_runs.plan(
        ComparisonOptions(backbones="vgg16,xception", seeds=2), ModelOptions(), 5
    )
    assert [run.name for run in plan] == [
        "vgg16-seed5", "xception-seed5", "vgg16-seed6", "xception-seed6",
    ]  # fmt: skip
    assert {run.model.backbone for run in plan} == {"vgg16", "xception"}


def test_imagenets_weights_are_of_all():
    assert _weights("imagenet") == dict.fromkeys(PAIR, "imagenet")


def test_a_folder_has_a_file_named_after_each_backbone(folder):
    assert _weights(folder) == {
        "vgg16": f"{folder}/vgg16_weights_notop.h5",
        "mobilenet_v2": f"{folder}/MobileNet_V2_1.0.weights.h5",
    }


def test_keras_own_names_are_recognized(tmp_path):
    names = {"efficientnet_v2_b0": "efficientnet_v2-b0.h5", "convnext_tiny": "convnext_tiny.h5"}
    for name in names.values():
        (tmp_path / name).touch()
    assert _weights(tmp_path, tuple(names)) == {k: f"{tmp_path}/{v}" for k, v in names.items()}


def test_a_list_names_them_and_leaves_imagenet_to_the_others():
    assert _weights("vgg16=a.h5") == {"vgg16": "a.h5", "mobilenet_v2": "imagenet"}


def test_a_file_is_of_one_backbone():
    assert _weights("a.h5", ("vgg16",)) == {"vgg16": "a.h5"}


def test_random_weights_train_all_layers_of_that_backbone_alone():
    found = planned_runs.networks(ModelOptions(weights="vgg16=none"), PAIR)
    assert {n: of.layers_to_unfreeze for n, of in found.items()} == {
        "vgg16": "all", "mobilenet_v2": "0",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ("a.h5", "weights (a.h5) can't be of 2 backbones; give imagenet, none, a folder with a"),
        ("vgg16=a.h5,xception=b.h5", "weights (xception=b.h5) must be BACKBONE=WEIGHTS, of one of"),
        ("vgg16=a.h5,vgg16=b.h5", "weights names vgg16 twice."),
        ("vgg16=", "weights (vgg16=) must be BACKBONE=WEIGHTS"),
        ("vgg16=a.h5,b.h5", "weights (b.h5) must be BACKBONE=WEIGHTS"),
    ],
)
def test_weights_that_do_not_say_whose_they_are_are_refused(weights, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        _weights(weights)


def test_a_folder_without_a_backbones_file_is_refused(folder):
    with pytest.raises(ConfigError, match=r"has no file named after xception \(xception\*.h5\)"):
        _weights(folder, ("vgg16", "xception"))


def test_a_folder_with_two_files_of_a_backbone_is_refused(folder):
    (folder / "vgg16_top.h5").touch()
    with pytest.raises(ConfigError, match=r"has vgg16_top.h5 and vgg16_weights_notop.h5 for vgg16"):
        _weights(folder)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backbones": "vgg16,resnet"}, "backbones (resnet) must be one of vgg16, "),
        ({"backbones": "vgg16,,xception"}, "backbones has an empty name"),
        ({"backbones": "vgg16, vgg16"}, "backbones names vgg16 twice."),
        ({"runs": "a"}, "runs (a) must name two or more runs."),
        ({"runs": "a,a"}, "runs names a twice."),
        ({"runs": "a,b", "backbones": "vgg16"}, "give one of them."),
        ({"seeds": 0}, "seeds (0) must be at least 1."),
    ],
)
def test_options_that_name_nothing_to_compare_are_refused(options, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        ComparisonOptions(**options)


@pytest.mark.parametrize(
    ("options", "given", "model_dir", "message"),
    [
        ({}, {}, "", "--mode=compare needs --backbones=A,B, to train"),
        ({"backbones": "vgg16"}, {"backbone": "xception"}, "", "backbone (xception) and backbones"),
        ({"backbones": "vgg16"}, {"local_workers": 2}, "", "local_workers (2) starts other"),
        ({"backbones": "vgg16"}, {}, "gs://hospital/c", "(gs://hospital/c) must be a local folder"),
        ({"backbones": "small_cnn"}, {}, "", "small_cnn has no ImageNet weights"),
        ({"runs": "a,b"}, {}, "gs://hospital/c", "(gs://hospital/c) must be a local folder"),
        ({"runs": "a,b/../a"}, {}, "", "runs (a) names one run twice."),
        ({"runs": "a,ftp://b"}, {}, "", "runs (ftp://b) has the scheme ftp://"),
    ],
)
def test_what_a_comparison_can_not_do_is_refused_before_it_starts(
    options, given, model_dir, message
):
    with pytest.raises(ConfigError, match=re.escape(message)):
        planned_runs.check(ComparisonOptions(**options), ModelOptions(), 0, model_dir, given)


@pytest.mark.parametrize("result", ["report.json", "best.keras"])
def test_tables_are_not_written_into_a_run(tmp_path, result):
    (tmp_path / result).touch()
    runs = ComparisonOptions(runs=f"{tmp_path},b")
    with pytest.raises(ConfigError, match="is a run's own directory; name another folder"):
        planned_runs.check(runs, ModelOptions(), 0, str(tmp_path), {})


def test_a_file_of_weights_that_is_absent_is_named_as_in_the_list():
    options, model = ComparisonOptions(backbones="vgg16"), ModelOptions(weights="vgg16=/no/w.h5")
    with pytest.raises(
        ConfigError, match=r"w\.h5 does not exist; give --weights=vgg16=PATH of one"
    ):
        planned_runs.check(options, model, 0, "", {})
    with pytest.raises(ConfigError, match="is a list, which is for --mode=compare; give "):
        initial_weights.check(model)


def test_finished_runs_need_nothing_else():
    planned_runs.check(ComparisonOptions(runs="a,b"), ModelOptions(weights="gone.h5"), 0, "", {})
