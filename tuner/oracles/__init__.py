"""KerasTuner oracles, which choose the next trial, for searches that resume exactly."""
