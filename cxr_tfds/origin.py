"""Which archive a data set was built from, told without reading an image. No TensorFlow.

The builder stores a digest of the names and sizes of all files; listing another folder is enough to
compare it.

    origin.digest(origin.sizes(source.open_archive("~/downloads/manual")))
"""

from __future__ import annotations

import hashlib
import zipfile
from typing import TYPE_CHECKING

from etils import epath

from cxr_tfds.archives import listing

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cxr_tfds import source


def sizes(archive: source.Archive) -> dict[str, int]:
    """Returns the size in bytes of every image by its key."""
    root = epath.Path(archive.root)
    if not archive.is_zip:
        return {record.key: listing.size_of(root / record.path) for record in archive.records}
    with root.open("rb") as file, zipfile.ZipFile(file) as members:
        return {record.key: members.getinfo(record.path).file_size for record in archive.records}


def digest(sizes_by_key: Mapping[str, int]) -> str:
    """Returns a hash of the names and sizes, independent of their order."""
    lines = (f"{key}\0{size}\n" for key, size in sorted(sizes_by_key.items()))
    return hashlib.sha256("".join(lines).encode(errors="surrogateescape")).hexdigest()
