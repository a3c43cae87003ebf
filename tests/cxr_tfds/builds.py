"""Builds data sets for the tests, and reads them back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import tensorflow_datasets as tfds

if TYPE_CHECKING:
    import pathlib


def build(
    config: str, manual_dir: pathlib.Path | None, data_dir: pathlib.Path, **kwargs: Any
) -> tfds.core.DatasetBuilder:
    builder = tfds.builder(f"cxr_tfds/{config}", data_dir=data_dir)
    manual = {"manual_dir": manual_dir} if manual_dir else {}
    builder.download_and_prepare(download_config=tfds.download.DownloadConfig(**manual, **kwargs))
    return builder


def read(
    builder: tfds.core.DatasetBuilder, split: str = "all", decoder: Any = None
) -> dict[str, dict[str, Any]]:
    """File name to example; `decoder` is of its image, in place of the builder's."""
    decoders = {"image": decoder} if decoder else None
    examples = tfds.as_numpy(builder.as_dataset(split=split, decoders=decoders))
    return {example["file_name"].decode(): example for example in examples}
