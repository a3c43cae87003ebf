"""The options of a training run, in groups; their defaults are defined only here.

A function takes the smallest group that it needs. `trainer.config` joins the groups into one tree.

    DataOptions(batch_size=64).batch_size
"""

from __future__ import annotations

import dataclasses
import pathlib

from cxr_tfds import configs
from trainer import backbones, option_groups, topologies
from trainer.errors import ConfigError
from trainer.option_groups import option
from trainer.system import environment, sockets, text

DATASETS = tuple(row.name for row in configs.ROWS)
MONITORS = ("val_loss", "val_auc")
ALL_LAYERS = "all"
"""The value of `layers_to_unfreeze` that fine-tunes the whole backbone."""


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
        32, "global batch size: samples per step, over all replicas", minimum=1, below=2**17
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
class ModelOptions(option_groups.Group):
    """The backbone, how much of it is fine-tuned, and the head."""

    backbone: str = option(
        "vgg16",
        "feature extractor: a model of keras.applications, or small_cnn, which has no pretrained "
        "weights",
        choices=tuple(backbones.REGISTRY),
    )
    weights: str = option(
        "imagenet",
        "initial weights: imagenet, none (random), the path of a .weights.h5, .h5 or .keras file "
        "with the backbone in it, or a run directory, whose trained head is also taken if it fits",
        of_result=False,
    )
    image_size: int = option(
        0,
        "side (px) of the backbone's square input; images are resized to it; 0: the side that the "
        "backbone was pretrained on",
        minimum=0,
        below=2**13,
    )
    layers_to_unfreeze: str = option(
        "0",
        f"number of layers to fine-tune, counted from the top of the backbone, or '{ALL_LAYERS}'; "
        "batch norm layers always stay frozen",
    )
    neurons: int = option(
        256,
        "neurons in each fully connected layer of the head, the softmax excepted",
        minimum=1,
        below=2**17,
    )
    dense_layers: int = option(
        1, "number of fully connected layers in the head, before the softmax", minimum=0, below=100
    )
    dropout: float = option(
        0.5, "dropout rate after each fully connected layer", minimum=0, below=1
    )
    pooling: str = option(
        "avg",
        "turns the feature map into a vector; avg: global average pooling; flatten: no pooling; "
        "avgmax: global average and max pooling, concatenated",
        choices=("avg", "flatten", "avgmax"),
    )

    def __post_init__(self) -> None:
        """Checks the limits of the options, and `layers_to_unfreeze`."""
        # A JSON file may have the number 4 where the command line has the text "4".
        unfrozen = option_groups.plain(self.layers_to_unfreeze)
        if type(unfrozen) is int:
            object.__setattr__(self, "layers_to_unfreeze", text.shown(unfrozen))
        super().__post_init__()
        if self.layers_to_unfreeze != ALL_LAYERS and not self.layers_to_unfreeze.isdecimal():
            shown = text.bare(self.layers_to_unfreeze)
            wanted = f"a number of layers, 0 or more, or '{ALL_LAYERS}'"
            raise ConfigError(f"layers_to_unfreeze ({shown:.80}) must be {wanted}.")

    @property
    def backbone_image_size(self) -> int:
        """The side (px) of the backbone's square input."""
        return self.image_size or backbones.REGISTRY[self.backbone].image_size


@dataclasses.dataclass(frozen=True)
class OptimizationOptions(option_groups.Group):
    """The optimizer, its learning rate, the loss, and early stopping."""

    optimizer: str = option(
        "adam",
        "Keras optimizer; sgd: with momentum 0.9; adamw: the same as adam, as weight_decay is "
        "decoupled in each",
        choices=("adam", "adamw", "sgd"),
    )
    learning_rate: float = option(1e-3, "learning rate after warm-up", minimum=0)
    schedule: str = option(
        "constant",
        "learning rate schedule after warm-up; cosine: decay to 0 at the end of schedule_epochs",
        choices=("constant", "cosine"),
    )
    schedule_epochs: int = option(
        0,
        "length of the learning rate schedule in epochs, at least max_epochs; 0: max_epochs",
        minimum=0,
    )
    warmup_epochs: int = option(
        0, "epochs in which the learning rate rises linearly from 0", minimum=0
    )
    weight_decay: float = option(
        0.0, "decoupled weight decay; biases and normalization parameters are excluded", minimum=0
    )
    global_clipnorm: float = option(
        0.0, "clip the gradients to this global norm; 0: no clipping", minimum=0
    )
    gradient_accumulation_steps: int = option(
        1,
        "steps whose gradients are averaged for one weight update; the effective batch size is "
        "batch_size times this value",
        minimum=1,
    )
    label_smoothing: float = option(
        0.0, "share of each label that is spread evenly over all classes", minimum=0, below=1
    )
    class_weights: str = option(
        "none",
        "class weights in the training loss; balanced: inversely proportional to class frequency",
        choices=("none", "balanced"),
    )
    max_epochs: int = option(
        30,
        "maximum number of epochs; a larger value continues a finished run, unless its learning "
        "rate decays over max_epochs",
        minimum=1,
    )
    monitor: str = option(
        "val_loss",
        "metric that decides the best epoch and early stopping: lowest validation loss or highest "
        "validation ROC-AUC",
        choices=MONITORS,
    )
    patience: int = option(
        5,
        "epochs without improvement of --monitor after which training stops; a larger value "
        "continues a run that stopped for this reason",
        minimum=0,
    )

    def __post_init__(self) -> None:
        """Checks the options, each one and in combination."""
        super().__post_init__()
        if 0 < self.schedule_epochs < self.max_epochs:
            raise ConfigError(
                f"schedule_epochs ({self.schedule_epochs}) must be at least max_epochs "
                f"({self.max_epochs}), or 0."
            )
        if self.warmup_epochs > self.horizon:
            name = "schedule_epochs" if self.schedule_epochs else "max_epochs"
            raise ConfigError(
                f"warmup_epochs ({self.warmup_epochs}) exceeds {name} ({self.horizon})."
            )

    @property
    def horizon(self) -> int:
        """The length of the learning rate schedule in epochs."""
        return self.schedule_epochs or self.max_epochs

    @property
    def decay_epochs(self) -> int:
        """The epoch at whose end the learning rate has decayed to 0; 0: it does not decay."""
        return 0 if self.schedule == "constant" else self.horizon


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


@dataclasses.dataclass(frozen=True)
class RuntimeOptions(option_groups.Group):
    """Devices, precision and seed: all that must be set before the first variable exists."""

    strategy: str = option(
        "auto",
        "tf.distribute strategy: one_device, mirrored (all GPUs of this machine, or its logical "
        "devices), multi_worker (TF_CONFIG) or tpu; auto: the best one available",
        choices=("auto", "one_device", "mirrored", "multi_worker", "tpu"),
        of_result=False,
    )
    tpu: str = option("local", "name or address of the TPU; local: of this VM", of_result=False)
    tpu_topology: str = option(
        "v5e:1x1",
        "chips that --mode=tpu_check compiles for: v5e, v5p or v6e, and their grid (v5e:2x4)",
        of_result=False,
    )
    num_logical_devices: int = option(
        0,
        "number of logical devices to split the CPU into, to try --strategy=mirrored; 0: no split",
        minimum=0,
        below=2**7,
        of_result=False,
    )
    local_workers: int = option(
        0,
        "number of workers to run on this machine, to try --strategy=multi_worker; 0: none",
        minimum=0,
        of_result=False,
    )
    worker_timeout_s: float = option(
        300.0,
        "seconds without an answer after which another host is considered lost and the run fails",
        minimum=10,
        of_result=False,
    )
    precision: str = option(
        "auto",
        "Keras dtype policy; auto: mixed_bfloat16 on a TPU, mixed_float16 on a GPU, the faster of "
        "float32 and mixed_bfloat16 on a CPU (measured once)",
        choices=("auto", "float32", "mixed_bfloat16", "mixed_float16"),
    )
    cpu_threads: int = option(
        0,
        "CPU threads for TensorFlow; 0: one per CPU; affects rounding, so bitwise equal results "
        "need the same value",
        minimum=0,
        below=2**12,
        of_result=False,
    )
    deterministic: bool = option(
        default=False,
        help_text="use only TensorFlow's deterministic operations, which are slower, most of all "
        "on a GPU; on a CPU, runs repeat to the bit without them too; the two differ by rounding",
        of_result=False,
    )
    seed: int = option(
        0, "seed of initial weights, dropout, shuffling and augmentation", minimum=0, below=2**32
    )
    steps_per_execution: int = option(
        0,
        "training steps per call of the compiled loop, as in Keras; 0: 8 on a CPU, 16 on a GPU, 64 "
        "on a TPU",
        minimum=0,
        of_result=False,
    )

    def __post_init__(self) -> None:
        """Checks the options, each one and in combination."""
        super().__post_init__()
        topologies.parse(self.tpu_topology)
        if self.local_workers and self.strategy not in ("auto", "multi_worker"):
            raise ConfigError(
                f"local_workers ({self.local_workers}) needs --strategy=multi_worker, not "
                f"{self.strategy}."
            )


@dataclasses.dataclass(frozen=True)
class CheckpointOptions(option_groups.Group):
    """How often a run is saved, and how it is resumed."""

    resume: str = option(
        "auto",
        "auto: resume the run in --model_dir, or start one; never: fail if there is a run; must: "
        "fail if there is none",
        choices=("auto", "never", "must"),
        of_result=False,
    )
    checkpoint_every_s: float = option(
        300.0,
        "seconds between checkpoints within an epoch; 0: not by time (each epoch ends with a "
        "checkpoint)",
        minimum=0,
        of_result=False,
    )
    checkpoint_every_steps: int = option(
        0, "steps between checkpoints within an epoch; 0: not by steps", minimum=0, of_result=False
    )
    keep_checkpoints: int = option(
        2,
        "number of latest checkpoints to keep; each also contains the best weights so far",
        minimum=1,
        of_result=False,
    )
    max_recoveries: int = option(
        2,
        "how often a run may return to its last checkpoint and halve the learning rate when the "
        "loss is NaN or infinite",
        minimum=0,
    )


@dataclasses.dataclass(frozen=True)
class BenchmarkOptions(option_groups.Group):
    """Options of --mode=benchmark."""

    benchmark_images: int = option(
        1000,
        "number of training and validation images for timing plain Keras in --mode=benchmark; the "
        "times are scaled to all images; 0: all",
        minimum=0,
        of_result=False,
    )
