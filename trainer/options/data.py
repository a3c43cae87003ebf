"""The options of a run's data: where it is, how it is batched, and the cache of features."""

from __future__ import annotations

import dataclasses
import pathlib

from cxr_tfds import configs
from trainer import option_groups
from trainer.option_groups import option
from trainer.system import environment, sockets

DATASETS = tuple(row.name for row in configs.ROWS)


@dataclasses.dataclass(frozen=True)
class DataOptions(option_groups.Group):
    """The data set, and how its examples are batched and augmented."""

    dataset: str = option(
        "grouped",
        "config of the TFDS data set: split by patient (grouped), as in the paper (paper) or by "
        "Kaggle's folders (official), at 224 px, 299 px or full size (raw); phantom: drawn images",
        choices=DATASETS,
    )
    manual_dir: str = option(
        "",
        "Kaggle's zip, or a folder with it or its files, from which a missing data set is built",
        of_result=False,
    )
    data_dir: str = option(
        "", "TFDS data directory, local or gs://…; empty: ~/tensorflow_datasets", of_result=False
    )
    stage_data: bool = option(
        True,
        "copy the records of a gs:// data_dir to staging_dir and verify them; false: TensorFlow "
        "reads them directly from the bucket",
        of_result=False,
    )
    staging_dir: str = option(
        "",
        "local folder for copies of data in gs://; empty: ~/.cache/cxr-trainer/staging",
        of_result=False,
    )
    batch_size: int = option(
        0,
        "global batch size: samples per step, over all replicas; 0: 32, or where the replicas "
        "don't divide it, the next multiple of them (a resumed run keeps its own)",
        minimum=0,
        below=2**17,
    )
    fixed_step_size: int = option(100, "steps per epoch if use_all_samples is false", minimum=1)
    use_all_samples: bool = option(
        True, "make an epoch one pass over all samples; false: fixed_step_size steps"
    )
    tail: str = option(
        "wrap",
        "incomplete last training batch of an epoch; wrap: fill it with the epoch's first samples; "
        "drop: skip it (evaluation always uses every sample)",
        choices=("wrap", "drop"),
    )
    data_service: str = option(
        "",
        "address of a tf.data service dispatcher, grpc://host:port, whose workers decode and "
        "augment the images; order and results stay the same",
        of_result=False,
    )
    augmentation: str = option(
        "none",
        "random rotation, shift, zoom, brightness and contrast of training images; strong: larger "
        "changes, and noise",
        choices=("none", "light", "strong"),
    )

    def __post_init__(self) -> None:
        """Checks the limits of the options, and the form of the address."""
        super().__post_init__()
        if self.data_service:
            sockets.require_address("data_service", self.data_service, scheme="grpc")

    @property
    def staging_root(self) -> pathlib.Path:
        """The local folder for copies of data in object storage."""
        if self.staging_dir:
            return pathlib.Path(self.staging_dir).expanduser()
        return environment.cache_folder() / "staging"


@dataclasses.dataclass(frozen=True)
class FeatureOptions(option_groups.Group):
    """The cache of the frozen layers' outputs (features)."""

    feature_cache: str = option(
        "auto",
        "auto: compute the frozen layers' outputs once and train on the cached features, if "
        "possible; off: run every layer in every step",
        choices=("auto", "off"),
    )
    views: int = option(
        0,
        "number of augmented views of each training image to cache; every epoch draws one of them "
        "per image; 0: images are augmented on the fly, which turns the cache off",
        minimum=0,
    )
    cache_dir: str = option(
        "",
        "folder of the feature cache, local or gs://…; empty: ~/.cache/cxr-trainer",
        of_result=False,
    )
    cache_budget_gb: float = option(
        20.0,
        "size limit (GiB) of the local feature cache; the least recently used are removed",
        minimum=0,
        of_result=False,
    )
