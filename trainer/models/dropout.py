"""Dropout whose masks differ by replica; Keras's own draws the same one on every replica.

    x = dropout.layer(0.5, "dropout_1")(x)

The layer is Keras's, and is saved as that. Only its seed generator knows of replicas.
"""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

_STRIDE = 0x9E3779B9
"""2^32 divided by the golden ratio: the seeds of several replicas lie far apart."""


class SeedsByReplica(keras.random.SeedGenerator):
    """Draws another seed on each replica, from a state that is the same on all of them.

    Every replica's copy of the state makes the same steps, so a checkpoint needs one of them. The
    first replica's seeds are Keras's own: on one device, no bit differs.
    """

    def next(self, ordered: bool = True) -> Any:  # noqa: FBT001, FBT002 -- Keras's signature.
        """Returns the next seed, [2] of the state's dtype, and moves the state on."""
        seed = super().next(ordered)
        replica = tf.distribute.get_replica_context()
        if replica is None or replica.num_replicas_in_sync == 1:
            return seed
        # Not added to the second number, which counts steps: another step would have that seed.
        offset = _STRIDE * tf.cast(replica.replica_id_in_sync_group, seed.dtype)
        return seed + tf.stack([offset, tf.zeros_like(offset)])


def layer(rate: float, name: str, dtype: str = "float32") -> keras.layers.Dropout:
    """Returns a dropout layer, in training with another mask on each replica."""
    made = keras.layers.Dropout(rate, dtype=dtype, name=name)
    by_replica(made)
    return made


def by_replica(of: keras.layers.Dropout) -> None:
    """Lets a layer of Keras draw another mask on each replica."""
    if of.rate:
        # Keras has no argument for it. Another object would be a second state beside the first.
        of.seed_generator.__class__ = SeedsByReplica
