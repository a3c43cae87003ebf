"""Whether records are those that the options name: of this archive, in this folder.

provenance.require_same_archive(builder, config)          # RunError with the difference
provenance.say_if_partial(builder)                        # a line for a part of the images
provenance.explain_absence(builder)                       # why a data set is not where it should be
"""

from __future__ import annotations

import itertools
import pathlib
from typing import TYPE_CHECKING, Any

import tensorflow as tf
import tensorflow_datasets as tfds

from cxr_tfds import origin, source
from trainer.data import table
from trainer.errors import RunError
from trainer.system import console, text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from trainer.options import DataOptions

_FOLDERS_TO_SEARCH = 100


def require_same_archive(builder: Any, config: DataOptions) -> None:
    """Compares the archive in manual_dir, by its list of files, with the one that was built.

    Args:
      builder: of a data set that is built.
      config: with a manual_dir.

    Raises:
      RunError: when the folder is missing, holds no archive, or holds another one.
    """
    name, manual_dir = builder.info.full_name, config.manual_dir
    if config.dataset == "phantom":
        console.say(f"manual_dir ({manual_dir}) is not read: phantom radiographs are drawn.")
        return
    way_out = "leave --manual_dir out to use the records, or build others with another --data_dir"
    try:
        sizes = origin.sizes(source.open_archive(pathlib.Path(manual_dir).expanduser()))
    except (source.SourceError, OSError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise RunError(
            f"manual_dir ({manual_dir}) can't be compared with {name}, which is built in "
            f"{builder.data_dir} ({reason}); {way_out}."
        ) from error
    recorded = builder.info.metadata.get("archive_digest")
    if recorded is None:
        console.say(
            f"{name} does not say which archive it was built from; whether it is the one in "
            f"manual_dir ({manual_dir}) can't be told."
        )
    elif recorded != origin.digest(sizes):
        raise RunError(
            f"{name} in {builder.data_dir} was built from another archive than the one in "
            f"manual_dir ({manual_dir}): {_difference(builder, sizes)}; {way_out}."
        )


def say_if_partial(builder: Any) -> None:
    """Prints a line if the records are fewer than the images that the builder counted.

    `tfds build --max_examples_per_split` leaves out the rest; a try on a few images is no mistake.
    """
    counted = builder.info.metadata.get("images")
    if not isinstance(counted, dict):  # Records of a bucket are not checked before.
        return
    parts = []
    for name, split in builder.info.splits.items():
        whole = sum(counted.get(name, {}).values())
        if split.num_examples < whole:
            parts.append(f"{split.num_examples:,} of {whole:,} {name} images")
    if parts:
        console.say(
            f"A part of the data: the records of {builder.info.full_name} in {builder.data_dir} "
            f"hold {', '.join(parts)} (tfds build --max_examples_per_split?); for all, build "
            "again with tfds build --overwrite."
        )


def _difference(builder: Any, sizes: dict[str, int]) -> str:
    """Says in a clause what the archive has and the records have not, or the other way round."""
    try:
        built = set(_keys(builder))
    except (tf.errors.OpError, OSError, ValueError):  # ValueError: a name is none of ours.
        return "the lists of their files differ, and the records can't be read"
    if one_sided := sorted(built ^ sizes.keys()):
        where = "records" if one_sided[0] in built else "archive"
        return (
            f"the records have {text.counted(len(built), 'image')}, the archive {len(sizes):,}; "
            f"{text.visible(one_sided[0])} is only in the {where}"
        )
    return "their files have the same names and different sizes"


def _keys(builder: Any) -> Iterator[str]:
    """Yields `folder/class/name` of every record."""
    features = builder.info.features
    # Not tfds.decode.PartialDecoding, for which TFDS warns of its own code.
    skipped = table.encoded_images(features)
    for example in tfds.as_numpy(builder.as_dataset(split="all", decoders=skipped)):
        folder = features["folder"].int2str(example["folder"])
        label = features["label"].int2str(example["label"])
        yield f"{folder}/{label}/{example['file_name'].decode()}"


_NOT_RESUMED = (
    "Runs on another version can be evaluated and can predict, but not be resumed: images differ."
)


def explain_absence(builder: Any) -> str:
    """Says in a sentence what is there instead of the data set; empty if nothing is."""
    folder = pathlib.Path(builder.data_dir)
    if place := _built_nearby(folder):
        return f"It is built below {place}: give --data_dir={text.quoted(str(place))}."
    if others := _other_versions(folder):
        return (
            f"Version {others} is built there, and this program needs {folder.name}: build it "
            f"again. {_NOT_RESUMED}"
        )
    if any(folder.parent.glob("*incomplete*")):
        return "A build was stopped there before its end: start it again."
    return ""


def say_if_outdated(builder: Any) -> None:
    """Prints a line if records of another version lie where this one is about to be drawn."""
    folder = pathlib.Path(builder.data_dir)
    if others := _other_versions(folder):
        console.say(
            f"{builder.info.full_name} is drawn now, beside version {others} in "
            f"{text.visible(str(folder.parent))}, which nothing here reads any more. {_NOT_RESUMED}"
        )


def _other_versions(folder: pathlib.Path) -> str:
    found = sorted(path.parent.name for path in folder.parent.glob(f"*/{origin.LAST_FILE}"))
    return ", ".join(map(text.visible, found))


def require_no_nesting(builder: Any, config: DataOptions) -> None:
    """Raises RunError where data_dir is a folder inside another data directory's data set."""
    folder = pathlib.Path(builder.data_dir)
    root = folder.parents[2]
    if "cxr_tfds" in (root.name, root.parent.name, root.parent.parent.name) and (
        place := _built_above(folder)
    ):
        raise RunError(
            f"data_dir ({config.data_dir}) is inside a data set that is built; give "
            f"--data_dir={text.quoted(str(place))}."
        )


def _built_above(folder: pathlib.Path) -> pathlib.Path | None:
    """Returns which of the three folders above the data directory has the same data set."""
    root, relative = folder.parents[2], folder.relative_to(folder.parents[2])
    above = (place for place in root.parents[:3] if (place / relative / origin.LAST_FILE).is_file())
    return next(above, None)


def _built_nearby(folder: pathlib.Path) -> pathlib.Path | None:
    root, relative = folder.parents[2], folder.relative_to(folder.parents[2])
    try:
        below = sorted(itertools.islice(root.iterdir(), _FOLDERS_TO_SEARCH))
    except OSError:  # No such folder.
        below = []
    inside = (place for place in below if (place / relative / origin.LAST_FILE).is_file())
    return _built_above(folder) or next(inside, None)
