"""Where a data set's archive comes from, told without reading an image. No TensorFlow.

The builder stores a digest of the names and sizes of all files; listing another folder is enough to
compare it.

    origin.digest(origin.sizes(source.open_archive("~/downloads/manual")))
    origin.require_same("~/downloads/manual", builder.data_path)
    origin.require_whole(builder.data_path)
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from typing import TYPE_CHECKING, Any, Final

from absl import logging
from etils import epath

from cxr_tfds import source, text
from cxr_tfds.archives import listing

if TYPE_CHECKING:
    from collections.abc import Mapping

LAST_FILE: Final = "dataset_info.json"
"""TFDS writes this file last: if it exists, the data set is complete."""


def require_whole(folder: epath.Path) -> None:
    """Refuses the folder of a data set that is there without its description.

    TFDS takes any folder for records that are built, and builds none in it.

    Raises:
      SourceError: the folder exists and has no `dataset_info.json`.
    """
    if folder.exists() and not (folder / LAST_FILE).exists():
        raise source.SourceError(
            f"{text.visible(str(folder))} is there without {LAST_FILE}, so its records can't be "
            "read; remove the folder and build it again."
        )


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


def require_same(manual_dir: epath.PathLike, folder: epath.Path) -> str:
    """Refuses records of another archive than the one in `manual_dir`.

    Args:
      manual_dir: the zip, or the folder with the zip or its files.
      folder: of the data set that is built.

    Returns:
      A line that says why the two can't be compared, and which records are used; empty if they are
      the same.

    Raises:
      SourceError: the archive is another one.
    """
    metadata = _metadata(folder)
    images = sum(sum(counts.values()) for counts in metadata.get("images", {}).values())
    recorded = metadata.get("archive_digest")
    try:
        found = sizes(source.open_archive(manual_dir))
    except (source.SourceError, OSError, zipfile.BadZipFile) as error:
        return (
            f"The records in {folder} are used, of an archive of {text.counted(images, 'image')} "
            f"(archive_digest {str(recorded)[:12]}); manual_dir is not: "
            f"{str(error).splitlines()[0]}"
        )
    if recorded is None:
        return f"The records in {folder} are used; they don't say of which archive they are."
    if recorded == digest(found):
        return ""
    difference = "their files have other names or sizes"
    if images != len(found):
        difference = f"the records have {text.counted(images, 'image')}, the archive {len(found):,}"
    raise source.SourceError(
        f"The records in {folder} were built from another archive than the one in manual_dir "
        f"({text.visible(str(manual_dir))}): {difference}; leave manual_dir out to use them, build "
        "them again with `tfds build --overwrite`, or build others in another data_dir."
    )


def _metadata(folder: epath.Path) -> Mapping[str, Any]:
    """Returns what the builder stored beside the records; nothing if the file is missing."""
    path = folder / "metadata.json"
    found: Mapping[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    return found


def download_from_kaggle(dl_manager: Any) -> Any:
    """Downloads the archive with the Kaggle command; returns where it is.

    Raises:
      SourceError: the command fails.
    """
    logging.info(
        "No --manual_dir given: downloading %s with the kaggle command.", source.KAGGLE_DATASET
    )
    try:
        return dl_manager.download_kaggle_data(source.KAGGLE_DATASET)
    except (RuntimeError, ValueError) as error:
        reason = text.visible(str(error).partition("\n")[0])
        raise source.SourceError(
            f"The kaggle command failed ({reason}).\n"
            "If it is not installed, run `pip install kaggle`. To do without it:\n"
            f"{source.HOW_TO_OBTAIN}"
        ) from error
