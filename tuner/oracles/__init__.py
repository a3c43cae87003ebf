"""Which trial comes next: KerasTuner's oracles, made to survive interruptions."""
