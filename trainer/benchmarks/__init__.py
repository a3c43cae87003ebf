"""The trainer timed against plain Keras."""
