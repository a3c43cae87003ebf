"""From files to rows of a worklist: read by threads, scored in batches, kept as they come.

    builder = prediction.RowBuilder(facts, known)
    prediction.predict(candidates, scorer, builder, journal)
    rows = [journal.rows[candidate.name] for candidate in candidates]

Memory does not grow with the number of files, but for a row of each: threads read a few batches
ahead, and of a file only its pixels at the model's size are kept. A file that can't be read is a
row, and stops nothing.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import time
from typing import TYPE_CHECKING

import numpy as np

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

_BATCHES_AHEAD = 2
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
    with console.bar(len(pending), "predict", "files") as bar, signals.deferred():
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
    ahead = _BATCHES_AHEAD * scorer.batch_size
    read: list[_Read] = []
    unreadable: list[WorklistRow] = []
    load = functools.partial(_load, sides=model_facts.sides(builder.facts, scorer.side))
    for candidate, result in images.parallel_map(load, candidates, ahead):
        if isinstance(result, ImageError):
            unreadable.append(_unreadable(candidate, result.problem))
        else:
            read.append((candidate, result))
        if len(read) == scorer.batch_size or len(unreadable) >= ahead:
            yield _scored(read, scorer, builder) + unreadable
            read, unreadable = [], []
    if read or unreadable:
        yield _scored(read, scorer, builder) + unreadable


def _scored(read: Sequence[_Read], scorer: Scorer, builder: RowBuilder) -> list[WorklistRow]:
    if not read:
        return []
    return builder.rows(read, scorer(np.stack([radiograph.pixels for _, radiograph in read])))


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
