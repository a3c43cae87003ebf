"""Predictions, metrics and what can be said of them. Does not import TensorFlow."""
