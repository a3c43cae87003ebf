"""Finds a built data set, on this machine or in a bucket, and builds or copies what is missing.

data = opening.load(config.data, image_size=224)         # a pipeline.Data, ready to read
data = opening.describe(config.data, image_size=224)     # classes and shapes only, built or not
"""

from __future__ import annotations

import pathlib
import shutil
from typing import TYPE_CHECKING, Any

import filelock
import tensorflow_datasets as tfds

import cxr_tfds  # noqa: F401 -- Registers the data set.
from cxr_tfds import source
from trainer.data import data_service, pipeline
from trainer.errors import RunError
from trainer.storage import locations, mirror

if TYPE_CHECKING:
    from trainer.option_groups import DataOptions

_LAST_FILE = "dataset_info.json"
"""TFDS writes this file last; where it exists, the data set is complete."""


def load(config: DataOptions, image_size: int) -> pipeline.Data:
    """Opens the data set; builds it first where the config says from what.

    Args:
      config: which data set, and how it is read.
      image_size: the side (px) that the model works on, see `describe`.

    Raises:
      ConfigError: when --data_service is not an address.
      RunError: when it isn't built and can't be, or --data_service does not answer.
    """
    if config.data_service:
        data_service.require(config.data_service)
    return _reading(_open(config), config, image_size)


def describe(config: DataOptions, image_size: int) -> pipeline.Data:
    """Names the data set, built or not: its classes and the shape of its images, no example.

    Args:
      config: which data set, and how it is read.
      image_size: the side (px) that the model works on. Larger images, and those of original size,
        are resized to it here, with antialiasing, which a TPU can't compile. Smaller ones are left
        to the model, so that fewer bytes go to the device.
    """
    is_remote = locations.is_url(config.data_dir)
    return _reading(_builder(config, None if is_remote else _root(config)), config, image_size)


def _reading(builder: Any, config: DataOptions, image_size: int) -> pipeline.Data:
    side = builder.info.features["image"].shape[0]
    return pipeline.Data(builder, config, image_size if side is None or side > image_size else None)


def _open(config: DataOptions) -> Any:
    if locations.is_url(config.data_dir):
        url = locations.parse(config.data_dir)
        return _open_staged(config, url) if config.stage_data else _open_in_place(config, url)
    return _prepared(config, _root(config))


def _root(config: DataOptions) -> pathlib.Path | None:
    return pathlib.Path(config.data_dir).expanduser() if config.data_dir else None


def _builder(config: DataOptions, root: object) -> Any:
    data_dir = None if root is None else str(root)
    return tfds.builder(f"cxr_tfds/{config.dataset}", data_dir=data_dir)


def _open_in_place(config: DataOptions, url: locations.Url) -> Any:
    """Opens a data set that TensorFlow reads from the bucket."""
    builder = _builder(config, url)
    if not builder.is_prepared():
        raise RunError(
            f"cxr_tfds/{config.dataset} is not built in {url}; with --stage_data=true it is "
            "built on this machine, and copied there."
        )
    return builder


def _open_staged(config: DataOptions, url: locations.Url) -> Any:
    """Opens a data set from a local copy of what the bucket has; what it has not is built."""
    root = url.folder_in(config.staging_root)
    folder = pathlib.Path(_builder(config, root).data_dir)
    folder.parent.mkdir(parents=True, exist_ok=True)
    part = url / folder.relative_to(root).as_posix()
    # Runs that share the staging folder copy once: the others wait and find the copy.
    lock = filelock.FileLock(folder.parent / ".staging.lock")
    with lock, mirror.Mirror(part, folder, shared=True) as kept:
        if kept.has(_LAST_FILE):  # Without it, whoever built there has not finished.
            kept.restore()
        if not _builder(config, root).is_prepared():
            shutil.rmtree(folder, ignore_errors=True)
        builder = _prepared(config, root)
        kept.sync(then=[folder / _LAST_FILE])
    return builder


def _prepared(config: DataOptions, root: pathlib.Path | None) -> Any:
    """Returns the builder of a data set, which it builds if need be."""
    builder = _builder(config, root)
    if builder.is_prepared():
        return builder
    if not config.manual_dir and config.dataset != "phantom":
        raise RunError(
            f"cxr_tfds/{config.dataset} is not built in {builder.data_dir}. Give --manual_dir, "
            "the folder with the Kaggle archive, or the --data_dir in which `tfds build cxr_tfds "
            f"--config={config.dataset}` has built it."
        )
    manual_dir = str(pathlib.Path(config.manual_dir).expanduser()) if config.manual_dir else None
    try:
        # Processes that train together on one disk build once: the others wait and find it built.
        lock = pathlib.Path(builder.data_dir).parent.with_suffix(".lock")
        lock.parent.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(lock):
            builder = _builder(config, root)  # One made before what it reads was there knows none.
            builder.download_and_prepare(
                download_config=tfds.download.DownloadConfig(manual_dir=manual_dir)
            )
    except (source.SourceError, OSError) as error:
        raise RunError(str(error)) from error
    return builder
