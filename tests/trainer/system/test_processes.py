"""Processes beside one another."""

from __future__ import annotations

from trainer.system import processes


def test_more_processes_than_cores_are_said_in_one_line():
    cores = processes.num_cores()
    assert cores >= 1
    assert processes.crowding("workers", cores) == ""
    line = processes.crowding("workers", cores + 1)
    assert line.startswith(f"workers ({cores + 1}) exceeds the {cores} CPU core")
