"""Every strategy gives the same results as one device, in real processes, workers included."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import numpy as np
import pytest
import sklearn.metrics

from tests.support import processes
from trainer.system import sockets

if TYPE_CHECKING:
    from pathlib import Path

STRATEGIES = {"one_device": 1, "mirrored_2": 2, "mirrored_4": 4, "multi_worker": 2}
OTHERS = ["mirrored_2", pytest.param("mirrored_4", marks=pytest.mark.long), "multi_worker"]
pytestmark = pytest.mark.slow


BOTH = ("--optimizers", "sgd", "adam")
"""Of one process, as most of its time goes into its start."""


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Returns (strategy, *flags) -> what tests.support.one_strategy wrote there; runs it once."""
    folder = tmp_path_factory.mktemp("strategies")

    @functools.cache
    def result(name: str, *flags: str) -> dict[str, np.ndarray]:
        out = folder / f"{name}{len(list(folder.iterdir()))}.npz"
        _run(name, out, flags)
        with np.load(out) as arrays, np.load(_other(out) if _other(out).exists() else out) as other:
            assert np.array_equal(arrays["sgd metrics"], other["sgd metrics"])  # Decides alike.
            return dict(arrays)

    return result


def _other(out: Path) -> Path:
    """Returns the file of the second worker."""
    return out.with_name(f"other_{out.name}")


def _of(optimizer: str, result: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    words = ((*key.split(" "), value) for key, value in result.items() if " " in key)
    return {name: value for trained_by, name, value in words if trained_by == optimizer}


def _run(name: str, out: Path, flags: tuple[str, ...]) -> None:
    """Runs a strategy's process, or its two workers; the chief writes `out`."""
    if name != "multi_worker":
        environments, outs = [{}], [out]
        flags = (*flags, f"--replicas={STRATEGIES[name]}")
    else:
        addresses = [f"127.0.0.1:{port}" for port in sockets.free_ports(2)]
        environments = [
            {"TF_CONFIG": json.dumps(
                {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
            )}
            for index in range(2)
        ]  # fmt: skip
        outs = [out, _other(out)]
    with contextlib.ExitStack() as stack:
        workers = [
            stack.enter_context(
                processes.started(
                    [sys.executable, "-m", "tests.support.one_strategy", f"--out={path}", *flags],
                    stderr=subprocess.STDOUT, env=os.environ | extra,
                )
            )
            for path, extra in zip(outs, environments, strict=True)
        ]  # fmt: skip
        for worker in workers:
            output, _ = worker.communicate(timeout=900)
            assert worker.returncode == 0, output


def _weights(result: dict[str, np.ndarray], when: str) -> list[np.ndarray]:
    return [result[f"{when}_{i}"] for i in range(len(result["trainable"]))]


def _assert_close(many, one, *, logs: float, weights: float) -> None:
    for name in ("losses", "metrics"):
        np.testing.assert_allclose(many[name], one[name], atol=logs)
    for ours, theirs in zip(_weights(one, "after"), _weights(many, "after"), strict=True):
        np.testing.assert_allclose(theirs, ours, atol=weights)


@pytest.mark.parametrize("name", OTHERS)
def test_every_step_and_weight_equals_one_devices(results, name):
    """30 steps of SGD with momentum, class weights, clipping and updates of two batches."""
    one, many = (_of("sgd", results(strategy, *BOTH)) for strategy in ("one_device", name))
    assert many["replicas"] == STRATEGIES[name]
    assert many["updates"] == one["updates"] == 15
    _assert_close(many, one, logs=1e-5, weights=1e-5)


@pytest.mark.parametrize("name", OTHERS)
def test_with_adam_they_agree_to_its_rounding(results, name):
    """Adam divides by the root of the mean square: of a gradient near 0, the rounding decides.

    A weight moves by about the learning rate (0.02) an update, whatever the gradient's size. Where
    that is all rounding, strategies may part by a share of it: 1e-4 is 1 in 200, and a hundred
    times what was seen. Losses hardly depend on such weights.
    """
    one, many = (_of("adam", results(strategy, *BOTH)) for strategy in ("one_device", name))
    _assert_close(many, one, logs=2e-5, weights=1e-4)


@pytest.mark.parametrize("name", OTHERS)
def test_a_prime_number_of_examples_is_evaluated_once_each(results, name):
    one, many = (_of("sgd", results(strategy, *BOTH)) for strategy in ("one_device", name))
    assert many["probabilities"].shape == (61, 2)
    np.testing.assert_allclose(many["probabilities"], one["probabilities"], atol=1e-5)


@pytest.mark.parametrize("name", ["one_device", *OTHERS])
def test_the_logged_figures_of_validation_are_scikit_learns(results, name):
    result = _of("sgd", results(name, *BOTH))
    labels, probabilities = result["labels"], result["probabilities"].astype(float)
    assert 0 < labels.mean() < 1
    expected = [
        sklearn.metrics.log_loss(labels, probabilities / probabilities.sum(1, keepdims=True)),
        sklearn.metrics.accuracy_score(labels, probabilities.argmax(1)),
        sklearn.metrics.roc_auc_score(labels, probabilities[:, 1]),
    ]
    np.testing.assert_allclose(result["metrics"][:, -1], expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", OTHERS)
def test_every_replica_draws_its_own_dropout(results, name):
    masks = results(name, *BOTH)["masks"]
    assert len(np.unique(masks, axis=0)) == STRATEGIES[name]
    assert masks.mean(axis=1) == pytest.approx(np.ones(len(masks)), abs=0.3)
    np.testing.assert_array_equal(masks[:1], results("one_device", *BOTH)["masks"])


@pytest.mark.long
@pytest.mark.parametrize("name", STRATEGIES)
def test_what_is_frozen_does_not_move_by_one_bit(results, name):
    """60 steps of a backbone whose every block has batch norm, its last 20 layers unfrozen."""
    flags = ("--backbone=mobilenet_v2", "--layers_to_unfreeze=20", "--epochs=4")
    result = _of("sgd", results(name, *flags))
    moved = [
        not np.array_equal(before, after)
        for before, after in zip(_weights(result, "before"), _weights(result, "after"), strict=True)
    ]
    assert moved == result["trainable"].tolist()
    assert 0 < sum(moved) < len(moved)
