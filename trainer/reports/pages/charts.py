"""The charts of the HTML pages, as Matplotlib figures in the colours that `svg` knows.

No information is in a colour alone: lines differ in dash and marker too, and bars in hatching.

    figure = charts.roc(curve, points)
    svg.inline(figure, "roc", "ROC curve: …")
"""

from __future__ import annotations

import dataclasses
import math
import statistics
from typing import TYPE_CHECKING, Any

import matplotlib.figure
import matplotlib.layout_engine
import matplotlib.style
import matplotlib.ticker
import numpy as np

from trainer.reports import plots
from trainer.system import text

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy.typing as npt

BLUE, VERMILLION, SOFT, RULE = "#0072B2", "#D55E00", "#595959", "#B0B0B0"
INK, PAPER = "#000000", "#FFFFFF"
_DPI = 72
"""With 72 points to the inch, lengths are CSS pixels."""
in_page_style = matplotlib.style.context(
    [
        "default",
        {
            "font.size": 12,
            "figure.facecolor": "none",
            "axes.facecolor": "none",
            "axes.titlesize": 13,
            "axes.titleweight": "bold",
            "axes.titlelocation": "left",
            "axes.labelcolor": SOFT,
            "axes.edgecolor": RULE,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.formatter.use_mathtext": False,
            "axes.unicode_minus": True,
            "xtick.color": RULE,
            "ytick.color": RULE,
            "xtick.labelcolor": SOFT,
            "ytick.labelcolor": SOFT,
            "grid.color": RULE,
            "grid.linewidth": 0.7,
            "legend.frameon": False,
            "legend.fontsize": 11,
            "hatch.linewidth": 0.8,
            "text.parse_math": False,
        },
    ]
)
"""Decorates what draws a chart of a page."""


@dataclasses.dataclass(frozen=True)
class Point:
    """A named point of a curve."""

    name: str
    x: float
    y: float


def sheet(
    width: int, height: int, *, margins: tuple[int, int, int, int] | None = None
) -> matplotlib.figure.Figure:
    """Returns an empty figure of a size in CSS pixels.

    Args:
      width: of the figure.
      height: of the figure.
      margins: left, bottom, right and top. None: as the texts need, which are measured for that:
        it takes as long as drawing them.
    """
    if margins is None:
        layout = matplotlib.layout_engine.ConstrainedLayoutEngine(w_pad=0.04, h_pad=0.04)
        return matplotlib.figure.Figure((width / _DPI, height / _DPI), dpi=_DPI, layout=layout)
    left, bottom, right, top = margins
    figure = matplotlib.figure.Figure((width / _DPI, height / _DPI), dpi=_DPI)
    figure.subplots_adjust(
        left / width, bottom / height, 1 - right / width, 1 - top / height, wspace=0, hspace=0
    )
    return figure


def _epoch_sheet() -> matplotlib.figure.Figure:
    """Returns the sheet of a learning curve: it is drawn after each epoch, and must be quick."""
    return sheet(360, 270, margins=(64, 84, 8, 24))


def _square_sheet() -> matplotlib.figure.Figure:
    return sheet(360, 390, margins=(58, 82, 18, 24))


@in_page_style
def curve(
    title: str,
    lines: Mapping[str, Sequence[float]],
    *,
    best: int | None,
    joins_after: int | None,
) -> matplotlib.figure.Figure:
    """Draws the curves of one kind by epoch.

    Args:
      title: The kind, a key of `history.curves`.
      lines: By side, one value per epoch.
      best: The best epoch, from 1.
      joins_after: The epochs of the head alone, after which unfrozen layers train too.
    """
    figure = _epoch_sheet()
    axes = figure.subplots()
    plots.draw_panel(axes, title, lines)
    _mark_epochs(axes, best, joins_after)
    return figure


@in_page_style
def by_epoch(
    title: str, label: str, values: Sequence[float], *, best: int | None, joins_after: int | None
) -> matplotlib.figure.Figure:
    """Draws one value by epoch, with a line at zero if it changes its sign."""
    figure = _epoch_sheet()
    axes = figure.subplots()
    axes.plot(range(1, len(values) + 1), values, color=INK, marker="o", markersize=3)
    axes.set_title(title)
    axes.set_ylabel(label)
    plots.mark_epochs(axes, len(values))
    low, high = axes.get_ylim()
    if low < 0 < high:
        axes.axhline(0, color=SOFT, linewidth=0.8)
    _mark_epochs(axes, best, joins_after)
    return figure


def _mark_epochs(axes: Any, best: int | None, joins_after: int | None) -> None:
    if best is not None:
        axes.axvline(best, color=SOFT, linestyle=":", linewidth=1.3, label="best epoch")
    if joins_after is not None:
        axes.axvline(
            joins_after + 0.5, color=SOFT, linestyle="-.", linewidth=1.3, label="layers join"
        )
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="upper center", bbox_to_anchor=(0.45, -0.23), ncols=2, columnspacing=1.2)


@in_page_style
def rates(
    x: npt.NDArray[Any],
    y: npt.NDArray[Any],
    names: tuple[str, str, str],
    points: Sequence[Point],
    *,
    chance: float | None = None,
    corner: tuple[float, float] | None = None,
) -> matplotlib.figure.Figure:
    """Draws a curve of two rates, with points on it, and one of gid "now" for a script to move.

    Args:
      x: [P] in [0, 1].
      y: [P] in [0, 1].
      names: title, and what the axes show.
      points: named points.
      chance: y of a model that has learned nothing, as a level; None for the diagonal.
      corner: left and bottom end of a square of side 0.2, which is enlarged in the middle.
    """
    figure = _square_sheet()
    axes = figure.subplots()
    ends = (0, 1) if chance is None else (chance, chance)
    axes.plot((0, 1), ends, color=SOFT, linestyle=":", linewidth=1.2, label="no skill")
    # Tied scores make the ROC curve slope; average precision holds each precision leftwards.
    steps = "default" if chance is None else "steps-pre"
    _draw_rates(axes, x, y, points, steps)
    axes.plot(0, 0, "o", color=INK, markersize=6, clip_on=False, gid="now")
    _unit_square(axes, *names)
    if corner is not None:
        left, bottom = corner
        inset = axes.inset_axes((0.3, 0.17, 0.55, 0.55))
        _draw_rates(inset, x, y, points, steps)
        inset.set(xlim=(left, left + 0.2), ylim=(bottom, bottom + 0.2), facecolor=PAPER)
        inset.locator_params(nbins=4)
        inset.tick_params(labelsize=10)
        inset.spines[:].set(visible=True, color=SOFT)
        inset.grid(visible=True, alpha=0.3)
        frame = axes.indicate_inset_zoom(inset, edgecolor=SOFT)
        for connector in frame.connectors or ():  # They cross the curve.
            connector.set_visible(False)
    return figure


def _draw_rates(axes: Any, x: Any, y: Any, points: Sequence[Point], steps: str) -> None:
    axes.plot(x, y, color=BLUE, linewidth=1.8, drawstyle=steps)
    for point, marker in zip(points, "os", strict=False):
        axes.plot(
            point.x, point.y, marker, color=VERMILLION, markersize=8, label=point.name,
            markerfacecolor="none", markeredgewidth=1.8, clip_on=False, linestyle="none",
        )  # fmt: skip


def _unit_square(axes: Any, title: str, x_label: str, y_label: str) -> None:
    axes.set(xlim=(0, 1), ylim=(0, 1), xlabel=x_label, ylabel=y_label, title=title)
    axes.set_aspect("equal")
    axes.grid(visible=True, alpha=0.3)
    axes.legend(loc="upper center", bbox_to_anchor=(0.45, -0.13), ncols=3, columnspacing=1.0)


@in_page_style
def reliability(title: str, bins: Sequence[Mapping[str, Any]]) -> matplotlib.figure.Figure:
    """Draws the share of positives by mean probability, with a bar of its 95 % interval for a bin.

    The interval is Wilson's, with images as independent: few lie in the middle of a good model's
    range, and their shares say little. Images of one patient are alike: by patient it is wider.

    Args:
      title: of the chart.
      bins: with `mean_probability`, `share` and `examples`.
    """
    figure = _square_sheet()
    axes = figure.subplots()
    axes.plot((0, 1), (0, 1), color=SOFT, linestyle=":", linewidth=1.2, label="perfect")
    x = np.array([of["mean_probability"] for of in bins])
    share = np.array([of["share"] for of in bins])
    low, high = wilson(share, np.array([of["examples"] for of in bins]))
    axes.vlines(x, low, high, color=BLUE, linewidth=1.3, label="95 %, images as independent")
    sizes = [16 + 12 * math.log10(max(of["examples"], 1)) ** 2 for of in bins]
    axes.scatter(x, share, s=sizes, color=BLUE, clip_on=False, zorder=3, label="bin")
    _unit_square(axes, title, "mean probability of the bin", "share of positives")
    return figure


def wilson(share: npt.NDArray[Any], count: npt.NDArray[Any]) -> tuple[Any, Any]:
    """Returns the 95 % interval of shares (E. B. Wilson, J. Am. Stat. Assoc. 22, 1927).

    Args:
      share: [B] in [0, 1].
      count: [B] examples, above 0.
    """
    squared = statistics.NormalDist().inv_cdf(0.975) ** 2
    middle = (share + squared / (2 * count)) / (1 + squared / count)
    spread = np.sqrt(share * (1 - share) * squared / count + (squared / count) ** 2 / 4)
    half = spread / (1 + squared / count)
    return np.clip(middle - half, 0, 1), np.clip(middle + half, 0, 1)


@in_page_style
def scores(groups: Mapping[str, npt.NDArray[Any]], label: str) -> matplotlib.figure.Figure:
    """Draws a histogram of probabilities for each group, with counts on a logarithmic axis.

    Args:
      groups: by name, [N] probabilities in [0, 1].
      label: of what they are the probability.
    """
    figure = sheet(400, 180 * len(groups) + 30, margins=(66, 44, 14, 24))
    figure.subplots_adjust(hspace=0.25)
    panels = figure.subplots(len(groups), 1, sharex=True, sharey=True, squeeze=False)[:, 0]
    most = max(int(np.histogram(of, 20, (0, 1))[0].max()) for of in groups.values())
    looks = ((BLUE, "\\\\\\"), (VERMILLION, "///"))
    for place, (axes, (name, values)) in enumerate(zip(panels, groups.items(), strict=True)):
        colour, hatch = looks[place]
        axes.hist(values, bins=20, range=(0, 1), facecolor="none", edgecolor=colour, hatch=hatch)
        axes.set_ylim(0.7, 2 * max(most, 5))  # Before the scale, which an empty group has none for.
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(matplotlib.ticker.StrMethodFormatter("{x:,.0f}"))
        axes.yaxis.set_minor_locator(matplotlib.ticker.NullLocator())
        axes.set_title(f"{shortened(name)}: {text.counted(len(values), 'example')}")
        axes.set_ylabel("examples (log)")
        axes.grid(visible=True, axis="y", alpha=0.3)
        axes.axvline(0, color=INK, linewidth=1.5, gid=f"now{place}")
    panels[-1].set_xlabel(label)
    panels[-1].set_xlim(0, 1)
    return figure


@in_page_style
def counts(groups: Mapping[str, Sequence[int]], names: Sequence[str]) -> matplotlib.figure.Figure:
    """Draws bars of the number of examples of each class, side by side for each group."""
    figure = sheet(400, 116 + 50 * len(names), margins=(134, 86, 14, 26))
    axes = figure.subplots()
    thick = 0.8 / len(groups)
    looks = ((BLUE, "\\\\\\"), (VERMILLION, "///"))
    for place, ((group, values), (colour, hatch)) in enumerate(
        zip(groups.items(), looks, strict=False)
    ):
        middles = [row - 0.4 + (place + 0.5) * thick for row in range(len(names))]
        bars = axes.barh(
            middles, values, thick * 0.9, label=group, facecolor="none", edgecolor=colour,
            hatch=hatch,
        )  # fmt: skip
        axes.bar_label(bars, [f"{value:,}" for value in values], padding=4, color=SOFT)
    axes.set_yticks(range(len(names)), [shortened(name) for name in names])
    axes.invert_yaxis()
    axes.set_xlabel("examples")
    axes.set_title("Classes")
    axes.margins(x=0.16)
    figure.legend(loc="lower center", ncols=2)
    return figure


def shortened(name: str, limit: int = 18) -> str:
    """Shortens a name that would not fit."""
    shown = text.visible(name)
    return shown if len(shown) <= limit else f"{shown[: limit - 1]}…"
