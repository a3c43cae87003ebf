"""The population stability index (PSI): how much a number's distribution differs in two splits.

    stability.index(reference, values)                # 0.03
    found = stability.compare({"score": p}, {"score": q}, units, is_of_a, rng)
    found.psi["score"], found.expected["score"], found.shifted

It is sum((q - p) ln(q / p)) over bins, where p and q are the shares of the reference and of the
other split in the deciles of the reference (N. Siddiqi, "Credit Risk Scorecards", 2006; it is
Jeffreys' divergence). By convention, there is no shift below 0.1, and a major one from 0.25.

Of two samples of one distribution, it is (bins - 1) (1/n + 1/m) on average (B. Yurdakul,
"Statistical Properties of Population Stability Index", 2018), and more if a patient has several
images. With 50 images a split that is above 0.25. So it is compared with what it is when whole
patients are dealt to the two splits at random.
"""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt

    Floats = npt.NDArray[np.floating[Any]]
    Bools = npt.NDArray[np.bool_]

MAJOR_PSI = 0.25
"""So much more than expected is a shift that matters."""
ALPHA = 0.001
"""Level for all columns together: many runs are trained, so a false alarm in 20 is too many."""
PERMUTATIONS, _FEW = 1999, 199
"""Few are enough for the mean; all are drawn only where a column may have shifted."""
_DECILES = np.arange(1, 10) / 10
_CELLS = 1 << 20
"""Elements of the largest temporary arrays."""


@dataclasses.dataclass(frozen=True)
class Stability:
    """How columns differ between two splits; None where a split has no finite value.

    Attributes:
      psi: of each column.
      expected: mean of the index when patients are dealt to the two splits at random.
      shifted: columns whose index is beyond chance, and at least MAJOR_PSI more than expected.
    """

    psi: dict[str, float | None]
    expected: dict[str, float | None]
    shifted: tuple[str, ...]


def index(reference: npt.ArrayLike, values: npt.ArrayLike) -> float | None:
    """Returns the PSI of `values` [M] against the deciles of `reference` [N], in nats; or None.

    A bin holds the values up to a decile of the reference. A value that is several deciles at once,
    as 0 of a share that mostly is 0, is a bin of its own; bins without any value are left out. One
    is added to each count (Laplace), because an empty bin of one side would make it infinite.
    Values that are not finite are left out; if a side has no other, there is no index.
    """
    both = np.concatenate([np.asarray(x, np.float64) for x in (reference, values)])
    is_reference = np.arange(len(both)) < len(np.asarray(reference))
    return _or_none(_indices(both, is_reference[np.newaxis])[0])


def compare(
    a: Mapping[str, Floats],
    b: Mapping[str, Floats],
    units: npt.NDArray[np.integer[Any]],
    is_of_a: Bools,
    rng: np.random.Generator,
) -> Stability:
    """Compares each column of two splits.

    Of each permutation, the largest PSI counts, in standard deviations of its column: the level
    then holds for all columns together, however they are correlated (P. Westfall and S. Young,
    "Resampling-Based Multiple Testing", 1993).

    Args:
      a: columns of the reference, [N] each.
      b: the same columns of the other split, [M] each.
      units: [N + M] which unit, a patient of a split, each row belongs to.
      is_of_a: [U] which units are of the reference.
      rng: deals the units.
    """
    columns = {name: np.concatenate([a[name], b[name]]).astype(np.float64) for name in a}
    psi = {name: index(a[name], b[name]) for name in a}
    drawn = _permuted(columns, units, is_of_a, rng, _FEW)
    expected = {name: _mean(values) for name, values in drawn.items()}
    large = [n for n in a if (psi[n] or 0) - (expected[n] or 0) >= MAJOR_PSI]
    if not large:
        return Stability(psi, expected, ())
    drawn = _permuted(columns, units, is_of_a, rng, PERMUTATIONS)
    scale = {name: (_mean(v) or 0, np.nanstd(v) + 1e-12) for name, v in drawn.items() if psi[name]}
    standard = [(drawn[name] - mean) / deviation for name, (mean, deviation) in scale.items()]
    largest = np.nanmax(standard, axis=0, initial=-np.inf)
    shifted = []
    for name in large:
        mean, deviation = scale[name]
        as_large = int((largest >= ((psi[name] or 0) - mean) / deviation).sum())
        if (1 + as_large) / (1 + PERMUTATIONS) <= ALPHA:
            shifted.append(name)
    return Stability(psi, expected, tuple(shifted))


def _permuted(
    columns: Mapping[str, Floats],
    units: npt.NDArray[np.integer[Any]],
    is_of_a: Bools,
    rng: np.random.Generator,
    count: int,
) -> dict[str, Floats]:
    """Returns the PSI of each column for `count` ways to deal the units, [count]."""
    dealt = np.stack([rng.permutation(is_of_a) for _ in range(count)])[:, units]
    return {name: _indices(column, dealt) for name, column in columns.items()}


def _mean(values: Floats) -> float | None:
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if finite.size else None


def _or_none(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _indices(values: Floats, is_reference: Bools) -> Floats:
    """Returns the PSI for each way [R, N] to divide `values` [N], [R]; NaN if a side is empty."""
    finite = np.isfinite(values)
    order = np.argsort(values[finite], kind="stable")
    ordered, members = values[finite][order], is_reference[:, finite][:, order]
    found = np.full(len(members), np.nan)
    divided = np.flatnonzero(members.any(axis=1) & ~members.all(axis=1))
    first, after = (np.searchsorted(ordered, ordered, side) for side in ("left", "right"))
    for rows in np.array_split(divided, math.ceil(members.size / _CELLS) or 1):
        found[rows] = _indices_of_ordered(members[rows], first, after)
    return found


def _indices_of_ordered(
    members: Bools, first: npt.NDArray[np.intp], after: npt.NDArray[np.intp]
) -> Floats:
    """Returns the PSI [R] of rows in the order of their values.

    Args:
      members: [R, N] whether a row is one of the reference.
      first: [N] position of the first row with the same value.
      after: [N] position after the last row with the same value.
    """
    count = members.shape[1]
    below = np.pad(np.cumsum(members, axis=1, dtype=np.int32), ((0, 0), (1, 0)))
    size = below[:, -1:]
    # Counted in the flat list of members, row after row: the k-th of a row is its k-th smallest.
    wanted = np.maximum(np.ceil(size * _DECILES - 1e-9).astype(int), 1)
    at = np.nonzero(members)[1][np.cumsum(size)[:, np.newaxis] - size + wanted - 1]
    low, high = first[at], after[at]
    same = np.diff(high, axis=1, prepend=-1) == 0
    same[:, :-1] |= same[:, 1:]
    ends = np.zeros((len(members), 1), int), np.full((len(members), 1), count)
    cuts = np.sort(np.concatenate([*ends, high, np.where(same, low, high)], axis=1), axis=1)
    of_reference = np.diff(np.take_along_axis(below, cuts, axis=1), axis=1)
    of_all = np.diff(cuts, axis=1)
    occupied = of_all > 0
    bins = occupied.sum(axis=1, keepdims=True)
    p = (of_reference + 1) / (size + bins)
    q = (of_all - of_reference + 1) / (count - size + bins)
    return np.where(occupied, (q - p) * np.log(q / p), 0).sum(axis=1)
