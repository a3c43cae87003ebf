"""A search, from options to the best configuration; reads like its table of contents.

search.run(base, settings, argv)

<directory>/<project_name>/
  search.json             what is searched, and on what; a search that goes on must agree with it
  oracle.json, trial_*/   KerasTuner's state, and how each trial went
  runs/                   checkpoints and history of each configuration
  leaderboard.csv  report.html  best_config.json  tensorboard/
  refit/                  runs of the best configuration, of --refit_best
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import pathlib
import statistics
import threading
import time
from typing import TYPE_CHECKING, Any

import filelock

import cxr_tfds
import trainer
import tuner
from trainer import config as config_lib
from trainer.errors import ConfigError, RunError
from trainer.models import precision
from trainer.storage import files
from trainer.system import console, processes
from trainer.training import feeds
from tuner import (
    plan as plan_lib,
)
from tuner.oracles import algorithms
from tuner.reports import board, hparams, leaderboard, outcomes, page
from tuner.trials import chief, estimate, hypermodel, tasks, worker

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from trainer.config import Config
    from tuner.oracles.durable import DurableOracle
    from tuner.reports.results import SearchResults
    from tuner.settings import Settings
    from tuner.space import Space

TURN_S = 1.0
FACTS = ("dataset", "backbone", "precision", "max_epochs", "seed")
ACCEPTED = (0, 3)
"""Exit codes of a refit: 3 is a model that the judgement warns of."""


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
    choice = precision.settle(base, workspace.context)
    workspace.base = _with_threads(base.with_precision(choice.policy), settings)
    if choice.reason:
        console.say(choice.reason)
    with _owned(settings, is_dry=settings.dry_run):
        _search(workspace, settings, space, argv)


def _search(
    workspace: tasks.Workspace, settings: Settings, space: Space, argv: Sequence[str]
) -> None:
    settings = _sized(workspace, settings, space)
    base = workspace.base
    plan = settings.plan(space, base.optimization.max_epochs)
    configs = estimate.configs_by_cut(base, space, settings.objective)
    if settings.dry_run:
        costs = estimate.measure(workspace, configs)
        console.say(costs.to_text(plan, settings.workers))
        return
    began = _agree(settings, _identity(workspace, settings, space))
    is_spread = "KERASTUNER_TUNER_ID" in os.environ
    if not is_spread:
        prepare(workspace, configs)
    oracle = algorithms.build(settings, space, plan)
    oracle._set_project_dir(settings.directory, settings.project_name)  # noqa: SLF001 -- As tuners do.
    oracle.reload()
    facts = {name: str(base.to_flat()[name]) for name in FACTS}
    read = outcomes.Reader(space, settings, plan, facts, began)
    shown = board.Board(
        plan.num_trials,
        settings.objective,
        planned_epochs=plan.num_epochs,
        planned_rungs=plan.rungs,
        workers=settings.workers,
        say=console.say_always,
    )
    shown.resume(read(list(oracle.trials.values())))

    def on_turn() -> None:
        shown.update(read(list(oracle.trials.values())))

    console.say(f"searching {space}: {plan.num_trials} trials, {plan.num_epochs} epochs.")
    try:
        if is_spread:
            chief.serve(oracle, on_turn)
        elif settings.workers > 1:
            _search_in_parallel(oracle, workspace, settings, argv, on_turn)
        else:
            model = hypermodel.FineTuning(workspace, space, settings.objective)
            with _repeated(on_turn):
                worker.Worker(oracle, model, settings).search()
            on_turn()
    finally:
        _write(read(list(oracle.trials.values())), settings, base)
    if oracle.stopped_because:
        raise RunError(
            f"the search ended early: {oracle.stopped_because}. {settings.folder}/report.html has "
            "all of it."
        )
    _conclude(read(list(oracle.trials.values())), settings)


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
    workspace: tasks.Workspace,
    settings: Settings,
    argv: Sequence[str],
    on_turn: Any,
) -> None:
    base = workspace.base
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
        prepare(workspace, estimate.configs_by_cut(base, space, settings.objective))
    plan = settings.plan(space, base.optimization.max_epochs)
    oracle = algorithms.build(settings, space, plan)
    model = hypermodel.FineTuning(workspace, space, settings.objective)
    worker.Worker(oracle, model, settings).search()


def prepare(workspace: tasks.Workspace, configs: Sequence[Config]) -> None:
    """Computes the features of every cut in the space, in one pass over the images.

    Args:
      workspace: of the search.
      configs: one for each cut.
    """
    built = [workspace.build(config) for config in configs]
    cuts: dict[int, feeds.FeatureFeed] = {}
    for trainee in built:
        if isinstance(trainee.feed, feeds.FeatureFeed):
            cuts.setdefault(trainee.feed.partition.cut.position, trainee.feed)
        else:
            console.say(trainee.feed.reason)
    if not cuts:
        return
    _require_room(list(cuts.values()), workspace.base.features.cache_budget_gb)
    places = ", ".join(feed.partition.cut.name for feed in cuts.values())
    console.say(f"features up to {places}, for all trials:")
    with workspace.data(workspace.base).reading():
        for split in feeds.TRAINING_SPLITS:
            if len(cuts) > 1:
                feeds.compute_together(list(cuts.values()), built[-1].network, split)
        for feed in cuts.values():
            feed.prepare()


def _require_room(cuts: Sequence[feeds.FeatureFeed], budget_gb: float) -> None:
    """Raises ConfigError unless the features of all cuts fit the cache together.

    Else trials would remove one another's, and each compute its own again.
    """
    needed = sum(feed.num_bytes(split) for feed in cuts for split in feeds.TRAINING_SPLITS)
    if needed > budget_gb * 2**30:
        raise ConfigError(
            f"features of {len(cuts)} cuts take {needed / 2**30:.1f} GiB, more than "
            f"--cache_budget_gb={budget_gb:g}; raise it, or search fewer layers_to_unfreeze."
        )


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
    """Fits a Hyperband into --budget_minutes; a search that goes on keeps the size it has.

    Raises:
      ConfigError: when not even one epoch fits.
    """
    if not settings.budget_minutes:
        return settings
    saved = _load_identity(settings)
    if saved is not None:
        size = int(saved["max_epochs"]), int(saved["iterations"])
    else:
        configs = estimate.configs_by_cut(workspace.base, space, settings.objective)
        costs = estimate.measure(workspace, configs)
        found = plan_lib.largest_within(
            60 * settings.budget_minutes,
            lambda plan: costs.seconds(plan, settings.workers),
            workspace.base.optimization.max_epochs,
            settings.factor,
        )
        if found is None:
            smallest = costs.seconds(plan_lib.hyperband(1, settings.factor), settings.workers)
            raise ConfigError(
                f"budget_minutes ({settings.budget_minutes:g}) is too little: one epoch of each "
                f"trial takes about {smallest / 60:.0f} min."
            )
        size = found
    epochs, iterations = size
    rules = dataclasses.replace(workspace.base.optimization, max_epochs=epochs)
    workspace.base = dataclasses.replace(workspace.base, optimization=rules)
    console.say(f"budget: Hyperband of {epochs} epochs, {iterations} time(s).")
    return dataclasses.replace(settings, iterations=iterations)


def _identity(workspace: tasks.Workspace, settings: Settings, space: Space) -> dict[str, Any]:
    """Returns all that decides what a search finds, flat, by name."""
    options = {
        field.name: value
        for (group, field) in config_lib.fields()
        if field.metadata["option"].of_result
        for value in [getattr(getattr(workspace.base, group), field.name)]
    }
    for dimension in space.dimensions:
        options.pop(dimension.name)
    names = ("algorithm", "objective", "factor", "iterations", "max_trials", "search_seed")
    return {
        "space": str(space),
        **{name: getattr(settings, name) for name in names},
        **options,
        "data": workspace.data(workspace.base).fingerprint,
        "code": _code(),
    }


def _code() -> str:
    """Returns a hash of the packages' own sources: scores of two versions don't compare."""
    digest = hashlib.sha256()
    for package in (cxr_tfds, trainer, tuner):
        folder = pathlib.Path(package.__path__[0])
        for path in sorted(folder.rglob("*.py")):
            digest.update(f"{path.relative_to(folder.parent)}\n".encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _load_identity(settings: Settings) -> dict[str, Any] | None:
    path = settings.folder / "search.json"
    try:
        return dict(json.loads(path.read_text("utf-8")))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError) as error:
        raise RunError(
            f"{path} can't be read ({error}); put back a copy, or name another --project_name."
        ) from error


def _agree(settings: Settings, identity: dict[str, Any]) -> float:
    """Notes what a new search is; refuses to go on with one that was another.

    Returns:
      When it began, in seconds since 1970.

    Raises:
      ConfigError: with the differences.
    """
    saved = _load_identity(settings)
    if saved is None:
        began = time.time()
        files.save_json(settings.folder / "search.json", {**identity, "began": began})
        return began
    changed = [name for name in identity if identity[name] != saved.get(name)]
    if changed:
        listed = ", ".join(f"{n} {saved.get(n)!r} -> {identity[n]!r}" for n in changed)
        raise ConfigError(
            f"{settings.folder} holds another search ({listed}); name another --project_name, or "
            "take back the change."
        )
    console.say(f"going on with the search in {settings.folder}.")
    return float(saved["began"])


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
        _refit(path, settings)


def _refit(path: pathlib.Path, settings: Settings) -> None:
    """Trains the best configuration with several seeds; each is judged once on the test split."""
    judged = []
    for seed in range(settings.refit_seeds):
        folder = settings.folder / "refit" / f"seed-{seed}"
        if not (folder / "report.json").exists():
            folder.parent.mkdir(exist_ok=True)
            processes.run(
                ["trainer", f"--config_file={path}", f"--seed={seed}", f"--model_dir={folder}"],
                folder.with_suffix(".log"),
                ACCEPTED,
            )
        judgement = json.loads((folder / "report.json").read_text("utf-8"))["judgement"]
        judged.append(judgement)
        console.say(
            f"seed {seed}: test accuracy {judgement['accuracy']:.4f}, macro recall "
            f"{judgement['macro_recall']:.4f}, ROC-AUC {judgement['roc_auc']:.4f}"
        )
    accuracies = [judgement["accuracy"] for judgement in judged]
    spread = statistics.stdev(accuracies) if len(accuracies) > 1 else 0.0
    console.say(
        f"{len(judged)} seeds: test accuracy {statistics.mean(accuracies):.4f} +- {spread:.4f}"
    )
