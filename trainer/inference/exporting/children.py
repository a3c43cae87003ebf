"""Runs the scripts of `processes` in a process of their own, and keeps what they print off.

problem = children.run("convert", ["onnx", str(folder)])      # "" or why it failed, a clause
"""

from __future__ import annotations

import os
import pathlib
import re
import signal
import site
import subprocess
import sys
from typing import TYPE_CHECKING

from trainer.system import text

if TYPE_CHECKING:
    from collections.abc import Sequence

_SCRIPTS = pathlib.Path(__file__).parent / "processes"
_ERROR = re.compile(r"^(?:\w+\.)*\w*(?:Error|Exception|Fail|InvalidGraph|InvalidArgument)\w*: ")
_LONGEST = 300


def run(script: str, arguments: Sequence[str]) -> str:
    """Runs a script to its end; it sees installed packages, but not the folder it was started in.

    Returns:
      Nothing, or why it failed, a clause.
    """
    command = [sys.executable, *_isolation(), str(_SCRIPTS / f"{script}.py"), *arguments]
    variables = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2", "CUDA_VISIBLE_DEVICES": "-1"}
    found = subprocess.run(
        command, capture_output=True, text=True, errors="replace", env=variables, check=False
    )
    return "" if found.returncode == 0 else _reason(found.returncode, found.stderr)


def _isolation() -> list[str]:
    """Returns Python's options: no PYTHONPATH, no working directory, no packages of the user.

    The last not where they are installed there, by `pip install --user`.
    """
    of_user = site.getusersitepackages() if site.ENABLE_USER_SITE else None
    return ["-E", "-P"] if of_user in sys.path else ["-I"]


def _reason(code: int, printed: str) -> str:
    """Returns the last error in what a process printed, and the signal if one ended it."""
    lines = [line.strip() for line in printed.splitlines() if line.strip()]
    errors = [line for line in lines if _ERROR.match(line)]
    if code < 0:
        name = signal.Signals(-code).name
        last = f"; {text.clause(lines[-1])}" if lines else ""
        return f"its process was ended by {name}{last}"[:_LONGEST]
    last = errors[-1] if errors else (lines or [f"it ended with code {code}"])[-1]
    return text.clause(last)[:_LONGEST]
