"""The processes of workers on this machine, and the GPU that each is given."""

from __future__ import annotations

import subprocess
import types
from typing import Any

import pytest

from tuner.settings import Settings
from tuner.trials import chief


def _environments(monkeypatch, folder, workers: int, gpus: tuple[str, ...]) -> list[dict[str, str]]:
    """Returns the environments in which the workers of a search that is over are started."""
    started: list[dict[str, str]] = []

    def start(_, *, env, **__):
        started.append(env)
        return types.SimpleNamespace(
            poll=lambda: 0, terminate=lambda: None, wait=lambda _: 0, kill=lambda: None
        )

    monkeypatch.setattr(subprocess, "Popen", start)
    oracle: Any = types.SimpleNamespace(is_over=True, end_order=[])
    settings = Settings(workers=workers, directory=str(folder))
    settings.folder.mkdir(parents=True)
    own = chief.environments(workers, gpus)
    chief.supervise(oracle, [], settings, "127.0.0.1:1", lambda: None, own)
    return started


@pytest.mark.parametrize(
    ("workers", "gpus", "given"),
    [
        (2, ("0", "1"), ["0", "1"]),
        (2, ("4", "6", "7"), ["4", "6"]),
        (5, ("0", "1"), ["0", "1", "0", "1", "0"]),
        (2, ("GPU-1a",), ["GPU-1a", "GPU-1a"]),
    ],
)
def test_each_worker_gets_one_gpu_in_turn(monkeypatch, tmp_path, workers, gpus, given):
    started = _environments(monkeypatch, tmp_path, workers, gpus)
    assert [env["CUDA_VISIBLE_DEVICES"] for env in started] == given
    assert [env["KERASTUNER_TUNER_ID"] for env in started] == [
        f"worker-{i}" for i in range(workers)
    ]


@pytest.mark.parametrize("visible", ["", "0,1"])
def test_without_gpus_the_environment_stays(monkeypatch, tmp_path, visible):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    started = _environments(monkeypatch, tmp_path, 2, ())
    assert [env["CUDA_VISIBLE_DEVICES"] for env in started] == [visible] * 2
