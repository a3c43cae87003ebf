from __future__ import annotations

import dataclasses
import functools
import itertools
import json
from typing import TYPE_CHECKING

import keras
import pytest

from trainer.config import Config
from trainer.distribution import runtime
from trainer.models import precision, session

if TYPE_CHECKING:
    from collections.abc import Callable

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

    def measure(model):
        del model
        rates["calls"] += 1
        return {policy: rates[policy] for policy in precision.CANDIDATES}

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
    assert rates["calls"] == 1
    assert again.policy == "mixed_bfloat16"
    assert "measured before" in again.reason
    precision.choose(config(image_size=64), CONTEXT)
    assert rates["calls"] == 2


@pytest.mark.parametrize("content", ["", "[]", '{"images_per_s": {"float32": "fast"}}'])
def test_a_damaged_record_is_measured_again(config, rates, tmp_path, content):
    precision.choose(config(), CONTEXT)
    (record,) = (tmp_path / "precision").iterdir()
    record.write_text(content)
    precision.choose(config(), CONTEXT)
    assert rates["calls"] == 2
    assert json.loads(record.read_text())["images_per_s"]["mixed_bfloat16"] == 70.0


def test_the_measurement_runs_the_backbone(config, monkeypatch):
    monkeypatch.setattr(precision, "ROUND_S", 0.01)
    rates = precision.measure(config().model)
    assert list(rates) == list(precision.CANDIDATES)
    assert min(rates.values()) > 10


class _Machine:
    """A clock, and passes that move it; the passes of slow rounds take `slow` times as long."""

    def __init__(self, seconds: dict[str, float], slow: dict[tuple[str, int], float]) -> None:
        self._now, self._seconds, self._slow = 0.0, seconds, slow
        self.rounds = dict.fromkeys(seconds, 0)
        self.order: list[str] = []

    def clock(self) -> float:
        return self._now

    def passes(self) -> dict[str, Callable[[], None]]:
        return {policy: functools.partial(self._run, policy) for policy in self._seconds}

    def _run(self, policy: str) -> None:
        if self.order[-1:] != [policy]:
            self.order.append(policy)
            self.rounds[policy] += 1
        number = self.rounds[policy] - 1  # 0 is the pass that traces.
        self._now += self._seconds[policy] * self._slow.get((policy, number), 1)

    def rates(self) -> dict[str, float]:
        return precision.median_rates(self.passes(), clock=self.clock)


ROUNDS = range(1, precision.ROUNDS + 1)


@pytest.mark.parametrize("policy", precision.CANDIDATES)
@pytest.mark.parametrize("slow", list(itertools.combinations(ROUNDS, 2)))
@pytest.mark.parametrize(("bfloat16_s", "is_chosen"), [(0.05, True), (0.1, False), (0.2, False)])
def test_two_slow_rounds_of_one_policy_change_nothing(policy, slow, bfloat16_s, is_chosen):
    seconds = {"float32": 0.1, "mixed_bfloat16": bfloat16_s}
    rates = _Machine(seconds, {(policy, number): 20 for number in slow}).rates()
    assert (rates["mixed_bfloat16"] > rates["float32"] * precision.MARGIN) is is_chosen
    assert rates == pytest.approx({name: 8 / s for name, s in seconds.items()}, rel=0.01)


@pytest.mark.parametrize("policy", precision.CANDIDATES)
@pytest.mark.parametrize("slow", [1, 2, 3])
def test_on_a_slow_machine_rounds_are_fewer_and_one_slow_one_changes_nothing(policy, slow):
    machine = _Machine({"float32": 2.0, "mixed_bfloat16": 1.0}, {(policy, slow): 20})
    assert machine.rates() == {"float32": 4.0, "mixed_bfloat16": 8.0}
    assert machine.rounds[policy] == precision.LEAST_ROUNDS + 1


def test_rounds_of_the_policies_alternate_and_take_seconds():
    machine = _Machine({"float32": 0.1, "mixed_bfloat16": 0.05}, {})
    machine.rates()
    assert machine.rounds["float32"] + machine.rounds["mixed_bfloat16"] <= 2 * precision.ROUNDS + 2
    assert machine.clock() < 6


def test_measuring_changes_neither_weights_nor_names(config, monkeypatch):
    monkeypatch.setattr(precision, "ROUND_S", 0.0)

    def first_layer(choice: str) -> tuple[str, list[list[float]]]:
        precision.choose(config(precision=choice), CONTEXT)
        session.begin("float32", seed=0)
        layer = keras.layers.Dense(3)
        layer.build((None, 4))
        return layer.name, layer.kernel.numpy().tolist()

    assert first_layer("auto") == first_layer("float32")
