"""Oracles under kills, lost workers and failing trials."""

from __future__ import annotations

import random

import pytest

from tests.support.simulated_search import SimulatedSearch
from tuner import statuses
from tuner.oracles import durable


@pytest.mark.parametrize("seed", range(5))
def test_kills_change_nothing(tmp_path, seed):
    expected = SimulatedSearch(tmp_path / "undisturbed").run()
    search, generator = SimulatedSearch(tmp_path / "killed", workers=2), random.Random(seed)
    while True:
        states = [search.ask(name) for name in search.names if name not in search.held]
        if not search.held and statuses.STOPPED in states:
            break
        if generator.random() < 0.3:
            search.restart()
        elif search.held:
            search.end(generator.choice(sorted(search.held)))
    assert search.scores() == expected


def test_a_search_ends_when_trials_in_a_row_fail_for_the_same_reason(tmp_path):
    search = SimulatedSearch(tmp_path)
    search.run(fails=lambda _: "impossible: no such layer")
    assert len(search.oracle.trials) == 5
    assert (
        "5 trials in a row failed for the same reason (impossible" in search.oracle.stopped_because
    )


def test_failures_for_different_reasons_do_not_end_it(tmp_path):
    reasons = iter(["diverged: nan", "out of memory: 3 GiB"] * 100)
    search = SimulatedSearch(tmp_path)
    found = search.run(
        fails=lambda v: next(reasons) if v["tuner/round"] == 0 and v["neurons"] > 200 else ""
    )
    assert not search.oracle.stopped_because
    assert any(status == statuses.COMPLETED for status, *_ in found.values())


def test_a_silent_workers_trial_goes_to_another(tmp_path):
    search = SimulatedSearch(tmp_path, workers=2)
    search.ask("worker-0")
    lost = search.held.pop("worker-0").trial_id
    search.ask("worker-1")
    assert search.held["worker-1"].trial_id != lost
    search.end("worker-1")
    search.time_s = 59
    search.oracle.get_trial(lost)  # A heartbeat.
    search.time_s = 118
    search.ask("worker-1")
    assert search.held["worker-1"].trial_id != lost
    search.end("worker-1")
    search.time_s = 180
    search.ask("worker-1")
    assert search.held["worker-1"].trial_id == lost


def test_a_trial_whose_process_always_dies_counts_as_failed(tmp_path):
    search = SimulatedSearch(tmp_path)
    for _ in range(durable.MAX_HANDOUTS):
        search.restart()
        search.ask("worker-0")
        assert search.held["worker-0"].trial_id == "b0-r0-00"
    search.restart()
    search.ask("worker-0")
    assert search.held["worker-0"].trial_id == "b0-r0-01"
    assert "process died 5 times" in search.oracle.trials["b0-r0-00"].message


def test_state_is_replaced_atomically(tmp_path, monkeypatch):
    search = SimulatedSearch(tmp_path)
    search.ask("worker-0")
    before = {p: p.read_bytes() for p in tmp_path.rglob("*.json")}
    monkeypatch.setattr("json.dumps", lambda *_, **__: "{half")
    monkeypatch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError("the disk is full")))
    with pytest.raises(OSError, match="full"):
        search.oracle.save()
    assert {p: p.read_bytes() for p in before} == before


def test_an_oracle_knows_how_long_no_worker_was_heard(tmp_path):
    search = SimulatedSearch(tmp_path)
    search.oracle._heard_s, search.time_s = 0.0, 40.0
    assert search.oracle.silent_s == 40
    search.ask("worker-0")
    assert search.oracle.silent_s == 0
    search.time_s = 50.0
    assert search.oracle.silent_s == 10
    search.oracle.get_trial(search.held["worker-0"].trial_id)
    assert search.oracle.silent_s == 0
