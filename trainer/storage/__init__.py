"""Where files live: atomic writes, addresses, buckets. Knows nothing of training."""
