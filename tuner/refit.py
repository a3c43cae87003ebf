"""Trains the best configuration with several seeds and evaluates it on the test split.

    refit.run(folder / "best_config.json", settings)

Each seed is a run of `python -m trainer` in refit/seed-N; a finished run is not repeated.
"""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING

from trainer.runs import evaluated, trained
from trainer.system import console, exits, processes

if TYPE_CHECKING:
    import pathlib

    from tuner.settings import Settings


def run(path: pathlib.Path, settings: Settings) -> None:
    """Trains a configuration once per seed, and prints mean and standard deviation of accuracy.

    Args:
      path: of the config, a JSON file.
      settings: of the search.

    Raises:
      RunError: when a run fails.
    """
    accuracies = []
    for seed in range(settings.refit_seeds):
        refitted = _train(path, settings.folder / "refit" / f"seed-{seed}", seed)
        accuracies.append(refitted.metrics.accuracy)
        console.say(f"seed {seed}: {refitted.evaluation.headline()}")
    spread = statistics.stdev(accuracies) if len(accuracies) > 1 else 0.0
    console.say(
        f"{len(accuracies)} seeds: test accuracy {statistics.mean(accuracies):.4f} +- {spread:.4f}"
    )


def _train(path: pathlib.Path, folder: pathlib.Path, seed: int) -> trained.Run:
    """Returns the run of a seed; trains it unless it has finished before."""
    if not (folder / evaluated.REPORT).exists():
        folder.parent.mkdir(exist_ok=True)
        processes.run(
            ["trainer", f"--config_file={path}", f"--seed={seed}", f"--model_dir={folder}"],
            folder.with_suffix(".log"),
            exits.TRAINED,
        )
    return trained.open_run(folder)
