"""From files to rows of a worklist: read by threads, scored in batches, kept as they come.

    builder = prediction.RowBuilder(facts, known)
    prediction.predict(candidates, scorer, builder, journal)
    rows = [journal.rows[candidate.name] for candidate in candidates]

Memory does not grow with the number of files, but for a row of each: threads read a few batches
ahead, and of a file only its pixels at the model's size are kept. Two batches are in work at a
time, so that the device does not wait for the rows of the one before. A file that can't be read is
a row, and stops nothing.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import time
from typing import TYPE_CHECKING

import numpy as np
import threadpoolctl

from cxr_tfds import images
from cxr_tfds.file_formats import ImageError
from cxr_tfds.radiographs import reading
from trainer.evaluation import calibration
from trainer.evaluation.shifts import novelty
from trainer.inference.worklist import READ, UNREADABLE, WorklistRow
from trainer.runs import model_facts
from trainer.system import console, signals

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import numpy.typing as npt

    from cxr_tfds.radiographs.reading import Radiograph
    from trainer.inference.scoring import Scorer
    from trainer.inference.sources import ImageFile
    from trainer.inference.worklist import Journal
    from trainer.models.archive import ModelFacts
    from trainer.training.outputs import Outputs

    _Read = tuple[ImageFile, Radiograph]
    _Batch = tuple[list[_Read], list[WorklistRow]]

_BATCHES_AHEAD = 4
"""Batches' worth of files that are read before they are asked for."""
_KEEP_EVERY_S = 2.0
"""Seconds between two additions to the journal: what a kill loses at most, and a batch."""


@dataclasses.dataclass(frozen=True, eq=False)
class RowBuilder:
    """Turns the outputs of a model into what a row says.

    Attributes:
      facts: what the model says of itself.
      known: what unlike images are told by; None: they are not.
    """

    facts: ModelFacts
    known: novelty.KnownImages | None

    @property
    def class_names(self) -> list[str]:
        """In the order of the outputs."""
        return self.facts["class_names"]

    def predicted(self, probabilities: npt.NDArray[np.floating]) -> npt.NDArray[np.intp]:
        """Returns the classes of [N, K] probabilities: at the operating point, if there is one."""
        threshold = self.facts["threshold"]
        if threshold is None or len(self.class_names) != 2:
            return probabilities.argmax(1)
        # As `Predictions.decided`: a softmax may exceed 1 by its rounding.
        return (probabilities[:, 1].clip(0, 1) >= threshold).astype(np.intp)

    def rows(self, read: Sequence[_Read], outputs: Outputs) -> list[WorklistRow]:
        """Returns a row for each file that was read."""
        scores = _score(outputs.probabilities)
        is_number = np.isfinite(outputs.probabilities).all(1)
        temperature = self.facts["temperature"]
        calibrated = None
        if temperature is not None:
            calibrated = _score(calibration.scale(outputs.probabilities, temperature))
        classes = self.predicted(outputs.probabilities)
        found = None
        if self.known is not None:
            pixels = np.stack([radiograph.pixels for _, radiograph in read])
            found = self.known.compare(outputs.features, novelty.layouts(pixels))
        return [
            # A network of 16 bits can overflow; without a score, no file may look harmless.
            _unreadable(candidate, "gives no number: the model's outputs are not finite")
            if not is_number[i]
            else WorklistRow(
                candidate.name,
                candidate.stamp,
                READ,
                score=float(scores[i]),
                calibrated_probability=None if calibrated is None else float(calibrated[i]),
                predicted=self.class_names[classes[i]],
                flags=radiograph.flags + (() if found is None else _flags(found, i)),
                notes=radiograph.notes,
                novelty=None if found is None else round(float(found.ratio[i]), 4),
                height=radiograph.height,
                width=radiograph.width,
                digest=digest_of(radiograph),
            )
            for i, (candidate, radiograph) in enumerate(read)
        ]


def _score(probabilities: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    """Returns how probable it is that something is wrong: of two classes, the positive one's."""
    precise = probabilities.astype(np.float64)
    found = precise[:, 1] if probabilities.shape[1] == 2 else 1 - precise[:, 0]
    return found.clip(0, 1)  # A softmax may exceed 1 by its rounding.


def _flags(found: novelty.Novelty, row: int) -> tuple[str, ...]:
    flags = {"unlike_training_data": found.is_unlike[row], "inverted": found.is_inverted[row]}
    return tuple(name for name, is_set in flags.items() if is_set)


def predict(
    candidates: Sequence[ImageFile],
    scorer: Scorer,
    builder: RowBuilder,
    journal: Journal,
    clock: Callable[[], float] = time.monotonic,
) -> int:
    """Scores the files that the journal does not have, and adds them to it.

    A request to stop is heeded between two batches, after what is done was kept.

    Args:
      candidates: the files.
      scorer: runs the model.
      builder: says what its outputs mean.
      journal: of the output folder.
      clock: returns seconds.

    Returns:
      How many files were tried here, unreadable ones included.
    """
    pending = [of for of in candidates if not journal.has(of.name, of.stamp)]
    kept: list[WorklistRow] = []
    last_s = clock()
    with (
        console.bar(len(pending), "predict", "files") as bar,
        signals.deferred(),
        # The threads of NumPy's BLAS spin for 0.1 s after each product, and take that time from
        # TensorFlow and the decoders: a tenth of the rate with MobileNetV2 on two CPUs.
        threadpoolctl.threadpool_limits(1, user_api="blas"),
    ):
        for rows in _batches(pending, scorer, builder):
            kept += rows
            bar.update(len(rows))
            if signals.is_requested() or clock() - last_s >= _KEEP_EVERY_S:
                journal.append(kept)
                kept, last_s = [], clock()
            if signals.is_requested():
                signals.stop()
        journal.append(kept)
    return len(pending)


def _batches(
    candidates: Sequence[ImageFile], scorer: Scorer, builder: RowBuilder
) -> Iterator[list[WorklistRow]]:
    """Yields the rows of a batch of files that can be read, and of those that can't on the way."""
    sides = model_facts.sides(builder.facts, scorer.side)

    def rows(batch: _Batch) -> list[WorklistRow]:
        read, unreadable = batch
        if not read:
            return unreadable
        pixels = np.stack([radiograph.pixels for _, radiograph in read])
        return builder.rows(read, scorer(pixels)) + unreadable

    read = _read(candidates, sides, scorer.batch_size)
    for _, found in images.parallel_map(rows, read, ahead=1, workers=2):
        yield found


def _read(
    candidates: Sequence[ImageFile], sides: Sequence[int], batch_size: int
) -> Iterator[_Batch]:
    """Yields what was read for a batch, and the rows of what could not be."""
    ahead = _BATCHES_AHEAD * batch_size
    read: list[_Read] = []
    unreadable: list[WorklistRow] = []
    load = functools.partial(_load, sides=sides)
    for candidate, result in images.parallel_map(load, candidates, ahead):
        if isinstance(result, ImageError):
            unreadable.append(_unreadable(candidate, result.problem))
        else:
            read.append((candidate, result))
        if len(read) == batch_size or len(unreadable) >= ahead:
            yield read, unreadable
            read, unreadable = [], []
    if read or unreadable:
        yield read, unreadable


def _load(candidate: ImageFile, sides: Sequence[int]) -> Radiograph | ImageError:
    try:
        return reading.read(candidate.read(), *sides)
    except ImageError as error:
        return error


def _unreadable(candidate: ImageFile, problem: str) -> WorklistRow:
    note = f"The file {problem}."
    return WorklistRow(
        candidate.name, candidate.stamp, UNREADABLE, flags=(UNREADABLE,), notes=(note,)
    )


def digest_of(radiograph: Radiograph) -> str:
    """Returns what is equal for equal images, in whatever files."""
    size = f"{radiograph.height} {radiograph.width} ".encode()
    return hashlib.blake2b(size + radiograph.pixels.tobytes(), digest_size=16).hexdigest()
