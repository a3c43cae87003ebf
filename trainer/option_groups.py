"""The options of a training run, in groups: the only place of their defaults.

A function takes the smallest group that it needs. `trainer.config` joins the groups into one tree.

    DataOptions(batch_size=64).batch_size
"""

from __future__ import annotations

import dataclasses
import pathlib

from cxr_tfds import configs
from trainer import backbones, options, topologies
from trainer.errors import ConfigError
from trainer.options import option
from trainer.system import sockets

DATASETS = tuple(row.name for row in configs.ROWS)
MONITORS = ("val_loss", "val_auc")
ALL_LAYERS = "all"
"""The value of `layers_to_unfreeze` that unfreezes the whole backbone."""


@dataclasses.dataclass(frozen=True)
class DataOptions(options.Group):
    """Which examples, and how they become batches."""

    dataset: str = option("grouped", "config of cxr_tfds", choices=DATASETS)
    manual_dir: str = option(
        "",
        "folder with the Kaggle archive (zip or extracted); builds the data set if need be",
        of_result=False,
    )
    data_dir: str = option(
        "",
        "where TFDS keeps the built records, a folder or gs://…; empty: TFDS's own default",
        of_result=False,
    )
    stage_data: bool = option(
        True,
        "read records of a gs:// data_dir from a checked copy in staging_dir; if false, TensorFlow "
        "reads them from the bucket",
        of_result=False,
    )
    staging_dir: str = option(
        "",
        "local folder for what is kept in gs://; empty: ~/.cache/cxr-trainer/staging",
        of_result=False,
    )
    batch_size: int = option(32, "samples per step, over all replicas", minimum=1)
    fixed_step_size: int = option(100, "steps per epoch, where use_all_samples is false", minimum=1)
    use_all_samples: bool = option(
        True, "the steps of an epoch are those that use all samples; fixed_step_size is ignored"
    )
    tail: str = option(
        "wrap",
        "what fills the last training batch of an epoch: wrap around to the epoch's first samples, "
        "or drop the incomplete batch (evaluation never loses a sample)",
        choices=("wrap", "drop"),
    )
    data_service: str = option(
        "",
        "a tf.data service dispatcher, grpc://host:port, whose workers decode and augment images "
        "in place of this machine; order and results stay the same",
        of_result=False,
    )
    augmentation: str = option(
        "none", "random changes to training images", choices=("none", "light", "strong")
    )

    def __post_init__(self) -> None:
        """Checks the options, the form of an address among them."""
        super().__post_init__()
        if self.data_service and not sockets.is_address(self.data_service, scheme="grpc"):
            raise ConfigError(f"data_service ({self.data_service}) must be grpc://host:port.")

    @property
    def staging_root(self) -> pathlib.Path:
        """The local folder of what is kept in object storage."""
        return pathlib.Path(self.staging_dir or "~/.cache/cxr-trainer/staging").expanduser()


@dataclasses.dataclass(frozen=True)
class ModelOptions(options.Group):
    """The network, and how much of its backbone trains."""

    backbone: str = option("vgg16", "feature extractor", choices=tuple(backbones.REGISTRY))
    weights: str = option(
        "imagenet",
        "the backbone's weights: imagenet, none, or a .weights.h5, .h5 or .keras file",
        of_result=False,
    )
    image_size: int = option(
        0, "side (px) that images are resized to for the backbone; 0: the backbone's own", minimum=0
    )
    layers_to_unfreeze: str = option(
        "0",
        f"number of the backbone's layers, from its top, that train too; '{ALL_LAYERS}': every one",
    )
    neurons: int = option(
        256, "neurons in each fully connected layer before the softmax", minimum=1
    )
    dense_layers: int = option(1, "number of fully connected layers before the softmax", minimum=0)
    dropout: float = option(
        0.5, "dropout rate after each fully connected layer", minimum=0, below=1
    )
    pooling: str = option("avg", "from feature map to vector", choices=("avg", "flatten", "avgmax"))

    def __post_init__(self) -> None:
        """Checks the options, `layers_to_unfreeze` among them."""
        # A number in a JSON file means the same as its text on the command line.
        object.__setattr__(self, "layers_to_unfreeze", str(self.layers_to_unfreeze))
        super().__post_init__()
        if self.layers_to_unfreeze != ALL_LAYERS and not self.layers_to_unfreeze.isdecimal():
            raise ConfigError(
                f"layers_to_unfreeze ({self.layers_to_unfreeze}) must be a number of layers, "
                f"0 or more, or '{ALL_LAYERS}'."
            )

    @property
    def backbone_image_size(self) -> int:
        """The side (px) of the images that the backbone sees."""
        return self.image_size or backbones.REGISTRY[self.backbone].image_size


@dataclasses.dataclass(frozen=True)
class OptimizationOptions(options.Group):
    """How weights change, and when training stops."""

    optimizer: str = option(
        "adam", "update rule (sgd has momentum 0.9)", choices=("adam", "adamw", "sgd")
    )
    learning_rate: float = option(1e-3, "learning rate, after warm-up", minimum=0)
    schedule: str = option(
        "constant",
        "learning rate over the run: constant, or cosine decay to 0 at schedule_epochs",
        choices=("constant", "cosine"),
    )
    schedule_epochs: int = option(
        0,
        "epochs that the schedule is made for, where a run ends earlier; 0: max_epochs",
        minimum=0,
    )
    warmup_epochs: int = option(0, "epochs in which the learning rate rises from 0", minimum=0)
    weight_decay: float = option(0.0, "decoupled weight decay, of matrices and kernels", minimum=0)
    global_clipnorm: float = option(
        0.0, "upper limit of the norm of the whole batch's gradient; 0: none", minimum=0
    )
    gradient_accumulation_steps: int = option(
        1,
        "steps whose gradients are averaged before the weights change: the batch of an update is "
        "so many times batch_size, in the memory of one step",
        minimum=1,
    )
    label_smoothing: float = option(
        0.0, "share of each label that is spread over all classes", minimum=0, below=1
    )
    class_weights: str = option(
        "none", "weight of each class in the loss", choices=("none", "balanced")
    )
    max_epochs: int = option(30, "upper limit of epochs", minimum=1)
    monitor: str = option(
        "val_loss",
        "which epoch is the best: that of lowest validation loss, or of highest ROC-AUC",
        choices=MONITORS,
    )
    patience: int = option(
        5, "epochs without a better one (see monitor) before training stops", minimum=0
    )

    def __post_init__(self) -> None:
        """Checks the options, each and together."""
        super().__post_init__()
        if 0 < self.schedule_epochs < self.max_epochs:
            raise ConfigError(
                f"schedule_epochs ({self.schedule_epochs}) must reach max_epochs "
                f"({self.max_epochs}), or be 0."
            )
        if self.warmup_epochs > self.horizon:
            name = "schedule_epochs" if self.schedule_epochs else "max_epochs"
            raise ConfigError(
                f"warmup_epochs ({self.warmup_epochs}) exceeds {name} ({self.horizon})."
            )

    @property
    def horizon(self) -> int:
        """The epochs that the learning rate's schedule is made for."""
        return self.schedule_epochs or self.max_epochs


@dataclasses.dataclass(frozen=True)
class FeatureOptions(options.Group):
    """The frozen prefix: what it computes is kept, and used again."""

    feature_cache: str = option(
        "auto",
        "auto: compute what frozen layers give once and train from it, where that is possible; "
        "off: run every layer at every step",
        choices=("auto", "off"),
    )
    views: int = option(
        0,
        "augmented views of each training image that are cached, an epoch picks one of them; "
        "0: augment on the fly, without a cache",
        minimum=0,
    )
    cache_dir: str = option(
        "",
        "where computed features are kept, a folder or gs://…; empty: ~/.cache/cxr-trainer",
        of_result=False,
    )
    cache_budget_gb: float = option(
        20.0,
        "disk space for computed features; the least recently used go first",
        minimum=0,
        of_result=False,
    )


@dataclasses.dataclass(frozen=True)
class RuntimeOptions(options.Group):
    """All that is fixed before the first variable."""

    strategy: str = option(
        "auto",
        "where to train: one_device, mirrored (every GPU of this machine, or the logical devices), "
        "multi_worker (TF_CONFIG), tpu; auto: tpu, mirrored or one_device, as the machine has it",
        choices=("auto", "one_device", "mirrored", "multi_worker", "tpu"),
        of_result=False,
    )
    tpu: str = option("local", "name or address of the TPU; local: this TPU VM", of_result=False)
    tpu_topology: str = option(
        "v5e:1x1",
        "chips that --mode=tpu_check compiles for: v5e, v5p or v6e, and their grid, as v5e:2x4",
        of_result=False,
    )
    num_logical_devices: int = option(
        0,
        "split the CPU into this many logical devices, to try --strategy=mirrored",
        minimum=0,
        of_result=False,
    )
    local_workers: int = option(
        0,
        "run so many workers on this machine, to try --strategy=multi_worker",
        minimum=0,
        of_result=False,
    )
    worker_timeout_s: float = option(
        300.0,
        "seconds without an answer after which another host counts as lost and the run ends",
        minimum=10,
        of_result=False,
    )
    precision: str = option(
        "auto",
        "what the layers compute in; auto: the best for the device (on a CPU, the faster of "
        "float32 and bfloat16, measured once)",
        choices=("auto", "float32", "mixed_bfloat16", "mixed_float16"),
    )
    cpu_threads: int = option(
        0,
        "threads that a CPU operation may use; 0: as many as there are CPUs. Sums round by it: "
        "equal numbers give equal bits",
        minimum=0,
        of_result=False,
    )
    deterministic: bool = option(
        default=False,
        help_text="have every operation compute in one order on a GPU too, which takes longer; a "
        "CPU does so anyway",
        of_result=False,
    )
    seed: int = option(0, "seed of weights, dropout and the order of data", minimum=0, below=2**32)
    steps_per_execution: int = option(
        0,
        "training steps per call of the compiled loop; 0: chosen for the device",
        minimum=0,
        of_result=False,
    )

    def __post_init__(self) -> None:
        """Checks the options, each and together."""
        super().__post_init__()
        topologies.parse(self.tpu_topology)
        if self.local_workers and self.strategy not in ("auto", "multi_worker"):
            raise ConfigError(
                f"local_workers ({self.local_workers}) needs --strategy=multi_worker, not "
                f"{self.strategy}."
            )


@dataclasses.dataclass(frozen=True)
class CheckpointOptions(options.Group):
    """What is saved while a run trains, and what becomes of it."""

    resume: str = option(
        "auto",
        "what to do with a run that --model_dir holds: auto: go on with it, never: refuse, must: "
        "refuse where there is none",
        choices=("auto", "never", "must"),
        of_result=False,
    )
    checkpoint_every_s: float = option(
        300.0,
        "seconds between checkpoints within an epoch, on one host; 0: only where epochs end",
        minimum=0,
        of_result=False,
    )
    checkpoint_every_steps: int = option(
        0, "steps between checkpoints within an epoch; 0: by time alone", minimum=0, of_result=False
    )
    keep_checkpoints: int = option(
        2,
        "newest checkpoints that are kept; each has the best weights too",
        minimum=1,
        of_result=False,
    )
    max_recoveries: int = option(
        2,
        "times that a run whose loss is no longer a number goes back to its last checkpoint and "
        "halves the learning rate",
        minimum=0,
    )


@dataclasses.dataclass(frozen=True)
class BenchmarkOptions(options.Group):
    """How --mode=benchmark measures."""

    benchmark_images: int = option(
        1000,
        "training and validation images that plain Keras is timed on, scaled to all; 0: all",
        minimum=0,
        of_result=False,
    )
