"""Atomic writes, addresses, and folders mirrored to buckets. Knows nothing of training."""
