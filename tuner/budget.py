"""Sizes a Hyperband to a time budget.

max_epochs, iterations = budget.largest(workspace, settings, space)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from trainer.errors import ConfigError
from tuner import plan as plan_lib
from tuner.reports import formats
from tuner.trials import estimate, features

if TYPE_CHECKING:
    from tuner.settings import Settings
    from tuner.space import Space
    from tuner.trials import tasks


def largest(workspace: tasks.Workspace, settings: Settings, space: Space) -> tuple[int, int]:
    """Returns (max_epochs, iterations) of the largest Hyperband that fits --budget_minutes.

    Raises:
      ConfigError: when not even one epoch per trial fits.
    """
    base = workspace.base
    costs = estimate.measure(workspace, features.configs_for(base, space, settings.objective))
    found = plan_lib.largest_within(
        60 * settings.budget_minutes,
        lambda plan: costs.seconds(plan, settings.workers),
        base.optimization.max_epochs,
        settings.factor,
    )
    if found is None:
        least_s = costs.seconds(plan_lib.hyperband(1, settings.factor), settings.workers)
        raise ConfigError(
            f"budget_minutes ({settings.budget_minutes:g}) is too little: one epoch per trial "
            f"takes about {formats.duration(max(least_s, 1))} in all; raise it, or set it to 0 for "
            "no budget."
        )
    return found
