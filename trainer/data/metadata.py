"""Checks the files that describe a data set on disk, before TFDS reads them.

TFDS believes what they say: a split named by a path, a pattern of file names that leads elsewhere,
or JSON a thousand levels deep. Whoever can write to a shared data folder writes them.

metadata.check(folder, "grouped")        # of <data_dir>/cxr_tfds/grouped/2.0.0
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Any, Final, NotRequired, TypedDict

import tensorflow_datasets as tfds
from google.protobuf import json_format
from tensorflow_datasets.core import naming

from cxr_tfds import configs, origin, protocols
from trainer.errors import DiskError
from trainer.storage import documents, locations
from trainer.system import text

if TYPE_CHECKING:
    import pathlib

METADATA = "metadata.json"
MAX_EXAMPLES: Final = 10**9
_NAME, _FORMAT = "cxr_tfds", "tfrecord"


def _require_hash(value: str) -> None:
    if not re.fullmatch(r"[0-9a-f]{16,128}", value):
        raise ValueError("is not a hash")


class Metadata(TypedDict):
    """What the builder stores beside the records; reports copy the rest of it."""

    fingerprint: Annotated[documents.Name, _require_hash]
    archive_digest: NotRequired[str]
    images: NotRequired[dict[str, dict[str, int]]]


def check(folder: pathlib.Path, config: str) -> None:
    """Reads the description of a data set.

    Args:
      folder: of the version of a config.
      config: its name.

    Raises:
      DiskError: when a file is damaged, or describes another data set.
    """
    way_out = "remove the folder and build it again"
    try:
        _check(folder, config, way_out)
    except documents.DocumentError as error:
        raise DiskError(str(error)) from error


def _check(folder: pathlib.Path, config: str, way_out: str) -> None:
    path = folder / origin.LAST_FILE
    documents.load(path, dict[str, Any], way_out=way_out)
    documents.load(folder / METADATA, Metadata, way_out=way_out)
    try:
        info = tfds.core.dataset_info.read_from_json(path)
        _require_config(folder, info, config)
        _require_ours(info, config)
        for split in info.splits:
            _require_plain(split)
    except (json_format.Error, ValueError) as error:
        problem = text.one_line(text.first_line(error))
        raise documents.refused(path, problem, way_out) from error
    for names in folder.glob("*.labels.txt"):
        documents.read_text(names, way_out=way_out)
    for records in folder.glob(f"{_NAME}-*.{_FORMAT}-*"):
        if not records.is_file():  # TensorFlow would wait for ever for the data of a pipe.
            raise documents.refused(records, "it is not a regular file", way_out)


def _require_config(folder: pathlib.Path, info: Any, config: str) -> None:
    """Raises DiskError for sound records of another config, in a folder that was copied."""
    known = (row.name for row in configs.ROWS)
    found = str(info.config_name)
    if info.name != _NAME or found == config or found not in known:
        return
    here, there = folder.parent, folder.parent.with_name(found)
    move = "" if there.exists() else f" and rename {text.one_line(str(here))} to {found}"
    raise DiskError(
        f"{text.one_line(str(folder))} holds records of {_NAME}/{found}: give --dataset={found}"
        f"{move}, or remove the folder and build {_NAME}/{config}."
    )


def _require_ours(info: Any, config: str) -> None:
    kind = info.file_format or _FORMAT
    found = f"{info.name}/{info.config_name} {info.version} as {kind}"
    expected = f"{_NAME}/{config} {configs.VERSION} as {_FORMAT}"
    if found != expected:
        raise ValueError(f"it describes {text.shown(found)[1:-1]}, not {expected}")
    names = [split.name for split in info.splits]
    if sorted(names) != sorted(protocols.SPLITS):
        raise ValueError(f"its splits are {text.shown(names)}, not {', '.join(protocols.SPLITS)}")


def _require_plain(split: Any) -> None:
    """Raises ValueError for a split whose name or files TFDS would look for elsewhere."""
    locations.require_name(split.name)
    if not re.fullmatch(r"\w+", split.name):
        raise ValueError(f"it has a split {text.shown(split.name)}")
    template = split.filepath_template
    if template not in ("", naming.DEFAULT_FILENAME_TEMPLATE):
        raise ValueError(f"split {split.name} has files named {text.shown(template)}")
    lengths = list(split.shard_lengths)
    if min(lengths, default=0) < 0 or not 0 < sum(lengths) < MAX_EXAMPLES or split.num_bytes < 0:
        raise ValueError(f"split {split.name} has files of {text.shown(lengths)} examples")
