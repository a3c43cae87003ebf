"""`--mode=compare`: trains backbones with several seeds and compares them, or compares runs.

    found = compare.compare(["runs/a", "runs/b"])
    print(found)

Each run is an ordinary one, in <model_dir>/<backbone>-seed<number>, and has a process of its own
(`isolated_run`). Neither this module nor what it imports needs TensorFlow.
"""

from __future__ import annotations

if __name__ == "__main__":  # Said before anything is done.
    raise SystemExit("this module is no command; give: python -m trainer --mode=compare")

import dataclasses
import pathlib
import time
from typing import TYPE_CHECKING, Any, NotRequired, TypedDict

import filelock

from trainer import option_groups
from trainer.commands import isolated_run
from trainer.config import LENGTHS, Config
from trainer.errors import ConfigError, RunError
from trainer.options import ComparisonOptions, planned_runs
from trainer.reports.comparisons import comparison_report
from trainer.runs import claims, compared, evaluated, resuming, run_directory, trained
from trainer.runs.trained import Run
from trainer.storage import contents, documents, files
from trainer.system import console, exits, signals, text

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from trainer.options.planned_runs import PlannedRun
    from trainer.reports.comparisons.comparison_report import Comparison

FINISHED = "finished.json"
"""The runs that have ended, each with its lengths and how it was evaluated.

None of them is trained again, and none evaluated again, unless these have changed.
"""


class _Ended(TypedDict):
    """Options that decide when a run ends, and how it is evaluated."""

    max_epochs: documents.Count
    patience: documents.Count
    schedule_epochs: documents.Count
    evaluation: NotRequired[dict[str, Any]]


def compare(runs: Sequence[Run | str | pathlib.Path]) -> Comparison:
    """Compares finished runs that were evaluated on the same test examples: the first with each.

        found = trainer.compare(["runs/a", "runs/b"])
        found.pairs[0].area.p_value          # Do the ROC-AUCs differ by more than chance?

    Args:
      runs: two or more runs, or their directories.

    Raises:
      ConfigError: when there are fewer, or they have other classes or other test examples.
      RunError: when a run is not finished, or can't be read.
    """
    wanted = "a list of two or more runs, or of their directories"
    option_groups.require("runs", runs, list | tuple, wanted)  # type: ignore[arg-type]
    opened = [run if isinstance(run, Run) else trained.open_run(run) for run in runs]
    return compared.of_runs(opened)


def run(config: Config) -> Comparison:
    """Compares for the command line; prints the tables, and writes them into model_dir.

    Raises:
      RunError: at the end, when runs have failed: the others are trained and compared.
    """
    if config.comparison.runs:
        staging_dir = config.data.staging_dir
        dirs = config.comparison.run_dirs
        _require_place(config.model_dir)
        found = compared.of_runs([trained.open_run(d, staging_dir=staging_dir) for d in dirs])
        place = config.model_dir
    else:
        config = dataclasses.replace(config, model_dir=config.model_dir or _new_folder(config))
        found, place = _train_and_compare(config), config.model_dir
    found = dataclasses.replace(found, command=config.command_line(mode="compare"))
    _show(found, place)
    failed = sum(len(row.failures) for row in found.rows)
    if failed:
        raise RunError(
            f"{text.counted(failed, 'run')} of the comparison failed, with the reasons above; the "
            "same command trains them again, and none of the others."
        )
    return found


def _show(found: Comparison, place: str) -> None:
    # The figures of many runs fill screens; they are in the files.
    console.say(found.to_text(colour=console.wants_colour(), is_short=found.with_paper))
    if place:
        folder = pathlib.Path(place).expanduser()
        if (folder / comparison_report.JSON).exists():
            console.say(f"replaces the comparison in {place}.")
        found.save(folder)
        paths = (f"  {place.rstrip('/')}/{name}" for name in comparison_report.FILES)
        console.say("\n".join(["written:", *paths]))


def _require_place(place: str) -> None:
    """Raises ConfigError if a comparison of finished runs would replace one of backbones."""
    if place and (pathlib.Path(place).expanduser() / FINISHED).exists():
        raise ConfigError(
            f"model_dir ({place}) holds a comparison of backbones, whose tables this one would "
            "replace; name another folder, or leave it out."
        )


def _new_folder(config: Config) -> str:
    return resuming.new_name(f"compare-{config.data.dataset}", config)


def _train_and_compare(config: Config) -> Comparison:
    """Trains what has not been trained yet, and compares all of it."""
    folder = pathlib.Path(config.model_dir).expanduser()
    plan = planned_runs.plan(config.comparison, config.model, config.runtime.seed)
    _require_folder(folder, config, plan)
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder, config.model_dir):
        _say_weights(plan, config)
        failures = _train_all(plan, config, folder)
        return compared.of_groups(_groups(plan, config, failures))


def _require_folder(folder: pathlib.Path, config: Config, plan: Sequence[PlannedRun]) -> None:
    """Checks that the folder is free for a comparison, and its runs have the options of this one.

    Raises:
      ConfigError: when it holds other files, or runs with other options.
    """
    found = contents.entries(folder)
    claims.require_free("model_dir", config.model_dir, found, claims.OF_COMPARISON)
    for run in plan:
        own = _config_of(run, config)
        resuming.require_resumable(run_directory.at(own), own)


def _locked(folder: pathlib.Path, place: str) -> Any:
    """Locks the folder against another process until the block ends."""
    lock = filelock.FileLock(folder / claims.LOCK)
    try:
        return lock.acquire(blocking=False)
    except filelock.Timeout as error:
        raise RunError(
            f"model_dir ({place}) is in use by another process; end it first, or name another."
        ) from error


def _config_of(run: PlannedRun, config: Config) -> Config:
    """Returns the config of a run: as if it had been given to --mode=train."""
    return dataclasses.replace(
        config,
        model=run.model,
        runtime=dataclasses.replace(config.runtime, seed=run.seed),
        checkpoints=dataclasses.replace(config.checkpoints, resume="auto"),
        comparison=ComparisonOptions(),
        model_dir=f"{config.model_dir.rstrip('/')}/{run.name}",
    )


def _say_weights(plan: Iterable[PlannedRun], config: Config) -> None:
    """Says which weights each backbone starts from, where that is not the same for all."""
    models = {run.backbone: run.model for run in plan}
    for name, model in models.items():
        if model.layers_to_unfreeze != config.model.layers_to_unfreeze:
            console.say(
                f"{name}: weights none, so that all its layers train "
                f"(layers_to_unfreeze={model.layers_to_unfreeze})."
            )
        elif model.weights != config.model.weights:
            console.say(f"{name}: weights {text.one_line(model.weights)}.")


def _train_all(plan: Sequence[PlannedRun], config: Config, folder: pathlib.Path) -> dict[str, str]:
    """Trains the runs that have not ended; returns why some have failed, by name."""
    failures: dict[str, str] = {}
    configs = {run.name: _config_of(run, config) for run in plan}
    missing = [run for run in plan if not _is_finished(run.name, configs[run.name], folder)]
    clock = _Clock()
    for number, run in enumerate(plan, start=1):
        own = configs[run.name]
        header = f"run {number} of {len(plan)}: {run.backbone}, seed {run.seed}"
        if run not in missing:
            console.say(f"{header}: finished before; {own.model_dir}")
            continue
        console.say(f"\n{header}, into {own.model_dir}")
        start = time.monotonic()
        outcome = isolated_run.start(own, folder / ".task")
        _require_not_stopped(outcome)
        missing.remove(run)
        if outcome.code in exits.TRAINED:
            _note_finished(run.name, own, folder)
            clock.add(run.backbone, time.monotonic() - start)
        else:
            failures[run.name] = outcome.reason
            console.say(f"{run.name} failed: {text.one_line(outcome.reason)}")
        if missing and (left := clock.left([later.backbone for later in missing])):
            console.say(f"{text.counted(len(missing), 'run')} to go: {left}.")
    return failures


def _require_not_stopped(outcome: isolated_run.Outcome) -> None:
    """Ends this process as the run has ended, if somebody asked the run to stop."""
    if outcome.code in (exits.STOPPED, exits.INTERRUPTED, exits.OUTPUT_CLOSED):
        signals.stop()


class _Clock:
    """How long runs take, by backbone."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}

    def add(self, backbone: str, seconds: float) -> None:
        """Notes a run; the latest counts, as the first of a backbone fills the feature cache."""
        self._seconds[backbone] = seconds

    def left(self, names: Iterable[str]) -> str:
        """Returns how long runs of these backbones will take; empty where nothing is known.

        A backbone that has not been trained yet is taken for the mean of the others.
        """
        if not self._seconds:
            return ""
        usual = sum(self._seconds.values()) / len(self._seconds)
        total = sum(self._seconds.get(name, usual) for name in names)
        minutes = round(total / 60)
        hours, rest = divmod(minutes, 60)
        if hours:
            return f"about {hours} h {rest:02d} min"
        return f"about {minutes} min" if minutes else "less than a minute"


def _ended(config: Config) -> dict[str, Any]:
    """Returns what `finished.json` has of a run with these options."""
    lengths = {name: getattr(config.optimization, name) for name in LENGTHS}
    return {**lengths, "evaluation": dataclasses.asdict(config.evaluation)}


def _finished(folder: pathlib.Path) -> dict[str, _Ended]:
    path = folder / FINISHED
    if not path.exists():
        return {}
    found: dict[str, _Ended] = documents.load(
        path, dict[str, _Ended], way_out="remove it: the runs are then evaluated again"
    )
    return found


def _is_finished(name: str, config: Config, folder: pathlib.Path) -> bool:
    """Whether a run has ended with these lengths, and was evaluated as it would be now.

    With larger lengths it continues. Evaluated otherwise, or by an earlier version, which did not
    record how, it is only evaluated again: `--mode=train` does that for a finished run.
    """
    directory = run_directory.at(config)
    is_there = directory.has(claims.BEST_MODEL) and directory.has(evaluated.REPORT)
    return is_there and _finished(folder).get(name) == _ended(config)


def _note_finished(name: str, config: Config, folder: pathlib.Path) -> None:
    files.save_json(folder / FINISHED, {**_finished(folder), name: _ended(config)})


def _groups(
    plan: Sequence[PlannedRun], config: Config, failures: dict[str, str]
) -> dict[str, compared.RunGroup]:
    """Returns the finished runs and the failed ones by backbone, in the order that was given."""
    groups = {}
    for name in config.comparison.backbone_names:
        own = [run for run in plan if run.backbone == name]
        runs = {
            run.seed: trained.open_run(_config_of(run, config).model_dir)
            for run in own
            if run.name not in failures
        }
        remark = compared.remark(next(iter(runs.values()))) if runs else ""
        failed = {run.seed: failures[run.name] for run in own if run.name in failures}
        groups[name] = compared.RunGroup(runs, name, remark, failed)
    return groups
