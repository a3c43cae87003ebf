"""The options of the optimizer, its learning rate, the loss and early stopping."""

from __future__ import annotations

import dataclasses

from trainer import option_groups
from trainer.errors import ConfigError
from trainer.option_groups import option

MONITORS = ("val_loss", "val_auc")
BACKBONE_RATE = 1e-5
"""The rate at which Keras's guide fine-tunes (keras.io/guides/transfer_learning)."""


@dataclasses.dataclass(frozen=True)
class OptimizationOptions(option_groups.Group):
    """The optimizer, its learning rate, the loss, and early stopping."""

    optimizer: str = option(
        "adam",
        "Keras optimizer; sgd: with momentum 0.9; adamw: the same as adam, as weight_decay is "
        "decoupled in each",
        choices=("adam", "adamw", "sgd"),
    )
    learning_rate: float = option(
        1e-3,
        "learning rate after warm-up, of the head; of all layers if --weights=none",
        minimum=0,
    )
    backbone_learning_rate: float = option(
        0.0,
        "learning rate of the backbone's unfrozen layers, low to keep what they have learnt; 0: a "
        "hundredth of learning_rate, but at least 1e-5 (never more than learning_rate)",
        minimum=0,
    )
    head_epochs: int = option(
        2,
        "first epochs of a run with unfrozen layers, in which the head trains alone, on cached "
        "features if possible; then those layers join at backbone_learning_rate; 0: from the start",
        minimum=0,
    )
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
    def backbone_rate(self) -> float:
        """The learning rate of the backbone's unfrozen layers; never 0 unless learning_rate is."""
        if self.backbone_learning_rate:
            return self.backbone_learning_rate
        return min(self.learning_rate, max(self.learning_rate / 100, BACKBONE_RATE))

    @property
    def horizon(self) -> int:
        """The length of the learning rate schedule in epochs."""
        return self.schedule_epochs or self.max_epochs

    @property
    def decay_epochs(self) -> int:
        """The epoch at whose end the learning rate has decayed to 0; 0: it does not decay."""
        return 0 if self.schedule == "constant" else self.horizon
