"""Hyperparameter search with KerasTuner: each trial is a training run of `trainer`."""
