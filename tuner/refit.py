"""Trains the best configuration with several seeds and evaluates it on the test split.

    refit.run(folder / "best_config.json", settings, "b0-r1-03")
    refit.warnings(settings, "b0-r1-03")       # What the guard says of these runs.

Each seed is a run of `python -m trainer` in refit/<trial>/seed-N; a finished run is not repeated.
The trial is in the path, because a search that goes on may find another best one.
"""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING

from trainer.runs import evaluated, trained
from trainer.system import console, exits, processes

if TYPE_CHECKING:
    import pathlib

    from tuner.settings import Settings


def run(path: pathlib.Path, settings: Settings, trial_id: str) -> None:
    """Trains a configuration once per seed, and prints mean and standard deviation of accuracy.

    Args:
      path: of the config, a JSON file.
      settings: of the search.
      trial_id: of the trial with this configuration.

    Raises:
      RunError: when a run fails.
    """
    accuracies = []
    for seed, folder in enumerate(_folders(settings, trial_id)):
        refitted = _train(path, folder, seed)
        accuracies.append(refitted.metrics.accuracy)
        console.say(f"seed {seed}: {refitted.evaluation.headline()}; {folder}")
    spread = statistics.stdev(accuracies) if len(accuracies) > 1 else 0.0
    console.say(
        f"{len(accuracies)} seeds: test accuracy {statistics.mean(accuracies):.4f} +- {spread:.4f}"
    )


def warnings(settings: Settings, trial_id: str) -> tuple[str, ...]:
    """Returns why finished runs of a trial's configuration must not be used, a sentence each.

    Raises:
      RunError: when a finished run can't be read.
    """
    finished = [f for f in _folders(settings, trial_id) if _is_finished(f)]
    return tuple(
        f"In refit/{trial_id}/{folder.name}: {warning}"
        for folder in finished
        for warning in trained.open_run(folder).evaluation.warnings
    )


def _folders(settings: Settings, trial_id: str) -> list[pathlib.Path]:
    parent = settings.folder / "refit" / trial_id
    return [parent / f"seed-{seed}" for seed in range(settings.refit_seeds)]


def _is_finished(folder: pathlib.Path) -> bool:
    return (folder / evaluated.REPORT).exists()


def _train(path: pathlib.Path, folder: pathlib.Path, seed: int) -> trained.Run:
    """Returns the run of a seed; trains it unless it has finished before."""
    if not _is_finished(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        processes.run(
            ["trainer", f"--config_file={path}", f"--seed={seed}", f"--model_dir={folder}"],
            folder.with_suffix(".log"),
            exits.TRAINED,
        )
    return trained.open_run(folder)
