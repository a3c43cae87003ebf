"""Runs a search, from its options to the best configuration, and writes its directory.

search.run(base, settings, argv)

<directory>/<project_name>/
  search.json             identity of the search, which a resumed search must match
  oracle.json, trial_*/   KerasTuner's state, and a record of each trial
  runs/                   checkpoints and history of each configuration
  leaderboard.csv  report.html  best_config.json  tensorboard/
  refit/<trial>/          runs of the best trial's configuration, with --refit_best
"""

from __future__ import annotations

if __name__ == "__main__":  # Said before TensorFlow is imported.
    raise SystemExit("this module is no command; give: python -m tuner")

import contextlib
import dataclasses
import os
import shlex
from typing import TYPE_CHECKING, Any

import filelock

from trainer import config as config_lib
from trainer import option_groups
from trainer.config import Config
from trainer.distribution import batch_sizes
from trainer.errors import ConfigError, RunError
from trainer.models import precision
from trainer.storage import files
from trainer.system import console, text
from tuner import budget, identity, notices, refit
from tuner import plan as plan_lib
from tuner.oracles import algorithms
from tuner.reports import board, formats, hparams, leaderboard, outcomes, page, verdict
from tuner.settings import Settings
from tuner.trials import chief, estimate, features, hypermodel, shares, tasks, waiting, worker

if TYPE_CHECKING:
    import pathlib
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from tuner.oracles.durable import DurableOracle
    from tuner.plan import Plan
    from tuner.reports.results import SearchResults
    from tuner.space import Space

REFRESH_S = 1.0
LEADERBOARD, PAGE, BEST_CONFIG = "leaderboard.csv", "report.html", "best_config.json"
LARGEST = f"the largest that fits, with at most {plan_lib.MAX_ITERATIONS} iterations"
FACTS = ("dataset", "backbone", "precision", "max_epochs", "seed")
"""Options that the report lists."""


def run(base: Config, settings: Settings, argv: Sequence[str]) -> tuple[str, ...]:
    """Runs, resumes or extends a search, and writes its results.

    Args:
      base: config of every trial, apart from the searched options.
      settings: of the search.
      argv: the command line, which is passed on to workers.

    Returns:
      Why the result must not be used, which the console and the page say too; empty if it may, and
      of a worker or a dry run.

    Raises:
      ConfigError: when options contradict each other, or differ from the search to resume,
        or its directory holds other files.
      RunError: when data or weights can't be loaded, or too many trials in a row fail for the same
        reason after others had a score.
    """
    option_groups.require("base", base, Config, config_lib.WANTED)
    option_groups.require("settings", settings, Settings, "a tuner.settings.Settings")
    space = settings.space_for(base)
    settings.require_free_folder()
    role = os.environ.get("KERASTUNER_TUNER_ID", "")
    if role:
        waiting.address_of_chief()  # Wrong, it should not cost the time to open the data.
    if role and "chief" not in role:
        _work_for_chief(base, settings, space)
        return ()
    # Uses all CPUs: features are computed before workers start.
    base = shares.for_chief(base, settings)
    workspace = tasks.Workspace(base)
    choice = precision.choose(base, workspace.context)
    base = _with_batch_size(base, settings, space, workspace.context.num_replicas)
    workspace.base = shares.with_threads(base.with_precision(choice.policy), settings)
    for reason in filter(None, (*workspace.context.unused, choice.reason)):
        console.say(reason)
    with _locked(settings, is_dry=settings.dry_run):
        return _search(workspace, settings, space, argv)


def _search(
    workspace: tasks.Workspace, settings: Settings, space: Space, argv: Sequence[str]
) -> tuple[str, ...]:
    if settings.budget_minutes:
        settings = _sized(workspace, settings, space)
    base = workspace.base
    plan = settings.plan(space, base.optimization.max_epochs)
    for line in notices.of(base, settings, space, plan):
        console.say(line)
    configs = features.configs_for(base, space, settings.objective)
    if settings.dry_run:
        console.say(f"space: {', '.join(map(str, space.dimensions))}.")
        console.say(estimate.measure(workspace, configs).to_text(plan, settings.workers))
        return ()
    fingerprint = workspace.data(base).fingerprint
    began = identity.agree(settings, identity.of(base, settings, space, fingerprint))
    oracle = _load_oracle(settings, space, plan)
    counts = _class_counts(workspace)
    read = _results_reader(oracle, base, settings, space, plan, began, counts)
    is_over = oracle.is_over
    if is_over:
        _say_finished(read(), settings, can_grow=plan.num_configurations < space.size)
    else:
        _require_objective(settings, counts)
        if not _has_remote_workers():
            features.prepare(workspace, configs)
        size = ", ".join(
            (text.counted(plan.num_trials, "trial"), text.counted(plan.num_epochs, "epoch"))
        )
        console.say(f"searching {space}: {size}.")
    try:
        if not is_over:
            show_progress = _progress_board(read, settings, plan)
            _run_trials(oracle, workspace, settings, space, argv, show_progress)
    finally:
        _write(read(), settings, base)
    _end_early(oracle, read(), settings)
    return _conclude(read(), settings)


def _class_counts(workspace: tasks.Workspace) -> dict[str, int]:
    """Returns the number of validation examples of each class, by name."""
    data = workspace.data(workspace.base)
    return dict(zip(data.class_names, data.class_counts("validation"), strict=True))


def _require_objective(settings: Settings, class_counts: Mapping[str, int]) -> None:
    """Raises ConfigError when no trial can have a score."""
    reason = verdict.undefined(settings.objective, class_counts)
    if reason:
        raise ConfigError(
            f"{reason}; build the data set with examples of every class in every split, or give "
            "--objective=val_loss."
        )


def _say_finished(found: SearchResults, settings: Settings, *, can_grow: bool) -> None:
    trials = text.counted(len(found.finished), "trial")
    console.say(f"the search is finished: {trials}; its page is {settings.folder / PAGE}.")
    if can_grow:
        size = "hyperband_iterations" if settings.algorithm == "hyperband" else "max_trials"
        console.say(f"with a larger --{size}, it goes on.")


def _end_early(oracle: DurableOracle, found: SearchResults, settings: Settings) -> None:
    """Says that a search has ended early.

    Raises:
      RunError: if some trial had a score: the search is not done, and its result not worthless.
    """
    if not oracle.stopped_because:
        return
    line = (
        f"the search ended early: {oracle.stopped_because}. See {settings.folder / PAGE} for all "
        "failures."
    )
    if found.best is not None:
        raise RunError(line)
    console.say(line)


def _has_remote_workers() -> bool:
    """Whether this is the chief of workers on other hosts, which compute features themselves."""
    return "KERASTUNER_TUNER_ID" in os.environ


def _load_oracle(settings: Settings, space: Space, plan: Plan) -> DurableOracle:
    """Builds the oracle and loads the trials on disk."""
    oracle = algorithms.build(settings, space, plan)
    oracle._set_project_dir(settings.parent, settings.project_name)  # noqa: SLF001 -- As tuners do.
    oracle.reload()
    return oracle


def _results_reader(
    oracle: DurableOracle,
    base: Config,
    settings: Settings,
    space: Space,
    plan: Plan,
    began: float,
    class_counts: Mapping[str, int],
) -> Callable[[], SearchResults]:
    """Returns a function that reads the results so far."""
    facts = {name: str(base.to_flat()[name]) for name in FACTS}
    reader = outcomes.Reader(space, settings, plan, facts, began, class_counts)
    return lambda: reader(list(oracle.trials.values()))


def _progress_board(
    read: Callable[[], SearchResults], settings: Settings, plan: Plan
) -> Callable[[], None]:
    """Returns a function that updates the progress board on the console."""
    shown = board.Board(
        plan.num_trials,
        settings.objective,
        planned_epochs=plan.num_epochs,
        planned_rungs=plan.rungs,
        workers=settings.workers,
        say=console.say_always,
    )
    shown.resume(read())
    return lambda: shown.update(read())


def _run_trials(
    oracle: DurableOracle,
    workspace: tasks.Workspace,
    settings: Settings,
    space: Space,
    argv: Sequence[str],
    show_progress: Callable[[], None],
) -> None:
    """Runs all trials: on other hosts, in several worker processes, or in this process."""
    if _has_remote_workers():
        chief.serve(oracle, show_progress)
    elif settings.workers > 1:
        _search_in_parallel(oracle, workspace.base, settings, argv, show_progress)
    else:
        model = hypermodel.FineTuning(workspace, space, settings.objective)
        with waiting.called_every(REFRESH_S, show_progress):
            worker.TrialWorker(oracle, model, settings).search()
        show_progress()


def _search_in_parallel(
    oracle: DurableOracle,
    base: Config,
    settings: Settings,
    argv: Sequence[str],
    show_progress: Callable[[], None],
) -> None:
    # Workers get the chief's choices: they could measure another precision, and plan no budget.
    settled = [
        *argv,
        f"--precision={base.runtime.precision}",
        f"--batch_size={base.data.batch_size}",
        f"--cpu_threads={base.runtime.cpu_threads}",
        f"--max_epochs={base.optimization.max_epochs}",
    ]
    gpus = shares.gpus_of_workers(base)
    if gpus:
        console.say(shares.note(settings.workers, gpus))
    environments = chief.environments(settings.workers, gpus)
    with chief.serving(oracle, "127.0.0.1:0") as address:
        chief.supervise(oracle, settled, settings, address, show_progress, environments)


def _work_for_chief(base: Config, settings: Settings, space: Space) -> None:
    """Runs trials of a chief, as a worker, until none is left."""
    worker.end_with_parent()
    worker.await_chief()
    is_local = worker.PARENT in os.environ
    workspace = tasks.Workspace(base)
    base = workspace.base = _with_batch_size(base, settings, space, replicas=1)
    if not is_local:  # A chief on the same machine has cached the features already.
        features.prepare(workspace, features.configs_for(base, space, settings.objective))
    plan = settings.plan(space, base.optimization.max_epochs)
    oracle = algorithms.build(settings, space, plan)
    model = hypermodel.FineTuning(workspace, space, settings.objective)
    worker.TrialWorker(oracle, model, settings).search()


def _with_batch_size(base: Config, settings: Settings, space: Space, replicas: int) -> Config:
    """Returns the base with the batch size of all trials, if nobody gave one.

    A resumed search keeps its own. One on several hosts takes that of one replica: each host knows
    only its own replicas, and a worker refuses what it can't share among them.
    """
    shares.require_divisible(space, 1 if _has_remote_workers() else replicas)
    if base.data.batch_size or any(d.name == "batch_size" for d in space.dimensions):
        return base
    of_search = (identity.load(settings) or {}).get("batch_size")
    replicas = 1 if _has_remote_workers() else replicas
    automatic = batch_sizes.automatic(replicas)
    if of_search and of_search != automatic and _has_remote_workers():
        raise ConfigError(
            f"the search in {settings.folder} has batches of {of_search}, which workers on other "
            f"hosts can't know: give all of them --batch_size={of_search}."
        )
    if not of_search and (note := batch_sizes.note(automatic, replicas, "replicas")):
        console.say(note)
    return base.with_batch_size(of_search or automatic)


def _locked(settings: Settings, *, is_dry: bool) -> Any:
    """Locks the search against a second process.

    Raises:
      RunError: when another process holds the lock.
    """
    if is_dry:
        return contextlib.nullcontext()
    settings.folder.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(settings.folder / ".lock")
    try:
        return lock.acquire(blocking=False)
    except filelock.Timeout as error:
        raise RunError(
            f"another process is running the search in {settings.folder}; stop it, or choose "
            "another --project_name."
        ) from error


def _sized(workspace: tasks.Workspace, settings: Settings, space: Space) -> Settings:
    """Fits a Hyperband into --budget_minutes; a resumed search keeps its size.

    Raises:
      ConfigError: when not even one epoch fits.
    """
    saved = identity.load(settings)
    epochs, iterations = (
        budget.largest(workspace, settings, space)
        if saved is None
        else (int(saved["max_epochs"]), int(saved["hyperband_iterations"]))
    )
    rules = dataclasses.replace(workspace.base.optimization, max_epochs=epochs)
    workspace.base = dataclasses.replace(workspace.base, optimization=rules)
    reason = LARGEST if saved is None else "the size that the search began with"
    console.say(
        f"budget: Hyperband with max_epochs {epochs}, hyperband_iterations {iterations}, {reason}."
    )
    return dataclasses.replace(settings, budget_minutes=0.0, hyperband_iterations=iterations)


def _write(found: SearchResults, settings: Settings, base: Config) -> None:
    """Writes the results of a search, finished or not."""
    leaderboard.write(found, settings.folder / LEADERBOARD)
    _write_page(found, settings)
    hparams.write(found, settings.folder / "tensorboard")
    best = found.best
    if best is not None:
        config = tasks.config_to_repeat(base, best.values, settings.objective, best.epochs)
        files.save_json(settings.folder / BEST_CONFIG, config.to_flat())


def _write_page(found: SearchResults, settings: Settings) -> SearchResults:
    """Writes the page, with what the guard says of the runs of --refit_best; returns both."""
    if found.best is not None:
        warnings = refit.warnings(settings, found.best.trial_id)
        found = dataclasses.replace(found, refit_warnings=warnings)
    page.write(found, settings.folder / PAGE)
    return found


def _conclude(found: SearchResults, settings: Settings) -> tuple[str, ...]:
    """Prints the best trial, where the results are, and why they must not be used, if so."""
    best, folder = found.best, settings.folder
    if best is not None and settings.refit_best:
        refit.run(folder / BEST_CONFIG, settings, best.trial_id)
        found = _write_page(found, settings)
    elif best is not None:
        found = dataclasses.replace(found, refit_warnings=refit.warnings(settings, best.trial_id))
    console.say("\n".join(_closing(found, folder)))
    reasons = verdict.reasons(found)
    for reason in reasons:
        console.say(verdict.warning(reason, colour=console.wants_colour()))
    return reasons


def _closing(found: SearchResults, folder: pathlib.Path) -> Iterator[str]:
    best = found.best
    if best is not None:
        yield (
            f"best trial: {best.trial_id}, {found.objective} {formats.score(best.score)} after "
            f"{text.counted(best.epochs, 'epoch')}: {formats.values(best.values)}"
        )
    yield f"leaderboard: {folder / LEADERBOARD}"
    yield f"page: {folder / PAGE}"
    if best is not None:
        path = folder / BEST_CONFIG
        yield f"best configuration: {path}"
        command = shlex.join(["python", "-m", "trainer", f"--config_file={path}"])
        yield f"to train and evaluate it: {command}"
