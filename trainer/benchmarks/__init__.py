"""Times the trainer against plain Keras."""
