"""One module for a --mode, with run(config)."""
