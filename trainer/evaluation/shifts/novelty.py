"""Tells whether an image is unlike those that the model was validated on. NumPy only.

    known = novelty.KnownImages.of(sample)                 # of the validation split
    found = known.compare(features, layouts)             # of new images
    found.ratio, found.is_inverted                       # [M]; unlike from 1 on

A classifier answers for every image, also for a knee. Two distances tell one: between the features
that the head works on, and between layouts, which are thumbnails without brightness and contrast.
Both are the distance to the fifth-nearest image of validation, after each vector was scaled to
length 1 (Y. Sun et al., "Out-of-Distribution Detection with Deep Nearest Neighbors", 2022).
Features know textures and shapes, but some networks hardly tell a negative from its positive;
layouts do, and know nothing fine. An image is unlike the training data if either distance exceeds
its threshold: what `SHARE` of validation exceeds, measured among images of other patients, times a
margin (`FEATURE_MARGIN`, `LAYOUT_MARGIN`).

An image whose layout is unlike, while its negative's is not, is inverted.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    from trainer.evaluation.shifts.shift import Sample

    Floats = npt.NDArray[np.floating[Any]]

SHARE = 0.02
"""Of the validation images, those that each of the two thresholds leaves outside."""
FEATURE_MARGIN = 1.1
"""What other software does to an image moves its features without harm: of 49 originals of Kaggle's
archive, 41 % were beyond the threshold of a MobileNetV2 that was trained on images compressed as
JPEG of quality 75, and none after the same compression; their median rose from 0.83 to 0.96 of the
threshold. Photographs, noise and turned radiographs lie beyond 1.2 of it."""
LAYOUT_MARGIN = 1.05
"""The highest 2 % of 150 images are three: of new ones, up to 4 % may lie beyond the threshold, and
as many beyond that of features. A twentieth of the distance halves that, and keeps all negatives,
photographs and noise, which lie beyond 1.2 of it."""
NEIGHBOURS = 5
MIN_ROWS = 50
"""With fewer images, their highest 2 % are at most one image, and say nothing."""
LAYOUT_SIDE = 16
_BLOCK = 256


@dataclasses.dataclass(frozen=True, eq=False)  # `==` on arrays gives an array, not a bool.
class Novelty:
    """How far M images are from the validation split.

    Attributes:
      ratio: [M] the larger of the two distances, each in relation to its threshold; an image is
        unlike the training data from 1 on.
      is_inverted: [M] whether the image is unlike, and its negative is not.
    """

    ratio: Floats
    is_inverted: npt.NDArray[np.bool_]

    @property
    def is_unlike(self) -> npt.NDArray[np.bool_]:
        """[M] whether the model should not be asked about the image."""
        return self.ratio >= 1


@dataclasses.dataclass(frozen=True, eq=False)
class KnownImages:
    """Images of the validation split, with which others are compared.

    Attributes:
      features: [N, D] pooled features.
      layouts: [N, LAYOUT_SIDE²] of `layouts`.
      feature_threshold: distance from which on features are unlike; `layout_threshold` likewise.
      layout_threshold: see there.
    """

    features: Floats
    layouts: npt.NDArray[Any]
    feature_threshold: float
    layout_threshold: float

    def __post_init__(self) -> None:
        """Scales the vectors once."""
        object.__setattr__(self, "features", _unit(self.features))
        object.__setattr__(self, "layouts", _unit(_centred(self.layouts)))

    @classmethod
    def of(cls, sample: Sample) -> KnownImages | None:
        """Measures the thresholds; None for a sample that is too small, or has no layouts.

        Only images of other patients count as neighbours: several images of one are alike.
        """
        if sample.layouts is None or len(sample) < MIN_ROWS or sample.num_patients <= NEIGHBOURS:
            return None
        patients = np.unique(sample.patient_id, return_inverse=True)[1]
        of_features, of_layouts = (
            _threshold(_distances(vectors, vectors, patients))
            for vectors in (_unit(sample.features), _unit(_centred(sample.layouts)))
        )
        thresholds = (FEATURE_MARGIN * of_features, LAYOUT_MARGIN * of_layouts)
        return cls(sample.features, sample.layouts, *thresholds)

    def compare(self, features: Floats, layouts: npt.NDArray[Any]) -> Novelty:
        """Compares M images with the validation split.

        Args:
          features: [M, D], of the same model.
          layouts: [M, LAYOUT_SIDE²] of `layouts`.
        """
        of_features = _distances(self.features, _unit(features)) / self.feature_threshold
        vectors = _unit(_centred(layouts))
        of_layouts = _distances(self.layouts, vectors) / self.layout_threshold
        of_negatives = _distances(self.layouts, -vectors) / self.layout_threshold
        ratio = np.maximum(of_features, of_layouts)
        return Novelty(ratio, (of_layouts >= 1) & (of_negatives < 1))


def layouts(images: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """Returns each image, averaged to LAYOUT_SIDE x LAYOUT_SIDE grey levels.

    Args:
      images: [M, H, W] grey levels 0 to 255.

    Returns:
      [M, LAYOUT_SIDE²].
    """
    rows, columns = (layout_weights(size) for size in images.shape[1:3])
    means = rows @ images.astype(np.float32) @ columns.T
    return np.rint(means).astype(np.uint8).reshape(len(images), -1)


def layout_weights(size: int) -> npt.NDArray[np.float32]:
    """Returns what each of LAYOUT_SIDE equal parts of a line takes from each of its pixels.

    Returns:
      [LAYOUT_SIDE, size] float32; the sum of each row is 1.
    """
    edges = np.arange(LAYOUT_SIDE + 1) * size / LAYOUT_SIDE
    pixels = np.arange(size)
    covered = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    weights: npt.NDArray[np.float32] = (covered.clip(0) * LAYOUT_SIDE / size).astype(np.float32)
    return weights


def _centred(vectors: npt.NDArray[Any]) -> Floats:
    found = np.asarray(vectors, np.float32)
    return found - found.mean(1, keepdims=True)


def _unit(vectors: Floats) -> Floats:
    """Scales each vector to length 1; one of zeros stays, and is far from all others."""
    found = np.asarray(vectors, np.float32)
    lengths = np.linalg.norm(found, axis=1, keepdims=True)
    return found / np.where(lengths > 0, lengths, 1)


def _distances(
    reference: Floats, vectors: Floats, patients: npt.NDArray[np.intp] | None = None
) -> Floats:
    """Returns the distance of each vector to its NEIGHBOURS-th nearest in the reference, [M].

    Args:
      reference: [N, D] of length 1.
      vectors: [M, D] of length 1.
      patients: [N], if the vectors are those of the reference: only others' images count.
    """
    blocks = []
    for start in range(0, len(vectors), _BLOCK):
        block = vectors[start : start + _BLOCK]
        squares = 2 - 2 * (block @ reference.T)
        if patients is not None:
            of_block = patients[start : start + _BLOCK]
            squares[of_block[:, None] == patients] = np.inf
        nearest = np.partition(squares, NEIGHBOURS - 1, axis=1)[:, NEIGHBOURS - 1]
        blocks.append(np.sqrt(nearest.clip(0)))
    return np.concatenate(blocks) if blocks else np.zeros(0, np.float32)


def _threshold(distances: Floats) -> float:
    """Returns the smallest distance that at most SHARE of new images are expected to exceed.

    As of conformal prediction: the rank counts the new image as one more of the sample.
    """
    rank = min(int(np.ceil((len(distances) + 1) * (1 - SHARE))), len(distances))
    # Vectors that are all equal have no distance: then any other is unlike.
    return max(float(np.sort(distances)[rank - 1]), float(np.finfo(np.float32).tiny))
