"""Resets what Keras keeps between models of a process: layer names, dtype policy, random states.

session.begin("mixed_bfloat16", seed=0)      # right before the first layer is built
network = classifier.build(...)
"""

from __future__ import annotations

import keras


def begin(policy: str, seed: int) -> None:
    """Clears Keras's global state and sets dtype policy and seed.

    Otherwise anything built earlier, such as the backbone that `precision` times, would change
    layer names and random numbers: the same run could differ between two processes.
    """
    keras.backend.clear_session()
    keras.mixed_precision.set_dtype_policy(policy)  # After clearing, which resets it.
    keras.utils.set_random_seed(seed)
