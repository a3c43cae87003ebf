"""`--mode=explain`: a worklist with a heat map of each file: what speaks for its predicted class.

worklist = explain.explain("runs/a", ["scans/"])
worklist.rows[0].heatmap                    # "heatmaps/person1-0123456789ab.png"
"""

from __future__ import annotations

if __name__ == "__main__":  # Said before TensorFlow is imported.
    raise SystemExit("this module is no command; give: python -m trainer --mode=explain")

import functools
from typing import TYPE_CHECKING, Any

from cxr_tfds import images as images_lib
from cxr_tfds.file_formats import ImageError
from cxr_tfds.radiographs import reading
from trainer.commands import evaluate, predict
from trainer.inference import gradcam, heatmaps, sources
from trainer.runs import model_facts, trained
from trainer.runs.trained import Run
from trainer.system import console, signals, text

if TYPE_CHECKING:
    import os
    import pathlib
    from collections.abc import Iterator, Mapping, Sequence

    import numpy as np

    from trainer.config import Config
    from trainer.inference.sources import ImageFile
    from trainer.inference.worklist import Worklist, WorklistRow
    from trainer.options import InferenceOptions


def explain(
    run: Run | str | pathlib.Path,
    images: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    output_dir: str | pathlib.Path = "",
    **options: Any,
) -> Worklist:
    """Scores files as `predict` does, and draws a heat map of each.

        worklist = trainer.explain("runs/a", ["scans/"], heatmap="hirescam")
        [row.heatmap for row in worklist.rows]

    Args:
      run: a run, or its directory.
      images: files, folders, globs, zips or CSV lists with a column `file`; one or several.
      output_dir: where worklist and heat maps are written; empty: `predictions` in the run
        directory.
      **options: `heatmap`, `save_maps` and options of devices, by flag name.

    Raises:
      ConfigError: for an option that is unknown or invalid, or if there are no such files.
      RunError: when the run or the devices are not available, or no file can be read.
    """
    opened = run if isinstance(run, Run) else trained.open_run(run)
    paths = predict.paths_of(images)
    given = {"images": ",".join(paths), "output_dir": output_dir, "model_dir": opened.path}
    config = opened.config.for_finished_run({**options, **given})
    with signals.watched():
        return _explain(config, paths)


def run(config: Config) -> Worklist:
    """Explains for the command line, and prints the summary."""
    found = _explain(config, sources.split(config.inference.images))
    console.say(str(found))
    console.say(f"heat maps:   {found.folder / heatmaps.FOLDER}")
    return found


def _explain(config: Config, paths: Sequence[str]) -> Worklist:
    draw = functools.partial(_draw, config.inference)
    return predict.worklist_of(config, paths, "explain", draw)


def _draw(
    options: InferenceOptions,
    run: Run,
    rows: Sequence[WorklistRow],
    candidates: Mapping[str, ImageFile],
    folder: pathlib.Path,
) -> tuple[list[WorklistRow], str]:
    """Draws the heat maps that are not there yet; returns all rows with their paths, the method."""
    explainer = gradcam.of_model(run.model, method=options.heatmap)
    facts = evaluate.facts_of_model(run)
    maps = folder / heatmaps.FOLDER
    origins = predict.origins_of(run, rows, options.heatmap)
    paths = heatmaps.kept(maps, origins, with_arrays=options.save_maps)
    if paths:
        console.say(f"{len(paths):,} of {len(origins):,} heat maps were drawn before.")
    missing = [row for row in rows if row.is_read and row.file not in paths]
    sides = model_facts.sides(facts, explainer.image_shape[0])
    items = _items(missing, candidates, facts["class_names"], sides)
    saved = heatmaps.save(explainer, items, maps, origins, saves_arrays=options.save_maps)
    with console.bar(len(missing), "explain", "files") as bar, signals.deferred():
        for name, path in saved:
            paths[name] = path
            bar.update(1)
            if signals.is_requested():
                signals.stop()
    if others := heatmaps.others(maps, paths.values()):
        count = text.counted(len(others), "file")
        console.say(f"of an earlier worklist, and of no row of this one: {count} in {maps}.")
    return heatmaps.named(rows, paths), options.heatmap


def _items(
    rows: Sequence[WorklistRow],
    candidates: Mapping[str, ImageFile],
    class_names: Sequence[str],
    sides: Sequence[int],
) -> Iterator[tuple[str, np.ndarray, int]]:
    """Yields name, pixels and predicted class; a file that has vanished since is said to be."""

    def load(row: WorklistRow) -> np.ndarray | ImageError:
        try:
            return reading.read(candidates[row.file].read(), *sides).pixels
        except ImageError as error:
            return error

    for row, pixels in images_lib.parallel_map(load, rows):
        if isinstance(pixels, ImageError):
            console.say(f"no heat map: {text.one_line(row.file):.200} {pixels.problem}.")
        else:
            yield row.file, pixels, class_names.index(row.predicted or "")
