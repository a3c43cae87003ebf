"""Search results for the tests of reports: small ones by hand, large ones from a seed."""

from __future__ import annotations

import dataclasses
import math
import random
from typing import Any

from tuner import statuses
from tuner.reports.results import SearchResults, TrialResult
from tuner.space import Dimension

DIMENSIONS = (
    Dimension("neurons", "int", 64, 512),
    Dimension("learning_rate", "float", 1e-5, 1e-2, log=True),
    Dimension("layers_to_unfreeze", "choice", choices=(0, 4, 8)),
    Dimension("augmentation", "choice", choices=("none", "light", "strong")),
    Dimension("dropout", "float", 0.0, 0.6),
)
VALUES = {
    "neurons": 320,
    "learning_rate": 0.0003,
    "layers_to_unfreeze": 4,
    "augmentation": "light",
    "dropout": 0.25,
}


def trial(trial_id: str = "b0-r0-00", **changes: Any) -> TrialResult:
    """Returns a completed trial of one epoch, with changes."""
    fields: dict[str, Any] = {
        "trial_id": trial_id,
        "status": statuses.COMPLETED,
        "values": VALUES,
        "bracket": 0,
        "rung": 0,
        "first_epoch": 0,
        "epochs": 1,
        "score": 0.75,
        "curve": [{"epoch": 1, "loss": 0.5, "val_loss": 0.625, "val_auc": 0.75}],
        "seconds": 8.0,
        "ended_at": 10.0,
        "reason": "",
        "configuration": trial_id,
    }
    return TrialResult(**fields | changes)


def failed(trial_id: str = "b0-r0-00", reason: str = "out of memory: 2 GiB", **changes: Any):
    """Returns a trial that failed before its first epoch."""
    fields = {"status": statuses.FAILED, "score": None, "curve": [], "reason": reason}
    return trial(trial_id, **fields | changes)


def search(*trials: TrialResult, **changes: Any) -> SearchResults:
    """Returns a search that maximizes val_auc, with these trials."""
    fields: dict[str, Any] = {
        "name": "demo",
        "objective": "val_auc",
        "direction": "max",
        "dimensions": DIMENSIONS,
        "trials": trials,
        "planned_trials": len(trials),
        "facts": {"data": "paper, 224 x 224", "backbone": "vgg16", "precision": "float32"},
    }
    return SearchResults(**fields | changes)


def large(configurations: int = 54, seed: int = 0, direction: str = "max") -> SearchResults:
    """Returns a bracket of Hyperband whose scores depend on the learning rate and the cut.

    Every ninth configuration fails, a third is promoted to rung 1, a ninth to rung 2.
    """
    rng = random.Random(seed)
    trials: list[TrialResult] = []
    clock = 0.0
    pool = [(f"b2-{i:02d}", _values(rng)) for i in range(configurations)]
    for rung, (first, last) in enumerate([(0, 3), (3, 8), (8, 20)]):
        scores: dict[str, float] = {}
        for name, values in pool:
            trial_id = f"b2-r{rung}-{name[3:]}"
            clock += 2.0 * (last - first)
            place = {"bracket": 2, "rung": rung, "first_epoch": first, "epochs": last}
            place |= {"configuration": name, "values": values, "ended_at": clock}
            if rung == 0 and int(name[3:]) % 9 == 4:
                trials.append(failed(trial_id, "diverged: loss is nan in epoch 1", **place))
                continue
            curve = _curve(rng, values, last)
            best = max if direction == "max" else min
            scores[name] = best(row[_objective(direction)] for row in curve)
            seconds = 2.0 * (last - first)
            place |= {"score": scores[name], "curve": curve, "seconds": seconds}
            trials.append(trial(trial_id, **place))
        promoted = sorted(scores, key=scores.__getitem__, reverse=direction == "max")
        promoted = promoted[: len(pool) // 3]
        pool = [(name, values) for name, values in pool if name in promoted]
    return search(
        *trials,
        objective=_objective(direction),
        direction=direction,
        planned_trials=len(trials) + 5,
    )


def with_running(results: SearchResults, count: int = 2) -> SearchResults:
    """Returns the search with `count` copies of its last trial still running."""
    *done, last = results.trials
    running = [
        dataclasses.replace(
            last,
            trial_id=f"{last.trial_id}x{i}",
            status=statuses.RUNNING,
            score=None,
            ended_at=None,
            curve=last.curve[:-2],
        )
        for i in range(count)
    ]
    return dataclasses.replace(results, trials=(*done, last, *running))


def _objective(direction: str) -> str:
    return "val_auc" if direction == "max" else "val_loss"


def _values(rng: random.Random) -> dict[str, Any]:
    return {
        "neurons": rng.randrange(64, 513, 64),
        "learning_rate": float(f"{10 ** rng.uniform(-5, -2):.4g}"),
        "layers_to_unfreeze": rng.choice((0, 4, 8)),
        "augmentation": rng.choice(("none", "light", "strong")),
        "dropout": round(rng.uniform(0, 0.6), 1),
    }


def _curve(rng: random.Random, values: dict[str, Any], epochs: int) -> list[dict[str, float]]:
    quality = 0.9 - 0.05 * abs(math.log10(values["learning_rate"]) + 4)
    quality += 0.005 * values["layers_to_unfreeze"]
    rows = []
    for epoch in range(1, epochs + 1):
        auc = quality - 0.2 / (epoch + 1) + rng.uniform(-0.005, 0.005)
        rows.append({"epoch": epoch, "loss": 1 - auc, "val_loss": 1.05 - auc, "val_auc": auc})
    return rows
