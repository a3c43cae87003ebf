"""How an error reaches the terminal."""

from __future__ import annotations

import pytest

from trainer import errors
from trainer.system import exits


@pytest.mark.parametrize(
    "error", [errors.ConfigError, errors.RunError, OSError], ids=lambda kind: kind.__name__
)
def test_an_error_with_a_name_from_elsewhere_has_no_control_characters(error, capsys):
    def fail():
        raise error("a\x1b[2J\u202e.jpeg is damaged\nDownload it again.")

    assert exits.code_of("trainer", fail) in (exits.FAILED, exits.USAGE)
    assert capsys.readouterr().err == (
        "trainer: a\\x1b[2J\\u202e.jpeg is damaged\nDownload it again.\n"
    )
