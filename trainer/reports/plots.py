"""The plots of a run: curves, confusion matrix, and radiographs with their predictions.

Colours are Okabe and Ito's, which colour-blind readers can tell apart, and no information is in a
colour alone. Figures are created without pyplot, so the caller's backend and open figures stay as
they are. They use Matplotlib's default style and contain neither time nor version, so the same
input gives the same bytes.

    plots.save_curves(history, run_dir / "curves.png")
    chosen = predictions.choose_samples(table)
    plots.save_samples(images[chosen], table.take(chosen), run_dir / "samples.png")
"""

from __future__ import annotations

import io
import math
from typing import TYPE_CHECKING, Any

import matplotlib.figure
import matplotlib.layout_engine
import matplotlib.style
import matplotlib.ticker
import numpy as np
import numpy.typing as npt

from trainer.evaluation import history as history_lib
from trainer.evaluation import metrics
from trainer.storage import files
from trainer.system import text

if TYPE_CHECKING:
    import pathlib
    from collections.abc import Callable, Mapping, Sequence

    from trainer.evaluation.predictions import Predictions

_DPI = 120
_BLUE, _VERMILLION, _GREY = "#0072B2", "#D55E00", "#595959"
_LINES: dict[str, dict[str, Any]] = {
    "training": {"color": _BLUE, "linestyle": "-", "marker": "o"},
    "validation": {"color": _VERMILLION, "linestyle": "--", "marker": "s"},
}
_AXIS_LABELS = {"log-loss": "log-loss (nats)"}
_COLUMNS = 4
_TILE_INCHES = 2.4
_TEXT_INCHES = 0.6  # Two lines above a tile, one below, and the gap between rows.
_CAPTION_CHARACTERS = 38  # As many fit under a tile in the caption's monospaced font.
_WHITE_INK_FROM = 0.73  # From here on, `Blues` is so dark that white contrasts more than black.

# Otherwise a notebook's backend or the user's matplotlibrc would change the plots.
_in_default_style = matplotlib.style.context("default")


@_in_default_style
def save_curves(
    history: Mapping[str, Sequence[float]],
    path: pathlib.Path,
    monitor: str = "val_loss",
    joins_after: int | None = None,
) -> None:
    """Draws log-loss, accuracy and AUC by epoch, if the history contains them.

    Args:
      history: One value per epoch under Keras's keys.
      path: Where to write the PNG.
      monitor: The metric that decided the best epoch.
      joins_after: The epochs of the head alone, after which unfrozen layers train too; None: there
        are none.

    Raises:
      ValueError: The history contains no curve.
    """
    _save(draw_curves(history, monitor, joins_after), path)


@_in_default_style
def draw_curves(
    history: Mapping[str, Sequence[float]],
    monitor: str = "val_loss",
    joins_after: int | None = None,
) -> matplotlib.figure.Figure:
    """Returns the figure of `save_curves`."""
    groups = history_lib.curves(history)
    if not groups:
        raise ValueError(
            "The history has no curve to draw: it needs loss, accuracy or auc, for training or "
            "validation (val_)."
        )
    figure = _figure(4.6 * len(groups), 4.4)
    panels = figure.subplots(1, len(groups), squeeze=False)[0]
    best = history_lib.best_epoch(history, monitor)
    label = f"best epoch: {best} ({history_lib.MEANINGS[monitor]})"
    for axes, (title, lines) in zip(panels, groups.items(), strict=True):
        draw_panel(
            axes, title, lines, lambda side, values: f"{side:<10} {history_lib.span(values)}"
        )
        if best is not None:
            axes.axvline(best, label=label, color=_GREY, linestyle=":", linewidth=1.2)
        if joins_after is not None and joins_after < max(map(len, lines.values())):
            style = {"color": _GREY, "linestyle": "-.", "linewidth": 1.2}
            axes.axvline(joins_after + 0.5, label="unfrozen layers join", **style)
        _put_legend_below(axes)
    return figure


def draw_panel(
    axes: Any,
    title: str,
    lines: Mapping[str, Sequence[float]],
    label: Callable[[str, Sequence[float]], str] = lambda side, _: side,
) -> None:
    """Draws the curves of one kind into a panel: of training solid, of validation dashed.

    Args:
      axes: Matplotlib's.
      title: The kind, a key of `history.curves`.
      lines: By side, one value per epoch.
      label: Returns the text of a line in the legend, of its side and values.
    """
    for side, values in lines.items():
        epochs = range(1, len(values) + 1)
        axes.plot(
            epochs, values, label=label(side, values), markersize=3, linewidth=1.5, **_LINES[side]
        )
    axes.set_title(title[0].upper() + title[1:])  # `capitalize` would turn ROC-AUC into Roc-auc.
    axes.set_ylabel(_AXIS_LABELS.get(title, title))
    mark_epochs(axes, max(map(len, lines.values())))


def mark_epochs(axes: Any, epochs: int) -> None:
    """Makes the x axis one of epochs, counted from 1."""
    axes.set_xlabel("epoch")
    axes.set_xlim(0.5, epochs + 0.5)
    axes.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(integer=True, min_n_ticks=1))
    axes.grid(visible=True, alpha=0.3)


def _put_legend_below(axes: Any) -> None:
    axes.legend(
        loc="upper center",
        bbox_to_anchor=(0.5, -0.16),
        frameon=False,
        prop={"family": "DejaVu Sans Mono", "size": 7.5},
    )


@_in_default_style
def save_confusion_matrix(scores: metrics.Metrics, path: pathlib.Path) -> None:
    """Draws the confusion matrix: counts, and the share of the true class, which sets the shade."""
    _save(draw_confusion_matrix(scores), path)


@_in_default_style
def draw_confusion_matrix(scores: metrics.Metrics) -> matplotlib.figure.Figure:
    """Returns the figure of `save_confusion_matrix`."""
    counts = np.array(scores.confusion_matrix)
    totals = counts.sum(axis=1, keepdims=True)
    shares = counts / np.maximum(totals, 1)
    figure = _figure(5.2, 4.4)
    axes = figure.subplots()
    image = axes.imshow(100 * shares, cmap="Blues", vmin=0, vmax=100)
    for (row, column), share in np.ndenumerate(shares):
        percentage = f"{100 * share:.1f} %" if totals[row] else "–"
        axes.text(
            column,
            row,
            f"{counts[row, column]}\n{percentage}",
            ha="center",
            va="center",
            color="white" if share >= _WHITE_INK_FROM else "black",
            fontsize=13,
        )
    names = scores.class_names
    axes.set_xticks(range(len(names)), names, parse_math=False)
    axes.set_yticks(range(len(names)), names, rotation=90, va="center", parse_math=False)
    axes.set_xlabel("predicted class")
    axes.set_ylabel("true class")
    accuracy = text.percent(scores.accuracy)
    axes.set_title(f"{text.counted(scores.examples, 'example')}, accuracy {accuracy}", pad=10)
    figure.colorbar(image, ax=axes, label="share of the true class (%)", shrink=0.9)
    return figure


@_in_default_style
def save_samples(
    images: npt.NDArray[np.uint8], predictions: Predictions, path: pathlib.Path
) -> None:
    """Draws radiographs with predicted class and its probability, true class and file name.

    Args:
      images: [M, H, W, 1] or [M, H, W] uint8, in [0, 255].
      predictions: The M predictions for the images.
      path: Where to write the PNG.

    Raises:
      ValueError: There are no images, or they have another dtype or shape.
    """
    _save(_samples(_grey_images(images, len(predictions)), predictions), path)


def _grey_images(images: npt.NDArray[np.uint8], count: int) -> npt.NDArray[np.uint8]:
    """Returns the images as [M, H, W]; raises ValueError unless they are `count` grey images."""
    if images.dtype != np.uint8:
        raise ValueError(f"images have dtype {images.dtype}, not uint8.")
    if images.ndim not in (3, 4) or (images.ndim == 4 and images.shape[-1] != 1):
        raise ValueError(f"images have shape {images.shape}, not [M, H, W, 1] or [M, H, W].")
    if len(images) != count or not count:
        raise ValueError(
            f"{len(images)} images can't show {count} predictions: both must be equal, and not 0."
        )
    return images.reshape(images.shape[:3])


def _samples(grey: npt.NDArray[np.uint8], predictions: Predictions) -> matplotlib.figure.Figure:
    columns = min(max(len(grey), 2), _COLUMNS)  # The heading is two tiles wide.
    rows = math.ceil(len(grey) / columns)
    height, width = grey.shape[1:]
    row_inches = _TILE_INCHES * height / width + _TEXT_INCHES
    figure = _figure(columns * _TILE_INCHES, rows * row_inches + _TEXT_INCHES)
    tiles = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in tiles[len(grey) :]:
        axes.set_axis_off()
    for row, axes in enumerate(tiles[: len(grey)]):
        _draw_sample(axes, grey[row], predictions, row)
    right = np.count_nonzero(predictions.predicted == predictions.label)
    figure.suptitle(
        f"{right} correct and {len(grey) - right} wrong predictions shown:\n"
        "predicted class with its probability, true class, file",
        fontsize=10,
    )
    return figure


def _draw_sample(
    axes: Any, image: npt.NDArray[np.uint8], predictions: Predictions, row: int
) -> None:
    names, true = predictions.class_names, predictions.label[row]
    predicted = predictions.predicted[row]
    mark, colour = ("✓", _BLUE) if predicted == true else ("✗", _VERMILLION)
    axes.imshow(image, cmap="gray", vmin=0, vmax=255)
    title = f"{mark} {names[predicted]} {predictions.score[row]:.3f}\ntrue: {names[true]}"
    axes.set_title(title, color=colour, fontsize=9, fontweight="bold", parse_math=False)
    axes.set_xlabel(
        _shortened(text.visible(str(predictions.file_name[row]))),
        fontsize=6.5,
        family="DejaVu Sans Mono",
        color=_GREY,
        parse_math=False,
    )
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set(color=colour, linewidth=2.5)


def _shortened(name: str) -> str:
    """Shortens a long name in the middle, because both ends distinguish files."""
    if len(name) <= _CAPTION_CHARACTERS:
        return name
    half = (_CAPTION_CHARACTERS - 1) // 2
    return f"{name[:half]}…{name[-half:]}"


class NotebookFigure(matplotlib.figure.Figure):
    """A figure that a notebook displays, although pyplot was never imported.

    IPython displays a plain `Figure` only after pyplot has registered a formatter for it.
    """

    def _repr_png_(self) -> bytes:
        """Returns the PNG that IPython displays."""
        return to_png(self)


@_in_default_style
def to_png(figure: matplotlib.figure.Figure) -> bytes:
    """Returns the PNG of a figure, without Matplotlib's version, which would change its bytes."""
    file = io.BytesIO()
    figure.savefig(file, format="png", metadata={"Software": None})
    return file.getvalue()


def _figure(width_inches: float, height_inches: float) -> matplotlib.figure.Figure:
    return NotebookFigure(
        figsize=(width_inches, height_inches),
        dpi=_DPI,
        layout=matplotlib.layout_engine.ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.06),
    )


def _save(figure: matplotlib.figure.Figure, path: pathlib.Path) -> None:
    with files.replacing(path) as partial:
        partial.write_bytes(to_png(figure))
