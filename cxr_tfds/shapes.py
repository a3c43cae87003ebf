"""Shapes and textures that a phantom is drawn from: soft steps, spots, bars and noise. NumPy only.

Each takes distances or coordinates of every pixel, in any unit, and returns a value for each.
"""

from __future__ import annotations

import functools
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from cxr_tfds import configs

SIDE: Final = configs.PHANTOM_SIDE

Field = NDArray[np.floating[Any]]
"""(SIDE, SIDE) float32: an attenuation, a mask in [0, 1] or a coordinate in [-1, 1]."""


def texture(rng: np.random.Generator, scale: float) -> Field:
    """Returns smooth noise of zero mean and unit deviation; `scale` in pixels."""
    white = rng.standard_normal((SIDE, SIDE), dtype=np.float32)
    smooth = np.fft.irfft2(np.fft.rfft2(white) * gaussian_response(scale), s=(SIDE, SIDE))
    return (smooth / smooth.std()).astype(np.float32)


@functools.lru_cache(maxsize=64)
def gaussian_response(scale: float) -> NDArray[np.float64]:
    """Returns a Gaussian's response at the frequencies of `rfft2`; `scale` in pixels."""
    rows = np.fft.fftfreq(SIDE)[:, None]
    columns = np.fft.rfftfreq(SIDE)[None, :]
    return np.exp(-2 * (np.pi * scale) ** 2 * (rows**2 + columns**2))


def step(value: Field, width: float) -> Field:
    """Rises from 0 to 1 over six widths around zero. Avoids `exp`, which differs between CPUs."""
    t = np.clip(value * np.float32(1 / (6 * width)) + np.float32(0.5), 0, 1)
    return t * t * (3 - 2 * t)


def blob(dx: Field, dy: Field, rx: float, ry: float) -> Field:
    """Returns a spot that approximates a Gaussian with these standard deviations."""
    return bump((dx * np.float32(1 / rx)) ** 2 + (dy * np.float32(1 / ry)) ** 2)


def bump(squared: Field) -> Field:
    """Returns (1 - t²/8)⁴ for t², which approximates exp(-t²/2) and is 0 from t² = 8."""
    t = np.clip(1 - squared * np.float32(0.125), 0, None)
    return np.square(np.square(t))


def ridge(distance: Field, width: float) -> Field:
    """Returns a bar with brighter edges, where the beam runs along the cortex of the bone."""
    t = np.abs(distance) / np.float32(width)
    return step(1 - t, 0.15) * (0.75 + 0.35 * np.clip(t, 0, 1) ** 2)


def comb(course: Field, gap: float, phase: float, share: float) -> Field:
    """Returns parallel bars, one per `gap`, each of which fills `share` of it."""
    offset = np.mod(course / np.float32(gap) + phase, 1) - np.float32(0.5)
    return ridge(offset, share / 2 * 1.3)
