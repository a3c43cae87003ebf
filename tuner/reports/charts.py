"""Charts of a search, as inline SVG.

Marks have classes instead of colours, which the page's style sheet sets for light mode, dark mode
and print. Colour is never the only cue: each line has a tooltip, the best is thicker, and failed
ones are dashed.

    charts.parallel_coordinates(results)    # Markup of one <svg>
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from trainer.system import text
from trainer.system.markup import Markup, element
from tuner import statuses
from tuner.reports import formats, scales

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from tuner.reports.importance import Importance
    from tuner.reports.results import SearchResults, TrialResult
    from tuner.reports.scales import Scale

FIFTHS = 5
_AXIS_GAP, _SIDE = 128, 62
_LONGEST_TEXT = 18
_TIME_UNITS = ((7200.0, 3600.0, "hours"), (120.0, 60.0, "minutes"), (0.0, 1.0, "seconds"))


def fifths(results: SearchResults) -> Mapping[str, int]:
    """Maps each ranked configuration to its fifth of the ranking: 0 is the best, 4 the worst."""
    scored = [trial.configuration for trial in results.configurations if trial.has_score]
    return {name: place * FIFTHS // len(scored) for place, name in enumerate(scored)}


@dataclasses.dataclass(frozen=True)
class _Plot:
    """A chart with an x and a y axis; lengths in CSS pixels."""

    width: int
    height: int
    x: Scale
    y: Scale
    left: int = 58
    right: int = 14
    top: int = 10
    bottom: int = 46

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Returns the pixel position of a point."""
        across = self.left + self.x.fraction(x) * (self.width - self.left - self.right)
        return across, self._down(self.y.fraction(y))

    def _down(self, fraction: float) -> float:
        return self.height - self.bottom - fraction * (self.height - self.top - self.bottom)

    def draw(self, label: str, x_label: str, y_label: str, marks: Iterable[str]) -> Markup:
        """Returns the chart as SVG, with axes and marks."""
        return _svg(
            self.width, self.height, label, [*self._grid(), *self._labels(x_label, y_label), *marks]
        )

    def _grid(self) -> Iterable[Markup]:
        end, foot = self.width - self.right, self.height - self.bottom
        for fraction, tick in self.y.ticks():
            down = self._down(fraction)
            yield _line((self.left, down), (end, down), "grid")
            yield _text(self.left - 7, down + 4, tick, "tick end")
        for fraction, tick in self.x.ticks():
            across = self.left + fraction * (end - self.left)
            yield _line((across, foot), (across, foot + 5), "axis")
            yield _text(across, foot + 19, tick, "tick middle")
        yield _line((self.left, foot), (end, foot), "axis")

    def _labels(self, x_label: str, y_label: str) -> Iterable[Markup]:
        middle = (self.left + self.width - self.right) / 2
        yield _text(middle, self.height - 8, x_label, "label middle")
        down = self._down(0.5)
        turn = f"rotate(-90 13 {down:.0f})"
        yield element("text", y_label, x=13, y=down, class_="label middle", transform=turn)


def parallel_coordinates(results: SearchResults) -> Markup:
    """Draws a line per finished configuration, through its values on one axis per dimension.

    The last axis is the score, with the better end at the top. Lines without a score end below it.
    """
    trials = [trial for trial in results.configurations if trial.status != statuses.RUNNING]
    scored = [trial for trial in trials if trial.has_score]
    height, top, foot = 340, 46, 284
    axes = [(d.name, scales.of_dimension(d), d.log) for d in results.dimensions]
    score_axis = scales.of_scores(_scores(scored), results.direction)
    across = [float(_SIDE + i * _AXIS_GAP) for i in range(len(axes) + 1)]

    def down(fraction: float) -> float:
        return foot - fraction * (foot - top)

    def line(trial: TrialResult) -> list[tuple[float, float]]:
        downs = [down(scale.fraction(trial.values[name])) for name, scale, _ in axes]
        end = foot + 28.0
        if trial.has_score:
            end = down(_upwards(score_axis.fraction(trial.score or 0.0), results.direction))
        return list(zip(across, [*downs, end], strict=True))

    marks = [_line((x, top), (x, foot + 28.0 * (x == across[-1])), "axis") for x in across]
    marks += _trial_lines(results, [(trial, line(trial)) for trial in trials])
    for x, (name, scale, is_log) in zip(across, axes, strict=False):
        marks += _upright_axis(x, down, name, "(log)" if is_log else "", scale.ticks())
    ticks = [(_upwards(place, results.direction), tick) for place, tick in score_axis.ticks()]
    marks += _upright_axis(across[-1], down, results.objective, _unit(results), ticks)
    if len(scored) < len(trials):
        marks.append(_text(across[-1] + 7, foot + 32, "failed", "tick start halo"))
    names = ", ".join(name for name, _, _ in axes) or "no dimension"
    label = (
        f"Parallel coordinates of {text.counted(len(trials), 'configuration')}: one line per "
        f"configuration, through its values of {names} to its {results.objective}. The "
        "leaderboard below lists the same values as text."
    )
    return _svg(int(across[-1]) + _SIDE + 14, height, label, marks)


def _trial_lines(
    results: SearchResults, lines: Sequence[tuple[TrialResult, list[tuple[float, float]]]]
) -> Iterable[Markup]:
    """Draws the lines, the worst first, so that better ones are on top."""
    shade = fifths(results)
    best = results.best
    for trial, points in reversed(lines):
        kind = _kind(trial, shade)
        is_best = best is not None and trial.configuration == best.configuration
        yield _polyline(points, f"trial {kind}{' best' if is_best else ''}", _caption(trial))


def _kind(trial: TrialResult, shade: Mapping[str, int]) -> str:
    """Returns the CSS class of a trial's marks."""
    if trial.has_score:
        return f"fifth{shade[trial.configuration]}"
    return "running" if trial.status == statuses.RUNNING else "failed"


def _caption(trial: TrialResult) -> str:
    """Returns the tooltip of a trial's marks."""
    outcome = formats.score(trial.score) if trial.has_score else trial.reason or trial.status
    values = formats.values(trial.values)
    return f"{trial.trial_id}: {outcome} after epoch {trial.epochs_done}; {values}"


def _upright_axis(
    x: float, down: Callable[[float], float], name: str, unit: str, ticks: scales.Ticks
) -> Iterable[Markup]:
    yield _text(x, 16, _shortened(name), "label middle")
    yield _text(x, 32, unit, "tick middle")
    for fraction, tick in ticks:
        y = down(fraction)
        yield _line((x - 4, y), (x + 4, y), "axis")
        yield _text(x + 7, y + 4, _shortened(tick), "tick start halo")


def _unit(results: SearchResults) -> str:
    """Returns the unit of the score: nats for a log-loss; none for an AUC."""
    return "(nats)" if results.objective.endswith("loss") else ""


def _score_label(results: SearchResults) -> str:
    return f"{results.objective} {_unit(results)}".rstrip()


def _upwards(fraction: float, direction: str) -> float:
    return fraction if direction == "max" else 1 - fraction


def learning_curves(results: SearchResults, trials: Sequence[TrialResult], label: str) -> Markup:
    """Draws the objective by epoch, a line per trial; all charts of a search have the same axes.

    Epochs of the rung below, which a promoted trial resumed from, are dotted.

    Args:
      results: The search, which determines axes and fifths.
      trials: The trials to draw.
      label: Description of the chart for screen readers.
    """
    points = [point for trial in results.trials for point in trial.points(results.objective)]
    last = max((epoch for epoch, _ in points), default=1)
    plot = _Plot(
        400,
        250,
        scales.Linear(0.5, last + 0.5, is_whole=True),
        scales.of_scores((value for _, value in points), results.direction),
    )
    marks: list[Markup] = []
    shade = fifths(results)
    for trial in sorted(trials, key=lambda t: (-shade.get(t.configuration, FIFTHS), t.trial_id)):
        curve = trial.points(results.objective)
        old = [plot.at(*point) for point in curve if point[0] <= trial.first_epoch]
        new = [plot.at(*point) for point in curve if point[0] > trial.first_epoch]
        kind = _kind(trial, shade)
        if len(old) > 1 or (old and new):
            marks.append(_polyline([*old, *new[:1]], f"trial old {kind}", _caption(trial)))
        if len(new) > 1:
            marks.append(_polyline(new, f"trial {kind}", _caption(trial)))
        marks += [_dot(point, kind, _caption(trial)) for point in new[-1:]]
    return plot.draw(label, "epoch", _score_label(results), marks)


def score_by_time(results: SearchResults) -> Markup:
    """Draws each trial's score at the time when it ended, and the best score so far as steps."""
    ended = [trial for trial in results.finished if trial.ended_at is not None]
    longest = max((trial.ended_at or 0.0 for trial in ended), default=0.0)
    seconds, unit = next((s, name) for least, s, name in _TIME_UNITS if longest >= least)
    plot = _Plot(
        560,
        280,
        scales.Linear(0.0, longest / seconds or 1.0),
        scales.of_scores(_scores(ended), results.direction),
    )
    marks: list[Markup] = []
    stairs: list[tuple[float, float]] = []
    best: float | None = None
    for trial in ended:
        time = (trial.ended_at or 0.0) / seconds
        if not trial.has_score or trial.score is None:
            across, _ = plot.at(time, 0.0)
            marks.append(_cross(across, plot.height - plot.bottom - 7.0, _caption(trial)))
            continue
        marks.append(_dot(plot.at(time, trial.score), "seen", _caption(trial)))
        if best is None or results.is_better(trial.score, best):
            stairs += [plot.at(time, trial.score if best is None else best)]
            best = trial.score
            stairs += [plot.at(time, best)]
    if best is not None:
        stairs.append(plot.at(longest / seconds, best))
        marks.append(_polyline(stairs, "stairs", "best so far"))
    label = (
        f"{results.objective} of {text.counted(len(ended), 'finished trial')} over time, with "
        f"the best so far, which ends at {formats.score(best)}."
    )
    return plot.draw(
        label, f"time since the start of the search ({unit})", _score_label(results), marks
    )


def importances(found: Importance) -> Markup:
    """Draws a bar per dimension, with a whisker of one standard deviation and both as text."""
    row, left, width = 30, 150, 480
    longest = max(*(mean + spread for mean, spread in found.shares.values()), 1e-3)
    scale = scales.Linear(0.0, 1.1 * longest)
    height = row * len(found.shares) + 52
    foot = height - 46.0

    def across(value: float) -> float:
        return left + scale.fraction(value) * (width - left - 104)

    marks = [
        _line((left, 4), (left, foot), "axis"),
        _line((left, foot), (width - 104, foot), "axis"),
    ]
    for place, (name, (mean, spread)) in enumerate(found.shares.items()):
        y = 4 + row * (place + 0.5)
        size = across(mean) - left
        marks += [
            _text(left - 8, y + 4, _shortened(name), "label end"),
            element("rect", x=left, y=y - 8, width=size, height=16, class_="bar"),
            _line((across(mean - spread), y), (across(mean + spread), y), "whisker"),
            _text(width - 96, y + 4, f"{mean:.3f} ± {spread:.3f}", "tick start"),
        ]
    for fraction, tick in scale.ticks():
        x = left + fraction * (width - left - 104)
        marks += [
            _line((x, foot), (x, foot + 5), "axis"),
            _text(x, foot + 19, tick, "tick middle"),
        ]
    marks.append(
        _text(left, height - 6, "decrease of R² when its values are shuffled", "label start")
    )
    largest = ", ".join(f"{name} {mean:.3f}" for name, (mean, _) in found.shares.items())
    return _svg(width, height, f"Importance of each dimension: {largest}.", marks)


def swatch(kind: str) -> Markup:
    """Draws a sample line for a legend."""
    line = _polyline([(1.0, 6.0), (27.0, 6.0)], f"trial {kind}", "")
    return element("svg", line, viewBox="0 0 28 12", width=28, height=12, aria_hidden="true")


def _scores(trials: Iterable[TrialResult]) -> list[float]:
    return [trial.score for trial in trials if trial.has_score and trial.score is not None]


def _svg(width: int, height: int, label: str, marks: Iterable[str]) -> Markup:
    return element(
        "svg",
        *marks,
        viewBox=f"0 0 {width} {height}",
        width=width,
        height=height,
        role="img",
        aria_label=label,
    )


def _polyline(points: Iterable[tuple[float, float]], kind: str, caption: str) -> Markup:
    places = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return element("polyline", *_title(caption), points=places, class_=kind)


def _line(start: tuple[float, float], end: tuple[float, float], kind: str) -> Markup:
    (x1, y1), (x2, y2) = start, end
    return element("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=kind)


def _dot(at: tuple[float, float], kind: str, caption: str) -> Markup:
    x, y = at
    return element("circle", *_title(caption), cx=x, cy=y, r=3, class_=f"dot {kind}")


def _cross(x: float, y: float, caption: str) -> Markup:
    path = f"M{x - 4:.1f},{y - 4:.1f}l8,8m0,-8l-8,8"
    return element("path", *_title(caption), d=path, class_="cross")


def _title(caption: str) -> list[Markup]:
    return [element("title", caption)] if caption else []


def _text(x: float, y: float, content: str, kind: str) -> Markup:
    return element("text", content, x=float(x), y=float(y), class_=kind)


def _shortened(content: str) -> str:
    return content if len(content) <= _LONGEST_TEXT else f"{content[: _LONGEST_TEXT - 1]}…"
