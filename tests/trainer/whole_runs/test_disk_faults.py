"""A full or missing disk ends the run with a one-line error, and the run resumes afterwards."""

from __future__ import annotations

import functools
import resource

import pytest

from tests.support import runs
from tests.support.commands import Command


@pytest.fixture
def command(data_dir, tmp_path):
    """Returns a maker of commands of the same run; none of them has features at hand."""

    def make(name: str, **options) -> Command:
        folder = tmp_path / f"{name}-files"
        folder.mkdir()
        return Command(runs.small_config(data_dir, folder, **options), tmp_path, name)

    return make


def _limit(size: int) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


@pytest.mark.long
@pytest.mark.parametrize(
    "size",
    [
        pytest.param(1_000, id="options"),
        pytest.param(5_000, id="features"),
        pytest.param(12_000, id="checkpoint"),
        pytest.param(200_000, id="model"),
    ],
)
def test_a_disk_on_which_nothing_more_can_be_written_ends_the_run(command, size):
    """The system refuses to write more than `size` bytes (per file), as it does on a full disk."""
    whole, limited = command("whole"), command("limited")
    whole.finish()
    with limited.started(preexec_fn=functools.partial(_limit, size)) as process:
        output, _ = process.communicate(timeout=300)
    assert process.returncode == 1, output
    assert "Traceback" not in output
    last = output.strip().splitlines()[-1]
    assert last.startswith("trainer: ")
    assert "File too large" in last
    limited.finish()
    assert limited.outcome() == whole.outcome()


@pytest.mark.slow
def test_a_run_directory_that_vanishes_ends_the_run(command, tmp_path):
    vanished = command("vanished", max_epochs=999, patience=999)
    with vanished.started() as process:
        while not (line := process.stdout.readline()).startswith("epoch"):
            assert line
        vanished.run.rename(tmp_path / "elsewhere")
        output, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert f"trainer: {vanished.run} has vanished" in output
    assert not vanished.run.exists()
