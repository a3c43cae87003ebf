"""The modes of the command line: one module each, with `run(config)`."""
