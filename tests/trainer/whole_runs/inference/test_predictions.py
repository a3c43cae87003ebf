"""Real processes that predict: killed at any moment, asked to stop, refused before they load."""

from __future__ import annotations

import json
import os
import random
import resource
import signal
import subprocess
import sys
import time

import pytest

from tests.support import processes, radiographs

pytestmark = pytest.mark.slow

COUNT, IMAGES = 500, 10
KILLS = int(os.environ.get("CXR_KILLS", "5"))
FILES = ("worklist.csv", "worklist.jsonl")


@pytest.fixture(scope="module")
def scans(tmp_path_factory):
    """500 files of 2,000 px: decoding them takes seconds; and some that can't be read."""
    folder = tmp_path_factory.mktemp("scans")
    for number in range(IMAGES):
        (folder / f"{number:03}.jpeg").write_bytes(radiographs.draw(number, size=(2000, 2000)))
    for number in range(IMAGES, COUNT):
        os.link(folder / f"{number % IMAGES:03}.jpeg", folder / f"{number:03}.jpeg")
    for number in range(5):
        (folder / f"1{number}x.jpeg").write_bytes(b"\xff\xd8" * number)
    return folder


class Prediction:
    """The command, with an output folder."""

    def __init__(self, finished, scans, folder) -> None:
        self.folder = folder
        self.arguments = [
            sys.executable, "-m", "trainer", "--mode=predict", f"--model_dir={finished}",
            f"--images={scans}", f"--output_dir={folder}", "--batch_size=4",
        ]  # fmt: skip

    def started(self):
        return processes.started(self.arguments, stderr=subprocess.STDOUT)

    def finish(self) -> str:
        with self.started() as process:
            output, _ = process.communicate(timeout=300)
        assert process.returncode == 0, output
        return output

    def rows(self) -> int:
        """How many the journal has."""
        path = self.folder / "journal.jsonl"
        return path.read_bytes().count(b"\n") - 1 if path.exists() else 0

    def outcome(self) -> list[bytes]:
        return [(self.folder / name).read_bytes() for name in FILES]


@pytest.fixture(scope="module")
def whole(finished, scans, tmp_path_factory):
    """A prediction that nothing interrupted, and how many seconds it took."""
    prediction = Prediction(finished, scans, tmp_path_factory.mktemp("whole") / "out")
    begin = time.monotonic()
    prediction.finish()
    return prediction, time.monotonic() - begin


def test_kills_at_random_moments_lose_and_double_no_row(finished, scans, whole, tmp_path):
    expected, length_s = whole
    killed = Prediction(finished, scans, tmp_path / "out")
    chance = random.Random(1)
    for _ in range(KILLS):
        with killed.started() as process:
            time.sleep(chance.uniform(0.4, 1.0) * length_s)
            process.kill()
    killed.finish()
    assert killed.outcome() == expected.outcome()
    lines = (killed.folder / "worklist.jsonl").read_text().splitlines()
    names = [json.loads(line)["file"] for line in lines]
    assert len(names) == len(set(names)) == COUNT + 5


def test_a_kill_amid_the_files_keeps_what_was_done(finished, scans, whole, tmp_path):
    killed = Prediction(finished, scans, tmp_path / "out")
    with killed.started() as process:
        processes.wait_until(lambda: killed.rows() > 0 or process.poll() is not None)
        process.kill()
    done = killed.rows()
    assert 0 < done < COUNT + 5
    output = killed.finish()
    read = done - 5  # The unreadable ones, which come first by their names, are tried again.
    assert any(f"{count} of {COUNT + 5} files were done before." in output
               for count in range(read, done + 1)), output  # fmt: skip
    assert killed.outcome() == whole[0].outcome()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 75), (signal.SIGINT, 130)])
def test_a_request_to_stop_saves_and_the_same_command_resumes(
    finished, scans, whole, tmp_path, number, code
):
    stopped = Prediction(finished, scans, tmp_path / "out")
    with stopped.started() as process:
        processes.wait_until(lambda: stopped.rows() > 0 or process.poll() is not None)
        sent = time.monotonic()
        process.send_signal(number)
        output, _ = process.communicate(timeout=60)
    assert time.monotonic() - sent < 10
    assert process.returncode == code, output
    assert output.endswith("; the same command resumes from what is saved.\n")
    assert 0 < stopped.rows() < COUNT + 5
    assert "files were done before." in stopped.finish()
    assert stopped.outcome() == whole[0].outcome()


def test_a_mistake_costs_no_time(finished, tmp_path):
    """CPU time: wall time depends on other load on the machine."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-m", "trainer", "--mode=predict", f"--model_dir={finished}",
         f"--images={tmp_path / 'absent'}"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 3
