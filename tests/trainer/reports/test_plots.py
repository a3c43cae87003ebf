"""The plots of a run."""

from __future__ import annotations

import dataclasses
import itertools
import math
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
import PIL.Image
import pytest

from tests.support.tables import HISTORY
from trainer.evaluation import metrics
from trainer.evaluation.predictions import Predictions
from trainer.reports import plots

if TYPE_CHECKING:
    import pathlib
    from collections.abc import Callable


def predictions_of(label: list[int], positive: list[float]) -> Predictions:
    names = np.array([f"person{i}_virus_{i}.jpeg" for i in range(len(label))], str)
    return Predictions(
        class_names=("NORMAL", "PNEUMONIA"),
        file_name=names,
        patient_id=names,
        etiology=names,
        label=np.array(label, int),
        probabilities=np.array([[1 - p, p] for p in positive]).reshape(-1, 2),
    )


def radiographs(count: int, height: int = 32, width: int = 32) -> npt.NDArray[np.uint8]:
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (count, height, width, 1), np.uint8)


PREDICTIONS = predictions_of([0, 0, 1, 1, 1], [0.125, 0.875, 0.25, 0.75, 1.0])
WRITERS: dict[str, Callable[[pathlib.Path], None]] = {
    "curves": lambda path: plots.save_curves(HISTORY, path),
    "matrix": lambda path: plots.save_confusion_matrix(metrics.compute(PREDICTIONS), path),
    "samples": lambda path: plots.save_samples(radiographs(5), PREDICTIONS, path),
}
writers = pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS.keys())


def texts(figure: Any) -> list[str]:
    """Every text of the figure that is not empty."""
    artists = figure.findobj(mpl.text.Text)
    return [artist.get_text() for artist in artists if artist.get_text()]


@writers
def test_the_picture_is_a_png_without_metadata(
    tmp_path: pathlib.Path, write: Callable[[pathlib.Path], None]
) -> None:
    write(tmp_path / "picture.png")
    with PIL.Image.open(tmp_path / "picture.png") as picture:
        assert picture.format == "PNG"
        assert picture.info.keys() == {"dpi"}
        assert min(picture.size) > 400
    assert [path.name for path in tmp_path.iterdir()] == ["picture.png"]


@writers
def test_the_same_input_gives_the_same_bytes_in_any_style(
    tmp_path: pathlib.Path, write: Callable[[pathlib.Path], None]
) -> None:
    write(tmp_path / "a.png")
    with mpl.rc_context({"figure.facecolor": "black", "font.size": 20, "text.color": "red"}):
        write(tmp_path / "b.png")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_the_backend_of_the_caller_is_left_alone(tmp_path: pathlib.Path) -> None:
    code = """
import pathlib, sys, matplotlib
matplotlib.use("svg")
from trainer.reports import plots
plots.save_curves({"loss": [1.0]}, pathlib.Path(sys.argv[1]))
print(matplotlib.get_backend(), "matplotlib.pyplot" in sys.modules, "tensorflow" in sys.modules)
"""
    command = [sys.executable, "-c", code, str(tmp_path / "curves.png")]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert printed == "svg False False\n"


# Curves


def test_each_curve_has_its_span_and_the_best_epoch_is_marked() -> None:
    found = texts(plots.draw_curves(HISTORY))
    assert "training   (min: 0.125, max: 0.500, cur: 0.125)" in found
    assert "validation (min: 0.750, max: 0.900, cur: 0.850)" in found
    assert found.count("best epoch: 2 (lowest validation loss)") == 2
    assert "log-loss (nats)" in found


@pytest.mark.parametrize(
    ("keys", "titles"),
    [
        (["loss"], ["Log-loss"]),
        (["val_accuracy", "loss"], ["Log-loss", "Accuracy"]),
        (["auc", "accuracy", "loss", "lr"], ["Log-loss", "Accuracy", "ROC-AUC"]),
    ],
)
def test_there_is_a_panel_for_each_kind_of_curve(keys: list[str], titles: list[str]) -> None:
    figure = plots.draw_curves({key: [0.5, 0.25] for key in keys})
    assert [axes.get_title() for axes in figure.axes] == titles


def test_epochs_are_counted_from_one() -> None:
    axes: Any = plots.draw_curves({"loss": [0.5, 0.25]}).axes[0]
    assert axes.lines[0].get_xdata().tolist() == [1, 2]


def test_one_epoch_has_one_tick() -> None:
    axes = plots.draw_curves({"loss": [0.5]}).axes[0]
    low, high = axes.get_xlim()
    assert [tick for tick in axes.get_xticks() if low <= tick <= high] == [1]


@pytest.mark.parametrize(("joins_after", "lines"), [(None, 0), (2, 1), (3, 0)])
def test_the_epoch_after_which_unfrozen_layers_join_is_marked(joins_after, lines):
    axes = plots.draw_curves(HISTORY, joins_after=joins_after).axes[0]
    labels = [line.get_label() for line in axes.lines]
    assert labels.count("unfrozen layers join") == lines


def test_a_diverged_run_is_drawn(tmp_path: pathlib.Path) -> None:
    history = {"loss": [0.5, math.inf, math.nan], "val_loss": [math.nan] * 3}
    plots.save_curves(history, tmp_path / "curves.png")
    assert (tmp_path / "curves.png").exists()


def test_a_history_without_curves_is_refused_and_nothing_written(tmp_path: pathlib.Path) -> None:
    with pytest.raises(ValueError, match="has no curve to draw"):
        plots.save_curves({"learning_rate": [0.1]}, tmp_path / "curves.png")
    assert not list(tmp_path.iterdir())


# Confusion matrix


def test_cells_have_counts_and_shares_of_the_true_class() -> None:
    found = texts(plots.draw_confusion_matrix(metrics.compute(PREDICTIONS)))
    for cell in ("1\n50.0 %", "1\n33.3 %", "2\n66.7 %"):
        assert cell in found
    assert "5 examples, accuracy 60.00 %" in found
    assert {"NORMAL", "PNEUMONIA", "true class", "predicted class"} <= set(found)


@pytest.mark.parametrize("name", ["$", "a$b", r"$\\foo$", "$$", "^_{"])
def test_no_class_name_is_a_formula(name: str, tmp_path: pathlib.Path) -> None:
    table = dataclasses.replace(PREDICTIONS, class_names=(name, "PNEUMONIA"))
    plots.save_confusion_matrix(metrics.compute(table), tmp_path / "matrix.png")
    plots.save_samples(radiographs(5), table, tmp_path / "samples.png")
    assert name in texts(plots.draw_confusion_matrix(metrics.compute(table)))


def test_a_class_that_does_not_occur_has_no_shares() -> None:
    found = texts(
        plots.draw_confusion_matrix(metrics.compute(predictions_of([1, 1], [0.75, 0.75])))
    )
    assert found.count("0\n–") == 2


@pytest.mark.parametrize("percentage", [0, 50, 72, 73, 74, 100])
def test_text_has_the_contrast_that_accessibility_asks_for(percentage: int) -> None:
    answers = [0.75] * percentage + [0.25] * (100 - percentage)
    scores = metrics.compute(predictions_of([1] * 100, answers))
    axes: Any = plots.draw_confusion_matrix(scores).axes[0]
    shades = axes.images[0].to_rgba(axes.images[0].get_array()).reshape(-1, 4)
    for cell, shade in zip(axes.texts, shades, strict=True):
        assert contrast(cell.get_color(), shade) > 4.5


def contrast(ink: str, paper: npt.NDArray[np.floating[Any]]) -> float:
    """The contrast ratio of WCAG 2."""
    low, high = sorted(luminance(np.array(mpl.colors.to_rgb(c))) for c in (ink, tuple(paper)))
    return (high + 0.05) / (low + 0.05)


def luminance(rgb: npt.NDArray[np.floating[Any]]) -> float:
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


# Samples


def test_samples_tell_right_from_wrong_by_mark_and_colour() -> None:
    figure = plots._samples(radiographs(5)[..., 0], PREDICTIONS)
    titles = [axes.get_title() for axes in figure.axes]
    assert titles[:5] == [
        "✓ NORMAL 0.875\ntrue: NORMAL",
        "✗ PNEUMONIA 0.875\ntrue: NORMAL",
        "✗ NORMAL 0.750\ntrue: PNEUMONIA",
        "✓ PNEUMONIA 0.750\ntrue: PNEUMONIA",
        "✓ PNEUMONIA 1.000\ntrue: PNEUMONIA",
    ]
    colours = [axes.title.get_color() for axes in figure.axes[:5]]
    right, wrong = colours[:2]
    assert right != wrong
    assert colours == [right, wrong, wrong, right, right]
    assert figure.get_suptitle().startswith("3 correct and 2 wrong predictions shown")


def test_radiographs_keep_their_exposure() -> None:
    image = plots._samples(np.full((1, 8, 8), 9, np.uint8), PREDICTIONS.take([0])).axes[0].images[0]
    assert image.get_clim() == (0, 255)


@pytest.mark.parametrize(("height", "width"), [(32, 32), (20, 40), (40, 20)])
@pytest.mark.parametrize("count", [1, 2, 5])
def test_texts_do_not_overlap_however_long_the_names(count: int, height: int, width: int) -> None:
    names = np.array([f"{'MW_$x$_' * 30}{i}.jpeg" for i in range(count)])
    predictions = dataclasses.replace(predictions_of([1] * count, [0.75] * count), file_name=names)
    figure = plots._samples(radiographs(count, height, width)[..., 0], predictions)
    figure.draw_without_rendering()
    drawn = [artist for artist in figure.findobj(mpl.text.Text) if artist.get_text()]
    boxes = [artist.get_window_extent() for artist in drawn]
    assert len(boxes) == 2 * count + 1
    assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))
    assert all(figure.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1 for box in boxes)
    assert all(figure.bbox.y0 <= box.y0 and box.y1 <= figure.bbox.y1 for box in boxes)


def test_a_long_name_keeps_both_ends() -> None:
    assert plots._shortened("a" * 38) == "a" * 38
    short = plots._shortened("person1" + "x" * 40 + "_2.jpeg")
    assert len(short) <= 38
    assert short.startswith("person1x")
    assert short.endswith("x_2.jpeg")


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((5, 8, 8, 1)), "images have dtype float64, not uint8"),
        (np.zeros((5, 8, 8, 3), np.uint8), r"shape \(5, 8, 8, 3\), not \[M, H, W, 1\]"),
        (np.zeros((5, 8), np.uint8), r"shape \(5, 8\)"),
        (radiographs(4), "4 images can't show 5 predictions"),
    ],
)
def test_images_that_do_not_fit_are_refused(
    images: npt.NDArray[Any], message: str, tmp_path: pathlib.Path
) -> None:
    with pytest.raises(ValueError, match=message):
        plots.save_samples(images, PREDICTIONS, tmp_path / "samples.png")


def test_no_image_is_refused(tmp_path: pathlib.Path) -> None:
    with pytest.raises(ValueError, match="0 images can't show 0 predictions"):
        plots.save_samples(radiographs(0), PREDICTIONS.take([]), tmp_path / "samples.png")
