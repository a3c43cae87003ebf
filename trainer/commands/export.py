"""`--mode=export`: the model of a finished run in the formats of other runtimes, each one checked.

exports = export.export("runs/a", ("onnx", "litert"))
print(exports)
"""

from __future__ import annotations

if __name__ == "__main__":  # Said before TensorFlow is imported.
    raise SystemExit("this module is no command; give: python -m trainer --mode=export")

import dataclasses
import hashlib
from typing import TYPE_CHECKING, Any

import numpy as np

from cxr_tfds import images as images_lib
from cxr_tfds.file_formats import ImageError
from cxr_tfds.radiographs import reading
from trainer.commands import evaluate, predict
from trainer.data import opening
from trainer.distribution import runtime
from trainer.errors import RunError
from trainer.inference import sources, worklist
from trainer.inference.exporting import checks, exports, formats
from trainer.models import classifier
from trainer.runs import model_facts, run_directory, trained
from trainer.runs.trained import Run
from trainer.system import console, signals, text

if TYPE_CHECKING:
    import pathlib
    from collections.abc import Sequence

    from trainer.config import Config
    from trainer.inference.exporting.results import Exports

    Sample = tuple[np.ndarray, np.ndarray | None]
    """Images [N, S, S, 1] uint8 and, where they are known, labels [N]."""

FOLDER = "export"
_SPLIT = "validation"


def export(
    run: Run | str | pathlib.Path,
    format: str | Sequence[str] = "savedmodel",  # noqa: A002 -- The name of the flag.
    output_dir: str | pathlib.Path = "",
    **options: Any,
) -> Exports:
    """Writes the model of a finished run for other runtimes, and runs each export in its own.

        exports = trainer.export("runs/a", ["onnx", "litert_int8"])
        exports.failed, print(exports)

    Args:
      run: a run, or its directory.
      format: savedmodel, litert, litert_int8, onnx; one or several.
      output_dir: where they are written; empty: `export` in the run directory.
      **options: of data, by flag name: `images`, `data_dir`.

    Raises:
      ConfigError: for an option that is unknown or invalid, or if packages are missing.
      RunError: when the run or the images to check with are not available.
    """
    opened = run if isinstance(run, Run) else trained.open_run(run)
    names = format if isinstance(format, str) else ",".join(format)
    given = {"format": names, "output_dir": output_dir, "model_dir": opened.path}
    config = opened.config.for_finished_run({**options, **given})
    with signals.watched():
        return _export(config)


def run(config: Config) -> Exports:
    """Exports for the command line, and prints the table.

    Raises:
      RunError: when a format was not written; the table says why.
    """
    found = _export(config)
    console.say(str(found))
    console.say(f"exports:     {found.folder}")
    if found.failed:
        raise RunError("not every format was written; the table above says why.")
    return found


def _export(config: Config) -> Exports:
    names = config.inference.formats
    formats.require_installed(names)
    context = runtime.build(dataclasses.replace(config.runtime, strategy="one_device"))
    with run_directory.restore(config, is_chief=True) as directory:
        finished = trained.require_finished(directory)
        facts, model = evaluate.facts_of_model(finished), finished.model
        count = checks.num_images(names)
        side = classifier.side_of(model)
        images, labels = _sample(config, model_facts.sides(facts, side), count)
        folder = predict.output_folder(config, directory, FOLDER)
        for line in context.unused:
            console.say(line)
        with directory.best_model.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        with worklist.claimed(folder):
            return exports.export(model, facts, images, labels, names, folder, digest)


def _sample(config: Config, sides: Sequence[int], count: int) -> Sample:
    """Returns images that exports are checked with, and calibrated: of validation, or `--images`.

    Raises:
      RunError: when there are none.
    """
    if config.inference.images:
        return _of_files(config.inference.images, sides, count)
    side = sides[-1]
    data = opening.load(config.data, side, compares_archive=False)
    data.require_image_shape((side, side, 1))
    total = data.num_examples(_SPLIT)
    rows = _spaced(total, count)
    with data.reading():
        return data.images(_SPLIT, rows), data.table(_SPLIT).label[rows]


def _of_files(named: str, sides: Sequence[int], count: int) -> Sample:
    """Returns images that can be read, spaced evenly over all files; labels are not known."""

    def load(index: int) -> np.ndarray | ImageError:
        try:
            return reading.read(files.candidates[index].read(), *sides).pixels
        except ImageError as error:
            return error

    found: dict[int, np.ndarray] = {}
    with sources.opened(sources.split(named)) as files:
        for line in files.notes:
            console.say(line)
        order = _order(len(files.candidates), count)
        for index, pixels in images_lib.parallel_map(load, order):
            if isinstance(pixels, ImageError):
                name = text.one_line(files.candidates[index].name)
                console.say(f"not used to check with: {name:.200} {pixels.problem}.")
            else:
                found[index] = pixels
            if len(found) == count:
                break
    if not found:
        shown = text.one_line(named)
        raise RunError(f"images ({shown:.200}) has none that can be read, to check exports with.")
    return np.stack([found[index] for index in sorted(found)])[..., None], None


def _order(total: int, count: int) -> list[int]:
    """Returns `count` indices below `total`, evenly spaced, and then as many that may replace them.

    Files lie in the order of their names: the first ones are often of one class, or one device.
    """
    chosen = _spaced(total, count)
    rest = np.setdiff1d(np.arange(total), chosen)
    return [*chosen.tolist(), *rest[_spaced(len(rest), count)].tolist()]


def _spaced(total: int, count: int) -> np.ndarray:
    """Returns at most `count` indices below `total`, evenly spaced."""
    few = min(count, total)
    return np.arange(few) * total // max(few, 1)
