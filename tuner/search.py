"""A search, from options to the best configuration; reads like its table of contents.

search.run(base, settings, argv)

<directory>/<project_name>/
  search.json             what is searched, and on what; a search that resumes must agree with it
  oracle.json, trial_*/   KerasTuner's state, and how each trial went
  runs/                   checkpoints and history of each configuration
  leaderboard.csv  report.html  best_config.json  tensorboard/
  refit/                  runs of the best configuration, of --refit_best
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import threading
from typing import TYPE_CHECKING, Any

import filelock

from trainer.errors import RunError
from trainer.models import precision
from trainer.storage import files
from trainer.system import console
from tuner import budget, identity, refit
from tuner.oracles import algorithms
from tuner.reports import board, hparams, leaderboard, outcomes, page
from tuner.trials import chief, cuts, estimate, hypermodel, tasks, worker

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from trainer.config import Config
    from tuner.oracles.durable import DurableOracle
    from tuner.plan import Plan
    from tuner.reports.results import SearchResults
    from tuner.settings import Settings
    from tuner.space import Space

TURN_S = 1.0
FACTS = ("dataset", "backbone", "precision", "max_epochs", "seed")
"""Options that the report names."""


def run(base: Config, settings: Settings, argv: Sequence[str]) -> None:
    """Searches, and writes what was found.

    Args:
      base: options of every trial that are not searched.
      settings: of the search.
      argv: the command line, for workers.

    Raises:
      ConfigError: when options contradict each other, or a search that is there.
      RunError: when data or weights can't be had, or trial after trial fails for one reason.
    """
    space = settings.space_for(base)
    role = os.environ.get("KERASTUNER_TUNER_ID", "")
    if role and "chief" not in role:
        _work_for_chief(base, settings, space)
        return
    workspace = tasks.Workspace(base)  # All CPUs are its own: features come before the workers.
    choice = precision.choose(base, workspace.context)
    workspace.base = _with_threads(base.with_precision(choice.policy), settings)
    if choice.reason:
        console.say(choice.reason)
    with _owned(settings, is_dry=settings.dry_run):
        _search(workspace, settings, space, argv)


def _search(
    workspace: tasks.Workspace, settings: Settings, space: Space, argv: Sequence[str]
) -> None:
    if settings.budget_minutes:
        settings = _sized(workspace, settings, space)
    base = workspace.base
    plan = settings.plan(space, base.optimization.max_epochs)
    configs = cuts.configs_for(base, space, settings.objective)
    if settings.dry_run:
        console.say(estimate.measure(workspace, configs).to_text(plan, settings.workers))
        return
    fingerprint = workspace.data(base).fingerprint
    began = identity.agree(settings, identity.of(base, settings, space, fingerprint))
    if not _has_remote_workers():
        cuts.prepare(workspace, configs)
    oracle = _load_oracle(settings, space, plan)
    read = _reader(oracle, base, settings, space, plan, began)
    on_turn = _shown(read, settings, plan)
    console.say(f"searching {space}: {plan.num_trials} trials, {plan.num_epochs} epochs.")
    try:
        _run_trials(oracle, workspace, settings, space, argv, on_turn)
    finally:
        _write(read(), settings, base)
    if oracle.stopped_because:
        raise RunError(
            f"the search ended early: {oracle.stopped_because}. {settings.folder}/report.html has "
            "all of it."
        )
    _conclude(read(), settings)


def _has_remote_workers() -> bool:
    """Whether this is the chief of workers on other hosts, which compute features themselves."""
    return "KERASTUNER_TUNER_ID" in os.environ


def _load_oracle(settings: Settings, space: Space, plan: Plan) -> DurableOracle:
    """Builds the oracle, with the trials that are on disk."""
    oracle = algorithms.build(settings, space, plan)
    oracle._set_project_dir(settings.directory, settings.project_name)  # noqa: SLF001 -- As tuners do.
    oracle.reload()
    return oracle


def _reader(
    oracle: DurableOracle,
    base: Config,
    settings: Settings,
    space: Space,
    plan: Plan,
    began: float,
) -> Callable[[], SearchResults]:
    """Returns a function that reads the results so far."""
    facts = {name: str(base.to_flat()[name]) for name in FACTS}
    reader = outcomes.Reader(space, settings, plan, facts, began)
    return lambda: reader(list(oracle.trials.values()))


def _shown(read: Callable[[], SearchResults], settings: Settings, plan: Plan) -> Callable[[], None]:
    """Returns a function that shows the progress since its last call."""
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
    on_turn: Callable[[], None],
) -> None:
    """Runs trials until there are no more: on other hosts, in several processes, or here."""
    if _has_remote_workers():
        chief.serve(oracle, on_turn)
    elif settings.workers > 1:
        _search_in_parallel(oracle, workspace.base, settings, argv, on_turn)
    else:
        model = hypermodel.FineTuning(workspace, space, settings.objective)
        with _repeated(on_turn):
            worker.TrialWorker(oracle, model, settings).search()
        on_turn()


@contextlib.contextmanager
def _repeated(on_turn: Callable[[], None]) -> Iterator[None]:
    """Shows how the search stands while this process is deep in a trial."""
    ended = threading.Event()

    def show() -> None:
        while not ended.wait(TURN_S):
            on_turn()

    thread = threading.Thread(target=show, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _search_in_parallel(
    oracle: DurableOracle,
    base: Config,
    settings: Settings,
    argv: Sequence[str],
    on_turn: Callable[[], None],
) -> None:
    settled = [
        *argv,
        f"--precision={base.runtime.precision}",
        f"--cpu_threads={base.runtime.cpu_threads}",
        f"--max_epochs={base.optimization.max_epochs}",
    ]
    with chief.serving(oracle, "127.0.0.1:0") as address:
        chief.supervise(oracle, settled, settings, address, on_turn)


def _work_for_chief(base: Config, settings: Settings, space: Space) -> None:
    """Runs trials that a chief gives out, until it has no more."""
    worker.end_with_parent()
    is_local = worker.PARENT in os.environ
    workspace = tasks.Workspace(base)
    if not is_local:  # Else the chief, on the same machine, has done it.
        cuts.prepare(workspace, cuts.configs_for(base, space, settings.objective))
    plan = settings.plan(space, base.optimization.max_epochs)
    oracle = algorithms.build(settings, space, plan)
    model = hypermodel.FineTuning(workspace, space, settings.objective)
    worker.TrialWorker(oracle, model, settings).search()


def _with_threads(base: Config, settings: Settings) -> Config:
    """Divides the CPUs among workers."""
    if settings.workers == 1 or base.runtime.cpu_threads:
        return base
    threads = max(1, (os.cpu_count() or 1) // settings.workers)
    runtime = dataclasses.replace(base.runtime, cpu_threads=threads)
    return dataclasses.replace(base, runtime=runtime)


def _owned(settings: Settings, *, is_dry: bool) -> Any:
    """Keeps a second process away from a search.

    Raises:
      RunError: when there is one already.
    """
    if is_dry:
        return contextlib.nullcontext()
    settings.folder.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(settings.folder / ".lock")
    try:
        return lock.acquire(blocking=False)
    except filelock.Timeout as error:
        raise RunError(
            f"another process searches in {settings.folder}; name another --project_name."
        ) from error


def _sized(workspace: tasks.Workspace, settings: Settings, space: Space) -> Settings:
    """Fits a Hyperband into --budget_minutes; a search that resumes keeps the size it has.

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
    console.say(f"budget: Hyperband of {epochs} epochs, {iterations} time(s).")
    return dataclasses.replace(settings, hyperband_iterations=iterations)


def _write(found: SearchResults, settings: Settings, base: Config) -> None:
    """Writes what is known of a search, over or not."""
    leaderboard.write(found, settings.folder / "leaderboard.csv")
    page.write(found, settings.folder / "report.html")
    hparams.write(found, settings.folder / "tensorboard")
    best = found.best
    if best is not None:
        config = tasks.config_to_repeat(base, best.values, settings.objective, best.epochs)
        files.save_json(settings.folder / "best_config.json", config.to_flat())


def _conclude(found: SearchResults, settings: Settings) -> None:
    best = found.best
    if best is None:
        raise RunError(f"no trial came to a score; {settings.folder}/report.html says why.")
    values = ", ".join(f"{name} {value}" for name, value in best.values.items())
    console.say(f"best: {settings.objective} {best.score:.4f} after {best.epochs} epochs: {values}")
    path = settings.folder / "best_config.json"
    console.say(f"python -m trainer --config_file={path} trains it and judges it.")
    if settings.refit_best:
        refit.run(path, settings)
