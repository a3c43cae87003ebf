"""Folders of images, small and quickly drawn."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.support import radiographs

if TYPE_CHECKING:
    from pathlib import Path

IMAGE = radiographs.draw(0)


def write(folder: Path, *names: str, data: bytes = IMAGE) -> None:
    """Writes the same bytes under each name, which may have folders in it."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)


def drawn(folder: Path, count: int) -> Path:
    """Draws `count` different images, 0.png and so on; returns the folder."""
    for seed in range(count):
        write(folder, f"{seed}.png", data=radiographs.draw(seed, format="PNG"))
    return folder
