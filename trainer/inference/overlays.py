"""Heat over radiographs, as pictures: grey where there is no heat, so that they stay readable.

    rgb = overlays.blend(grey, heat)       # (H, W) uint8, (h, w) in [0, 1] -> (H, W, 3) uint8
    overlays.save(folder / "a.png", rgb)

The colours are of Matplotlib's `inferno`, which is perceptually uniform: lightness grows with the
heat. To readers who don't tell red from green, they are yellow on grey.
Without heat a pixel is the radiograph's own; with more of it, more of the colour covers the grey.
"""

from __future__ import annotations

import functools
import types
from typing import TYPE_CHECKING, Any, Final

import matplotlib
import numpy as np
import PIL.Image
import PIL.PngImagePlugin

from trainer.storage import files

if TYPE_CHECKING:
    import pathlib
    from collections.abc import Mapping

    import numpy.typing as npt

COLOURS: Final = "inferno"
_FIRST, _LAST = 0.35, 0.85
"""The part of the colours that is used, from violet to orange: below it, they are black and would
look like lung; above it, pale and would look like bone."""
_MOST_OPAQUE: Final = 0.6
"""Opacity where heat is 1: the radiograph's structure stays visible below."""


def blend(
    grey: npt.NDArray[np.uint8], heat: npt.NDArray[np.floating[Any]]
) -> npt.NDArray[np.uint8]:
    """Lays one heat map over its image.

    Args:
      grey: [H, W] or [H, W, 1], grey levels.
      heat: [h, w] in [0, 1], stretched to the image bilinearly.

    Returns:
      [H, W, 3] RGB.

    Raises:
      ValueError: when the arrays have other shapes, or heat is not in [0, 1].
    """
    pixels = grey[..., 0] if grey.ndim == 3 and grey.shape[-1] == 1 else grey
    if pixels.dtype != np.uint8 or pixels.ndim != 2 or heat.ndim != 2:
        raise ValueError(
            f"grey ({grey.dtype} {grey.shape}) must be uint8 [H, W], heat {heat.shape} [h, w]."
        )
    if not (heat >= 0).all() or not (heat <= 1).all():  # NaN is neither.
        raise ValueError("Heat must be in [0, 1].")
    found = stretch(heat[None], *pixels.shape)[0]
    colours = _palette()[np.rint(255 * found).astype(int)]
    opacity = _MOST_OPAQUE * found[..., None]
    return np.rint((1 - opacity) * pixels[..., None] + opacity * colours).astype(np.uint8)


def blend_all(
    grey: npt.NDArray[np.uint8], heat: npt.NDArray[np.floating[Any]]
) -> npt.NDArray[np.uint8]:
    """Lays heat maps [M, h, w] over their images [M, H, W, 1]; returns [M, H, W, 3] RGB."""
    found = np.zeros((*grey.shape[:3], 3), np.uint8)
    for place, pair in enumerate(zip(grey, heat, strict=True)):
        found[place] = blend(*pair)
    return found


def stretch(maps: npt.NDArray[Any], height: int, width: int) -> npt.NDArray[np.float32]:
    """Stretches maps to the size of their images, bilinearly.

    Args:
      maps: [B, h, w], floating.
      height: of the result, in pixels.
      width: of the result, in pixels.

    Returns:
      [B, height, width] between the lowest and the highest value of each map. The highest itself
      lies in the middle of a cell, and need not be reached.
    """
    found = np.zeros((len(maps), height, width), np.float32)
    for place, of in enumerate(maps):
        image = PIL.Image.fromarray(np.ascontiguousarray(of, np.float32))
        found[place] = np.asarray(image.resize((width, height), PIL.Image.Resampling.BILINEAR))
    return found


def save(
    path: pathlib.Path,
    rgb: npt.NDArray[np.uint8],
    told: Mapping[str, str] = types.MappingProxyType({}),
) -> None:
    """Writes a picture as PNG; a reader sees the old file or the new one.

    Args:
      path: the file.
      rgb: [H, W, 3].
      told: texts that the file holds beside the pixels, by name, in ASCII.
    """
    texts = PIL.PngImagePlugin.PngInfo()
    for name, value in told.items():
        texts.add_text(name, value)
    with files.replacing(path) as partial:
        PIL.Image.fromarray(rgb).save(partial, format="PNG", optimize=True, pnginfo=texts)


@functools.cache
def _palette() -> npt.NDArray[np.float64]:
    """Returns the colours of 256 steps of heat, [256, 3] in [0, 255]."""
    steps = np.linspace(_FIRST, _LAST, 256)
    return 255 * np.asarray(matplotlib.colormaps[COLOURS](steps))[:, :3]
