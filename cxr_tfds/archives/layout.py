"""What the folders of an archive say: split, class and etiology of each image. Reads no image.

    chest_xray/train/PNEUMONIA/a.jpeg         split train, class PNEUMONIA
    Train/pneumonia/virus/a.jpeg              the same, in folders by etiology
    PNEUMONIA/a.jpeg                          no split folder: train

Every file ends in one of the lists of a `Layout`, or in an error.

    found = layout.arrange(root, listing.list_files(root))
    found.images["train/PNEUMONIA/a.jpeg"].entry.path
"""

from __future__ import annotations

import collections
import dataclasses
from typing import TYPE_CHECKING, Final

from cxr_tfds import text
from cxr_tfds.archives import listing
from cxr_tfds.archives.listing import SourceError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from etils import epath

CLASSES: Final = ("NORMAL", "PNEUMONIA")
ETIOLOGIES: Final = ("normal", "bacteria", "virus")
FOLDERS: Final = ("train", "val", "test")
IMAGE_SUFFIXES: Final = (".jpeg", ".jpg", ".jfif", ".png", ".tif", ".tiff", ".bmp", ".webp")
"""Suffixes of JPEG, PNG, TIFF, BMP and WebP, in lower case."""

_SPLITS: Final = {name: name for name in FOLDERS} | {"valid": "val", "validation": "val"}
_LABELS: Final = {label.lower(): label for label in CLASSES}
_PNEUMONIAS: Final = ETIOLOGIES[1:]
_Folder = tuple[str, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Image:
    """An image file in a class folder.

    Attributes:
      entry: the file.
      label: one of `CLASSES`.
      split: one of `FOLDERS`; None if the class folder is in none.
      etiology: the folder's, below PNEUMONIA; None if there is none.
      parent: the folder that holds the class folder.
    """

    entry: listing.FileEntry
    label: str
    split: str | None
    etiology: str | None
    parent: _Folder

    @property
    def key(self) -> str:
        """`folder/label/file_name`, the same wherever and however the folders are written."""
        return f"{self.split or FOLDERS[0]}/{self.label}/{self.entry.parts[-1]}"


@dataclasses.dataclass(frozen=True)
class Layout:
    """The files of a zip or folder by what becomes of them.

    Attributes:
      images: by key.
      copies: paths of images with the key and the contents of another one.
      ignored: paths of all other files.
    """

    images: Mapping[str, Image]
    copies: tuple[str, ...]
    ignored: tuple[str, ...]


def find_images(
    entries: Iterable[listing.FileEntry],
) -> tuple[list[Image], list[listing.FileEntry]]:
    """Returns the images in class folders, and all other files, both in the order given."""
    images, others = [], []
    for entry in entries:
        image = _place(entry) if _is_image(entry) else None
        if image:
            images.append(image)
        else:
            others.append(entry)
    return images, others


def arrange(root: epath.Path, entries: Sequence[listing.FileEntry]) -> Layout:
    """Gives every image its key. Of equal images with equal keys, the first is taken.

    Args:
      root: the zip or folder.
      entries: its files, the outermost first.

    Raises:
      SourceError: a folder is neither split nor class, or two different images have one key.
    """
    images, others = find_images(entries)
    _check_readable(root, images, others)
    _check_folders(root, images, [entry for entry in others if _is_image(entry)])
    first: dict[str, Image] = {}
    copies = []
    for image in images:
        original = first.setdefault(image.key, image)
        if original is not image:
            copies.append((original, image))
    _check_copies(root, copies)
    _check_parents(root, first.values())
    return Layout(
        first,
        tuple(copy.entry.path for _, copy in copies),
        tuple(entry.path for entry in others if not entry.is_folder),
    )


def label_of(entry: listing.FileEntry) -> str | None:
    """Returns the class in whose folder a file of any kind is; None outside of these folders."""
    image = _place(entry)
    return image.label if image else None


def is_archive_folder(name: str) -> bool:
    """Whether a folder of this name lies inside of an archive's tree: train, NORMAL, virus."""
    return name.lower() in {*_SPLITS, *_LABELS, *_PNEUMONIAS}


def is_split_folder(name: str) -> bool:
    """Whether a folder of this name is a split."""
    return name.lower() in _SPLITS


def _is_image(entry: listing.FileEntry) -> bool:
    return (
        not entry.is_folder
        and entry.suffix in IMAGE_SUFFIXES
        and not entry.parts[-1].startswith(".")
    )


def _place(entry: listing.FileEntry) -> Image | None:
    """Returns the image with what its folders say, or None outside of a class folder."""
    folders = list(entry.parts[:-1])
    names = [folder.lower() for folder in folders]
    etiology = None
    if len(names) >= 2 and names[-1] in _PNEUMONIAS and names[-2] == "pneumonia":
        etiology = names.pop()
    if not names or names[-1] not in _LABELS:
        return None
    parent = tuple(folders[: len(names) - 1])
    split = _SPLITS.get(parent[-1].lower()) if parent else None
    return Image(entry, _LABELS[names[-1]], split, etiology, parent)


def _check_readable(
    root: epath.Path, images: Iterable[Image], others: Iterable[listing.FileEntry]
) -> None:
    """Refuses a folder of the archive that can't be listed; others can't matter."""
    parents = {image.parent for image in images}
    for entry in others:
        above = {entry.parts[:length] for length in range(len(entry.parts))}
        if entry.is_folder and (is_archive_folder(entry.parts[-1]) or above & parents):
            raise SourceError(f"{_name(root / entry.path)} {entry.problem}.")


def _check_folders(
    root: epath.Path, images: Sequence[Image], strays: Iterable[listing.FileEntry]
) -> None:
    """Refuses images beside the class folders or below them: their class would be dropped."""
    parents = {image.parent for image in images}
    trees = {image.parent[:-1] for image in images if image.split}
    counts: collections.Counter[str] = collections.Counter()
    for entry in strays:
        folder = entry.parts[:-1]
        above = {folder[:length] for length in range(len(folder))}
        splits = {
            part for part in (*above, folder) if part and is_split_folder(part[-1])
        }  # Also a split folder without class folders.
        if above & parents or {part[:-1] for part in splits} & trees:
            counts["/".join(folder)] += 1
    if counts:
        named = text.some((f"{name} ({n:,})" for name, n in counts.most_common()), limit=5)
        raise SourceError(
            f"{_name(root)} has {text.counted(counts.total(), 'image')} in folders that are "
            f"neither NORMAL nor PNEUMONIA: {named}. The data set has these two classes, and no "
            "model of three or more can be trained from it. Move the folders out of the "
            "archive to train on the two."
        )


def _check_copies(root: epath.Path, copies: Iterable[tuple[Image, Image]]) -> None:
    """Refuses different images with one key: which of them is meant can't be known."""
    different = [
        (first.entry.path, second.entry.path)
        for first, second in copies
        if not listing.are_equal(root, first.entry, second.entry)
    ]
    if different:
        first, second = map(text.visible, different[0])
        raise SourceError(
            f"{_name(root)} has {len(different):,} pairs of different images with the same split, "
            f"class and file name, for example {first} and {second}. Keep only one of the trees, "
            "or rename the files of one."
        )


def _check_parents(root: epath.Path, images: Iterable[Image]) -> None:
    """Refuses class folders outside of a split, unless they are all in one place."""
    images = list(images)
    outside = collections.Counter(
        "/".join(image.parent) or "the folder itself" for image in images if not image.split
    )
    if len(outside) > 1 or (outside and outside.total() < len(images)):
        named = text.some(
            (f"{name} ({text.counted(count, 'image')})" for name, count in outside.items())
        )
        raise SourceError(
            f"{_name(root)} has folders NORMAL or PNEUMONIA that are in none of train, val and "
            f"test: in {named}. Rename the folder that holds them to one of these, or move it out "
            "of the archive."
        )


def _name(root: epath.Path) -> str:
    return text.visible(str(root))
