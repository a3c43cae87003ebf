"""The devices, the strategy and the other hosts of a run."""
