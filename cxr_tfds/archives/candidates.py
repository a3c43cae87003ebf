"""Which zip or folder in `--manual_dir` is the archive: what decides is what is inside.

found = candidates.choose(epath.Path("~/Downloads").expanduser())
found.root, found.entries
"""

from __future__ import annotations

import dataclasses
import pathlib
from typing import TYPE_CHECKING

from cxr_tfds import text
from cxr_tfds.archives import layout, listing
from cxr_tfds.archives.listing import SourceError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from etils import epath


_DEEPEST_ARCHIVE = 2
"""Parts of the path of a packed archive that may be the one that is meant."""
_EXPORT = "export them as 8-bit PNG or JPEG, with a window"
_TO_BE_RENAMED = (
    "rename the folders of the two classes to NORMAL and PNEUMONIA, or give as --manual_dir the "
    "folder that has them"
)
_TO_BE_SORTED = (
    "sort the images into folders NORMAL and PNEUMONIA, and name them like IM-0115-0001.jpeg or "
    "person1_virus_6.jpeg: tables of labels are not read"
)


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A zip, or a folder with all below it.

    Attributes:
      root: its path.
      entries: its files, the outermost first.
      images: those in class folders, by key; of equal keys the first.
      beside: one line for each other thing in the folder that is not read.
    """

    root: epath.Path
    entries: Sequence[listing.FileEntry]
    images: Mapping[str, layout.Image]
    beside: tuple[str, ...] = ()


def choose(path: epath.Path) -> Candidate:
    """Returns the zip or folder that holds the chest X-rays.

    Args:
      path: a zip, or a folder; it exists.

    Raises:
      SourceError: nothing here holds any, or several zips hold different ones, or the folder is a
        part of an archive.
    """
    if not path.is_dir():
        return _require_images(_zip_file(path), path)
    tree = _candidate(path)
    readable, unreadable = _zips(tree)
    unreadable += tuple(
        f"{_name(path / entry.path)} {entry.problem}." for entry in tree.entries if entry.is_folder
    )
    zips = [found for found in readable if found.images]
    if zips:
        return _preferred(zips, tree, unreadable)
    if not tree.images and unreadable:
        raise SourceError(unreadable[0])
    _check_depth(tree)
    if not tree.images and readable:
        return _require_images(readable[0], readable[0].root)
    return dataclasses.replace(_require_images(tree, path), beside=unreadable)


def _candidate(root: epath.Path) -> Candidate:
    entries = listing.list_files(root)
    images: dict[str, layout.Image] = {}
    for image in layout.find_images(entries)[0]:
        images.setdefault(image.key, image)
    return Candidate(root, entries, images)


def _zip_file(path: epath.Path) -> Candidate:
    suffix = listing.FileEntry(path.name, 0).suffix
    if suffix in layout.IMAGE_SUFFIXES:
        raise SourceError(
            f"{_name(path)} is an image, not an archive: give the folder that holds train/NORMAL "
            "and the other class folders, or the zip."
        )
    if suffix in listing.PACKED_SUFFIXES:
        raise SourceError(_packed(path.name, suffix))
    try:
        return _candidate(path)
    except SourceError as error:
        if suffix == ".zip":
            raise
        raise SourceError(f"{_name(path)} is neither a folder nor a zip.") from error


def _zips(tree: Candidate) -> tuple[list[Candidate], tuple[str, ...]]:
    """Returns the zips in the folder itself, and a line for each that can't be read."""
    zips, unreadable = [], []
    for entry in tree.entries:
        if len(entry.parts) == 1 and entry.suffix == ".zip":
            try:
                zips.append(_candidate(tree.root / entry.path))
            except SourceError as error:
                unreadable.append(str(error))
    return zips, tuple(unreadable)


def _preferred(zips: Sequence[Candidate], tree: Candidate, beside: tuple[str, ...]) -> Candidate:
    """Returns the first zip, if no other zip and no tree beside it holds other images."""
    first, *others = zips
    if any(_contents(other) != _contents(first) for other in others):
        names = text.some(found.root.name for found in zips)
        raise SourceError(
            f"{_name(tree.root)} contains {len(zips)} archives of chest X-rays ({names}). Keep "
            "only one of them, or give one of them as --manual_dir."
        )
    name = text.visible(first.root.name)
    same = text.some((other.root.name for other in others), limit=5)
    beside += (f"Not read, because it holds the same images as {name}: {same}.",) if same else ()
    if tree.images:
        _check_tree_beside(first, tree)
    zip_names = {found.root.name for found in zips}
    rest = [
        entry.path for entry in tree.entries if entry.path not in zip_names and not entry.is_folder
    ]
    if rest:
        counts = listing.count_by_suffix(rest)
        files = text.counted(len(rest), "file")
        beside += (f"Not read beside {name}: {files} ({counts}), {text.some(rest)}.",)
    return dataclasses.replace(first, beside=beside)


def _contents(found: Candidate) -> dict[str, tuple[int, int | None]]:
    return {key: (image.entry.size, image.entry.crc) for key, image in found.images.items()}


def _check_tree_beside(zipped: Candidate, tree: Candidate) -> None:
    sizes = {key: image.entry.size for key, image in zipped.images.items()}
    different = [key for key, image in tree.images.items() if sizes.get(key) != image.entry.size]
    if different:
        raise SourceError(
            f"{_name(tree.root)} contains {text.visible(zipped.root.name)} and an extracted tree "
            f"with {text.counted(len(different), 'image')} that the zip doesn't have, for example "
            f"{text.visible(tree.images[different[0]].entry.path)}. Move one of the two elsewhere."
        )


def _check_depth(tree: Candidate) -> None:
    """Refuses a folder from inside of an archive, such as train or NORMAL; names the right one."""
    path = pathlib.Path(tree.root).absolute()
    if not layout.is_archive_folder(path.name):
        return
    if tree.images:
        beside = (other.name for other in path.parent.iterdir() if other.is_dir())
        splits = [name for name in beside if layout.is_split_folder(name)]
        class_folders_here = any(not image.parent for image in tree.images.values())
        if not (layout.is_split_folder(path.name) and class_folders_here and len(splits) > 1):
            return
    above = next(folder for folder in path.parents if not layout.is_archive_folder(folder.name))
    raise SourceError(
        f"{_name(tree.root)} is one folder of an archive: give the whole, "
        f"--manual_dir={text.quoted(str(above))}"
    )


def _require_images(found: Candidate, path: epath.Path) -> Candidate:
    if found.images:
        return found
    # Further down, and in folders such as .venv, archives are the parts of something else.
    near = [entry for entry in found.entries if len(entry.parts) <= _DEEPEST_ARCHIVE]
    near = [entry for entry in near if not entry.parts[0].startswith(".")]
    entries = [entry for entry in near if entry.suffix in listing.PACKED_SUFFIXES]
    zips = [entry.path for entry in near if entry.suffix == ".zip"]
    reason = f"{_name(path)} contains no chest X-rays"
    if entries:
        raise SourceError(f"{reason}: {_packed(entries[0].path, entries[0].suffix)}")
    if zips:
        raise SourceError(
            f"{reason} outside of {text.some(zips)}: extract that zip, or give it as --manual_dir."
        )
    if unread := _not_read(found):
        raise SourceError(f"{_name(path)} has {unread}.")
    if found.entries:
        paths = [entry.path for entry in found.entries]
        reason += (
            f" in folders NORMAL and PNEUMONIA; it has {listing.count_by_suffix(paths)} elsewhere"
        )
    way_out = listing.WAY_OUT
    if names := _folders_of_images(found.entries):
        reason += f", with images in {text.some(names)}"
        way_out = _TO_BE_SORTED if len(names) == 1 else _TO_BE_RENAMED
    message = f"{reason}.\n{listing.HOW_TO_OBTAIN}"
    raise SourceError(message, line=f"{reason}; {way_out}.")


def _not_read(found: Candidate) -> str:
    """Says in a clause which pictures are where images should be; empty if there are none."""
    files = [entry for entry in found.entries if not entry.is_folder]
    inside = [entry for entry in files if layout.label_of(entry)]
    if dicom := listing.find_dicom(found.root, inside):
        return f"{_named(dicom, 'DICOM file')}: DICOM isn't read; {_EXPORT}"
    if _folders_of_images(found.entries):
        return ""
    if others := [entry for entry in inside if entry.suffix in listing.PICTURE_SUFFIXES]:
        return f"{_named(others, 'file')}, and no {'/'.join(layout.IMAGE_SUFFIXES)}; {_EXPORT}"
    if dicom := [entry for entry in files if entry.suffix in listing.DICOM_SUFFIXES]:
        wanted = "in folders NORMAL and PNEUMONIA"
        return f"{_named(dicom, 'DICOM file')}: DICOM isn't read; {_EXPORT}, {wanted}"
    return ""


def _named(files: Sequence[listing.FileEntry], noun: str) -> str:
    """Returns "10 DICOM files (10 .dcm) in NORMAL and PNEUMONIA"."""
    labels = sorted({label for label in map(layout.label_of, files) if label})
    where = f"in {' and '.join(labels)}" if labels else "outside of folders NORMAL and PNEUMONIA"
    counts = listing.count_by_suffix(entry.path for entry in files)
    return f"{text.counted(len(files), noun)} ({counts}) {where}"


def _folders_of_images(entries: Sequence[listing.FileEntry]) -> list[str]:
    """Returns the names of folders that hold images: the classes' own names, if they are few."""
    images = [entry for entry in entries if entry.suffix in layout.IMAGE_SUFFIXES]
    shown = [entry.parts[:-1] for entry in images if not entry.parts[0].startswith(".")]
    return sorted({folders[-1] for folders in shown if folders})


def _packed(name: str, suffix: str) -> str:
    if suffix in listing.UNFINISHED_SUFFIXES:
        return f"{text.visible(name)} is an unfinished download: finish it first."
    return f"{text.visible(name)} is a {suffix}: extract it, and give the folder as --manual_dir."


def _name(path: epath.Path) -> str:
    return text.visible(str(path))
