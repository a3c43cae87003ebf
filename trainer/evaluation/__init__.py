"""Metrics, reports and plots of predictions. Does not import TensorFlow."""
