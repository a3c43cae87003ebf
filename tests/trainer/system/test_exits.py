"""How errors end: one line and an exit code; our own mistakes keep their traceback."""

from __future__ import annotations

import errno
import os

import pytest

from trainer import errors
from trainer.system import exits


class ResourceExhaustedError(Exception):
    """TensorFlow's, by its name."""


def _raising(error):
    def work():
        raise error

    return work


def _of_system(number: int, path: str = "/data/x") -> OSError:
    return OSError(number, os.strerror(number), path)


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (errors.ConfigError("seed (x) is wrong."), 2, "seed (x) is wrong."),
        (errors.RunError("it is gone."), 1, "it is gone."),
        (_of_system(errno.EACCES), 1, "/data/x: Permission denied; change its permissions."),
        (OSError("no usable folder."), 1, "no usable folder."),
        (
            MemoryError(),
            1,
            (
                "out of memory (MemoryError); give a smaller --batch_size, or free memory of the "
                "device."
            ),
        ),
        (
            ResourceExhaustedError("OOM when allocating\nHint: ..."),
            1,
            (
                "out of memory (OOM when allocating); give a smaller --batch_size, or free memory "
                "of the device."
            ),
        ),
        (
            UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"),
            1,
            (
                "a file or a name is not UTF-8 ('utf-8' codec can't decode byte 0xff in position "
                "0: invalid start byte)."
            ),
        ),
        (
            errors.Stopped("SIGTERM", 75),
            75,
            "stopped by SIGTERM; the same command resumes from what is saved.",
        ),
        (
            _of_system(errno.EACCES, "a\x1b[2Jb"),
            1,
            "a\\x1b[2Jb: Permission denied; change its permissions.",
        ),
    ],
)
def test_what_a_user_can_cause_is_one_line(capsys, error, code, line):
    assert exits.code_of("trainer", _raising(error)) == code
    assert capsys.readouterr().err == f"trainer: {line}\n"


def test_our_own_mistakes_keep_their_traceback():
    with pytest.raises(KeyError):
        exits.code_of("trainer", _raising(KeyError("x")))


def test_an_interruption_while_options_are_parsed_is_quiet(capsys):
    with pytest.raises(SystemExit) as end:
        exits.parsed("trainer", _raising(KeyboardInterrupt()))
    assert end.value.code == exits.INTERRUPTED
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("error", [errors.ConfigError, errors.RunError])
def test_an_error_with_a_name_from_elsewhere_has_no_control_characters(error, capsys):
    def fail():
        raise error("a\x1b[2J\u202e.jpeg is damaged\nDownload it again.")

    assert exits.code_of("trainer", fail) in (exits.FAILED, exits.USAGE)
    assert capsys.readouterr().err == (
        "trainer: a\\x1b[2J\\u202e.jpeg is damaged\nDownload it again.\n"
    )


def test_folders_that_can_not_be_looked_for_hide_no_error(capsys):
    error = PermissionError(13, "Permission denied", "/x")
    assert exits.code_of("trainer", _raising(error), _raising(error)) == exits.FAILED
    assert capsys.readouterr().err.startswith("trainer: /x: Permission denied")
