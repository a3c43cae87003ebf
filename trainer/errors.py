"""The errors that a user reads: one sentence with the value and the way out, no traceback."""

from __future__ import annotations


class ConfigError(ValueError):
    """An option has a value that it cannot have; the message says which, and what it may be."""


class RunError(Exception):
    """The run cannot go on, for a reason outside the code; the message says what to do."""
