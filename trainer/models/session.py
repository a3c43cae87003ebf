"""What Keras keeps between models of one process: layer names, the dtype policy, random states.

session.begin("mixed_bfloat16", seed=0)      # right before the first layer is built
network = classifier.build(...)
"""

from __future__ import annotations

import keras


def begin(policy: str, seed: int) -> None:
    """Starts afresh: a run whose policy was measured equals one that names it.

    Without it, what was built before would shift names and draws: a data set, a timed backbone.
    """
    keras.backend.clear_session()
    keras.mixed_precision.set_dtype_policy(policy)  # After clearing, which resets it.
    keras.utils.set_random_seed(seed)
