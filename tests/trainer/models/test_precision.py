from __future__ import annotations

import dataclasses
import json

import keras
import pytest

from trainer.config import Config
from trainer.distribution import runtime
from trainer.models import precision, session

CONTEXT = runtime.Context(runtime.tf.distribute.get_strategy(), "CPU", 1, ())


@pytest.fixture
def config(tmp_path):
    def make(**options) -> Config:
        small = {"backbone": "small_cnn", "image_size": 32, "cache_dir": str(tmp_path)}
        return Config.from_flat(small | options)

    return make


@pytest.fixture
def rates(monkeypatch):
    """Replaces `measure`, whose timings a test can't predict, and counts its calls."""
    rates = {"float32": 10.0, "mixed_bfloat16": 70.0, "calls": 0}

    def measure(model, policy):
        del model
        rates["calls"] += 1
        return rates[policy]

    monkeypatch.setattr(precision, "measure", measure)
    return rates


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16", "mixed_float16"])
def test_a_named_policy_is_chosen_and_layers_use_it(config, policy):
    assert precision.choose(config(precision=policy), CONTEXT) == precision.Choice(policy, "")
    session.begin(policy, seed=0)
    layer = keras.layers.Dense(1)
    assert layer.compute_dtype == policy.removeprefix("mixed_")
    assert layer.variable_dtype == "float32"


@pytest.mark.parametrize(
    ("device", "policy"), [("TPU", "mixed_bfloat16"), ("GPU", "mixed_float16")]
)
def test_an_accelerator_needs_no_measurement(config, rates, device, policy):
    choice = precision.choose(config(), dataclasses.replace(CONTEXT, device=device))
    assert choice.policy == policy
    assert policy in choice.reason
    assert rates["calls"] == 0


@pytest.mark.parametrize(
    ("bfloat16", "policy"), [(70.0, "mixed_bfloat16"), (11.0, "float32"), (3.0, "float32")]
)
def test_a_cpu_chooses_the_clearly_faster_policy_and_gives_the_reason(
    config, rates, bfloat16, policy
):
    rates["mixed_bfloat16"] = bfloat16
    choice = precision.choose(config(), CONTEXT)
    assert choice.policy == policy
    assert f"10.0 img/s in float32 and at {bfloat16:.1f} img/s in bfloat16" in choice.reason
    assert "measured now" in choice.reason


def test_a_machine_is_measured_once_for_each_backbone_and_size(config, rates):
    precision.choose(config(), CONTEXT)
    again = precision.choose(config(), CONTEXT)
    assert rates["calls"] == 2
    assert again.policy == "mixed_bfloat16"
    assert "measured before" in again.reason
    precision.choose(config(image_size=64), CONTEXT)
    assert rates["calls"] == 4


@pytest.mark.parametrize("content", ["", "[]", '{"images_per_s": {"float32": "fast"}}'])
def test_a_damaged_record_is_measured_again(config, rates, tmp_path, content):
    precision.choose(config(), CONTEXT)
    (record,) = (tmp_path / "precision").iterdir()
    record.write_text(content)
    precision.choose(config(), CONTEXT)
    assert rates["calls"] == 4
    assert json.loads(record.read_text())["images_per_s"]["mixed_bfloat16"] == 70.0


@pytest.mark.parametrize("policy", precision.CANDIDATES)
def test_the_measurement_runs_the_backbone(config, policy, monkeypatch):
    monkeypatch.setattr(precision, "TRIAL_S", 0.05)
    assert precision.measure(config().model, policy) > 10


def test_measuring_changes_neither_weights_nor_names(config, monkeypatch):
    monkeypatch.setattr(precision, "TRIAL_S", 0.0)

    def first_layer(choice: str) -> tuple[str, list[list[float]]]:
        precision.choose(config(precision=choice), CONTEXT)
        session.begin("float32", seed=0)
        layer = keras.layers.Dense(3)
        layer.build((None, 4))
        return layer.name, layer.kernel.numpy().tolist()

    assert first_layer("auto") == first_layer("float32")
