"""What one search is: how it goes through the space, where it keeps what it finds.

The options of the runs themselves are the trainer's, `trainer.config.Config`.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib

from trainer import config as config_lib
from trainer import option_groups, options
from trainer.errors import ConfigError
from trainer.options import option
from trainer.storage import locations
from tuner import plan as plan_lib
from tuner.space import Space

ALGORITHMS = ("hyperband", "random", "bayesian", "grid")


@dataclasses.dataclass(frozen=True)
class Settings(options.Group):
    """The options of a search."""

    algorithm: str = option("hyperband", "how configurations are chosen", choices=ALGORITHMS)
    search: str = option(
        "",
        "what is searched: name=low:high, low:high:step, low:high:log or a|b|c, separated by "
        "commas; a name alone has its default bounds; empty: neurons, learning_rate and "
        "layers_to_unfreeze. Every other option has the value of its own flag",
    )
    search_file: str = option("", "a JSON file of the same, an object of bounds by name")
    objective: str = option(
        "val_auc",
        "what a trial is judged by, on the validation split",
        choices=option_groups.MONITORS,
    )
    factor: int = option(3, "Hyperband promotes one of so many, to so many times epochs", minimum=2)
    hyperband_iterations: int = option(
        1, "how often Hyperband goes through all its brackets", minimum=1
    )
    max_trials: int = option(30, "trials of random, Bayesian and grid search", minimum=1)
    budget_minutes: float = option(
        0.0,
        "plan the largest Hyperband that fits into so many minutes, by a measured step; 0: "
        "max_epochs and hyperband_iterations as given",
        minimum=0,
    )
    search_seed: int = option(0, "seed of the draws", minimum=0, below=2**31)
    directory: str = option("searches", "folder of all searches")
    project_name: str = option("search", "name of the search, a folder in directory")
    workers: int = option(1, "trials that run at a time on this machine", minimum=1)
    trial_timeout_s: float = option(
        60.0, "a trial whose worker is silent for longer goes to another worker", minimum=15
    )
    isolate_trials: bool = option(
        default=False, help_text="run each trial in a process of its own, whose crash is its own"
    )
    trial_memory_gb: float = option(
        0.0,
        "resident memory that an isolated trial may take before it is ended as out of memory; 0: "
        "four fifths of what is free, divided among the workers",
        minimum=0,
    )
    max_consecutive_failed_trials: int = option(
        5, "the search ends after so many failures in a row for one reason", minimum=1
    )
    dry_run: bool = option(default=False, help_text="print the plan and what it costs, and end")
    refit_best: bool = option(
        default=False,
        help_text="train the best configuration at the end, judge it on the test split",
    )
    refit_seeds: int = option(3, "runs of refit_best, with seeds 0, 1, …", minimum=1)

    def __post_init__(self) -> None:
        """Checks the options, each and together."""
        super().__post_init__()
        if self.search and self.search_file:
            raise ConfigError("search and search_file both say what is searched; give one.")
        if "/" in self.project_name or self.project_name in ("", ".", ".."):
            raise ConfigError(f"project_name ({self.project_name}) must be the name of a folder.")
        if self.budget_minutes and self.algorithm != "hyperband":
            raise ConfigError(f"budget_minutes plans a Hyperband, not {self.algorithm}.")

    @property
    def direction(self) -> str:
        """Of the objective: max or min."""
        return "min" if self.objective.endswith("loss") else "max"

    @property
    def folder(self) -> pathlib.Path:
        """Where everything of the search is."""
        return pathlib.Path(self.directory).expanduser() / self.project_name

    def space_for(self, base: config_lib.Config) -> Space:
        """Reads what is searched, for runs of which `base` has all other options.

        Raises:
          ConfigError: where it is no space, or the search can't be done.
        """
        space = (
            Space.load(pathlib.Path(self.search_file))
            if self.search_file
            else Space.parse(self.search)
        )
        space.check(base)
        if base.runtime.strategy == "multi_worker" or base.runtime.local_workers:
            raise ConfigError(
                "a trial trains on one host; for several hosts, run trials side by side "
                "(--workers, or KERASTUNER_ORACLE_IP)."
            )
        if locations.is_url(self.directory):
            raise ConfigError(
                f"directory ({self.directory}) must be a local path, or a file system that all "
                "hosts mount."
            )
        if os.environ.get("KERASTUNER_TUNER_ID") and base.runtime.precision == "auto":
            raise ConfigError(
                "precision (auto) is measured on each machine, and workers on several must agree: "
                "give --precision=float32 or another."
            )
        return space

    def plan(self, space: Space, max_epochs: int) -> plan_lib.Plan:
        """Returns what the search will train.

        Raises:
          ConfigError: for a grid of a continuous space.
        """
        if self.algorithm == "hyperband":
            return plan_lib.hyperband(max_epochs, self.factor, self.hyperband_iterations)
        count = self.max_trials
        if self.algorithm == "grid":
            next(space.grid())  # Refuses a continuous dimension.
            count = int(min(count, space.size))
        return plan_lib.flat(count, max_epochs)


def fields() -> tuple[dataclasses.Field[object], ...]:
    """Returns the fields of Settings, each with its `Option`."""
    return dataclasses.fields(Settings)
