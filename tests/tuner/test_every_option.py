"""A tiny search with every option of a search, and every choice of each: something follows.

A new option, or a new choice of one, needs a row in ROWS.
"""

from __future__ import annotations

import csv
import dataclasses
import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.simulated_search import SimulatedSearch
from trainer.config import Config
from tuner import search, settings

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a search has left: output, reasons not to use its result, and its folder."""

    out: str
    reasons: tuple[str, ...]
    folder: Path

    @property
    def rows(self) -> dict[str, dict[str, str]]:
        """The rows of the leaderboard by trial."""
        with (self.folder / search.LEADERBOARD).open() as file:
            return {row["trial"]: row for row in csv.DictReader(file)}

    def values(self, name: str) -> list[str]:
        """The values of a dimension, in the order of the trials' names."""
        return [row[name] for _, row in sorted(self.rows.items())]

    @property
    def best(self) -> dict[str, Any]:
        """The options of the best trial."""
        return dict(json.loads((self.folder / search.BEST_CONFIG).read_text()))


@dataclasses.dataclass(frozen=True)
class Row:
    """Options whose effect `check` looks for in an outcome, and what they need beside them."""

    options: Mapping[str, Any]
    check: Callable[[Outcome], bool]
    beside: Mapping[str, Any] = dataclasses.field(default_factory=dict)


RANDOM = {"algorithm": "random", "max_trials": 2}
DRAWN = ["0.0188", "0.0034"]
"""The learning rates that seed 0 draws."""


def _promotes(outcome: Outcome) -> bool:
    return len(outcome.rows) == 5 and any("-r1-" in name for name in outcome.rows)


def _is_ranked_by(name: str, direction: int) -> Callable[[Outcome], bool]:
    def check(outcome: Outcome) -> bool:
        scores = [direction * float(row["score"]) for row in outcome.rows.values()]
        return scores == sorted(scores) and outcome.best["monitor"] == name

    return check


def _has_refitted(outcome: Outcome) -> bool:
    runs = [path.relative_to(outcome.folder) for path in outcome.folder.glob("refit/*/*/")]
    (run,) = [path for path in runs if path.suffix != ".log"]
    return run.name == "seed-0" and (outcome.folder / run / "report.json").exists()


ROWS = {
    "hyperband": Row({"algorithm": "hyperband", "factor": 2}, _promotes, {"max_epochs": 2}),
    "random": Row(RANDOM, lambda o: sorted(o.rows) == ["b0-r0-00", "b0-r0-01"]),
    "grid": Row(
        {"algorithm": "grid", "search": "neurons=8|16"},
        lambda o: o.values("neurons") == ["8", "16"],
    ),
    "bayesian": Row(
        {"algorithm": "bayesian"},
        lambda o: len(o.rows) == 2 and o.values("learning_rate") != DRAWN,
        {"max_trials": 2},
    ),
    "search_seed": Row({"search_seed": 1}, lambda o: o.values("learning_rate") != DRAWN, RANDOM),
    "iterations": Row(
        {"hyperband_iterations": 2}, lambda o: sorted(o.rows) == ["b0-r0-00", "b1-r0-00"]
    ),
    "search_file": Row(
        {"search_file": "space.json", "search": ""}, lambda o: o.values("dropout") == ["0.25"],
        {"algorithm": "grid"},
    ),
    "val_auc": Row({"objective": "val_auc"}, _is_ranked_by("val_auc", -1), RANDOM),
    "val_loss": Row({"objective": "val_loss"}, _is_ranked_by("val_loss", 1), RANDOM),
    "budget_minutes": Row(
        {"budget_minutes": 1e6, "dry_run": True},
        lambda o: "max_epochs 1, hyperband_iterations 10, the largest" in o.out
        and "10 trials of 10 configurations" in o.out
        and not o.folder.exists(),
    ),
    "place": Row(
        {"directory": "elsewhere", "project_name": "mine"},
        lambda o: o.folder.parts[-2:] == ("elsewhere", "mine") and len(o.rows) == 1,
    ),
    "workers": Row(
        {"workers": 2}, lambda o: (o.folder / "worker-1.log").exists() and len(o.rows) == 2, RANDOM
    ),
    "isolated": Row(
        {"isolate_trials": True, "trial_memory_gb": 0.03},
        lambda o: o.rows["b0-r0-00"]["reason"].startswith("out of memory: ")
        and o.reasons == ("No trial has a score: 1 trial failed (out of memory: 1).",),
        {"algorithm": "grid", "search": "neurons=8"},
    ),
    "failures": Row(
        {"max_consecutive_failed_trials": 2},
        lambda o: len(o.rows) == 2
        and "2 trials in a row failed for the same reason (diverged" in o.out
        and "(diverged: 2)" in o.reasons[0],
        {"search": "learning_rate=1e30|2e30|3e30", "algorithm": "grid", "optimizer": "sgd"},
    ),
    "refit": Row({"refit_best": True, "refit_seeds": 1}, _has_refitted),
}  # fmt: skip
ELSEWHERE = {"trial_timeout_s": "test_a_worker_is_lost_after_trial_timeout_s"}
"""Options whose effect needs a clock of the test's own, and the test of it."""


def test_every_option_and_every_choice_has_a_row():
    tried = [pair for row in ROWS.values() for pair in row.options.items()]
    for field in settings.fields():
        values = {value for name, value in tried if name == field.name}
        assert values or ELSEWHERE.get(field.name) in globals(), field.name
        assert values >= set(field.metadata["option"].choices), field.name


@pytest.mark.slow
@pytest.mark.parametrize("name", ROWS)
def test_an_option_does_something(name, options, tmp_path, monkeypatch, capsys):
    row = ROWS[name]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "space.json").write_text('{"dropout": [0.25]}')
    own = {"search": "neurons=8|16,learning_rate=1e-3:1e-1:log", "directory": "searches"}
    given = {
        **options, "max_epochs": 1, "layers_to_unfreeze": "all", **own, **row.beside, **row.options,
    }  # fmt: skip
    names = {field.name for field in settings.fields()}
    found = settings.Settings(**{n: value for n, value in given.items() if n in names})
    base = Config.from_flat({n: value for n, value in given.items() if n not in names})
    reasons = search.run(base, found, [f"--{n}={value}" for n, value in given.items()])
    outcome = Outcome(capsys.readouterr().out, reasons, tmp_path / found.folder)
    assert row.check(outcome), outcome


@pytest.mark.parametrize(("timeout_s", "same"), [(15.0, True), (60.0, False)])
def test_a_worker_is_lost_after_trial_timeout_s(tmp_path, timeout_s, same):
    found = settings.Settings(directory=str(tmp_path), trial_timeout_s=timeout_s)
    simulated = SimulatedSearch(tmp_path, found, workers=2)
    simulated.ask("worker-0")
    simulated.time_s = 16
    simulated.ask("worker-1")
    trials = {trial.trial_id for trial in simulated.held.values()}
    assert (len(trials) == 1) is same
