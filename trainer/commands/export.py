"""`--mode=export`: the model of a finished run in the formats of other runtimes, each one checked.

exports = export.export("runs/a", ("onnx", "litert"))
print(exports)
"""

from __future__ import annotations

if __name__ == "__main__":  # Said before TensorFlow is imported.
    raise SystemExit("this module is no command; give: python -m trainer --mode=export")

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np

from cxr_tfds import images as images_lib
from cxr_tfds.file_formats import ImageError
from cxr_tfds.radiographs import reading
from trainer.commands import evaluate, predict
from trainer.data import opening
from trainer.distribution import runtime
from trainer.errors import RunError
from trainer.inference import sources
from trainer.inference.exporting import checks, exports, formats
from trainer.models import classifier
from trainer.runs import run_directory, trained
from trainer.runs.trained import Run
from trainer.system import console, signals

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
        images, labels = _sample(config, side, count)
        folder = predict.output_folder(config, directory, FOLDER)
        for line in context.unused:
            console.say(line)
        return exports.export(model, facts, images, labels, names, folder)


def _sample(config: Config, side: int, count: int) -> Sample:
    """Returns images that exports are checked with, and calibrated: of validation, or `--images`.

    Raises:
      RunError: when there are none.
    """
    if config.inference.images:
        return _of_files(config.inference.images, side, count)
    data = opening.load(config.data, side, compares_archive=False)
    data.require_image_shape((side, side, 1))
    total = data.num_examples(_SPLIT)
    rows = np.arange(min(count, total)) * total // min(count, total)
    with data.reading():
        return data.images(_SPLIT, rows), data.table(_SPLIT).label[rows]


def _of_files(named: str, side: int, count: int) -> Sample:
    """Returns the first images that can be read; labels are not known."""

    def load(candidate: sources.ImageFile) -> np.ndarray | None:
        try:
            return reading.read(candidate.read(), side).pixels
        except ImageError as error:
            console.say(f"not used to check with: {candidate.name} {error.problem}.")
            return None

    found: list[np.ndarray] = []
    with sources.opened(sources.split(named)) as files:
        for _, pixels in images_lib.parallel_map(load, files.candidates[: 2 * count]):
            found += [] if pixels is None else [pixels]
    if not found:
        raise RunError(f"images ({named:.200}) has none that can be read, to check exports with.")
    return np.stack(found[:count])[..., None], None
