"""Whether `layers_to_unfreeze` lets any weights train; checked before TensorFlow is imported."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trainer import backbones
from trainer.errors import ConfigError
from trainer.options.model import ALL_LAYERS

if TYPE_CHECKING:
    from trainer.options.model import ModelOptions


def check(model: ModelOptions) -> None:
    """Checks the number of layers against the backbone's own.

    It counts layers as Keras does, pools, activations and batch norm among them: a small number may
    add nothing to what trains, and the run would equal one with a frozen backbone.

    Not when a config is created: a finished run with such a number must open.

    Raises:
      ConfigError: for more layers than the backbone has, and for layers without weights to train.
    """
    row, unfrozen = backbones.REGISTRY[model.backbone], model.layers_to_unfreeze
    if unfrozen == ALL_LAYERS:
        return
    if int(unfrozen) > row.num_layers:
        raise ConfigError(
            f"layers_to_unfreeze ({unfrozen}) exceeds the {row.num_layers} layers of "
            f"{model.backbone}; '{ALL_LAYERS}' unfreezes them all."
        )
    top = row.top
    if 0 < int(unfrozen) < top.position:
        raise ConfigError(
            f"layers_to_unfreeze ({unfrozen}) adds no weights: the last layers of "
            f"{model.backbone} have none to train (pools, activations, batch norm); "
            f"--layers_to_unfreeze={top.position} adds {top.num_weights:,} ({top.name})."
        )
