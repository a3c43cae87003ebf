"""The options of a search: its algorithm, space, objective, workers and output directory.

    settings = Settings(algorithm="random", search="learning_rate,dropout", max_trials=12)
    settings.plan(settings.space_for(base), max_epochs=20).num_epochs    # 240

The options of each trial are the trainer's, `trainer.config.Config`.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import os
import pathlib

from trainer import config as config_lib
from trainer import option_groups, options
from trainer.distribution import cluster
from trainer.errors import ConfigError
from trainer.option_groups import option
from trainer.runs import claims
from trainer.storage import contents, locations
from trainer.system import text
from tuner import plan as plan_lib
from tuner.space import DEFAULTS, SEARCHED, Space

FILE = "search.json"
"""The identity of a search; a folder that has it is a search."""
OF_SEARCH = (
    FILE, "oracle.json", "trial_*/", "runs/", "leaderboard.csv", "report.html", "best_config.json",
    "tensorboard/", "refit/",
)  # fmt: skip
"""What a search writes, as patterns. FILE is the first: without it, the others are not its own."""
OF_BENCHMARK = ("images/",)
"""What the benchmark writes before its search begins."""
ALGORITHMS = ("hyperband", "random", "bayesian", "grid")
_SIZE_OF_HYPERBAND = ("factor", "hyperband_iterations", "budget_minutes")
UNUSED = {
    "hyperband": ("max_trials",),
    "random": _SIZE_OF_HYPERBAND,
    "bayesian": _SIZE_OF_HYPERBAND,
    "grid": (*_SIZE_OF_HYPERBAND, "search_seed"),
}
"""Options that an algorithm has no use for; giving one is refused, as it must be a mistake."""
_SHOWN = 3
NEEDS = {"trial_memory_gb": "isolate_trials", "refit_seeds": "refit_best"}
"""Options that do nothing without a switch, by name."""


@dataclasses.dataclass(frozen=True)
class Settings(option_groups.Group):
    """The options of a search."""

    algorithm: str = option(
        "hyperband",
        "search algorithm; all but hyperband train every trial for max_epochs epochs",
        choices=ALGORITHMS,
    )
    search: str = option(
        "",
        "search space: name=low:high, name=low:high:step, name=low:high:log or name=a|b|c, "
        "separated by commas; a name alone takes its default range; names: "
        f"{', '.join(DEFAULTS)}; empty: {', '.join(SEARCHED)}. Options that are not searched take "
        "the values of their own flags",
    )
    search_file: str = option(
        "",
        "JSON file with the search space, instead of --search: an object of ranges by option "
        'name, such as {"neurons": "64:512:64", "batch_size": [16, 32]}',
    )
    objective: str = option(
        "val_auc",
        "validation metric to optimize: val_auc is maximized, val_loss minimized",
        choices=options.MONITORS,
    )
    factor: int = option(
        3,
        "Hyperband's reduction factor: 1/factor of the trials are promoted, to factor times the "
        "epochs",
        minimum=2,
    )
    hyperband_iterations: int = option(
        1,
        "number of times to run all of Hyperband's brackets, which can be raised later",
        minimum=1,
    )
    max_trials: int = option(
        30,
        "maximum number of trials of a random, Bayesian or grid search, which can be raised later; "
        "Hyperband's number follows from max_epochs, factor and hyperband_iterations",
        minimum=1,
    )
    budget_minutes: float = option(
        0.0,
        "run the largest Hyperband that is expected to finish within this many minutes, "
        "extrapolated from a few timed steps; it has at most max_epochs epochs per configuration, "
        f"and {plan_lib.MAX_ITERATIONS} iterations; 0: no budget",
        minimum=0,
    )
    search_seed: int = option(
        0,
        "random seed of the search algorithm; seed is that of each trial",
        minimum=0,
        below=2**31,
    )
    directory: str = option("searches", "parent directory of all searches")
    project_name: str = option("search", "name of this search, its subdirectory of directory")
    workers: int = option(1, "number of trials to run in parallel on this machine", minimum=1)
    trial_timeout_s: float = option(
        60.0,
        "seconds without a heartbeat after which a worker counts as lost and its trial is given "
        "to another worker",
        minimum=15,
    )
    isolate_trials: bool = option(
        default=False,
        help_text="run each trial in its own process, so that a crash fails only that trial",
    )
    trial_memory_gb: float = option(
        0.0,
        "with isolate_trials, the memory limit of a trial in GiB, beyond which it is killed and "
        "fails as out of memory; memory-mapped files don't count; 0: 80 % of the free memory, "
        "divided among the workers",
        minimum=0,
    )
    max_consecutive_failed_trials: int = option(
        5, "end the search when this many trials in a row fail for the same reason", minimum=1
    )
    dry_run: bool = option(
        default=False,
        help_text="print the plan with its estimated time and disk space, and exit",
    )
    refit_best: bool = option(
        default=False,
        help_text="after the search, train the best configuration again and evaluate it on the "
        "test split",
    )
    refit_seeds: int = option(3, "number of runs of refit_best, with seeds 0, 1, …", minimum=1)

    def __post_init__(self) -> None:
        """Checks the options, each and together."""
        super().__post_init__()
        if self.search and self.search_file:
            raise ConfigError(
                "search and search_file both define the search space; give one of them."
            )
        try:
            locations.require_name(self.project_name)
        except locations.LocationError as error:
            raise ConfigError(
                f"project_name ({text.bare(self.project_name):.200}) {error}: a directory's, "
                "without a slash."
            ) from error
        self._check_unused()

    def _check_unused(self) -> None:
        """Raises ConfigError for an option whose value would change nothing."""
        given = {f.name: getattr(self, f.name) for f in fields()}
        changed = {f.name for f in fields() if given[f.name] != f.default}
        for name in UNUSED[self.algorithm]:
            if name in changed:
                size = (
                    "max_epochs, factor and hyperband_iterations"
                    if self.algorithm == "hyperband"
                    else "max_trials"
                )
                raise ConfigError(
                    f"{name} ({given[name]:g}) has no effect with --algorithm={self.algorithm}, "
                    f"whose size follows from {size}; leave it out."
                )
        for name, switch in NEEDS.items():
            if name in changed and not given[switch]:
                raise ConfigError(
                    f"{name} ({given[name]:g}) needs --{switch}; add it, or leave {name} out."
                )
        if self.budget_minutes and "hyperband_iterations" in changed:
            raise ConfigError(
                f"hyperband_iterations ({self.hyperband_iterations}) and budget_minutes "
                f"({self.budget_minutes:g}) both set the size of the search; give one of them."
            )

    @property
    def direction(self) -> str:
        """Whether the objective is maximized or minimized: "max" or "min"."""
        return "min" if self.objective.endswith("loss") else "max"

    @property
    def parent(self) -> pathlib.Path:
        """The folder of all searches; KerasTuner would make one that is named ~."""
        return pathlib.Path(self.directory).expanduser()

    @property
    def folder(self) -> pathlib.Path:
        """The search's directory, which holds everything that it writes."""
        return self.parent / self.project_name

    def require_free_folder(self) -> None:
        """Raises ConfigError if a new search would write over files, or into another search."""
        if (self.folder / FILE).exists():
            return
        self._require_not_nested()
        found = contents.entries(self.folder)
        way_out = f"--project_name={text.quoted(f'{self.project_name}-2')}"
        place = text.one_line(str(self.folder))
        written = [name for name in found if any(fnmatch.fnmatchcase(name, p) for p in OF_SEARCH)]
        if written:
            more = f" and {len(written) - _SHOWN} more" if written[_SHOWN:] else ""
            raise ConfigError(
                f"{FILE} is missing in {place} beside {', '.join(written[:_SHOWN])}{more}: restore "
                f"it from a copy, or give another --project_name, such as {way_out}."
            )
        claims.require_free("project_name", str(self.folder), found, OF_BENCHMARK, way_out)

    def _require_not_nested(self) -> None:
        """Raises ConfigError if the directory is inside another search's."""
        for outer in pathlib.Path(os.path.realpath(self.folder)).parents:
            # A search.json alone may be a file of ranges, for search_file.
            if os.path.isfile(outer / FILE) and any(outer.glob("trial_*")):  # noqa: PTH113 -- Path's raises where a parent can't be read.
                raise ConfigError(
                    f"{text.one_line(str(self.folder))} is inside the search at "
                    f"{text.one_line(str(outer))}; give another --directory, such as "
                    f"--directory={text.quoted(str(outer.parent))}."
                )

    def space_for(self, base: config_lib.Config) -> Space:
        """Returns the search space.

        Args:
          base: config of every trial, apart from the searched options.

        Raises:
          ConfigError: when the space is invalid, or can't be searched with these options.
        """
        space = (
            Space.load(pathlib.Path(self.search_file))
            if self.search_file
            else Space.parse(self.search)
        )
        space.check(base)
        if base.checkpoints.resume != "auto":
            raise ConfigError(
                f"resume ({base.checkpoints.resume}) has no effect on a search, which always "
                "resumes; leave it out, or choose a new --project_name."
            )
        if base.runtime.strategy == "multi_worker" or base.runtime.local_workers:
            raise ConfigError(
                "a trial trains on one host; for several hosts, run trials side by side "
                "(--workers, or KERASTUNER_ORACLE_IP)."
            )
        hosts = cluster.of_environment() if base.runtime.strategy == "auto" else None
        if hosts and hosts.others:
            raise ConfigError(
                f"TF_CONFIG names {hosts.size} hosts, and a trial trains on one: unset it, and run "
                "trials side by side (--workers, or KERASTUNER_ORACLE_IP)."
            )
        if locations.is_url(self.directory):
            raise ConfigError(
                f"directory ({text.bare(self.directory):.200}) must be a local path, or on a file "
                "system that all hosts mount, not a URL."
            )
        try:
            locations.check_local(self.directory)
        except locations.LocationError as error:
            raise ConfigError(f"directory ({text.bare(self.directory):.200}) {error}.") from error
        if os.environ.get("KERASTUNER_TUNER_ID"):
            self._check_one_of_several(base)
        return space

    def _check_one_of_several(self, base: config_lib.Config) -> None:
        """Raises ConfigError for what the processes of a search on several hosts can't have."""
        if self.dry_run:
            raise ConfigError(
                "dry_run prints the plan of a whole search, and with KERASTUNER_TUNER_ID this "
                "process is one of several that run it; unset it, or leave out --dry_run."
            )
        if base.runtime.precision == "auto":
            raise ConfigError(
                "precision (auto) is measured on each machine and could differ between workers: "
                "set the same --precision on all of them, for example float32."
            )

    def plan(self, space: Space, max_epochs: int) -> plan_lib.Plan:
        """Returns the plan of all trials.

        Args:
          space: the search space, which bounds a grid search.
          max_epochs: of each configuration, at most.

        Raises:
          ConfigError: for a grid search of a continuous space.
        """
        if self.algorithm == "hyperband":
            return plan_lib.hyperband(max_epochs, self.factor, self.hyperband_iterations)
        if self.algorithm == "grid":
            next(space.grid())  # Raises for a continuous dimension.
        return plan_lib.flat(int(min(self.max_trials, space.size)), max_epochs)


def fields() -> tuple[dataclasses.Field[object], ...]:
    """Returns the fields of Settings, each with its `Option`."""
    return dataclasses.fields(Settings)
