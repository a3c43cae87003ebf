"""Charts of a search: Matplotlib figures that `trainer.reports.pages.svg` puts into the page.

Colour is never the only cue: each line has a tooltip, the best is thicker, and failed ones are
dashed.

    charts.parallel_coordinates(results).markup()    # Markup of one <svg>
"""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Any

import matplotlib.figure
import matplotlib.ticker
import numpy as np

from trainer.reports.pages import svg
from trainer.reports.pages.charts import INK, RULE, SOFT, in_page_style, sheet, shortened
from trainer.system import text
from tuner import statuses
from tuner.reports import formats

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    import markupsafe

    from tuner.reports.importance import Importance
    from tuner.reports.results import SearchResults, TrialResult
    from tuner.space import Dimension

FIFTHS = 5
SHADES = ("#003F7F", "#1F6FB5", "#4F8FC7", "#7F97B3", "#9A9A9A")
FAILED = "#C24E00"
_AXIS_GAP, _SIDE = 128, 62
_BELOW = -0.12
"""Where lines without a score end, in lengths of the axis."""
_TIME_UNITS = ((7200.0, 3600.0, "hours"), (120.0, 60.0, "minutes"), (0.0, 1.0, "seconds"))


@dataclasses.dataclass(frozen=True)
class Chart:
    """A figure, its name on the page, its description, and tooltips by gid."""

    figure: matplotlib.figure.Figure
    name: str
    label: str
    titles: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def markup(self) -> markupsafe.Markup:
        """Returns the chart as an `<svg>` element."""
        return svg.inline(self.figure, self.name, self.label, titles=self.titles)


def fifths(results: SearchResults) -> Mapping[str, int]:
    """Maps each ranked configuration to its fifth of the ranking: 0 is the best, 4 the worst."""
    scored = [trial.configuration for trial in results.configurations if trial.has_score]
    return {name: place * FIFTHS // len(scored) for place, name in enumerate(scored)}


@in_page_style
def parallel_coordinates(results: SearchResults) -> Chart:
    """Draws a line per finished configuration, through its values on one axis per dimension.

    The last axis is the score, with the better end at the top. Lines without a score end below it.
    """
    trials = [trial for trial in results.configurations if trial.status != statuses.RUNNING]
    scored = [trial for trial in trials if trial.has_score]
    count = len(results.dimensions)
    width = _AXIS_GAP * max(count, 1) + 2 * _SIDE + 20
    figure = sheet(width, 350, margins=(_SIDE, 56, _SIDE + 20, 56))
    host = figure.subplots()
    host.set(xlim=(0, max(count, 1)), ylim=(0, 1))
    host.set_axis_off()
    axes = [_upright(host, place, dimension) for place, dimension in enumerate(results.dimensions)]
    last = _score_axis(host, count, scored, results)
    titles = {}
    for place, trial in enumerate(reversed(trials)):  # Better ones are on top.
        values = zip(axes, results.dimensions, strict=True)
        heights = [_height(axis, _position(d, trial.values[d.name])) for axis, d in values]
        ends = _height(last, _clipped(trial.score, last)) if trial.has_score else _BELOW
        gid = f"line-{place}"
        titles[gid] = _caption(trial)
        host.plot(
            range(count + 1), [*heights, ends], gid=gid, clip_on=False, **_look(trial, results)
        )
    if len(scored) < len(trials):
        host.text(count + 0.06, _BELOW, "failed", va="center", color=SOFT)
    names = ", ".join(d.name for d in results.dimensions) or "no dimension"
    label = (
        f"Parallel coordinates of {text.counted(len(trials), 'configuration')}: one line per "
        f"configuration, through its values of {names} to its {results.objective}. The "
        "leaderboard below lists the same values as text."
    )
    return Chart(figure, "parallel", label, titles)


def _upright(host: Any, place: int, dimension: Dimension) -> Any:
    """Adds the axis of a dimension, between its bounds, or with its choices at equal distances."""
    axis = _twin(host, place, f"{shortened(dimension.name)}{_unit_line(dimension)}")
    if dimension.choices:
        axis.set_ylim(-0.5, len(dimension.choices) - 0.5)
        names = [shortened(str(choice)) for choice in dimension.choices]
        axis.set_yticks(range(len(names)), names)
        return axis
    low, high = float(dimension.low), float(dimension.high)
    if low >= high:
        half = 0.5 if dimension.kind == "int" else 0.05 * abs(low) or 0.5
        low, high = low - half, high + half
    elif dimension.log:
        axis.set_yscale("log")
        axis.yaxis.set_minor_formatter(matplotlib.ticker.NullFormatter())
        if high / low < 100:
            axis.yaxis.set_major_locator(matplotlib.ticker.LogLocator(subs=(1, 2, 5)))
        # As flags have it: StrMethodFormatter writes a typographic minus.
        axis.yaxis.set_major_formatter(matplotlib.ticker.FuncFormatter(lambda x, _: f"{x:.6g}"))
    axis.set_ylim(low, high)
    if not dimension.log:
        axis.yaxis.set_major_locator(
            matplotlib.ticker.MaxNLocator(5, integer=dimension.kind == "int", min_n_ticks=1)
        )
    return axis


def _unit_line(dimension: Dimension) -> str:
    return "\n(log)" if dimension.log else "\n"


def _score_axis(
    host: Any, place: int, scored: Sequence[TrialResult], results: SearchResults
) -> Any:
    axis = _twin(host, place, f"{results.objective}\n{_unit(results)}")
    low, high = score_limits(_scores(scored), results.direction)
    axis.set_ylim((low, high) if results.direction == "max" else (high, low))
    axis.yaxis.set_major_locator(matplotlib.ticker.MaxNLocator(5))
    return axis


def _twin(host: Any, place: int, title: str) -> Any:
    axis = host.twinx()
    axis.spines[:].set_visible(False)
    axis.spines["right"].set(visible=True, position=("data", place), color=SOFT)
    axis.tick_params(axis="both", which="both", direction="inout", colors=SOFT, labelcolor=INK)
    axis.xaxis.set_visible(False)
    host.text(place, 1.05, title, ha="center", va="bottom", color=INK, linespacing=1.3)
    return axis


def _position(dimension: Dimension, value: Any) -> Any:
    return dimension.choices.index(value) if dimension.choices else value


def _height(axis: Any, value: Any) -> float:
    """Returns where a value is on its axis, whatever its scale: 0 at the foot, 1 at the top."""
    low, point, high = axis.yaxis.get_transform().transform([*_limits(axis), value])[[0, 2, 1]]
    return float(np.clip((point - low) / (high - low), 0, 1))


def _limits(axis: Any) -> tuple[float, float]:
    low, high = axis.get_ylim()
    return float(low), float(high)


def _clipped(score: float | None, axis: Any) -> float:
    low, high = sorted(_limits(axis))
    return float(np.clip(score or 0.0, low, high))


def score_limits(scores: Iterable[float], direction: str) -> tuple[float, float]:
    """Returns limits of an axis for scores that a few very bad ones do not stretch.

    The axis may cut off the worst scores, which are then drawn at its end, but never the best.

    Args:
      scores: In any order; without scores, the axis is [0, 1].
      direction: "max" or "min".
    """
    found = np.array(list(scores), np.float64)
    if not found.size:
        return 0.0, 1.0
    low, high = float(found.min()), float(found.max())
    tenth, ninth = (float(q) for q in np.quantile(found, [0.1, 0.9]))
    if direction == "max":
        low = max(low, tenth - (high - tenth))
    else:
        high = min(high, ninth + (ninth - low))
    margin = 0.03 * (high - low)
    if margin <= 0 or not low - margin < high + margin:
        margin = 0.05 * abs(low) or 0.5
    return low - margin, high + margin


def _look(trial: TrialResult, results: SearchResults, *, is_old: bool = False) -> dict[str, Any]:
    """Returns how the line of a trial looks."""
    look: dict[str, Any] = {"linewidth": 1.6, "solid_joinstyle": "round"}
    best = results.best
    if trial.has_score:
        look["color"] = SHADES[fifths(results)[trial.configuration]]
    elif trial.status == statuses.RUNNING:
        look |= {"color": SOFT, "linewidth": 0.9}
    else:
        look |= {"color": FAILED, "dashes": (4, 3)}
    if best is not None and trial.has_score and trial.configuration == best.configuration:
        look["linewidth"] = 3.5
    return look | {"dashes": (1, 2)} if is_old else look


def _caption(trial: TrialResult) -> str:
    """Returns the tooltip of a trial's marks."""
    outcome = formats.score(trial.score) if trial.has_score else trial.reason or trial.status
    values = formats.values(trial.values)
    return f"{trial.trial_id}: {outcome} after epoch {trial.epochs_done}; {values}"


def _unit(results: SearchResults) -> str:
    """Returns the unit of the score: nats for a log-loss; none for an AUC."""
    return "(nats)" if results.objective.endswith("loss") else ""


def _score_label(results: SearchResults) -> str:
    return f"{results.objective} {_unit(results)}".rstrip()


@in_page_style
def learning_curves(
    results: SearchResults, trials: Sequence[TrialResult], name: str, label: str
) -> Chart:
    """Draws the objective by epoch, a line per trial; all charts of a search have the same axes.

    Epochs of the rung below, which a promoted trial resumed from, are dotted.

    Args:
      results: The search, which determines axes and fifths.
      trials: The trials to draw.
      name: Of the chart on the page.
      label: Description of the chart for screen readers.
    """
    points = [point for trial in results.trials for point in trial.points(results.objective)]
    limits = score_limits((value for _, value in points), results.direction)
    figure = sheet(380, 250)
    axes = figure.subplots()
    axes.set(xlim=(0.5, max((epoch for epoch, _ in points), default=1) + 0.5), ylim=limits)
    axes.set(xlabel="epoch", ylabel=_score_label(results))
    axes.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(6, integer=True, min_n_ticks=1))
    axes.grid(visible=True, axis="y", alpha=0.5)
    shade = fifths(results)
    ordered = sorted(trials, key=lambda t: (-shade.get(t.configuration, FIFTHS), t.trial_id))
    titles = {}
    for place, trial in enumerate(ordered):
        curve = [(e, float(np.clip(v, *limits))) for e, v in trial.points(results.objective)]
        old = [point for point in curve if point[0] <= trial.first_epoch]
        new = [point for point in curve if point[0] > trial.first_epoch]
        parts = {"old": [*old, *new[:1]], "new": new}
        for part, line in parts.items():
            gid = f"{part}-{place}"
            if line and (part == "new" or len(line) > 1):
                look = _look(trial, results, is_old=part == "old")
                marks: dict[str, Any] = (
                    {} if part == "old" else {"marker": "o", "markevery": [-1], "markersize": 4}
                )
                axes.plot(*zip(*line, strict=True), gid=gid, **look, **marks)
                titles[gid] = _caption(trial)
    return Chart(figure, name, label, titles)


@in_page_style
def score_by_time(results: SearchResults) -> Chart:
    """Draws each trial's score at the time when it ended, and the best score so far as steps."""
    ended = [trial for trial in results.finished if trial.ended_at is not None]
    longest = max((trial.ended_at or 0.0 for trial in ended), default=0.0)
    seconds, unit = next((s, name) for least, s, name in _TIME_UNITS if longest >= least)
    limits = score_limits(_scores(ended), results.direction)
    figure = sheet(560, 290)
    axes = figure.subplots()
    axes.set(xlim=(0, 1.02 * longest / seconds or 1.0), ylim=limits)
    axes.set(xlabel=f"time since the start of the search ({unit})", ylabel=_score_label(results))
    axes.grid(visible=True, axis="y", alpha=0.5)
    stairs = best_so_far(ended, results)
    if stairs:
        times = [time / seconds for time, _ in stairs] + [longest / seconds]
        bests = np.clip([score for _, score in stairs] + [stairs[-1][1]], *limits)
        axes.plot(times, bests, color=SHADES[0], linewidth=2.5, drawstyle="steps-post", gid="best")
    titles = {"best": "best so far"} if stairs else {}
    for place, trial in enumerate(ended):
        time = (trial.ended_at or 0.0) / seconds
        gid = f"trial-{place}"
        titles[gid] = _caption(trial)
        if trial.has_score:
            y = float(np.clip(trial.score or 0.0, *limits))
            axes.plot(time, y, "o", color=SHADES[2], markersize=5, clip_on=False, gid=gid)
        else:
            foot = limits[0] + 0.03 * (limits[1] - limits[0])
            axes.plot(time, foot, "x", color=FAILED, markersize=6, clip_on=False, gid=gid)
    best = stairs[-1][1] if stairs else None
    label = (
        f"{results.objective} of {text.counted(len(ended), 'finished trial')} over time, with "
        f"the best so far, which ends at {formats.score(best)}."
    )
    return Chart(figure, "time", label, titles)


def best_so_far(ended: Iterable[TrialResult], results: SearchResults) -> list[tuple[float, float]]:
    """Returns (seconds, score) of each trial that beat those that had ended before it."""
    stairs: list[tuple[float, float]] = []
    for trial in ended:
        score = trial.score if trial.has_score else None
        if score is not None and (not stairs or results.is_better(score, stairs[-1][1])):
            stairs.append((trial.ended_at or 0.0, score))
    return stairs


@in_page_style
def importances(found: Importance) -> Chart:
    """Draws a bar per dimension, with a whisker of one standard deviation and both as text."""
    names, (means, spreads) = list(found.shares), zip(*found.shares.values(), strict=True)
    figure = sheet(520, 32 * len(names) + 62)
    axes = figure.subplots()
    bars = axes.barh(
        range(len(names)), means, 0.55, color=SHADES[2], xerr=spreads, error_kw={"ecolor": INK}
    )
    texts = [f"{mean:.3f} ± {spread:.3f}" for mean, spread in zip(means, spreads, strict=True)]
    axes.bar_label(bars, texts, padding=8, color=INK)
    axes.set_yticks(range(len(names)), [shortened(name) for name in names])
    axes.invert_yaxis()
    longest = max(*(mean + spread for mean, spread in found.shares.values()), 1e-3)
    axes.set(xlim=(min(0.0, *(m - s for m, s in found.shares.values())), 1.45 * longest))
    axes.set_xlabel("decrease of R² when its values are shuffled", loc="left")
    axes.axvline(0, color=RULE, linewidth=0.8)
    largest = ", ".join(f"{name} {mean:.3f}" for name, (mean, _) in found.shares.items())
    return Chart(figure, "importance", f"Importance of each dimension: {largest}.")


def _scores(trials: Iterable[TrialResult]) -> list[float]:
    return [
        trial.score
        for trial in trials
        if trial.has_score and trial.score is not None and math.isfinite(trial.score)
    ]
