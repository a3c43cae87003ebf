"""What a terminal shows, and what happens to a run whose reader leaves."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys

import pytest

from trainer.system import console

IN_ONE_TERMINAL = """
import sys, warnings
from absl import logging
from trainer.system import console
logging.use_absl_handler()
console.share_terminal()
with console.bar(100, "features of train", "img") as bar:
    bar.update(10)
    console.say("features of train: computing ...")
    bar.update(20)
    logging.warning("a library's line")
    warnings.warn("a warning")
    sys.stderr.write("a raw line\\n")
    bar.update(70)
console.say("done")
"""
LEAVING = """
import sys
from trainer.system import console, exits, signals

def work():
    with signals.watched():
        console.say("first")
        sys.stdin.readline()
        with signals.deferred():
            for _ in range(200):
                console.say("later")
            open(sys.argv[1], "w").write("saved")
    return 0

sys.exit(exits.code_of("trainer", work))
"""


def _screen(output: str) -> list[str]:
    """The lines that a terminal shows in the end: a carriage return starts over."""
    lines = []
    for line in output.split("\n"):
        shown = ""
        for part in line.replace("\r\n", "\n").split("\r"):
            shown = part + shown[len(part) :]
        lines.append(re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", shown).rstrip())
    return lines


def _in_terminal(code: str, **env: str) -> list[str]:
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=theirs, stdout=theirs, stderr=theirs,
        env=os.environ | {"TERM": "xterm", "COLUMNS": "80"} | env,
    ):  # fmt: skip
        os.close(theirs)
        parts = list(iter(lambda: _read(ours), b""))
    os.close(ours)
    return _screen(b"".join(parts).decode())


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 4096)
    except OSError:  # Linux's way to say that the other side is closed.
        return b""


def test_no_line_shares_its_row_with_a_bar():
    lines = _in_terminal(IN_ONE_TERMINAL)
    assert [line for line in lines if "%|" in line] == []  # The bar is gone in the end.
    assert "features of train: computing ..." in lines
    assert "a raw line" in lines
    assert "done" in lines
    assert any(re.fullmatch(r"W.*\] a library's line", line) for line in lines), lines
    assert any(line.endswith("UserWarning: a warning") for line in lines), lines


def test_a_dumb_terminal_gets_plain_lines():
    lines = _in_terminal(IN_ONE_TERMINAL, TERM="dumb")
    assert [line for line in lines if "\x1b" in line or "%|" in line] == []


@pytest.mark.parametrize(("variable", "value"), [("NO_COLOR", "1"), ("TERM", "dumb")])
def test_colour_can_be_switched_off(variable, value):
    code = "from trainer.system import console; print(console.wants_colour())"
    assert _in_terminal(code)[0] == "True"
    assert _in_terminal(code, **{variable: value})[0] == "False"


def test_a_notebook_stream_without_isatty_is_no_terminal(monkeypatch):
    monkeypatch.setattr(sys, "stdout", object())
    assert not console.is_terminal()


def test_a_run_whose_reader_leaves_saves_and_ends_quietly(tmp_path):
    file = tmp_path / "state"
    with subprocess.Popen(
        [sys.executable, "-c", LEAVING, str(file)], stdin=subprocess.PIPE,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        assert process.stdout.readline() == b"first\n"
        process.stdout.close()
        process.stdin.write(b"\n")
        process.stdin.close()
        assert process.stderr.read() == b""
        assert process.wait(60) == 141
    assert file.read_text() == "saved"


@pytest.mark.parametrize("package", ["trainer", "tuner"])
def test_help_whose_reader_leaves_ends_quietly(package):
    with subprocess.Popen(
        [sys.executable, "-m", package, "--helpfull"], stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(60) in {0, 141}
