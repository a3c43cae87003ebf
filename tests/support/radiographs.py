"""Images that tests draw themselves: single files, an archive in Kaggle's layout, and arrays."""

from __future__ import annotations

import dataclasses
import io
import zipfile
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    import pathlib


def draw(seed: int, *, mode: str = "L", size: tuple[int, int] = (48, 40), **kwargs: Any) -> bytes:
    """A noisy gradient; the same seed gives the same bytes."""
    rng = np.random.default_rng(seed)
    grey = rng.integers(0, 256, (size[1], size[0]), dtype=np.uint8) // 4
    grey += np.linspace(0, 180, size[0]).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(grey).convert(mode).save(buffer, **({"format": "JPEG"} | kwargs))
    return buffer.getvalue()


@dataclasses.dataclass
class Files:
    """An archive in the making: path to bytes."""

    content: dict[str, bytes]

    def extract(self, folder: pathlib.Path) -> pathlib.Path:
        for path, data in self.content.items():
            target = folder / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data)
        return folder

    def zip(self, folder: pathlib.Path, name: str = "archive.zip") -> pathlib.Path:
        folder.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(folder / name, "w") as archive:
            for path, data in self.content.items():
                archive.writestr(path, data)
        return folder


def kaggle_files() -> Files:
    """40 NORMAL and 60 PNEUMONIA images in train, 2 + 2 in val, 6 + 6 in test; and debris."""
    normal = [f"IM-{i // 2:04d}-{i:04d}" for i in range(48)]
    ill = [f"person{i // 2}_{'bacteria' if i % 3 else 'virus'}_{i}" for i in range(68)]
    paths = [
        f"chest_xray/{folder}/{label}/{name}.jpeg"
        for label, names, cuts in (("NORMAL", normal, (40, 42)), ("PNEUMONIA", ill, (60, 62)))
        for folder, part in (
            ("train", names[: cuts[0]]),
            ("val", names[cuts[0] : cuts[1]]),
            ("test", names[cuts[1] :]),
        )
        for name in part
    ]
    content = {path: draw(seed) for seed, path in enumerate(paths)}
    content["chest_xray/train/NORMAL/IM-0003-0006.jpeg"] = draw(1000, mode="RGB")
    nested = "chest_xray/val/NORMAL/IM-0020-0040.jpeg"
    content |= {
        f"chest_xray/{nested}": content[nested],
        f"__MACOSX/{nested}": b"resource fork",
        "__MACOSX/chest_xray/val/NORMAL/._IM-0020-0040.jpeg": b"resource fork",
        "chest_xray/.DS_Store": b"",
        "chest_xray/train/NORMAL/.DS_Store": b"",
    }
    return Files(content)


def noise(count: int, size: int = 32, seed: int = 0) -> np.ndarray:
    """Random grey images, [count, size, size, 1] uint8."""
    generator = np.random.default_rng(seed)
    return generator.integers(0, 256, (count, size, size, 1), dtype=np.uint8)
