"""Checks a training step with the TPU compiler, without a TPU."""
