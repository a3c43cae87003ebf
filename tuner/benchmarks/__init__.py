"""Benchmarks of the search against plain KerasTuner."""
