"""What is suggested for a word that is no option or value."""

from __future__ import annotations

import pytest

from trainer import config as config_lib
from trainer.options import EXPORT_FORMATS
from trainer.system import hints
from tuner import settings

CHOICES = {
    field.name: field.metadata["option"].choices
    for field in (*(field for _, field in config_lib.fields()), *settings.fields())
} | {"format": EXPORT_FORMATS}  # Several of them are one value.


@pytest.mark.parametrize(
    ("option", "given", "meant"),
    [
        ("strategy", "gpu", ["auto", "mirrored"]),
        ("strategy", "CUDA", ["auto", "mirrored"]),
        ("strategy", "cpu", ["one_device"]),
        ("strategy", "tpus", ["tpu"]),
        ("strategy", "ddp", ["mirrored", "multi_worker"]),
        ("strategy", "one", ["one_device"]),
        ("strategy", "quux", []),
        ("precision", "fp16", ["mixed_float16"]),
        ("precision", "bf16", ["mixed_bfloat16"]),
        ("precision", "mixed", ["mixed_bfloat16", "mixed_float16"]),
        ("backbone", "VGG-16", ["vgg16"]),
        ("backbone", "inception", ["inception_resnet_v2"]),
        ("backbone", "resnet50", ["inception_resnet_v2"]),
        ("backbone", "mobilenet", ["mobilenet_v2"]),
        ("optimizer", "AdamW", ["adamw"]),
        ("algorithm", "asha", ["hyperband"]),
        ("objective", "accuracy", ["val_auc"]),
    ],
)
def test_a_value_is_found_by_its_meaning_and_then_by_its_letters(option, given, meant):
    assert hints.values(option, given, CHOICES[option]) == meant


def test_every_value_that_is_suggested_exists():
    """But for --mode and --recipe, which are no fields."""
    tables = {name: meant for name, meant in hints._VALUES.items() if name in CHOICES}
    assert hints._VALUES.keys() - tables.keys() == {"mode", "recipe"}
    for name, table in tables.items():
        assert set(" ".join(table).split()) <= set(CHOICES[name]), name
        words = [word for said in table.values() for word in said.split()]
        assert not set(words) & set(CHOICES[name]), name
        assert len(words) == len(set(words)), name


def test_every_option_that_is_suggested_exists():
    named = set(" ".join(hints._OPTIONS.values()).split())
    assert named - CHOICES.keys() == {"model_dir", "config_file", "help", "version", "verbosity"}
