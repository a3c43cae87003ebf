"""The HTML page of a search: `report.html`, one file without scripts or external resources.

page.write(found, search_dir / "report.html")
"""

from __future__ import annotations

import pathlib
from typing import TYPE_CHECKING

from trainer.storage import files
from trainer.system import text
from trainer.system.markup import Markup, element
from tuner.reports import charts, formats, importance, verdict

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from tuner.reports.results import SearchResults, TrialResult
    from tuner.space import Dimension

_STYLE = pathlib.Path(__file__).with_suffix(".css")
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"
_LEGEND = ("best fifth", "second", "third", "fourth", "worst fifth")


def write(results: SearchResults, path: pathlib.Path) -> None:
    """Writes the page; equal results give equal bytes.

    Args:
      results: The results so far; they may be empty.
      path: The HTML file.
    """
    with files.replacing(path) as partial:
        partial.write_text(_page(results) + "\n", encoding="utf-8", newline="\n")


def _page(results: SearchResults) -> str:
    title = f"Hyperparameter search: {results.name}"
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        element("meta", name="color-scheme", content="light dark"),
        element("title", title),
        # HTML does not decode entities inside <style>, so the style sheet must not be escaped.
        element("style", Markup(_STYLE.read_text("utf-8"))),
    )
    body = element("body", element("main", element("h1", title), *_sections(results)))
    return f"<!DOCTYPE html>\n{element('html', head, body, lang='en')}"


def _sections(results: SearchResults) -> Iterable[Markup]:
    yield from (
        element("p", verdict.warning(reason, colour=False), class_="verdict", role="alert")
        for reason in verdict.reasons(results)
    )
    yield _facts(results)
    yield _section("Best configuration", _best(results))
    if results.configurations:
        yield _section("All configurations", _configurations(results))
        yield _section("Importance of the dimensions", _importance(results))
        yield _section("Learning curves", _curves(results))
        yield _section("Best score over time", _by_time(results))
    yield _section("Leaderboard", _leaderboard(results))
    yield _section("Failures", _failures(results))


def _section(title: str, content: Iterable[Markup]) -> Markup:
    return element("section", element("h2", title), *content)


def _facts(results: SearchResults) -> Markup:
    higher = "higher is better" if results.direction == "max" else "lower is better"
    done = len(results.finished)
    facts = {
        **results.facts,
        "objective": f"{results.objective}, {higher}",
        "trials": f"{done} of {results.planned_trials} finished, {len(results.failures)} failed",
        "total time of trials": formats.duration(sum(trial.seconds for trial in results.finished)),
        "search space": "; ".join(map(_bounds, results.dimensions)) or "nothing",
    }
    return _definitions(facts)


def _bounds(dimension: Dimension) -> str:
    if dimension.choices:
        return f"{dimension.name}: {', '.join(map(formats.value, dimension.choices))}"
    span = f"{formats.value(dimension.low)} to {formats.value(dimension.high)}"
    return f"{dimension.name}: {span}{' (log)' if dimension.log else ''}"


def _definitions(facts: Mapping[str, str]) -> Markup:
    pairs = (
        element("div", element("dt", name), element("dd", text)) for name, text in facts.items()
    )
    return element("dl", *pairs)


def _best(results: SearchResults) -> Iterable[Markup]:
    best = results.best
    if best is None:
        yield element("p", "No trial has completed, so there is no best configuration.")
        return
    epochs = text.counted(best.epochs, "epoch")
    yield element(
        "p",
        element("strong", f"{results.objective} {formats.score(best.score)}"),
        f" by trial {best.trial_id} ({_where(best)}) after {epochs}.",
    )
    yield _definitions({name: formats.value(of) for name, of in best.values.items()})
    yield _note(
        f"This is the best of {text.counted(len(results.ranked), 'trial')} on the validation "
        "split, so the score is optimistic: part of it is luck. Evaluate the configuration on "
        "data that the search has not seen, for example with --refit_best."
    )


def _where(trial: TrialResult) -> str:
    if trial.bracket is None and trial.rung is None:
        return f"configuration {trial.configuration}"
    return f"bracket {formats.place(trial.bracket)}, rung {formats.place(trial.rung)}"


def _note(text: str) -> Markup:
    return element("p", text, class_="note")


def _configurations(results: SearchResults) -> Iterable[Markup]:
    yield _note(
        "Each line is a configuration, drawn through its values to the score of its last rung. "
        "Configurations that were not promoted have fewer epochs than those that were. "
        "Scores much worse than the others are drawn at the end of the axis."
    )
    yield _legend()
    yield element("div", charts.parallel_coordinates(results), class_="wide", tabindex=0)


def _legend() -> Markup:
    kinds = {f"fifth{place}": text for place, text in enumerate(_LEGEND)}
    kinds = {"fifth0 best": "best", **kinds, "failed": "failed"}
    items = (element("li", charts.swatch(kind), " ", text) for kind, text in kinds.items())
    return element("ul", *items, class_="legend")


def _importance(results: SearchResults) -> Iterable[Markup]:
    found = importance.measure(results)
    if found is None:
        yield element("p", _why_no_importance(results))
        return
    yield element("div", charts.importances(found), class_="wide", tabindex=0)
    yield element(
        "p",
        f"A random forest was fitted to the scores of {found.configurations} configurations. A bar "
        "is the decrease of its R² when the values of that dimension are shuffled (mean and "
        f"standard deviation of {importance.REPEATS} shuffles). The forest's out-of-bag R² is "
        f"{found.out_of_bag_r2:.2f}"
        + (": it predicts poorly, so the bars mean little." if found.is_weak else "."),
    )
    yield _note(
        "Importance does not show which values are good, what would happen outside the searched "
        "ranges, or that a dimension causes the score. Interacting dimensions share importance. "
        "Configurations that were not promoted have scores from fewer epochs, which the forest "
        "attributes to their values. Failed configurations are left out."
    )


def _why_no_importance(results: SearchResults) -> str:
    scored = sum(trial.has_score for trial in results.configurations)
    if scored < importance.MIN_CONFIGURATIONS:
        return (
            f"{text.counted(scored, 'configuration')} with a score: too few to measure "
            f"importance, which needs at least {importance.MIN_CONFIGURATIONS}."
        )
    return "All scores are equal, or no dimension was searched: there is nothing to attribute."


def _curves(results: SearchResults) -> Iterable[Markup]:
    rungs: dict[int | None, list[TrialResult]] = {}
    for trial in results.trials:
        if trial.points(results.objective):
            rungs.setdefault(trial.rung, []).append(trial)
    if not rungs:
        yield element("p", "No trial has finished an epoch.")
        return
    yield _note(
        "Each line is a trial, in the colour of its configuration's fifth of the ranking. Dotted: "
        "epochs of the rung below. Dashed: failed trials. Thin: running trials. All panels have "
        "the same axes."
    )
    panels = []
    for rung in sorted(rungs, key=lambda rung: -1 if rung is None else rung):
        trials = rungs[rung]
        name = "All trials" if rung is None else f"Rung {rung}"
        title = f"{name}: {text.counted(len(trials), 'trial')}"
        svg = charts.learning_curves(results, trials, f"{title}, {results.objective} by epoch")
        panels.append(element("figure", element("figcaption", title), svg))
    yield element("div", *panels, class_="panels")


def _by_time(results: SearchResults) -> Iterable[Markup]:
    if not any(trial.ended_at is not None for trial in results.finished):
        yield element("p", "No trial has finished.")
        return
    yield _note("Dots are completed trials, crosses failed ones; the line is the best so far.")
    yield element("div", charts.score_by_time(results), class_="wide", tabindex=0)


def _leaderboard(results: SearchResults) -> Iterable[Markup]:
    if not results.trials:
        yield element("p", "No trial has started.")
        return
    names = [dimension.name for dimension in results.dimensions]
    heads = ["rank", "trial", "status", results.objective, "bracket", "rung", "epochs", "time"]
    ranks = {trial.trial_id: str(rank) for rank, trial in enumerate(results.ranked, start=1)}
    others = sorted((t for t in results.trials if not t.has_score), key=lambda t: t.trial_id)
    rows = [
        [
            ranks.get(trial.trial_id, formats.NONE),
            trial.trial_id,
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
    yield _table([*heads, *names], rows)


def _failures(results: SearchResults) -> Iterable[Markup]:
    if not results.failures:
        yield element("p", "No trial has failed.")
        return
    rows = [
        [trial.trial_id, trial.reason or "no reason was recorded", formats.values(trial.values)]
        for trial in results.failures
    ]
    yield _table(["trial", "reason", "values"], rows, kind="failures")


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]], kind: str = "board") -> Markup:
    head = element("tr", *(element("th", text, scope="col") for text in heads))
    body = (element("tr", *(element("td", text) for text in row)) for row in rows)
    table = element("table", element("thead", head), element("tbody", *body), class_=kind)
    return element("div", table, class_="wide", tabindex=0)
