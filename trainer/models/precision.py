"""Chooses the dtype policy that the layers compute in, if the config does not name one.

On a CPU the faster policy can't be known in advance: with AMX, VGG16 is several times faster in
bfloat16 than in float32, but MobileNetV2 is slower; without AMX, bfloat16 is emulated. Therefore
the backbone is timed once per machine, and the result is stored beside the feature cache. The two
policies are timed in turns, and the medians decide: other work on the machine, which slows a round
or two, slows neither policy alone, and changes no median.

    choice = precision.choose(config, context)
    choice.policy, choice.reason
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
import pathlib
import platform
import statistics
import time
from typing import TYPE_CHECKING, Annotated, TypedDict

import keras
import numpy as np
import tensorflow as tf
from absl import logging

from trainer.models import classifier, footprint
from trainer.storage import documents, files

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from trainer import config as config_lib
    from trainer.distribution.runtime import Context
    from trainer.options import ModelOptions

CANDIDATES = ("float32", "mixed_bfloat16")
MARGIN = 1.15
"""How much faster bfloat16 must be to be chosen: it costs precision, and timings are noisy."""
TRIAL_BATCH_SIZE = 8
ROUNDS, LEAST_ROUNDS = 5, 3
"""Rounds of each policy: most of them have to be slow to change the median. Fewer where they would
take longer than LIMIT_S even as fast as the fastest: for a large backbone on a small machine."""
ROUND_S, LIMIT_S = 0.4, 6.0
"""Least length of a round; all of them take 4 s, unless one pass takes longer than a round."""


_Rate = Annotated[float, documents.at_least(0)]


class _Measured(TypedDict):
    """What is read of a file of measured rates: images per second under each policy."""

    images_per_s: dict[str, _Rate]


@dataclasses.dataclass(frozen=True)
class Choice:
    """A dtype policy and the reason for it, a sentence; empty if the user chose the policy."""

    policy: str
    reason: str


def choose(config: config_lib.Config, context: Context) -> Choice:
    """Returns the policy that the config names, or else the best one for the device."""
    if config.runtime.precision != "auto":
        return Choice(config.runtime.precision, "")
    if context.device == "TPU":
        return Choice("mixed_bfloat16", "precision mixed_bfloat16: a TPU multiplies it natively.")
    if context.device == "GPU":
        return Choice(
            "mixed_float16", "precision mixed_float16: fast on tensor cores; the loss is scaled."
        )
    if context.is_multi_host:
        return Choice("float32", "precision float32: timing could give hosts different policies.")
    return _fastest_on_cpu(config.model, config.cache_root)


def _fastest_on_cpu(config: ModelOptions, cache_root: pathlib.Path) -> Choice:
    key = {
        "backbone": config.backbone,
        "image_size": config.backbone_image_size,
        "cpu": _cpu(),
        "cpus": os.cpu_count(),
        "tensorflow": tf.__version__,
        "rounds": ROUNDS,  # Records of one long look each, which noise could decide, are left.
    }
    path = cache_root / "precision" / f"{_digest(key)}.json"
    rates = _load(path)
    when = "measured before"
    if rates is None:
        rates, when = measure(config), "measured now"
        _save(path, {**key, "images_per_s": rates})
    slow, fast = (rates[policy] for policy in CANDIDATES)
    policy = CANDIDATES[fast > slow * MARGIN]
    return Choice(
        policy,
        f"precision {policy}: {config.backbone} runs at {slow:.1f} img/s in float32 and at "
        f"{fast:.1f} img/s in bfloat16 on this CPU ({when}; bfloat16 must be {MARGIN:g}x faster).",
    )


def measure(config: ModelOptions) -> dict[str, float]:
    """Returns the backbone's images per second under each policy, forward pass only.

    The weights are random: their values don't change the time.
    """
    return median_rates({policy: _forward(config, policy) for policy in CANDIDATES})


def median_rates(
    passes: Mapping[str, Callable[[], object]], *, clock: Callable[[], float] = time.perf_counter
) -> dict[str, float]:
    """Times passes of TRIAL_BATCH_SIZE images in turns.

    Args:
      passes: by policy; each call is one pass.
      clock: returns seconds.

    Returns:
      The median over the rounds of images per second, by policy.
    """
    for run in passes.values():
        run()  # Traces the function, and oneDNN packs the weights: neither is timed.
    rates: dict[str, list[float]] = {policy: [] for policy in passes}
    shortest_s = dict.fromkeys(passes, math.inf)
    for done in range(ROUNDS):
        if done >= LEAST_ROUNDS and ROUNDS * sum(shortest_s.values()) > LIMIT_S:
            break
        for policy, run in passes.items():
            start, count, elapsed = clock(), 0, 0.0
            while not count or elapsed < ROUND_S:
                run()
                count += TRIAL_BATCH_SIZE
                elapsed = clock() - start
            rates[policy].append(count / elapsed)
            shortest_s[policy] = min(shortest_s[policy], elapsed)
    return {policy: statistics.median(of_rounds) for policy, of_rounds in rates.items()}


def _forward(config: ModelOptions, policy: str) -> Callable[[], object]:
    """Returns a pass of images through the backbone under a policy."""
    before = keras.mixed_precision.dtype_policy()
    keras.mixed_precision.set_dtype_policy(policy)
    backbone = classifier.build_backbone(config)
    keras.mixed_precision.set_dtype_policy(before)
    footprint.require_batch(
        backbone,
        f"image_size ({config.backbone_image_size}), timed in batches",
        TRIAL_BATCH_SIZE,
        is_trained=False,
        avoids="--precision=float32",
    )
    forward = tf.function(lambda x: backbone(x, training=False))
    side = config.backbone_image_size
    generator = np.random.default_rng(0)
    images = tf.constant(generator.uniform(-1, 1, (TRIAL_BATCH_SIZE, side, side, 3)), tf.float32)
    return lambda: forward(images)


def _cpu() -> str:
    """Returns the CPU's model name and flags; a virtual machine may hide flags of its model."""
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return platform.processor()
    return "\n".join(dict.fromkeys(x for x in lines if x.startswith(("model name", "flags"))))


def _digest(key: dict[str, object]) -> str:
    return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:24]


def _load(path: pathlib.Path) -> dict[str, float] | None:
    try:
        found: _Measured = documents.load(path, _Measured, way_out="remove it")
    except documents.DocumentError as error:
        if not error.is_missing:
            logging.warning("%s It is measured again.", error)
        return None
    rates = found["images_per_s"]
    return rates if rates.keys() >= set(CANDIDATES) else None


def _save(path: pathlib.Path, record: dict[str, object]) -> None:
    try:
        files.save_json(path, record)
    except OSError as error:  # Only a warning: measuring again costs seconds.
        logging.warning("The measured rates can't be written to %s: %s.", path, error.strerror)
