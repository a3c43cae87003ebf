"""What a search leaves unused or can't do as asked: one line each, said before it begins.

for line in notices.of(base, settings, space, plan):
    console.say(line)

What is certainly a mistake is refused instead, by `Settings` and `Space`.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from trainer.config import Config
from trainer.options import resolution
from trainer.system import processes, text
from tuner.reports import formats

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tuner.plan import Plan
    from tuner.settings import Settings
    from tuner.space import Space

_REPLACED = {
    "patience": "every trial trains all epochs of its rung",
    "max_recoveries": "a trial that diverges fails",
}
"""Options of a run that trials replace, and by what; best_config.json has its own."""


def of(base: Config, settings: Settings, space: Space, plan: Plan) -> Iterator[str]:
    """Yields the lines about a search that is about to begin.

    Args:
      base: config of every trial, apart from the searched options.
      settings: of the search.
      space: the search space.
      plan: of all trials.
    """
    yield _start(base)
    if enlarged := resolution.note(base.data, base.model):
        yield enlarged
    if crowded := processes.crowding("workers", settings.workers):
        yield crowded
    yield from _unused(base, settings, space)
    yield from _unreached(space)
    yield from _smaller(base, settings, space, plan)
    yield from _heads_alone(base, space)


def _start(base: Config) -> str:
    named = {"imagenet": "the backbone's ImageNet weights", "none": "random weights"}
    taken = f"the weights in {text.one_line(base.model.weights)}"
    return f"weights: each configuration starts from {named.get(base.model.weights, taken)}."


def _unused(base: Config, settings: Settings, space: Space) -> Iterator[str]:
    given, defaults = base.to_flat(), Config().to_flat()
    changed = {name for name in given if given[name] != defaults[name]}
    for dimension in space.dimensions:
        if dimension.name in changed:
            yield (
                f"{dimension.name} is searched ({dimension}), so its own value "
                f"({given[dimension.name]}) is not used."
            )
    for name, reason in _REPLACED.items():
        if name in changed:
            yield f"{name} ({given[name]}) is not used in trials: {reason}."
    if "monitor" in changed and base.optimization.monitor != settings.objective:
        yield (
            f"monitor ({base.optimization.monitor}) is not used: --objective "
            f"({settings.objective}) also chooses the best epoch of a trial."
        )


def _heads_alone(base: Config, space: Space) -> Iterator[str]:
    rules, names = base.optimization, {dimension.name for dimension in space.dimensions}
    fine_tunes = "layers_to_unfreeze" in names or base.model.layers_to_unfreeze != "0"
    if fine_tunes and not base.model.is_untrained and rules.max_epochs <= rules.head_epochs:
        yield (
            f"max_epochs ({rules.max_epochs}) ends before unfrozen layers join: every trial trains "
            f"its head alone for {text.counted(rules.head_epochs, 'epoch')}; give a larger "
            "--max_epochs, or --head_epochs=0."
        )


def _unreached(space: Space) -> Iterator[str]:
    for dimension in space.dimensions:
        if dimension.step and dimension.size < math.inf:
            highest = dimension.canonical(dimension.low + dimension.step * (dimension.size - 1))
            if highest != dimension.canonical(dimension.high):
                yield f"{dimension} ends at {formats.value(highest)}: the next step exceeds it."


def _smaller(base: Config, settings: Settings, space: Space, plan: Plan) -> Iterator[str]:
    wanted = plan.num_configurations
    if settings.algorithm != "hyperband":
        wanted = settings.max_trials
    if space.size < wanted:
        yield (
            f"the space has only {text.counted(int(space.size), 'configuration')}, not the "
            f"{wanted} that are planned: every one of them is tried once."
        )
    max_epochs = base.optimization.max_epochs
    if settings.algorithm == "hyperband" and max_epochs < settings.factor:
        trials = text.counted(plan.num_trials, "trial")
        yield (
            f"max_epochs ({max_epochs}) is less than factor ({settings.factor}), so Hyperband "
            f"promotes nothing: it is a random search of {trials}."
        )
