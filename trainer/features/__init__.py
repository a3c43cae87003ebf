"""The frozen prefix: where to cut it, and the cache of what it computes."""
