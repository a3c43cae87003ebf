"""Compiling the training step without a TPU; most tests need the extra `tpu-aot`."""

from __future__ import annotations

import importlib
import math
import sys

import keras
import pytest
import tensorflow as tf

from trainer import topologies
from trainer.config import Config
from trainer.errors import ConfigError, RunError
from trainer.models import classifier
from trainer.options import ModelOptions, OptimizationOptions
from trainer.tpu import check, flops, tracing
from trainer.training import optimization

tpu_aot = pytest.mark.tpu_aot
ONE_CHIP, EIGHT_CHIPS = (topologies.parse(name) for name in ("v5e:1x1", "v5e:2x4"))


def _config(**options) -> Config:
    small = {"backbone": "small_cnn", "image_size": 32, "neurons": 8, "dataset": "phantom"}
    return Config.from_flat(small | options)


@pytest.fixture
def aot():
    return importlib.import_module("trainer.tpu.aot")


def test_without_the_compiler_its_installation_is_explained(monkeypatch):
    monkeypatch.setitem(sys.modules, "jax", None)
    monkeypatch.delitem(sys.modules, "trainer.tpu.aot", raising=False)
    with pytest.raises(RunError, match=r'Install the extra `tpu-aot` .*pip install "\.\[cpu,tpu-'):
        check.run(_config())


@pytest.mark.parametrize("available", [1_000, 12_345, 10**7])
@pytest.mark.parametrize(("fixed", "each"), [(0, 1), (700, 3), (10, 0.1)])
def test_the_largest_batch_is_found_in_three_compilations(available, fixed, each):
    compiled = []

    def memory(batch: int) -> float:
        compiled.append(batch)
        return fixed + each * batch

    largest = check.largest_batch(memory, {8: fixed + each * 8}, available)
    assert len(compiled) <= 3
    assert fixed + each * largest <= available
    assert fixed + each * (largest + 1) > check.FULL * available


def test_the_largest_batch_is_found_where_memory_jumps():
    """Compilers pad, and change their plan with the size: memory is not quite a line."""

    def memory(batch: int) -> float:
        return 100 * math.ceil(batch / 8) * (1.0 if batch < 500 else 1.5)

    available = 100 * 62 * 1.2
    assert check.largest_batch(memory, {8: memory(8)}, available) == 499


def test_the_largest_batch_is_near_the_least_that_is_refused_where_memory_grows_in_steps():
    tried = []

    def memory(batch: int) -> float:
        tried.append(batch)
        return 31_000.0 if 4_000 < batch <= 4_096 else 7.7 * batch

    largest = check.largest_batch(memory, {32: 7.7 * 32}, 31_500)
    assert 0.99 * 4_096 <= largest <= 4_096
    assert len(tried) <= 5


def test_the_largest_batch_is_found_where_the_compiler_reports_no_size():
    def memory(batch: int) -> float:
        return 10 * batch**1.1 if batch <= 321 else math.inf

    assert check.largest_batch(memory, {8: memory(8)}, 10_000) == 321


def _compile(aot, topology, replica_batch_size=4, **options):
    step = check.Step(_config(**options), topology, aot)
    return step, step.compile(replica_batch_size)


@tpu_aot
@pytest.mark.parametrize(
    ("topology", "unfrozen", "all_reduces"),
    [(ONE_CHIP, "all", 0), (EIGHT_CHIPS, "0", 1), (EIGHT_CHIPS, "all", 2)],
)
def test_chips_wait_for_one_another_once_a_dtype(aot, topology, unfrozen, all_reduces):
    """The head's gradients and the metrics are float32, a backbone's gradients are bfloat16."""
    step, program = _compile(aot, topology, layers_to_unfreeze=unfrozen)
    assert program.all_reduces == all_reduces
    assert step.model.compute_dtype == "bfloat16"


@tpu_aot
@pytest.mark.parametrize("unfrozen", ["0", "all"])
def test_the_compiler_and_the_layers_agree_on_the_work(aot, unfrozen):
    step, program = _compile(aot, ONE_CHIP, 32, layers_to_unfreeze=unfrozen)
    assert program.flops == pytest.approx(flops.training(step.model, 32), rel=0.1)
    assert program.memory_bytes > 4 * step.model.count_params()
    assert program.moved_bytes > program.memory_bytes


@tpu_aot
def test_a_batch_beyond_the_memory_is_refused_with_both_sizes(aot):
    with pytest.raises(RunError, match=r"\(4194304\) does not fit v5e:1x1: it needs \d+\.\d\d "
                                       r"of 15\.75 GiB per chip\. Give a smaller"):  # fmt: skip
        _compile(aot, ONE_CHIP, 1 << 22)


class _Spell(keras.layers.Layer):
    """Writes its input as text and reads it again: no TPU has a kernel for either."""

    def call(self, inputs):
        return tf.strings.to_number(tf.strings.as_string(inputs)) + inputs


@tpu_aot
def test_a_string_op_in_the_step_is_refused_by_name(aot):
    whole = classifier.build(
        ModelOptions(backbone="small_cnn", weights="none", image_size=32), (32, 32, 1), 2
    )
    spelled = keras.Model(whole.whole.inputs, _Spell(name="spell")(whole.whole.outputs[0]))
    optimization.compile_model(spelled, OptimizationOptions(), [1, 1], 1)
    spec = tracing.batch_spec((32, 32, 1), 4)
    step = tracing.train_step(spelled, spec)
    with pytest.raises(
        RunError, match=r"ops without a TPU kernel: AsString \(\S*spell\S*\), StringTo"
    ):
        aot.compile_for(ONE_CHIP, step, spec)


@tpu_aot
def test_a_step_without_a_static_shape_is_refused(aot):
    unknown = (tf.TensorSpec((None, 3), tf.float32),)
    with pytest.raises(RunError, match="can't be compiled for a TPU"):
        aot.compile_for(ONE_CHIP, tf.reduce_mean, unknown)


@tpu_aot
def test_a_check_prints_its_results(capsys):
    """From a batch that fills most of a chip: one compilation more, and the largest is known."""
    found = check.check(_config(image_size=224, dataset="grouped", batch_size=7_000))
    said = capsys.readouterr().out
    assert f"{found.program.memory_bytes / 2**30:.3f} of 15.75 GiB per chip" in said
    assert f"largest batch: {found.largest_batch_size:,}" in said
    assert "FLOP per byte" in said
    assert "all-reduces: 0" in said
    # The images alone, of one byte a pixel, would fill the chip at 337 thousand.
    assert 7_000 < found.largest_batch_size < 337_000


@tpu_aot
def test_a_batch_that_chips_can_not_divide_is_refused():
    with pytest.raises(ConfigError, match=r"batch_size \(12\) .* divisible by the 8 chips"):
        check.run(_config(batch_size=12, tpu_topology="v5e:2x4"))
