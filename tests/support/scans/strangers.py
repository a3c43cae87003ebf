"""Images that a model of frontal chests should not be asked about, drawn from seeds.

    strangers.KINDS["lateral chest"](rng)          # [H, W] uint8

A phantom run must tell them; photographs of scikit-learn are among them.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageDraw
from sklearn import datasets

from cxr_tfds import phantoms, shapes

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

    Grey = npt.NDArray[np.uint8]

SIDE = 256


def sky(rng: np.random.Generator) -> Grey:
    """A gradient with a sun or moon, hills and houses."""
    top, bottom = sorted(rng.uniform(90, 250, 2))
    image = Image.fromarray(
        np.repeat(np.linspace(top, bottom, SIDE)[:, None], SIDE, 1).astype(np.uint8)
    )
    draw = ImageDraw.Draw(image)
    x, y, radius = rng.uniform(20, SIDE - 20), rng.uniform(20, 90), rng.uniform(8, 30)
    draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=int(rng.choice([20, 255])))
    horizon = rng.uniform(130, 200)
    points = [(i * SIDE / 8, horizon + rng.uniform(-30, 30)) for i in range(9)]
    draw.polygon([*points, (SIDE, SIDE), (0, SIDE)], fill=int(rng.integers(20, 110)))
    for _ in range(int(rng.integers(1, 6))):
        left, width, height = rng.uniform(0, 220), rng.uniform(15, 60), rng.uniform(20, 90)
        box = (left, SIDE - height, left + width, SIDE)
        draw.rectangle(box, fill=int(rng.integers(0, 256)))
    return np.asarray(image)


def checkerboard(rng: np.random.Generator) -> Grey:
    """Fields of two greys, of 6 to 60 pixels."""
    size = int(rng.integers(6, 61))
    rows, columns = np.indices((SIDE, SIDE)) // size
    dark, bright = np.sort(rng.choice(np.arange(0, 256, 40), 2, replace=False))
    return np.where((rows + columns) % 2, bright, dark).astype(np.uint8)


def text_page(rng: np.random.Generator) -> Grey:
    """A white page with lines of black letters."""
    image = Image.new("L", (SIDE, SIDE), int(rng.integers(225, 256)))
    draw = ImageDraw.Draw(image)
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz     "))
    margin, leading = rng.integers(8, 30), int(rng.integers(11, 20))
    for top in range(int(margin), SIDE - 20, leading):
        line = "".join(rng.choice(letters, int(rng.integers(12, 40))))
        draw.text((margin, top), line, fill=int(rng.integers(0, 60)))
    return np.asarray(image)


@functools.cache
def _photographs() -> list[Grey]:
    loaded = datasets.load_sample_images().images
    return [np.asarray(Image.fromarray(image).convert("L")) for image in loaded]


def photograph(rng: np.random.Generator) -> Grey:
    """A part of a photograph: a temple, or a flower."""
    whole = _photographs()[int(rng.integers(len(_photographs())))]
    side = int(rng.integers(120, min(whole.shape)))
    top, left = (int(rng.integers(0, size - side + 1)) for size in whole.shape)
    return whole[top : top + side, left : left + side]


def noise(rng: np.random.Generator) -> Grey:
    """Fine or coarse noise."""
    size = int(rng.choice([SIDE, SIDE // 2, SIDE // 4, SIDE // 8]))
    grain = rng.integers(0, 256, (size, size), dtype=np.uint8)
    return np.asarray(Image.fromarray(grain).resize((SIDE, SIDE)))


def lateral_chest(rng: np.random.Generator) -> Grey:
    """A chest from the side: one lung field, the spine at one side, the heart in front."""
    axis = (np.arange(shapes.SIDE, dtype=np.float32) + 0.5) * (2 / shapes.SIDE) - 1
    x, y = np.meshgrid(axis * rng.choice([-1, 1]), axis)
    x, y = x - rng.normal(0, 0.03), y - rng.normal(0, 0.03)
    trunk = shapes.step(0.72 + 0.10 * y - np.abs(x), 0.03)
    dome = rng.uniform(0.40, 0.55)
    lung = shapes.step(1 - np.abs(x / 0.50) ** 2.2 - np.abs((y + 0.15) / 0.85) ** 2.4, 0.05)
    lung *= shapes.step(dome - 0.35 * x + 0.9 * x**2 - y, 0.02)
    heart = shapes.step(1 - ((x + 0.22) / 0.26) ** 2 - ((y - dome + 0.28) / 0.30) ** 2, 0.05)
    course = 0.56 - 0.10 * np.cos(2.2 * y)
    spine = shapes.step(0.09 - np.abs(x - course), 0.015)
    discs = 0.6 + 0.4 * np.cos(2 * np.pi * y / 0.16 + rng.uniform(0, 6))
    sternum = shapes.ridge(x + 0.56 + 0.10 * y, 0.035) * shapes.step(0.30 - np.abs(y + 0.2), 0.03)
    ribs = shapes.comb(y - 0.55 * x, rng.uniform(0.15, 0.19), rng.uniform(0, 1), 0.25)
    diaphragm = trunk * shapes.step(y - dome + 0.35 * x - 0.9 * x**2, 0.02)
    attenuation = (
        trunk * rng.uniform(0.55, 0.70)
        - 0.45 * lung * (1 - 0.7 * heart)
        + spine * (0.16 + 0.06 * discs)
        + 0.12 * sternum
        + 0.06 * ribs * trunk
        + 0.12 * diaphragm
    )
    return phantoms._expose(attenuation.astype(np.float32), rng)


def inverted_chest(rng: np.random.Generator) -> Grey:
    """A phantom in which black and white are swapped."""
    records = phantoms.records()
    return 255 - phantoms.render(records[int(rng.integers(len(records)))])


KINDS: dict[str, Callable[[np.random.Generator], Any]] = {
    "sky": sky,
    "checkerboard": checkerboard,
    "text page": text_page,
    "photograph": photograph,
    "noise": noise,
    "lateral chest": lateral_chest,
    "inverted chest": inverted_chest,
}
