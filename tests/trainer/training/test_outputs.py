"""One pass gives the probabilities of `Driver.predict`, bit for bit, and the head's features."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import keras
import numpy as np
import pytest

from tests.support import devices, processes
from trainer.data import opening
from trainer.distribution import runtime
from trainer.models import classifier, saved
from trainer.system import sockets
from trainer.training import feeds, outputs
from trainer.training.driver import Driver

if TYPE_CHECKING:
    import tensorflow as tf

    from trainer.data.pipeline import Data

TEST_EXAMPLES = 25
CHANNELS = 128
"""Of small_cnn's last layer; at 32 px its map has 2 x 2 positions."""
FEEDS = {
    "images": {"feature_cache": "off"},
    "the head's features": {"pooling": "avg"},
    "flattened features": {"pooling": "flatten"},
    "features below unfrozen layers": {"layers_to_unfreeze": "4", "pooling": "avgmax"},
    "views": {"views": 2, "augmentation": "light", "pooling": "avg"},
}


@dataclasses.dataclass
class Setup:
    """What a training run has when it ends."""

    data: Data
    network: classifier.Network
    feed: feeds.Feed
    strategy: tf.distribute.Strategy

    def reader(self) -> outputs.OutputReader:
        return outputs.of_feed(self.feed, self.network, self.data, self.strategy)

    def predict(self, split: str) -> np.ndarray:
        return Driver(self.feed.model, self.strategy).predict(self.feed.evaluation_batches(split))


@pytest.fixture
def set_up(make_config):
    def build(replicas: int = 1, **options) -> Setup:
        config = make_config(**options)
        keras.mixed_precision.set_dtype_policy(config.runtime.precision)
        data = opening.load(config.data, config.model.backbone_image_size)
        context = runtime.Context(devices.strategy_of(replicas), "CPU", 1, ())
        with context.strategy.scope():
            network = classifier.build(config.model, data.image_shape, len(data.class_names))
            feed = feeds.build(config, data, network, context)
        return Setup(data, network, feed, context.strategy)

    return build


@pytest.mark.parametrize("options", FEEDS.values(), ids=FEEDS)
@pytest.mark.parametrize("replicas", [1, 2])
def test_probabilities_are_those_of_predict_bit_for_bit(set_up, options, replicas):
    setup = set_up(replicas, **options)
    found = setup.reader().predict("test")
    np.testing.assert_array_equal(found.probabilities, setup.predict("test"))
    assert found.probabilities.dtype == found.features.dtype == np.float32
    assert found.features.shape[0] == TEST_EXAMPLES


@pytest.mark.parametrize("options", FEEDS.values(), ids=FEEDS)
def test_features_are_those_that_the_head_takes(set_up, options):
    setup = set_up(**options)
    images = setup.data.images("test", np.arange(TEST_EXAMPLES))
    pooled = setup.network.trunk(setup.network.preprocessing(images)).numpy()
    expected = pooled
    if options.get("pooling", "flatten") == "flatten":  # The default of the options.
        expected = pooled.reshape(TEST_EXAMPLES, -1, CHANNELS).mean(axis=1)
    found = setup.reader().predict("test").features
    np.testing.assert_allclose(found, expected, rtol=2e-3, atol=1e-4)  # Cached in 16 bits.


def test_flattened_features_are_averaged_over_the_positions(set_up):
    setup = set_up(pooling="flatten")
    assert setup.network.trunk.output.shape[-1] == 4 * CHANNELS
    assert setup.reader().predict("test").features.shape == (TEST_EXAMPLES, CHANNELS)


@pytest.mark.parametrize("options", FEEDS.values(), ids=FEEDS)
def test_rows_choose_examples_and_their_order(set_up, options):
    setup = set_up(**options)
    rows = np.array([40, 3, 66, 7])
    reader = setup.reader()
    found, whole = reader.predict("train", rows), reader.predict("train")
    np.testing.assert_allclose(found.features, whole.features[rows], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(found.probabilities, whole.probabilities[rows], rtol=1e-4)


def test_views_of_the_training_split_are_not_computed_for_it(set_up):
    setup = set_up(views=2, augmentation="light", pooling="avg")
    missing = setup.feed.missing_examples("train")
    setup.reader().predict("train", np.arange(4))
    assert setup.feed.missing_examples("train") == missing


@pytest.mark.parametrize("pooling", ["avg", "flatten"])
def test_a_saved_model_has_the_same_features(set_up, tmp_path, pooling):
    setup = set_up(pooling=pooling, feature_cache="off")
    saved.save(setup.network, tmp_path / "best.keras")
    model = saved.load(tmp_path / "best.keras")
    saved.explain_refusals(model)
    found = outputs.of_model(model, setup.data, setup.strategy).predict("test")
    batches = setup.data.evaluation_batches("test", setup.data.config.batch_size)
    np.testing.assert_array_equal(
        found.probabilities, Driver(model, setup.strategy).predict(batches)
    )
    np.testing.assert_array_equal(found.features, setup.reader().predict("test").features)


def test_sixteen_bit_features_are_returned_in_float32(set_up):
    setup = set_up(precision="mixed_bfloat16", pooling="avg")
    found = setup.reader().predict("validation")
    assert setup.network.trunk.output.dtype == "bfloat16"
    assert found.features.dtype == np.float32
    np.testing.assert_array_equal(found.probabilities, setup.predict("validation"))


def test_a_split_that_is_withheld_is_not_read(set_up):
    setup = set_up(feature_cache="off")
    reader = outputs.of_model(setup.network.whole, setup.data.without("test"), setup.strategy)
    with pytest.raises(ValueError, match="withheld"):
        reader.predict("test")


def test_outputs_leaves_the_saved_model_as_it_was(set_up, tmp_path):
    setup = set_up(pooling="flatten")
    before = setup.network.whole.get_config()
    setup.reader().predict("test")
    assert setup.network.whole.get_config() == before
    saved.save(setup.network, tmp_path / "best.keras")
    assert len(saved.load(tmp_path / "best.keras").outputs) == 1


WORKER = """
import sys
import keras, numpy as np, tensorflow as tf
strategy = tf.distribute.MultiWorkerMirroredStrategy()
from trainer.data import opening
from trainer.models import classifier
from trainer.options import DataOptions, ModelOptions
from trainer.training import outputs
from trainer.training.driver import Driver
data = opening.load(DataOptions(data_dir=sys.argv[1], dataset="paper", batch_size=16), 32)
options = ModelOptions(backbone="small_cnn", weights="none", image_size=32, neurons=8)
keras.utils.set_random_seed(0)
with strategy.scope():
    whole = classifier.build(options, data.image_shape, 2).whole
found = outputs.of_model(whole, data, strategy).predict("test")
today = Driver(whole, strategy).predict(data.evaluation_batches("test", 16))
print(np.array_equal(found.probabilities, today), *found.features.shape,
      found.features.tobytes().hex())
"""


@pytest.mark.slow
def test_hosts_that_predict_together_have_all_examples(data_dir):
    workers = [f"127.0.0.1:{port}" for port in sockets.free_ports(2)]
    found = []
    for index in range(2):
        task = {"cluster": {"worker": workers}, "task": {"type": "worker", "index": index}}
        environment = {**os.environ, "TF_CONFIG": json.dumps(task)}
        command = [sys.executable, "-c", WORKER, str(data_dir)]
        found.append(
            processes.started(
                command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
            )
        )
    with found[0] as first, found[1] as second:
        outputs = [host.communicate()[0].split() for host in (first, second)]
    assert outputs[0][:3] == ["True", str(TEST_EXAMPLES), str(CHANNELS)]
    assert outputs[0] == outputs[1]
