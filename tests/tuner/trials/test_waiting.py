"""A chief without workers, and a worker without a chief, say what they wait for."""

from __future__ import annotations

import itertools
import socket

import pytest

from tests.support.simulated_search import SimulatedSearch
from trainer.errors import RunError
from tuner.trials import chief, waiting, worker


def test_the_pauses_between_lines_grow_to_a_limit(capsys):
    reminder = waiting.Reminder(lambda waited: f"waiting for {waited}")
    for second in range(1500):
        reminder.tick(second)
    assert capsys.readouterr().out.splitlines() == [
        f"waiting for {waited}"
        for waited in ("5 s", "10 s", "20 s", "40 s", "80 s", "3 min", "5 min", "10 min",
                       "15 min", "20 min")
    ]  # fmt: skip


def test_a_wait_that_begins_again_is_said_again(capsys):
    reminder = waiting.Reminder(lambda waited: waited)
    for second in (5, 100, 0, 5):
        reminder.tick(second)
    assert capsys.readouterr().out.split("\n") == ["5 s", "2 min", "5 s", ""]


@pytest.fixture
def address(monkeypatch) -> str:
    """An address that the environment names as the chief's, and where nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    monkeypatch.setenv("KERASTUNER_TUNER_ID", "worker-0")
    monkeypatch.setenv("KERASTUNER_ORACLE_IP", "127.0.0.1")
    monkeypatch.setenv("KERASTUNER_ORACLE_PORT", str(port))
    return f"127.0.0.1:{port}"


def test_a_worker_without_a_chief_says_so_and_ends(monkeypatch, capsys, address):
    monkeypatch.setattr(worker, "CHIEF_TIMEOUT_S", 0.5)
    monkeypatch.setattr(waiting, "FIRST_S", 0.0)
    monkeypatch.setattr(waiting, "_TICK_S", 0.1)
    with pytest.raises(RunError, match=rf"the chief at {address} has not answered .*KERASTUNER_\*"):
        worker.await_chief()
    assert f"waiting for the chief at {address}" in capsys.readouterr().out


def test_a_worker_goes_on_in_silence_where_there_is_a_chief(capsys, address):
    with chief.serving(None, address):
        worker.await_chief()
    assert capsys.readouterr().out == ""


@pytest.mark.usefixtures("address")
def test_a_chief_without_workers_says_so(monkeypatch, tmp_path, capsys):
    oracle = SimulatedSearch(tmp_path).oracle
    seconds = itertools.count(0.0, 10.0)
    oracle._heard_s, oracle._clock = 0.0, lambda: next(seconds)
    monkeypatch.setattr(chief, "POLL_S", 0.0)
    rounds = iter(range(3))
    with pytest.raises(StopIteration):
        chief.serve(oracle, lambda: next(rounds))
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("no worker")]
    assert len(said) == 2
    assert "KERASTUNER_TUNER_ID=worker-0" in said[0]
