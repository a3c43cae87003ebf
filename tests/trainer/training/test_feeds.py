"""A feed reports its features correctly before and after they are computed."""

from __future__ import annotations

import dataclasses

import keras
import pytest

from tests.support import devices
from trainer.data import opening
from trainer.distribution import runtime
from trainer.models import classifier
from trainer.training import feeds

ROWS = {"train": 67, "validation": 8, "test": 25}
ROW_BYTES = 128 * 4
"""Size of small_cnn's pooled features in float32."""


@pytest.fixture
def build_feed(make_config):
    def build(**options) -> feeds.Feed:
        config = make_config(pooling="avg", **options)
        data = opening.load(config.data, config.model.backbone_image_size)
        network = classifier.build(config.model, data.image_shape, len(data.class_names))
        return feeds.build(config, data, network, runtime.build(config.runtime))

    return build


@pytest.mark.parametrize("split", ROWS)
def test_a_split_takes_the_bytes_of_its_rows(build_feed, split):
    assert build_feed().num_bytes(split) == ROWS[split] * ROW_BYTES


def test_views_multiply_only_the_training_split(build_feed):
    feed = build_feed(views=3, augmentation="light")
    assert feed.num_bytes("train") == 3 * ROWS["train"] * ROW_BYTES
    assert feed.num_bytes("validation") == ROWS["validation"] * ROW_BYTES


def test_examples_are_missing_until_they_are_computed(build_feed):
    feed = build_feed(views=2, augmentation="light")
    assert feed.missing_examples("train") == 2 * ROWS["train"]
    assert feed.missing_examples("validation") == ROWS["validation"]
    feed.prepare()
    assert not feed.missing_examples("train")
    assert not feed.missing_examples("validation")
    assert feed.missing_examples("test") == ROWS["test"]


def test_another_feed_of_the_same_features_misses_none(build_feed):
    build_feed().prepare()
    again = build_feed()
    assert not sum(again.missing_examples(split) for split in feeds.TRAINING_SPLITS)


def test_stored_bytes_do_not_depend_on_the_number_of_replicas(make_config, tmp_path):
    """A shard's name has the checksum of its bytes."""
    names = {}
    for replicas in (1, 2):
        config = make_config(pooling="avg", cache_dir=str(tmp_path / f"cache{replicas}"))
        data = opening.load(config.data, config.model.backbone_image_size)
        strategy = devices.strategy_of(replicas)
        context = runtime.Context(strategy, "CPU", 1, ())
        keras.utils.set_random_seed(0)
        with strategy.scope():
            network = classifier.build(config.model, data.image_shape, len(data.class_names))
            feed = feeds.build(config, data, network, context)
        assert feed.pass_batch_size == 32 * replicas
        feed.prepare()
        shards = (tmp_path / f"cache{replicas}").rglob("*.npy")
        names[replicas] = sorted(f"{path.parent.name}/{path.name}" for path in shards)
    assert len(names[1]) == 2
    assert names[1] == names[2]


def test_features_too_large_for_the_cache_are_reported_in_gib(build_feed):
    feed = build_feed(cache_budget_gb=40_000 / 2**30)
    assert feed.reason.endswith("take 0.0 GiB, more than --cache_budget_gb=3.72529e-05.")


def test_features_are_kept_apart_by_the_kind_of_device(build_feed):
    """A GPU rounds them another way than a CPU."""
    key = build_feed().key("train", None)
    assert key.device == "CPU"
    assert dataclasses.replace(key, device="GPU").digest != key.digest
