"""The options of the network."""

from __future__ import annotations

import dataclasses

from trainer import backbones, option_groups
from trainer.errors import ConfigError
from trainer.option_groups import option
from trainer.system import text

ALL_LAYERS = "all"
"""The value of `layers_to_unfreeze` that fine-tunes the whole backbone."""


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
        "with the backbone in it, or a run directory, whose trained head is also taken if it fits; "
        "for --mode=compare also a folder with a file named after each backbone, or a list: "
        "vgg16=FILE,mobilenet_v2=imagenet",
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
        "batch norm layers stay frozen, unless all layers train from random weights",
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
        if self.layers_to_unfreeze != ALL_LAYERS:  # "04" is 4.
            object.__setattr__(self, "layers_to_unfreeze", str(int(self.layers_to_unfreeze)))

    @property
    def is_untrained(self) -> bool:
        """Whether the backbone starts from random weights."""
        return self.weights == "none"

    @property
    def backbone_image_size(self) -> int:
        """The side (px) of the backbone's square input."""
        return self.image_size or backbones.REGISTRY[self.backbone].image_size
