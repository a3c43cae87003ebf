"""Compares an exported model, in its own runtime, with the Keras model it was made from.

reference = checks.Reference.of(model, images, labels, facts)
row = checks.check(REGISTRY["onnx"], path, reference, folder)
row.problem                                    # a sentence if it must not be used
"""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING, Any, Self

import keras
import numpy as np
import scipy.stats

from trainer.inference.exporting import children, earlier, formats, parts
from trainer.inference.exporting.results import ExportedFormat
from trainer.models import saved
from trainer.system import text

if TYPE_CHECKING:
    import pathlib
    from collections.abc import Mapping, Sequence

    from trainer.inference.exporting.formats import Format

MAX_IMAGES, MAX_IMAGES_INT8 = 100, 400
"""How many images formats are compared on. 8 bits turn a label here and there; of 100 images, one
would be a whole point of accuracy."""
MAX_LOSS = 0.01
"""The accuracy that 8 bits may lose must be less; without labels, the share of other labels."""
MIN_LABELLED = 200
"""With fewer labelled images, it is said how much accuracy may be lost without showing in them."""
_BATCH = 32


@dataclasses.dataclass(frozen=True, eq=False)  # `==` on arrays gives an array, not a bool.
class Reference:
    """What Keras says of N images.

    Attributes:
      images: [N, S, S, 1] uint8.
      probabilities: [N, K] in float32.
      own: [N, K] in the run's precision, if that is another, of the first `MAX_IMAGES`.
      labels: [N] int, true classes; None if unknown.
      facts: of the model.
    """

    images: np.ndarray
    probabilities: np.ndarray
    own: np.ndarray | None
    labels: np.ndarray | None
    facts: Mapping[str, Any]

    @classmethod
    def of(
        cls,
        model: keras.Model,
        rebuilt: keras.Model,
        images: np.ndarray,
        labels: np.ndarray | None,
        facts: Mapping[str, Any],
    ) -> Self:
        """Runs the model, and the one in float32 if that is another, on images."""
        own = None if rebuilt is model else _probabilities(model, images[:MAX_IMAGES])
        return cls(images, _probabilities(rebuilt, images), own, labels, facts)

    def decided(self, probabilities: np.ndarray) -> np.ndarray:
        """Returns classes [N] at the operating point, or else the most probable ones."""
        threshold, names = self.facts.get("threshold"), list(self.facts.get("class_names") or ())
        if threshold is None or probabilities.shape[1] != 2:
            return probabilities.argmax(1)
        named = self.facts.get("positive_class")
        positive = names.index(named) if named in names else 1
        reached = probabilities[:, positive].clip(0, 1).astype(np.float64) >= threshold
        return np.where(reached, positive, 1 - positive)


def num_images(names: Sequence[str]) -> int:
    """Returns how many images formats are compared on, at most."""
    is_whole = any(formats.REGISTRY[name].tolerance is None for name in names)
    return MAX_IMAGES_INT8 if is_whole else MAX_IMAGES


def _probabilities(model: keras.Model, images: np.ndarray) -> np.ndarray:
    batches = range(0, len(images), _BATCH)
    found = (model(images[i : i + _BATCH].astype(np.float32), training=False) for i in batches)
    with parts.without_xla():
        return np.concatenate([keras.ops.convert_to_numpy(part) for part in found])


def check(
    kind: Format, path: pathlib.Path, reference: Reference, folder: pathlib.Path
) -> ExportedFormat:
    """Runs an exported model in a process of its own, and compares.

    Args:
      kind: the format.
      path: its file or folder.
      reference: what it should say.
      folder: a scratch folder.

    Returns:
      The row of the table; its `problem` says why the model must not be used.
    """
    count = min(len(reference.images), num_images([kind.name]))
    np.save(folder / "images.npy", reference.images[:count])
    wrong: Any = _wrong(reference.images)  # For mypy, savez has a keyword that is a bool.
    np.savez(folder / "wrong.npz", **wrong)
    problem = children.run("run", [kind.name, str(path), str(folder)])
    size = earlier.size_mb(path)
    if problem:
        return ExportedFormat(
            kind, f"{kind.runtime} can't run it ({text.clause(problem)}).", size_mb=size
        )
    found = np.load(folder / "probabilities.npy", allow_pickle=False)
    said = json.loads((folder / "run.json").read_text("utf-8"))
    return _compared(kind, size, reference, found, said)


def _compared(
    kind: Format, size: float, reference: Reference, found: np.ndarray, said: dict[str, Any]
) -> ExportedFormat:
    count = len(found)
    expected = reference.probabilities[:count]
    if found.shape != expected.shape:
        reason = f"its probabilities have the shape {found.shape}, not {expected.shape}."
        return ExportedFormat(kind, reason, count, size)
    labels, right = reference.decided(found), reference.decided(expected)
    accuracy = lost = None
    if reference.labels is not None:
        truth = reference.labels[:count]
        accuracy = (float((right == truth).mean()), float((labels == truth).mean()))
        lost = int(((right == truth) & (labels != truth)).sum())
    row = ExportedFormat(
        kind,
        "",
        count,
        size,
        _largest(found, expected),
        None if reference.own is None else _largest(found, reference.own),
        int((labels == right).sum()),
        accuracy,
        lost,
        said["latency_ms"],
        said["batch_ms"],
        said["wrong"],
    )
    names = list(reference.facts.get("class_names") or ())
    decided = [names[label] for label in labels] if names else None
    if problem := _problem(row, said, reference, decided):
        return dataclasses.replace(row, problem=problem)
    loss = _loss(row) if row.format.tolerance is None else ""
    return dataclasses.replace(row, problem=loss, is_inaccurate=bool(loss))


def _largest(one: np.ndarray, other: np.ndarray) -> float | None:
    """Returns the largest difference, of the rows that both have; None if it is not finite."""
    count = min(len(one), len(other))
    largest = float(np.abs(one[:count].astype(np.float64) - other[:count]).max())
    return largest if np.isfinite(largest) else None


def _problem(
    row: ExportedFormat, said: dict[str, Any], reference: Reference, decided: list[str] | None
) -> str:
    """Returns why a model must not be used, a sentence; empty if it may be."""
    accepted = [name for name, how in row.wrong.items() if not how.startswith("refused")]
    tolerance = row.format.tolerance or float("inf")
    difference = float("inf") if row.difference is None else row.difference
    in_batch = said["batch_difference"] or 0.0
    named = said["classes"]
    problems = {
        "some of its probabilities are not finite.": row.difference is None,
        f"its probabilities differ from Keras by {difference:.2g}, over {tolerance:g}.": (
            difference > tolerance
        ),
        f"an image in a batch has another probability than alone, by {in_batch:.2g}.": (
            in_batch > min(tolerance, MAX_LOSS)
        ),
        f"it takes wrong images ({', '.join(accepted)}) without an error.": bool(accepted),
        "it does not hold what belongs to the model, as its operating point.": (
            said["facts"] != dict(reference.facts)
        ),
        f"its check imported {', '.join(said['imported'])}.": bool(said["imported"]),
        "it names other classes than its probabilities say at the operating point.": (
            named is not None and decided is not None and named != decided
        ),
    }
    return next((problem for problem, is_so in problems.items() if is_so), "")


def _loss(row: ExportedFormat) -> str:
    if row.accuracy:
        lost = row.accuracy[0] - row.accuracy[1]
        said = f"it loses {100 * lost:.2f} points of accuracy on {row.images} images"
    else:
        lost = 1 - (row.equal_labels or 0) / row.images
        said = f"it gives {100 * lost:.2f} % of {row.images} images another label"
    return "" if lost < MAX_LOSS else f"{said}; it must be under {100 * MAX_LOSS:g}."


def doubt_note(row: ExportedFormat) -> str:
    """Returns what few images, or images without labels, can't tell of 8 bits; empty otherwise.

    The bounds are exact (Clopper and Pearson, 1934), one-sided. That of a loss leaves out images
    that 8 bits alone gave their true class.
    """
    if row.problem or row.format.tolerance is not None:
        return ""
    if row.lost is None:
        equal = row.equal_labels or 0
        share = 100 * _highest_share(row.images - equal, row.images)
        return (
            f"{row.format.name}: labels are unknown, and so is the loss of accuracy. {equal} of "
            f"{row.images} images have the label that Keras gives; another one for up to "
            f"{share:.1f} % of such images can't be excluded (95 % confidence)."
        )
    if row.images >= MIN_LABELLED:
        return ""
    return (
        f"{row.format.name}: on {row.images} images, a loss of up to "
        f"{100 * _highest_share(row.lost, row.images):.1f} points of accuracy can't be excluded "
        f"(95 % confidence); check with {MIN_LABELLED} or more."
    )


def _highest_share(count: int, whole: int) -> float:
    """Returns the share that `count` of `whole` draws do not exclude."""
    if count >= whole:
        return 1.0
    return float(scipy.stats.beta.ppf(0.95, count + 1, whole - count))


def _wrong(images: np.ndarray) -> dict[str, np.ndarray]:
    """Returns what people feed to a model by mistake, [1, S, S, 1] each."""
    brightest = images.reshape(len(images), -1).max(1).argmax()
    image = images[brightest : brightest + 1].astype(np.float32)
    middle = (image.max() + image.min()) / 2
    return {
        "scaled to 0..1": image / 255,
        "scaled to -1..1": image / 127.5 - 1,
        "of 12 bits": 1 + image * 16,
        "not a number": np.full_like(image, np.nan),
        "of 0 and 1": (image > middle).astype(np.uint8),
    }


def precision_note(model: keras.Model) -> str:
    """Returns a line if a model is exported in another precision than it was trained in."""
    policy = saved.precision_of(model)
    if policy == "float32":
        return ""
    return (
        f"precision: the run computes in {policy}, the exports in float32, with the same weights; "
        "they are compared with Keras in float32, and export.json has the difference from the "
        "run's own precision."
    )


def require_fit(
    model: keras.Model,
    images: np.ndarray,
    labels: np.ndarray | None,
    facts: Mapping[str, Any],
) -> None:
    """Raises ValueError unless images, labels and class names are such as the model has."""
    side, num_classes = parts.side(model), int(model.output.shape[-1])
    if images.shape[1:] != (side, side, 1) or images.dtype != np.uint8:
        raise ValueError(
            f"images ({images.dtype} {images.shape}) must be uint8 [N, {side}, {side}, 1]."
        )
    names = facts.get("class_names")
    if names is not None and len(names) != num_classes:
        raise ValueError(f"class_names ({names}) must be {num_classes}, as the model's outputs.")
    if labels is None:
        return
    is_whole = labels.dtype.kind in "iu" and labels.shape == (len(images),)
    if not is_whole or labels.min() < 0 or labels.max() >= num_classes:
        raise ValueError(
            f"labels ({labels.dtype} {labels.shape}) must be [{len(images)}] whole numbers below "
            f"{num_classes}."
        )
