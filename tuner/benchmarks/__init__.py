"""The search timed against plain KerasTuner."""
