"""Runs whose terminal is closed: they save what they have, unless `nohup` lets them go on."""

from __future__ import annotations

import errno
import io
import os
import pty
import subprocess
import sys
import time

import pytest

from tests.support import runs
from tests.support.commands import Command
from trainer.system import console


@pytest.fixture
def config(data_dir, tmp_path):
    return runs.small_config(
        data_dir, tmp_path, layers_to_unfreeze="2", checkpoint_every_steps=2, max_epochs=40,
        steps_per_execution=1, patience=40,
    )  # fmt: skip


TAKE_TERMINAL = """
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.argv[1], sys.argv[1:])
"""
"""A program that makes the terminal its own, whose end is told to it, and becomes another."""


def _wait_for_epoch(terminal: int) -> None:
    seen, deadline = b"", time.monotonic() + 240
    while b"epoch  2/" not in seen:
        assert time.monotonic() < deadline, seen
        seen += os.read(terminal, 1 << 16)


@pytest.mark.slow
def test_a_run_whose_terminal_is_closed_saves_and_resumes(config, tmp_path):
    stopped = Command(config, tmp_path, "stopped")
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-c", TAKE_TERMINAL, *stopped.arguments],
        stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True,
    ) as process:  # fmt: skip
        os.close(theirs)
        _wait_for_epoch(ours)
        os.close(ours)
        assert process.wait(60) == 75
    assert list((stopped.run / "checkpoints").glob("[0-9]*"))
    assert not (stopped.run / "best.keras").exists()
    assert "resuming after" in stopped.finish()


NEW_PROCESS = """
import os, signal, sys, time
from trainer.errors import Stopped
from trainer.system import signals
try:
    with signals.watched():
        os.kill(os.getpid(), signal.SIGHUP)
        time.sleep(0.5)
except Stopped as stop:
    sys.exit(stop.exit_code)
"""


@pytest.mark.parametrize(("nohup", "code"), [([], 75), (["nohup"], 0)])
def test_nohup_lets_a_run_go_on(nohup, code):
    command = [*nohup, sys.executable, "-c", NEW_PROCESS]
    assert subprocess.run(command, check=False, capture_output=True).returncode == code


@pytest.mark.parametrize("name", ["stdout", "stderr"])
@pytest.mark.parametrize("is_told", [True, False])
def test_a_closed_terminal_takes_what_is_written(monkeypatch, name, is_told):
    """The signal may come after the first write that fails."""
    ours, theirs = pty.openpty()
    with open(theirs, "w", encoding="utf-8") as stream:  # noqa: PTH123 -- A descriptor.
        monkeypatch.setattr(sys, name, stream)
        os.close(ours)
        if is_told:
            assert console.leave_terminal()
        if name == "stdout":
            console.say("a line")
        else:
            bars = console._AboveBars(stream)
            bars.write("a line\n")
            bars.flush()
        assert not console.is_closed()


def test_another_error_of_a_write_is_not_hidden(monkeypatch):
    class Full(io.StringIO):
        def write(self, _: str) -> int:
            raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(sys, "stdout", Full())
    with pytest.raises(OSError, match="Input/output error"):
        console.say("a line")
