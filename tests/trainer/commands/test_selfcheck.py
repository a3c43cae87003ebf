from __future__ import annotations

import pytest
import tensorflow as tf

from trainer.commands import selfcheck
from trainer.config import Config
from trainer.errors import RunError
from trainer.training import gradients

MIRRORED = {"strategy": "mirrored", "num_logical_devices": 2}


def _config(**options) -> Config:
    small = {"backbone": "small_cnn", "neurons": 8, "image_size": 32, "layers_to_unfreeze": "all"}
    return Config.from_flat(small | options)


@pytest.mark.parametrize(
    "options",
    [
        MIRRORED,
        pytest.param(
            MIRRORED
            | {
                "gradient_accumulation_steps": 2,
                "global_clipnorm": 0.1,
                "class_weights": "balanced",
            },
            marks=pytest.mark.slow,
        ),
        pytest.param(MIRRORED | {"precision": "mixed_bfloat16"}, marks=pytest.mark.slow),
        pytest.param(
            MIRRORED | {"backbone": "mobilenet_v2", "layers_to_unfreeze": "9"},
            marks=pytest.mark.long,
        ),
    ],
)
def test_a_sound_strategy_passes(options, capsys):
    selfcheck.run(_config(**options))
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1].startswith("selfcheck passed: ")
    assert not any("DIFFERS" in line for line in lines)
    named = " ".join(lines)
    assert "loss to step 2" in named
    assert "test auc" in named
    assert "weights moved" in named
    assert ("batch norm statistics" in named) == ("backbone" in options)


@pytest.mark.slow
def test_one_device_compares_nothing(capsys):
    selfcheck.run(_config(strategy="one_device"))
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1].startswith("selfcheck compared nothing: the strategy here is one device too.")
    assert not any("DIFFERS" in line for line in lines)


def _of_the_first_replica(gradients):
    replica = tf.distribute.get_replica_context()
    chosen = tf.cast(replica.replica_id_in_sync_group == 0, tf.float32)
    parts = [gradient * chosen for gradient in gradients]
    return list(replica.all_reduce(tf.distribute.ReduceOp.SUM, parts))


def _averaged(gradients):
    replica = tf.distribute.get_replica_context()
    return list(replica.all_reduce(tf.distribute.ReduceOp.MEAN, list(gradients)))


OTHER_FAULTS = [pytest.param(fault, marks=pytest.mark.long) for fault in (list, _averaged)]


@pytest.mark.parametrize("fault", [_of_the_first_replica, *OTHER_FAULTS])
def test_a_gradient_that_is_not_the_sum_of_all_replicas_is_found(fault, monkeypatch, capsys):
    monkeypatch.setattr(gradients, "_sum_over_replicas", fault)
    with pytest.raises(RunError, match=r"selfcheck failed: .* differs .* in .*weights moved"):
        selfcheck.run(_config(**MIRRORED))
    assert "DIFFERS" in capsys.readouterr().out
