"""Heat maps put to use: on the page of a run, against masks of findings, and as files.

explainer = gradcam.of_model(model)
evaluated.save(evaluation, data, heatmaps.painter(explainer))
heatmaps.localize(explainer, data, table)               # for report.json; None without masks
for name, path in heatmaps.save(explainer, images, folder, origins):
    ...
heatmaps.kept(folder, origins)                          # those that need not be drawn again
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import re
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import PIL.Image

from trainer.errors import RunError
from trainer.evaluation import localization
from trainer.inference import overlays
from trainer.reports.pages import pictures
from trainer.storage import files

if TYPE_CHECKING:
    import pathlib
    from collections.abc import Iterable, Iterator, Mapping

    from trainer.data.pipeline import Data
    from trainer.evaluation.predictions import Predictions
    from trainer.inference.gradcam import Explainer
    from trainer.inference.worklist import WorklistRow
    from trainer.runs.evaluated import Paint

    Item = tuple[str, np.ndarray, int]
    """Name of an image, its pixels [S, S] uint8 at the model's size, and the class to explain."""

FOLDER: Final = "heatmaps"
_SPLIT: Final = "test"
_BLOCK: Final = 64
"""Images that are read at a time."""
_LONGEST_NAME: Final = 60
_ORIGIN: Final = "origin"
"""Name of the text in a PNG that says what the map is of."""
_DEFINITION = 2
"""Of heat maps; 1 took maps after the last maximum. Maps of another one are drawn anew."""
_ROWS, _COLUMNS = ("upper", "middle", "lower"), ("left", "middle", "right")


def painter(explainer: Explainer | None) -> Paint | None:
    """Returns what lays heat over the images of a page, each explained for its class.

    Args:
      explainer: draws the maps; None: there are none.

    Returns:
      A function of images [M, S, S, 1] uint8 and classes [M] int.
    """
    if explainer is None:
        return None

    def paint(images: np.ndarray, classes: np.ndarray) -> pictures.Heat:
        maps = explainer(images, classes)
        return pictures.Heat(overlays.blend_all(images, maps), [hottest(of) for of in maps])

    return paint


def hottest(heat: np.ndarray) -> str:
    """Returns where a map [h, w] is hottest, in words; empty if it has no heat."""
    if not heat.max() > 0:
        return ""
    row, column = np.unravel_index(heat.argmax(), heat.shape)
    words = (
        _ROWS[3 * int(row) // heat.shape[0]],
        _COLUMNS[3 * int(column) // heat.shape[1]],
    )
    return "middle" if set(words) == {"middle"} else " ".join(words)


def localize(explainer: Explainer | None, data: Data, table: Predictions) -> dict[str, Any] | None:
    """Measures whether heat maps point at the findings of the test split, with their masks.

    Of the examples with a finding whose class is predicted rightly, at most
    `localization.MAX_IMAGES`, the map of that class is compared with the mask.

    Args:
      explainer: of the model that predicted; None: there are no maps.
      data: the data set.
      table: the predictions of its whole test split, in its order.

    Returns:
      The figures as `report.json` has them; None of data without masks, or if no example qualifies.
    """
    if explainer is None or not data.has_masks:
        return None
    rows = localization.choose(table, _has_finding(data, len(table)))
    heat, masks = [], []
    for start in range(0, len(rows), _BLOCK):
        block = rows[start : start + _BLOCK]
        mask = data.masks(_SPLIT, block)
        maps = explainer(data.images(_SPLIT, block), table.predicted[block])
        heat.append(overlays.stretch(maps, *mask.shape[1:]))
        masks.append(mask)
    if not heat:
        return None
    found = localization.measure(np.concatenate(heat), np.concatenate(masks))
    return {"method": explainer.method, **found.to_json()} if found else None


def _has_finding(data: Data, count: int) -> np.ndarray:
    parts = [np.arange(start, min(start + 1024, count)) for start in range(0, count, 1024)]
    return np.concatenate([data.masks(_SPLIT, part).any((1, 2)) for part in parts])


def save(
    explainer: Explainer,
    images: Iterable[Item],
    folder: pathlib.Path,
    origins: Mapping[str, str] | None = None,
    *,
    saves_arrays: bool = False,
) -> Iterator[tuple[str, pathlib.Path]]:
    """Writes the overlay of each image as PNG, and yields its name and file.

    Images are taken and written in small batches: of any number of images, no more are in memory at
    a time. Each file appears whole or not at all. A file of the same name is replaced.

    Args:
      explainer: draws the maps.
      images: name, pixels [S, S] uint8 at the explainer's size, class; in any number.
      folder: where to write; it is made if need be.
      origins: of `origin`, by name; they are written into the PNGs, for `kept`.
      saves_arrays: whether to also write each map as `.npy`: [h, w] float16 in [0, 1], as the
        model sees it, not stretched to the image. Otherwise one of an earlier map is removed.

    Yields:
      The name of an image as it was given, and the path of its PNG: `<stem>-<hash of name>.png`, in
      ASCII. Images of equal names get files of their own.

    Raises:
      ConfigError: when an image has another size, or a class is none of the model's.
      RunError: when the folder is a link: what is written would be elsewhere.
    """
    if folder.is_symlink():
        raise RunError(f"{folder} is a link, and nothing is written through it; replace it.")
    names = _Names()
    items = iter(images)
    while batch := list(itertools.islice(items, explainer.batch_size)):
        pixels = np.stack([grey for _, grey, _ in batch])
        maps = explainer(pixels, [label for *_, label in batch])
        for (name, grey, _), heat in zip(batch, maps, strict=True):
            path = folder / f"{names.safe(name)}.png"
            _save_array(path, heat if saves_arrays else None)
            told = {_ORIGIN: origins[name]} if origins else {}
            overlays.save(path, overlays.blend(grey, heat), told)
            yield name, path


def _save_array(path: pathlib.Path, heat: np.ndarray | None) -> None:
    """Writes the numbers beside a PNG that is written next; None: removes them."""
    array = path.with_suffix(".npy")
    if heat is None:
        array.unlink(missing_ok=True)
        return
    path.unlink(missing_ok=True)  # A kill leaves no PNG beside the numbers of another map.
    with files.replacing(array) as partial:
        np.save(partial, heat.astype(np.float16), allow_pickle=False)


def origin(*, model: str, method: str, of_class: str, image: str) -> str:
    """Returns all that decides a map, as JSON.

    Args:
      model: a digest of the model.
      method: gradcam or hirescam.
      of_class: name of the class that is explained.
      image: a digest of the pixels that the model saw.
    """
    decided = {"method": method, "class": of_class, "image": image, "model": model}
    return json.dumps(decided | {"definition": _DEFINITION})


def kept(
    folder: pathlib.Path, origins: Mapping[str, str], *, with_arrays: bool = False
) -> dict[str, pathlib.Path]:
    """Returns the PNGs, by name, that `save` would write as they are.

    Args:
      folder: where they are.
      origins: of `origin`, by name.
      with_arrays: whether a `.npy` must be beside each.
    """
    found = {}
    for name, expected in origins.items():
        path = folder / f"{_Names().safe(name)}.png"
        has_array = not with_arrays or path.with_suffix(".npy").is_file()
        if has_array and _origin_of(path) == expected:
            found[name] = path
    return found


def named(rows: Iterable[WorklistRow], paths: Mapping[str, pathlib.Path]) -> list[WorklistRow]:
    """Returns rows with the paths of their maps, which are by file, as a worklist has them."""
    shown = {name: f"{FOLDER}/{path.name}" for name, path in paths.items()}
    return [dataclasses.replace(row, heatmap=shown.get(row.file, "")) for row in rows]


def _origin_of(path: pathlib.Path) -> str | None:
    """Returns what a PNG says of its origin; None unless it does, and can be decoded."""
    if path.is_symlink() or not path.is_file():
        return None
    try:
        with PIL.Image.open(path, formats=("PNG",)) as picture:
            said = picture.info.get(_ORIGIN)
            if said is not None:
                picture.load()
    except (OSError, ValueError, SyntaxError, PIL.Image.DecompressionBombError):
        return None
    return said


def others(folder: pathlib.Path, paths: Iterable[pathlib.Path]) -> list[pathlib.Path]:
    """Returns the maps in a folder, as PNG or numbers, that are none of `paths`."""
    stems = {path.stem for path in paths}
    is_there = folder.is_dir() and not folder.is_symlink()
    return sorted(
        path
        for path in (folder.iterdir() if is_there else ())
        if path.suffix in (".png", ".npy") and path.stem not in stems
    )


class _Names:
    """Gives names of files, which can't lead out of a folder and don't repeat."""

    def __init__(self) -> None:
        self._seen: dict[str, int] = {}  # About 120 bytes an image.

    def safe(self, name: str) -> str:
        """Returns a plain name for any text: letters, digits, `.`, `_`, `-` and a hash of it all.

        The hash tells names apart that differ only in what is left out, in their folder, or in
        upper and lower case, which not every disk tells apart. Whatever comes before it, a name
        with a hash is no device of Windows.
        """
        digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:12]
        count = self._seen[digest] = self._seen.get(digest, 0) + 1
        last = re.split(r"[/\\]", name)[-1]
        stem = last.rpartition(".")[0] or last
        plain = re.sub(r"[^A-Za-z0-9._-]+", "_", stem).strip("._-")[:_LONGEST_NAME]
        return f"{plain or 'image'}-{digest}{f'-{count}' if count > 1 else ''}"
