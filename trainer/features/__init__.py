"""The frozen prefix: where the network is cut, and the cache of its outputs."""
