"""Hyperparameter search: many training runs."""
