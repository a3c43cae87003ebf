from __future__ import annotations

import pytest

from trainer import backbones
from trainer.errors import ConfigError
from trainer.options import ModelOptions, unfreezing

ADDING_NONE = [
    (name, unfrozen)
    for name, row in backbones.REGISTRY.items()
    for unfrozen in range(1, row.top.position)
]


@pytest.mark.parametrize(("name", "unfrozen"), ADDING_NONE)
def test_layers_without_weights_to_train_are_refused_with_the_smallest_number(name, unfrozen):
    top = backbones.REGISTRY[name].top
    with pytest.raises(ConfigError) as refusal:
        unfreezing.check(ModelOptions(backbone=name, layers_to_unfreeze=str(unfrozen)))
    message = str(refusal.value)
    assert message.startswith(f"layers_to_unfreeze ({unfrozen}) adds no weights: the last layers")
    assert f"--layers_to_unfreeze={top.position} adds {top.num_weights:,} ({top.name})" in message
    assert "\n" not in message


@pytest.mark.parametrize("name", backbones.REGISTRY)
def test_layers_with_weights_are_accepted(name):
    row = backbones.REGISTRY[name]
    for unfrozen in (0, row.top.position, row.num_layers, "all"):
        unfreezing.check(ModelOptions(backbone=name, layers_to_unfreeze=str(unfrozen)))
