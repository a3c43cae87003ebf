"""Batch sizes that replicas can share equally; the one that is taken where nobody gives one.

batch_sizes.automatic(6)               # 36
batch_sizes.require(32, 6, "replicas") # ConfigError: ... the nearest are 30 and 36.
"""

from __future__ import annotations

from trainer.errors import ConfigError

LEAST = 32
"""The batch size for one replica. On more it stays as close to this as they allow, because the
default learning rate was tuned for it; another one per replica would need another rate."""


def automatic(replicas: int) -> int:
    """Returns the smallest multiple of the replicas that is at least LEAST."""
    return next_multiple(LEAST, replicas)


def next_multiple(batch_size: int, replicas: int) -> int:
    """Returns the smallest multiple of the replicas that is at least `batch_size`."""
    return -(-batch_size // replicas) * replicas


def require(batch_size: int, parts: int, what: str) -> None:
    """Raises ConfigError, with the nearest sizes, unless each part gets an equal share of a batch.

    Args:
      batch_size: global batch size.
      parts: how many replicas or chips there are.
      what: what they are called, plural.
    """
    if batch_size % parts == 0:
        return
    below = batch_size // parts * parts
    nearest = f"are {below} and {below + parts}" if below else f"is {parts}"
    raise ConfigError(
        f"batch_size ({batch_size}) is global and must be divisible by the {parts} {what}; the "
        f"nearest {nearest}."
    )


def note(batch_size: int, parts: int, what: str) -> str:
    """Returns a sentence on an automatic batch size; empty for that of one replica."""
    if batch_size == LEAST:
        return ""
    return (
        f"batch_size {batch_size} ({batch_size // parts} for each of the {parts} {what}): the "
        f"smallest multiple from {LEAST} on, as the default learning rate was tuned for {LEAST}."
    )
