from __future__ import annotations

import pytest
import tensorflow as tf

from trainer.config import Config
from tuner.settings import Settings
from tuner.trials import shares


@pytest.fixture
def see_gpus(monkeypatch):
    """Makes TensorFlow see so many GPUs."""

    def see(count: int, visible: str | None = None) -> None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        if visible is not None:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        monkeypatch.setattr(tf.config, "list_physical_devices", lambda _: ["a GPU"] * count)

    return see


@pytest.mark.parametrize(
    ("strategy", "visible", "gpus"),
    [
        ("auto", None, ("0", "1")),
        ("one_device", "3,5", ("3", "5")),
        ("mirrored", None, ()),  # Each trial is to train on all of them.
    ],
)
def test_gpus_are_divided_unless_a_trial_takes_all(see_gpus, strategy, visible, gpus):
    see_gpus(2, visible)
    assert shares.gpus_of_workers(Config.from_flat({"strategy": strategy})) == gpus


@pytest.mark.parametrize(
    ("workers", "count", "strategy"), [(2, 2, "one_device"), (1, 2, "auto"), (2, 1, "auto")]
)
def test_the_chief_of_workers_builds_for_one_gpu_as_they_do(see_gpus, workers, count, strategy):
    see_gpus(count)
    config = shares.for_chief(Config(), Settings(workers=workers))
    assert config.runtime.strategy == strategy


def test_shared_gpus_are_said():
    assert shares.note(2, ("0", "1")) == ("each of the 2 workers has a GPU of its own, of 0, 1.")
    assert shares.note(3, ("0", "1")).startswith("3 workers share 2 GPUs (0, 1)")
