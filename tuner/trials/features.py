"""The cuts of a space: where its trials divide the network into frozen and trained layers.

configs = features.configs_for(base, space, "val_auc")     # one for each cut
features.prepare(workspace, configs)                       # their features, in one pass
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from trainer.errors import ConfigError
from trainer.system import console
from trainer.training import feeds
from tuner.trials import tasks

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trainer.config import Config
    from trainer.models.classifier import Network
    from tuner.space import Space

CUT = "layers_to_unfreeze"


def configs_for(base: Config, space: Space, objective: str) -> list[Config]:
    """Returns one config per cut in the space, with all other dimensions at mid-range."""
    middle = space.values_at([0.5] * len(space.dimensions))
    cut = next((d for d in space.dimensions if d.name == CUT), None)
    values = [{**middle, CUT: choice} for choice in cut.choices] if cut else [middle]
    return [tasks.config_of(base, value, objective) for value in values]


def prepare(workspace: tasks.Workspace, configs: Sequence[Config]) -> None:
    """Caches the features of every cut in the space, in one pass over the images.

    Args:
      workspace: of the search.
      configs: one for each cut.

    Raises:
      ConfigError: when the features of all cuts together exceed --cache_budget_gb.
    """
    built = [workspace.build(config) for config in configs]
    _say_what_trains(configs, [setup.network for setup in built])
    by_position: dict[int, feeds.FeatureFeed] = {}
    reasons: dict[str, None] = {}  # In order; several cuts may have the same.
    for setup in built:
        for feed in filter(None, (setup.feed, setup.head)):
            if isinstance(feed, feeds.FeatureFeed):
                by_position.setdefault(feed.partition.cut.position, feed)
        if not isinstance(setup.feed, feeds.FeatureFeed):
            reasons[setup.feed.reason] = None
    for reason in reasons:
        console.say(reason)
    if not by_position:
        return
    found = list(by_position.values())
    _require_room(found, workspace.base.features.cache_budget_gb)
    names = ", ".join(feed.partition.cut.name for feed in found)
    console.say(f"features of the layers up to {names}, for all trials:")
    with workspace.data(workspace.base).reading():
        for split in feeds.TRAINING_SPLITS:
            if len(found) > 1:
                feeds.compute_together(found, built[-1].network, split)
        for feed in found:
            feed.prepare()


def _say_what_trains(configs: Sequence[Config], networks: Sequence[Network]) -> None:
    """Says how many weights each cut adds to the head's, and which cuts add the same."""
    by_layers: dict[tuple[str, ...], list[str]] = {}
    for config, network in zip(configs, networks, strict=True):
        if network.unfrozen:
            console.say(network.unfrozen)
        layers = tuple(x.name for x in network.trunk.layers if x.trainable_weights)
        by_layers.setdefault(layers, []).append(config.model.layers_to_unfreeze)
    for same in by_layers.values():
        if len(same) > 1:
            console.say(
                f"{CUT} {' and '.join(same)} let the same weights train: the layers between them "
                "have none. Leave out all but one."
            )


def _require_room(found: Sequence[feeds.FeatureFeed], budget_gb: float) -> None:
    """Raises ConfigError unless the features of all cuts fit the cache together.

    Otherwise trials would evict one another's features and compute them again and again.
    """
    needed = sum(feed.num_bytes(split) for feed in found for split in feeds.TRAINING_SPLITS)
    if needed > budget_gb * 2**30:
        raise ConfigError(
            f"features of {len(found)} cuts take {needed / 2**30:.1f} GiB, more than "
            f"--cache_budget_gb={budget_gb:g}; raise it, or search fewer layers_to_unfreeze."
        )
