"""Opens a data set on this machine or in a bucket; first builds or copies it if need be.

data = opening.load(config.data, image_size=224)         # a pipeline.Data, ready to read
data = opening.describe(config.data, image_size=224)     # classes and shapes, even if not built
"""

from __future__ import annotations

import pathlib
import shutil
from typing import TYPE_CHECKING, Any

import filelock
import tensorflow_datasets as tfds
from tensorflow_datasets.core.utils import file_utils

from cxr_tfds import configs, origin, source
from trainer.data import data_service, metadata, pipeline, provenance
from trainer.errors import DiskError, RunError
from trainer.storage import locations, mirror
from trainer.system import console, environment, faults, text

if TYPE_CHECKING:
    from trainer.options import DataOptions


def load(config: DataOptions, image_size: int, *, compares_archive: bool = True) -> pipeline.Data:
    """Opens the data set, and builds it first if the config names its source.

    Args:
      config: which data set, and how to read it.
      image_size: side (px) of the images that the backbone takes, see `describe`.
      compares_archive: whether records that are built must be of the archive in manual_dir; false
        on all hosts but one, and for a manual_dir that only comes from a finished run.

    Raises:
      RunError: when it is not built and can't be built, is damaged, was built from another archive,
        or --data_service does not answer.
    """
    if config.data_service:
        data_service.require(config.data_service)
    builder = _open(config)
    if config.manual_dir and compares_archive:
        provenance.require_same_archive(builder, config)
    provenance.say_if_partial(builder)
    return _reading(builder, config, image_size)


def describe(config: DataOptions, image_size: int) -> pipeline.Data:
    """Returns the data set, built or not; only classes and image shape can be read from it.

    Args:
      config: which data set, and how to read it.
      image_size: side (px) of the images that the backbone takes. The input pipeline shrinks larger
        images, and those of original size, to this side with antialiasing, which XLA can't compile
        for a TPU. The model enlarges smaller ones, so that fewer bytes go to the device.
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
    """Returns the TFDS builder, which reads what is on disk, once it has been checked.

    Raises:
      DiskError: when the data set's description is damaged, or is not ours.
    """
    data_dir = None if root is None else str(root)
    if not isinstance(root, locations.Url):
        _, folder = file_utils.get_data_dir_and_dataset_dir(
            data_dir, "cxr_tfds", config.dataset, configs.VERSION
        )
        if (pathlib.Path(folder) / origin.LAST_FILE).exists():
            metadata.check(pathlib.Path(folder), config.dataset)
    try:
        with environment.warnings_shown():
            builder = tfds.builder(f"cxr_tfds/{config.dataset}", data_dir=data_dir)
        is_described = not builder.is_prepared() or "fingerprint" in builder.info.metadata
    except Exception as error:  # TFDS trusts the files that it reads.
        reason = text.one_line(text.first_line(error))
        raise _damaged(config, data_dir, reason) from error
    if not is_described:
        raise _damaged(config, data_dir, "its metadata.json has no fingerprint")
    return builder


def _damaged(config: DataOptions, data_dir: str | None, reason: str) -> DiskError:
    folder = f"{data_dir or tfds.core.constants.DATA_DIR}/cxr_tfds/{config.dataset}"
    return DiskError(
        f"the description of the data set in {folder} can't be read ({reason}); remove the folder "
        "and build it again."
    )


def _open_in_place(config: DataOptions, url: locations.Url) -> Any:
    """Opens a data set whose records TensorFlow reads straight from the bucket."""
    builder = _builder(config, url)
    if not builder.is_prepared():
        raise RunError(
            f"cxr_tfds/{config.dataset} is not built in {url}; give --stage_data=true to build it "
            "on this machine and upload it."
        )
    return builder


def _open_staged(config: DataOptions, url: locations.Url) -> Any:
    """Opens a local copy of a data set in a bucket; builds and uploads it if it is missing."""
    root = url.folder_in(config.staging_root)
    folder = pathlib.Path(_builder(config, root).data_dir)
    folder.parent.mkdir(parents=True, exist_ok=True)
    part = url / folder.relative_to(root).as_posix()
    # Runs that share the staging folder download once: the others wait here and find the copy.
    lock = filelock.FileLock(folder.parent / ".staging.lock")
    with lock, mirror.Mirror(part, folder, shared=True) as copy:
        if copy.has(origin.LAST_FILE):  # Without it, the build in the bucket is not finished.
            copy.restore()
        if not _builder(config, root).is_prepared():
            shutil.rmtree(folder, ignore_errors=True)
        builder = _prepared(config, root)
        copy.sync(then=[folder / origin.LAST_FILE])
    return builder


def _prepared(config: DataOptions, root: pathlib.Path | None) -> Any:
    """Returns the TFDS builder of a data set; builds the data set if need be."""
    builder = _builder(config, root)
    if builder.is_prepared():
        return builder
    try:
        origin.require_whole(builder.data_path)
    except source.SourceError as error:
        raise DiskError(error.line) from error
    provenance.require_no_nesting(builder, config)
    if not config.manual_dir and config.dataset != "phantom":
        seen = provenance.explain_absence(builder)
        raise RunError(
            f"cxr_tfds/{config.dataset} is not built in {builder.data_dir}. "
            f"{f'{seen} Otherwise give' if seen else 'Give'} --manual_dir, the folder with the "
            "Kaggle archive, or the --data_dir that `tfds build cxr_tfds "
            f"--config={config.dataset}` wrote to."
        )
    manual_dir = str(pathlib.Path(config.manual_dir).expanduser()) if config.manual_dir else None
    try:
        # Runs and workers that share a disk build once: the others wait here and find it built.
        lock = pathlib.Path(builder.data_dir).parent.with_suffix(".lock")
        lock.parent.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(lock):
            # A builder reads the metadata once, when it is created: the old one would not notice
            # what another process has built while this one waited.
            builder = _builder(config, root)
            if not builder.is_prepared():
                if console.is_logged():
                    tfds.disable_progress_bar()
                if config.dataset == "phantom":
                    provenance.say_if_outdated(builder)
                builder.download_and_prepare(
                    download_config=tfds.download.DownloadConfig(manual_dir=manual_dir)
                )
    except source.SourceError as error:
        raise RunError(error.line) from error
    except OSError as error:
        data_dir = str(pathlib.Path(builder.data_dir).parents[2])
        option = environment.data_option(config.data_dir)
        # A build begins anew, and there is nothing to resume.
        folders = {option: data_dir, "manual_dir": config.manual_dir, "model_dir": ""}
        raise DiskError(faults.explain(error, folders)) from error
    return builder
