"""The driver's loops under TensorFlow's TPUStrategy: a TPU has a kernel for each op in them."""

from __future__ import annotations

import keras
import pytest
import tensorflow as tf

from tests.support import devices, fake_tpu
from trainer import backbones
from trainer.models import classifier
from trainer.options import ModelOptions, OptimizationOptions
from trainer.tpu import ops, tracing
from trainer.training import optimization
from trainer.training.driver import Driver

SIZE = 96
QUICK = "small_cnn"
BATCH_SIZE = 2 * devices.REPLICAS


def _case(name: str):
    mark = pytest.mark.long if name == "inception_resnet_v2" else pytest.mark.slow
    return pytest.param(name, marks=[] if name == QUICK else [mark])


every_backbone = pytest.mark.parametrize("name", [_case(name) for name in backbones.REGISTRY])


@pytest.fixture(scope="module")
def strategy():
    return fake_tpu.strategy_of(devices.REPLICAS)


def _trace(strategy, name, *, extra=(), precision="mixed_bfloat16", **options):
    """Traces train, test and predict of a backbone with a head, four of its layers unfrozen."""
    keras.mixed_precision.set_dtype_policy(precision)
    config = ModelOptions(
        backbone=name, weights="none", image_size=SIZE, layers_to_unfreeze="4", neurons=8
    )
    with strategy.scope():
        whole = classifier.build(config, (SIZE, SIZE, 1), 2).whole
        outputs = whole.outputs[0]
        for layer in extra:
            outputs = layer(outputs)
        trained = keras.Model(whole.inputs, outputs)
        optimization.compile_model(trained, OptimizationOptions(**options), [1, 1], 2)
    spec = tracing.batch_spec((SIZE, SIZE, 1), BATCH_SIZE)
    return tracing.loops(Driver(trained, strategy), strategy, spec)


@every_backbone
def test_a_tpu_runs_every_op_of_every_step(strategy, name):
    for step, traced in _trace(strategy, name).items():
        inside = ops.replicated(traced)
        named = {node.op for node in inside}
        assert named & {"Conv2D", "DepthwiseConv2dNative"}, step  # The backbone is in there.
        assert ops.refused(inside) == {}, step


@pytest.mark.parametrize(
    "options",
    [
        {"optimizer": "sgd", "global_clipnorm": 1.0},
        {"optimizer": "adamw", "weight_decay": 0.01, "schedule": "cosine", "warmup_epochs": 1},
        {"class_weights": "balanced", "label_smoothing": 0.1},
        {"gradient_accumulation_steps": 2},
    ],
)
def test_a_tpu_runs_every_way_of_optimizing(strategy, options):
    for step, traced in _trace(strategy, QUICK, **options).items():
        assert ops.refused(ops.replicated(traced)) == {}, step


def test_a_tpu_runs_a_model_that_resizes(strategy):
    keras.mixed_precision.set_dtype_policy("mixed_bfloat16")
    config = ModelOptions(backbone=QUICK, weights="none", image_size=SIZE, neurons=8)
    with strategy.scope():
        whole = classifier.build(config, (SIZE // 2, SIZE // 2, 1), 2).whole
        optimization.compile_model(whole, OptimizationOptions(), [1, 1], 1)
    spec = tracing.batch_spec((SIZE // 2, SIZE // 2, 1), BATCH_SIZE)
    for step, traced in tracing.loops(Driver(whole, strategy), strategy, spec).items():
        inside = ops.replicated(traced)
        assert "ResizeBilinear" in {node.op for node in inside}, step
        assert ops.refused(inside) == {}, step


def test_gradients_are_summed_over_the_replicas_in_training_alone(strategy):
    sums = {
        step: sum(node.op == "CrossReplicaSum" for node in ops.replicated(traced))
        for step, traced in _trace(strategy, QUICK).items()
    }
    assert sums["train"] > 0
    assert sums["test"] == sums["predict"] == 0


class _Spell(keras.layers.Layer):
    """Writes its input as text and reads it again: no TPU has a kernel for either."""

    def call(self, inputs):
        return tf.strings.to_number(tf.strings.as_string(inputs)) + inputs


def test_a_string_op_in_the_step_is_found_and_named(strategy):
    for step, traced in _trace(strategy, QUICK, extra=[_Spell(name="spell")]).items():
        refused = ops.refused(ops.replicated(traced))
        assert set(refused) == {"AsString", "StringToNumber"}, step
        assert "spell" in ops.describe(refused), step


def test_ops_in_nested_functions_are_found():
    @tf.function
    def inner(x):
        return tf.cond(x > 0, lambda: tf.strings.length(tf.strings.as_string(x)), lambda: 0)

    traced = tf.function(lambda x: inner(x) + 1).get_concrete_function(tf.TensorSpec((), tf.int32))
    assert set(ops.refused(ops.every_op(traced))) == {"AsString", "StringLength"}


def test_the_list_holds_kernels_and_not_host_ops():
    assert {"Conv2D", "CrossReplicaSum", "While", "FusedBatchNormV3"} <= ops.supported()
    assert not ops.supported() & {"AsString", "DecodeJpeg", "PyFunc", "PrintV2", "Timestamp"}
