"""The best configuration of a search, trained with several seeds and judged on the test split.

    refit.run(folder / "best_config.json", settings)

Each seed is a run of `python -m trainer` in refit/seed-N; one that is there is not repeated.
"""

from __future__ import annotations

import json
import statistics
from typing import TYPE_CHECKING, Any

from trainer.system import console, processes

if TYPE_CHECKING:
    import pathlib

    from tuner.settings import Settings

ACCEPTED = (0, 3)
"""Exit codes of a refit: 3 is a model that the judgement warns of."""


def run(path: pathlib.Path, settings: Settings) -> None:
    """Trains a configuration once for each seed, and prints the accuracies and their spread.

    Args:
      path: of the config.
      settings: of the search.

    Raises:
      RunError: when a run fails.
    """
    accuracies = []
    for seed in range(settings.refit_seeds):
        judgement = _judgement_of(path, settings.folder / "refit" / f"seed-{seed}", seed)
        accuracies.append(judgement["accuracy"])
        console.say(
            f"seed {seed}: test accuracy {judgement['accuracy']:.4f}, macro recall "
            f"{judgement['macro_recall']:.4f}, ROC-AUC {judgement['roc_auc']:.4f}"
        )
    spread = statistics.stdev(accuracies) if len(accuracies) > 1 else 0.0
    console.say(
        f"{len(accuracies)} seeds: test accuracy {statistics.mean(accuracies):.4f} +- {spread:.4f}"
    )


def _judgement_of(path: pathlib.Path, folder: pathlib.Path, seed: int) -> dict[str, Any]:
    """Returns how a run is judged; trains it where that has not been done."""
    report = folder / "report.json"
    if not report.exists():
        folder.parent.mkdir(exist_ok=True)
        processes.run(
            ["trainer", f"--config_file={path}", f"--seed={seed}", f"--model_dir={folder}"],
            folder.with_suffix(".log"),
            ACCEPTED,
        )
    return dict(json.loads(report.read_text("utf-8"))["judgement"])
