"""What memory is free, in a container too."""

from __future__ import annotations

import os
import resource
import subprocess
import sys

import pytest

from trainer.errors import TooLargeError
from trainer.system import memory

MIB = 2**20


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A machine with 8 GiB free, whose control groups are files in a folder."""
    (tmp_path / "meminfo").write_text(f"MemFree: 1 kB\nMemAvailable:    {8 * MIB} kB\n")
    monkeypatch.setattr(memory, "_MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(memory, "_CGROUP", tmp_path)
    return tmp_path


@pytest.mark.usefixtures("machine")
def test_available_memory_is_free():
    assert memory.free_bytes() == 8 * memory.GIB


@pytest.mark.parametrize(
    ("names", "key"),
    [
        (("memory.max", "memory.current", "memory.stat"), "file"),
        (
            ("memory.limit_in_bytes", "memory.usage_in_bytes", "memory.stat"),
            "total_cache",
        ),
    ],
)
def test_a_container_has_what_its_limit_leaves_and_its_cached_files(machine, names, key):
    folder = machine / "memory" if "limit" in names[0] else machine
    folder.mkdir(exist_ok=True)
    texts = (str(3 * memory.GIB), str(2 * memory.GIB), f"anon 5\n{key} {memory.GIB}\n")
    for name, content in zip(names, texts, strict=True):
        (folder / name).write_text(content)
    assert memory.free_bytes() == 2 * memory.GIB


def test_a_container_without_a_limit_has_the_machines_memory(machine):
    (machine / "memory.max").write_text("max\n")
    (machine / "memory.current").write_text("5\n")
    (machine / "memory.stat").write_text("file 0\n")
    assert memory.free_bytes() == 8 * memory.GIB


def test_swap_space_can_be_had_too(machine):
    assert memory.obtainable_bytes() == memory.free_bytes()
    with (machine / "meminfo").open("a") as file:
        file.write(f"SwapFree:    {2 * MIB} kB\n")
    assert memory.free_bytes() == 8 * memory.GIB
    assert memory.obtainable_bytes() == 10 * memory.GIB


@pytest.mark.parametrize("content", ["MemTotal: 5 kB\nMemFree: 1 kB\n", None])
def test_a_system_that_does_not_tell_what_is_available_refuses_nothing_that_fits(machine, content):
    (machine / "meminfo").unlink()
    if content:
        (machine / "meminfo").write_text(content)
    assert memory.free_bytes() == os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert memory.obtainable_bytes() == memory.free_bytes()


@pytest.mark.usefixtures("machine")
def test_processes_that_can_not_fit_are_refused_with_the_largest_number():
    memory.require_processes("workers", 27)
    wanted = (
        r"workers \(28\) needs at least 8.2 GiB of memory, and 8.0 GiB are free; give at most 27"
    )
    with pytest.raises(TooLargeError, match=wanted):
        memory.require_processes("workers", 28)


def test_a_limit_of_addresses_that_tensorflow_would_abort_at_is_one_line(monkeypatch):
    limits = (memory.ADDRESS_BYTES - 1, resource.RLIM_INFINITY)
    monkeypatch.setattr(resource, "getrlimit", lambda _: limits)
    with pytest.raises(TooLargeError, match=r"\(ulimit -v\), and TensorFlow needs at least 2.5 G"):
        memory.require_address_space()


@pytest.mark.parametrize("limit", [resource.RLIM_INFINITY, memory.ADDRESS_BYTES])
def test_enough_addresses_pass(monkeypatch, limit):
    monkeypatch.setattr(resource, "getrlimit", lambda _: (limit, resource.RLIM_INFINITY))
    memory.require_address_space()


@pytest.mark.parametrize("command", ["trainer", "tuner"])
def test_each_command_looks_at_the_limit_before_tensorflow_loads(tmp_path, command):
    limit = (2_000_000 << 10, resource.RLIM_INFINITY)
    result = subprocess.run(
        [sys.executable, "-m", command, "--recipe=quickstart"], capture_output=True, text=True,
        timeout=100, check=False, cwd=tmp_path,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, limit),
    )  # fmt: skip
    assert result.returncode == 2
    assert result.stderr.startswith(f"{command}: this process may have 1.9 GiB of addresses")
    assert len(result.stderr.splitlines()) == 1
    assert result.stdout == ""
