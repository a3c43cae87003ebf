"""The HTML page of a search: `report.html`, one file without scripts or external resources.

page.write(found, search_dir / "report.html")
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trainer.reports.pages import templating
from trainer.reports.pages.tables import Grid
from trainer.system import text
from tuner.reports import charts, formats, importance, verdict

if TYPE_CHECKING:
    import pathlib

    import markupsafe

    from tuner.reports.results import SearchResults, TrialResult
    from tuner.space import Dimension

_LEGEND = (
    ("fifth0 best", "best"),
    ("fifth0", "best fifth"),
    ("fifth1", "second"),
    ("fifth2", "third"),
    ("fifth3", "fourth"),
    ("fifth4", "worst fifth"),
    ("failed", "failed"),
)
"""Class of the sample line, and what such a line is."""


def write(results: SearchResults, path: pathlib.Path) -> None:
    """Writes the page; equal results give equal bytes.

    Args:
      results: The results so far; they may be empty.
      path: The HTML file.
    """
    found = importance.measure(results) if results.configurations else None
    context = {
        "styles": ("search.css",),
        "title": f"Hyperparameter search: {results.name}",
        "reasons": [verdict.warning(reason, colour=False) for reason in verdict.reasons(results)],
        "facts_of": _facts(results),
        "best": _best(results),
        "legend": _LEGEND,
        "configurations": None,
        "importance": _importance(found),
        "no_importance": _why_no_importance(results),
        "panels": _curves(results),
        "by_time": _by_time(results),
        "leaderboard": _leaderboard(results),
        "failures": _failures(results),
    }
    if results.configurations:
        context["configurations"] = charts.parallel_coordinates(results).markup()
    templating.write(path, templating.render("tuner.reports", "search.html.j2", context))


def _facts(results: SearchResults) -> dict[str, str]:
    higher = "higher is better" if results.direction == "max" else "lower is better"
    done = len(results.finished)
    return {
        **results.facts,
        "objective": f"{results.objective}, {higher}",
        "trials": f"{done} of {results.planned_trials} finished, {len(results.failures)} failed",
        "total time of trials": formats.duration(sum(trial.seconds for trial in results.finished)),
        "search space": "; ".join(map(_bounds, results.dimensions)) or "nothing",
    }


def _bounds(dimension: Dimension) -> str:
    if dimension.choices:
        return f"{dimension.name}: {', '.join(map(formats.value, dimension.choices))}"
    span = f"{formats.value(dimension.low)} to {formats.value(dimension.high)}"
    return f"{dimension.name}: {span}{' (log)' if dimension.log else ''}"


def _best(results: SearchResults) -> dict[str, Any] | None:
    best = results.best
    if best is None:
        return None
    epochs = text.counted(best.epochs, "epoch")
    return {
        "score": f"{results.objective} {formats.score(best.score)}",
        "words": f" by trial {best.trial_id} ({_where(best)}) after {epochs}.",
        "values": {name: formats.value(of) for name, of in best.values.items()},
        "ranked": text.counted(len(results.ranked), "trial"),
    }


def _where(trial: TrialResult) -> str:
    if trial.bracket is None and trial.rung is None:
        return f"configuration {trial.configuration}"
    return f"bracket {formats.place(trial.bracket)}, rung {formats.place(trial.rung)}"


def _importance(found: importance.Importance | None) -> dict[str, Any] | None:
    if found is None:
        return None
    return {
        "chart": charts.importances(found).markup(),
        "configurations": found.configurations,
        "repeats": importance.REPEATS,
        "quality": f"{found.out_of_bag_r2:.2f}",
        "is_weak": found.is_weak,
    }


def _why_no_importance(results: SearchResults) -> str:
    scored = sum(trial.has_score for trial in results.configurations)
    if scored < importance.MIN_CONFIGURATIONS:
        return (
            f"{text.counted(scored, 'configuration')} with a score: too few to measure "
            f"importance, which needs at least {importance.MIN_CONFIGURATIONS}."
        )
    return "All scores are equal, or no dimension was searched: there is nothing to attribute."


def _curves(results: SearchResults) -> list[dict[str, Any]]:
    rungs: dict[int | None, list[TrialResult]] = {}
    for trial in results.trials:
        if trial.points(results.objective):
            rungs.setdefault(trial.rung, []).append(trial)
    found = []
    for rung in sorted(rungs, key=lambda rung: -1 if rung is None else rung):
        trials = rungs[rung]
        name = "All trials" if rung is None else f"Rung {rung}"
        title = f"{name}: {text.counted(len(trials), 'trial')}"
        label = f"{title}, {results.objective} by epoch"
        identity = "curves" if rung is None else f"curves-{rung}"
        chart = charts.learning_curves(results, trials, identity, label)
        found.append({"title": title, "chart": chart.markup()})
    return found


def _by_time(results: SearchResults) -> markupsafe.Markup | None:
    if not any(trial.ended_at is not None for trial in results.finished):
        return None
    return charts.score_by_time(results).markup()


def _leaderboard(results: SearchResults) -> Grid | None:
    if not results.trials:
        return None
    names = [dimension.name for dimension in results.dimensions]
    heads = ["trial", "rank", "status", results.objective, "bracket", "rung", "epochs", "time"]
    ranks = {trial.trial_id: str(rank) for rank, trial in enumerate(results.ranked, start=1)}
    others = sorted((t for t in results.trials if not t.has_score), key=lambda t: t.trial_id)
    rows = [
        [
            trial.trial_id,
            ranks.get(trial.trial_id, formats.NONE),
            trial.status.lower(),
            formats.score(trial.score) if trial.has_score else formats.NONE,
            formats.place(trial.bracket),
            formats.place(trial.rung),
            str(trial.epochs),
            formats.duration(trial.seconds),
            *(formats.value(trial.values[name]) for name in names),
        ]
        for trial in [*results.ranked, *others]
    ]
    return Grid("Leaderboard", [*heads, *names], rows)


def _failures(results: SearchResults) -> Grid | None:
    if not results.failures:
        return None
    rows = [
        [trial.trial_id, trial.reason or "no reason was recorded", formats.values(trial.values)]
        for trial in results.failures
    ]
    return Grid("Failures", ["trial", "reason", "values"], rows)
