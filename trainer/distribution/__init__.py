"""Devices, strategy and the other hosts of a run."""
