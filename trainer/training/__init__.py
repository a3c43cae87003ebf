"""The loop: driver, updates, callbacks, checkpoints, and what it is fed."""
