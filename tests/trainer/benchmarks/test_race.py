"""The benchmark's measurements are real, and its summary is right."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import numpy as np
import pytest
import tensorflow as tf

from trainer.benchmarks import race, stages
from trainer.benchmarks.race import PlainKerasTimes, Results, TrainerTimes
from trainer.benchmarks.stages import Stages
from trainer.config import Config
from trainer.errors import ConfigError, RunError
from trainer.features import partition
from trainer.system import processes

if TYPE_CHECKING:
    from collections.abc import Callable

    from trainer.data import batches

RESULTS = Results(
    cold=TrainerTimes(total_s=100.0, epoch_s=0.5, private_bytes=2 << 30),
    warm=TrainerTimes(total_s=20.0, epoch_s=0.25, private_bytes=1 << 30),
    baselines=(
        PlainKerasTimes("mixed_bfloat16", 0.5, 10.0, 19.0, 5.0, 0),
        PlainKerasTimes("mixed_bfloat16", 0.5, 10.0, 21.0, 5.0, 0),
        PlainKerasTimes("float32", 0.5, 20.0, 190.0, 40.0, 0),
    ),
    stages=Stages(
        records_per_s=9e3, decoded_per_s=2e3, input_wait=0.01, forward_per_s=200.0,
        pass_per_s=190.0, gathered_per_s=8e4, fed_per_s=6e4, suffix_steps_per_s=300.0,
    ),
)  # fmt: skip


def test_a_share_is_scaled_to_all_images_but_not_the_start():
    assert RESULTS.baselines[0].total_s(epochs=20) == 10 + (20 * 19 + 5) / 0.5


def test_the_last_line_sums_up():
    table = race.format_table(Config.from_flat({"max_epochs": 20}), RESULTS).splitlines()
    assert table[-1] == (
        "speedup over plain Keras: cold 8.2x, warm epoch 0.25 s, prefix at 95% of bare forward"
    )
    (feed,) = [line.split() for line in table if line.startswith("rows from the cache")]
    assert feed[4:] == ["60,000/s,", "75%", "of", "a", "gather", "from", "memory"]
    (ratios,) = [line.split() for line in table if line.startswith("plain Keras, float32, ratios")]
    assert ratios[-4:] == ["77.0x", "cold,", "385x", "warm"]


def _pooled_batches(count: int = 3_951) -> Callable[[], batches.Batches]:
    """An epoch of rows of 2 KB, in batches of 32, as of VGG16's pooled features."""
    rng = np.random.default_rng(0)
    stored = rng.standard_normal((count, 512), np.float32)
    features = partition.Activations(((stored,),), count, tf.float32)
    rows = np.resize(rng.permutation(count), -(-count // 32) * 32)
    draws, labels = np.zeros(len(rows), np.int32), np.zeros(count, np.int64)
    return lambda: features.training_batches(rows, draws, labels, 32, view_seed=0)


def test_the_feed_and_a_bare_gather_are_timed_on_the_same_rows(monkeypatch):
    monkeypatch.setattr(stages, "FEED_S", 0.0)
    monkeypatch.setattr(stages, "GATHERED_BYTES", 1 << 20)
    gathered_per_s, fed_per_s = stages.time_feed(_pooled_batches(200))
    assert gathered_per_s > 0
    assert fed_per_s > 0


@pytest.mark.long
def test_the_feed_delivers_more_than_60_percent_of_what_a_bare_gather_does():
    """The best of three: other work on the machine slows one or the other."""
    rates = [stages.time_feed(_pooled_batches()) for _ in range(3)]
    assert max(fed / gathered for gathered, fed in rates) > 0.6


def test_a_process_reports_its_time_memory_and_last_line(tmp_path, monkeypatch):
    (tmp_path / "hungry.py").write_text(
        "import time\nheld = bytearray(200 << 20)\ntime.sleep(1)\nprint('first\\nlast')\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    process = processes.run(["hungry"], tmp_path / "log")
    assert process.last_line == "last"
    assert 1 < process.seconds < 20
    assert process.private_bytes > 200 << 20


def test_a_failed_process_is_named_with_its_last_line(tmp_path):
    with pytest.raises(RunError, match=r"timeit ended with code 2: use -h/--help"):
        processes.run(["timeit", "--nonsense"], tmp_path / "log")


def test_mapped_files_are_not_private_memory(tmp_path):
    np.save(tmp_path / "big.npy", np.zeros(50 << 20, np.uint8))
    before = processes.private_bytes(os.getpid())
    mapped = np.load(tmp_path / "big.npy", mmap_mode="r")
    assert mapped.sum() == 0
    assert processes.private_bytes(os.getpid()) - before < 25 << 20


def test_an_ended_process_has_no_memory():
    assert processes.private_bytes(2**22 + 1) == 0


def test_nothing_frozen_is_nothing_to_measure(make_config):
    with pytest.raises(ConfigError, match="freezes none; give a number"):
        race.run(make_config(layers_to_unfreeze="all"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fixed_step_size": 3, "use_all_samples": False}, r"without --fixed_.*, --use_all_samp"),
        ({"optimizer": "sgd"}, "without --optimizer; leave it out"),
        (
            {"cache_budget_gb": 1e-6},
            "needs features to cache; training on images, not on cached features: features of",
        ),
    ],
)
def test_what_can_not_be_compared_is_refused_before_the_race(
    make_config, tmp_path, options, message
):
    with pytest.raises(ConfigError, match=message):
        race.run(make_config(max_epochs=3, **options))
    assert not (tmp_path / "run").exists()


@pytest.mark.long
def test_both_sides_do_the_same_work(make_config, tmp_path, capsys):
    config = make_config(layers_to_unfreeze="2", benchmark_images=40, max_epochs=3)
    race.run(config)
    table = capsys.readouterr().out.splitlines()
    assert table[-1].startswith("speedup over plain Keras: cold ")
    measured = json.loads((tmp_path / "run" / "benchmark.json").read_text())
    assert measured["warm"]["epoch_s"] > 0
    assert {b["policy"] for b in measured["baselines"]} == {"float32"}
    images = sorted((tmp_path / "run" / "images" / "train").rglob("*.png"))
    assert 30 < len(images) < 40
    with pytest.raises(ConfigError, match="already contains a benchmark"):
        race.run(config)
