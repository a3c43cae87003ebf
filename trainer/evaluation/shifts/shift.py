"""Tells whether validation can stand for test: are their images and scores alike?

The epoch and the operating point are chosen on validation. If test images come from another
machine, exposure or hospital, neither choice holds there. Two measures, both without labels:

    found = shift.measure(train, validation, test)     # Samples
    found.warning          # a sentence, or "" if nothing speaks against validation
    found.to_json()["pairs"][-1]["domain_auc"]

1. The population stability index of the scores and of each image statistic, see `stability`.
2. A domain classifier: a logistic regression that is to tell two splits apart by pooled features
   and image statistics. Its ROC-AUC on patients that it was not fitted on is 0.5 if it can't (S.
   Rabanser, S. Guennemann and Z. Lipton, "Failing Loudly: An Empirical Study of Methods for
   Detecting Dataset Shift", 2019). Its spread over resampled patients does not fit anew, and so is
   narrower than a 95 % interval: it only helps to decide, and no reader is shown it.

The warning needs a difference that is both beyond chance and large enough to matter, in one of
the two: small differences are certain in large splits, and large ones happen in small splits.

Classes: two splits may have other shares of them by design, and that is a difference, too. If the
shares differ by d, the AUC is at most 0.5 + d/2, reached by features that tell the classes apart
perfectly, and the scores' index about 0.2 for d = 0.2: up to there, classes alone don't draw the
warning. From d = 0.25 they may; sensitivity and specificity then hold, but predictive values,
accuracy and the threshold of highest accuracy don't (`prior_correction`).

`train` is compared as well, for information: the model has seen it, so its scores, and the
features of unfrozen layers, differ without any shift of the images.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.stats
import sklearn.decomposition
import sklearn.linear_model
import sklearn.metrics
import sklearn.preprocessing
import threadpoolctl

from trainer.evaluation.shifts import stability

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import numpy.typing as npt

    Floats = npt.NDArray[np.floating[Any]]
    Bools = npt.NDArray[np.bool_]
    _Domain = tuple[float | None, tuple[float, float] | None, bool]

MAX_ROWS = 2000
"""Of a larger split, so many evenly spaced rows are compared."""
MIN_PATIENTS = 20
"""With fewer in a split, neither resampling nor permuting them says anything."""
MEDIUM_AUC, SMALL_AUC = 0.638, 0.556
"""Least AUC, and least lower end of its spread, that draw the warning: those of two unit
Gaussians whose means differ by 0.5 and 0.2 standard deviations, Phi(d / sqrt(2)), which J. Cohen,
"Statistical Power Analysis for the Behavioral Sciences", calls a medium and a small effect."""
RESAMPLES, REFITS = 2000, 30
_FOLDS, _COMPONENTS, _ROWS_PER_COMPONENT, _STRENGTH = 5, 64, 10, 0.1
_CELLS = 1 << 20
"""Elements of the largest temporary arrays."""
_DECISIVE = ("validation", "test")
_SCORE = "score"
_TITLES = {
    _SCORE: "the model's score",
    "level": "the mean grey level",
    "contrast": "the contrast",
    "sharpness": "the sharpness",
    "saturated": "the share of black and white pixels",
}


@dataclasses.dataclass(frozen=True, eq=False)  # `==` on arrays gives an array, not a bool.
class Sample:
    """What is compared of a split; values that are not finite are left out.

    Attributes:
      scores: [N] probability of the positive class, or for more than two classes the highest one;
        `scores_of` returns it.
      features: [N, D] float32 pooled features.
      statistics: [N] for each image statistic.
      patient_id: [N].
      layouts: [N, L] thumbnails, of `novelty.layouts`; None of a run of an earlier version.

    Raises:
      ValueError: The columns differ in length.
    """

    scores: Floats
    features: Floats
    statistics: Mapping[str, Floats]
    patient_id: npt.NDArray[Any]
    layouts: npt.NDArray[np.uint8] | None = None

    def __post_init__(self) -> None:
        """Checks the lengths."""
        columns = {"features": self.features, "patient_id": self.patient_id, **self.statistics}
        columns |= {} if self.layouts is None else {"layouts": self.layouts}
        for name, column in columns.items():
            if len(column) != len(self):
                raise ValueError(f"{name} has {len(column)} rows, but scores has {len(self)}.")

    def __len__(self) -> int:
        """Number of examples."""
        return len(self.scores)

    @property
    def columns(self) -> dict[str, Floats]:
        """Scores and statistics, [N] each."""
        return {_SCORE: self.scores, **self.statistics}

    @property
    def num_patients(self) -> int:
        """Number of different patients."""
        return len(np.unique(self.patient_id))

    def limited(self) -> Sample:
        """Returns at most MAX_ROWS evenly spaced examples."""
        if len(self) <= MAX_ROWS:
            return self
        rows = np.arange(MAX_ROWS) * len(self) // MAX_ROWS
        statistics = {name: values[rows] for name, values in self.statistics.items()}
        layouts = None if self.layouts is None else self.layouts[rows]
        return Sample(
            self.scores[rows], self.features[rows], statistics, self.patient_id[rows], layouts
        )


@dataclasses.dataclass(frozen=True)
class SplitPair:
    """How two splits differ; None where it can't be told.

    Attributes:
      a, b: names of the splits; the deciles are those of `a`.
      psi: of the score and of each statistic.
      expected_psi: the same when patients are dealt to the two splits at random: the mean.
      shifted: what differs by more than chance, and by at least MAJOR_PSI more than expected.
      domain_auc: ROC-AUC of the domain classifier on patients that it was not fitted on.
      domain_interval: its spread over patients, without fitting anew: the central 95 % of its
        resamples. No 95 % interval: that of equal splits excludes 0.5 in up to a fifth of cases.
      tells_apart: whether that AUC is beyond chance, and at least a medium effect; told of
        validation and test alone.
    """

    a: str
    b: str
    psi: dict[str, float | None]
    expected_psi: dict[str, float | None]
    shifted: tuple[str, ...]
    domain_auc: float | None
    domain_interval: tuple[float, float] | None
    tells_apart: bool

    def to_json(self) -> dict[str, Any]:
        """Returns dictionaries, sequences and numbers."""
        found: dict[str, Any] = {"a": self.a, "b": self.b}
        for prefix, values in (("", self.psi), ("expected_", self.expected_psi)):
            statistics = {name: value for name, value in values.items() if name != _SCORE}
            found |= {f"{prefix}score_psi": values[_SCORE], f"{prefix}statistics_psi": statistics}
        interval = self.domain_interval and list(self.domain_interval)
        return {**found, "domain_auc": self.domain_auc, "domain_interval": interval}


@dataclasses.dataclass(frozen=True)
class Shift:
    """The comparison of the splits of a data set.

    Attributes:
      splits: number of examples and patients, and the mean of each statistic, for each split.
      pairs: all pairs of splits, in the order train, validation, test.
      warning: why validation can't stand for test, a sentence; "" if nothing speaks against it.
      note: what could not be told, a sentence; "" if everything could.
    """

    splits: dict[str, dict[str, Any]]
    pairs: tuple[SplitPair, ...]
    warning: str
    note: str

    def to_json(self) -> dict[str, Any]:
        """Returns dictionaries, sequences and numbers, for JSON."""
        pairs = [pair.to_json() for pair in self.pairs]
        return {"splits": self.splits, "pairs": pairs, "warning": self.warning, "note": self.note}


def scores_of(probabilities: npt.ArrayLike) -> Floats:
    """Returns p of the positive class of [N, 2], or the highest of [N, K], as a column [N]."""
    outputs = np.asarray(probabilities)
    return outputs[:, 1] if outputs.shape[1] == 2 else outputs.max(axis=1)


def measure(train: Sample | None, validation: Sample, test: Sample, *, seed: int = 0) -> Shift:
    """Compares the splits pair by pair, and warns if validation can't stand for test.

    Args:
      train: may be a sample of the split; None: only the others are compared.
      validation: the split that epoch and operating point are chosen on.
      test: the split that the model is evaluated on.
      seed: of folds, resamples and permutations; the same seed gives the same result.
    """
    named = {"train": train, "validation": validation, "test": test}
    splits = {name: sample for name, sample in named.items() if sample is not None}
    limited = {name: sample.limited() for name, sample in splits.items()}
    pairs = tuple(_compare(limited, (a, b), seed) for a, b in itertools.combinations(limited, 2))
    facts = {name: _describe(sample) for name, sample in splits.items()}
    return Shift(facts, pairs, _warning(pairs[-1], splits), " ".join(_notes(splits)))


def _compare(samples: Mapping[str, Sample], names: tuple[str, str], seed: int) -> SplitPair:
    a, b = (samples[name] for name in names)
    # Seeded by the names: the result of a pair does not depend on whether `train` is given.
    rng = np.random.default_rng([seed, *"".join(names).encode()])
    units, is_of_a = _units(a, b)
    found = stability.compare(a.columns, b.columns, units, is_of_a, rng)
    auc, interval, apart = _tell_apart(a, b, rng, is_decisive=names == _DECISIVE)
    enough = min(a.num_patients, b.num_patients) >= MIN_PATIENTS
    shifted = found.shifted if enough else ()
    return SplitPair(*names, found.psi, found.expected, shifted, auc, interval, apart)


def _units(a: Sample, b: Sample) -> tuple[npt.NDArray[np.intp], Bools]:
    """Returns the unit of each row [N], a patient in a split, and which units are of `a` [U]."""
    codes = [np.unique(sample.patient_id, return_inverse=True)[1] for sample in (a, b)]
    sizes = [sample.num_patients for sample in (a, b)]
    return np.concatenate([codes[0], codes[1] + sizes[0]]), np.arange(sum(sizes)) < sizes[0]


def _tell_apart(a: Sample, b: Sample, rng: np.random.Generator, *, is_decisive: bool) -> _Domain:
    """Returns the domain classifier's ROC-AUC, its spread, and whether it tells them apart."""
    units, is_of_a = _units(a, b)
    x = np.concatenate([_inputs(a), _inputs(b)])
    finite = np.isfinite(x).all(axis=1)
    units, patients = units[finite], np.concatenate([a.patient_id, b.patient_id])[finite]
    is_of_b = ~is_of_a[units]
    if min(len(np.unique(units[is_of_b == side])) for side in (False, True)) < MIN_PATIENTS:
        return None, None, False
    reduced = _reduced(x[finite], int(rng.integers(1 << 31)))
    scores = _scores_of_domain(reduced, is_of_b, patients, rng)
    aucs = _resampled_aucs(scores, is_of_b, units, rng)
    auc, (low, high) = float(aucs[0]), np.quantile(aucs[1:], (0.025, 0.975)).tolist()
    if not is_decisive or auc < MEDIUM_AUC or low < SMALL_AUC:
        return auc, (low, high), False
    # With few patients the spread is too narrow: it resamples scores, and fits nothing anew. So
    # the classifier is also fitted to patients who were dealt at random. The AUC is beyond chance
    # above the prediction limit for one more draw from these, which are normally distributed.
    null = []
    for _ in range(REFITS):
        own = ~rng.permutation(is_of_a)[units]
        refitted = _scores_of_domain(reduced, own, patients, rng)
        null.append(sklearn.metrics.roc_auc_score(own, refitted))
    width = scipy.stats.t.ppf(1 - stability.ALPHA, REFITS - 1) * math.sqrt(1 + 1 / REFITS)
    return auc, (low, high), bool(auc >= np.mean(null) + width * np.std(null, ddof=1))


def _inputs(sample: Sample) -> Floats:
    """Returns statistics and features, [N, S + D]."""
    columns = [np.asarray(sample.statistics[name])[:, np.newaxis] for name in sample.statistics]
    return np.concatenate([*columns, sample.features], axis=1, dtype=np.float64)


def _reduced(x: Floats, seed: int) -> Floats:
    """Scales the inputs and reduces them to few components, [N, C]; it doesn't see the domains."""
    components = min(_COMPONENTS, max(len(x) // _ROWS_PER_COMPONENT, 1), x.shape[1])
    scaled = sklearn.preprocessing.StandardScaler().fit_transform(x).astype(np.float32)
    return sklearn.decomposition.PCA(
        components, whiten=True, svd_solver="randomized", random_state=seed
    ).fit_transform(scaled)


# Of matrices this small, a second thread takes five times the CPU time, and waits for the first.
@threadpoolctl.threadpool_limits.wrap(limits=1)
def _scores_of_domain(
    x: Floats, is_of_b: Bools, patients: npt.NDArray[Any], rng: np.random.Generator
) -> Floats:
    """Returns how much each row looks as if it were of `b`, to a model without its patient, [N]."""
    # Patients in the order of their split, dealt in turn: each fold has its share of both splits.
    # sklearn's StratifiedGroupKFold does the same with a loop that takes longer than the fits.
    _, code = np.unique(patients, return_inverse=True)
    share = np.bincount(code, is_of_b) / np.bincount(code)
    fold = np.empty(len(share), int)
    fold[np.lexsort((rng.random(len(share)), share))] = np.arange(len(share)) % _FOLDS
    model = sklearn.linear_model.LogisticRegression(
        C=_STRENGTH, class_weight="balanced", max_iter=1000
    )
    scores = np.zeros(len(x))
    for left_out in (fold[code] == i for i in range(_FOLDS)):
        fitted = model.fit(x[~left_out], is_of_b[~left_out])
        scores[left_out] = fitted.decision_function(x[left_out])
    return scores


def _resampled_aucs(
    scores: Floats, is_of_b: Bools, units: npt.NDArray[np.intp], rng: np.random.Generator
) -> Floats:
    """Returns the ROC-AUC, and those of resamples of the patients within each split, [1 + R]."""
    order = np.argsort(scores, kind="stable")
    ordered, is_of_b, units = scores[order], is_of_b[order], units[order]
    first, after = (np.searchsorted(ordered, ordered, side) for side in ("left", "right"))
    weights = np.zeros((1 + RESAMPLES, int(units.max()) + 1), np.int32)
    for side in (False, True):
        own = np.unique(units[is_of_b == side])
        drawn = rng.multinomial(len(own), np.full(len(own), 1 / len(own)), RESAMPLES)
        weights[:, own] = np.concatenate([np.ones((1, len(own)), int), drawn])
    aucs = []
    for part in np.array_split(weights, math.ceil(len(weights) * len(scores) / _CELLS)):
        of_rows = part[:, units]
        below = np.pad(np.cumsum(of_rows * ~is_of_b, axis=1), ((0, 0), (1, 0)))
        won = (below[:, first] + below[:, after]) / 2  # A tie counts half.
        of_b = of_rows * is_of_b
        aucs.append((of_b * won).sum(axis=1) / (of_b.sum(axis=1) * below[:, -1]))
    return np.concatenate(aucs)


def _describe(sample: Sample) -> dict[str, Any]:
    means = {name: _mean(values) for name, values in sample.statistics.items()}
    return {"examples": len(sample), "patients": sample.num_patients, "statistics": means}


def _mean(values: Floats) -> float | None:
    finite = np.asarray(values)[np.isfinite(values)]
    return float(finite.mean(dtype=np.float64)) if finite.size else None


def _warning(pair: SplitPair, samples: Mapping[str, Sample]) -> str:
    differences = []
    for name in sorted(pair.shifted, key=lambda name: -(pair.psi[name] or 0)):
        a, b = (_mean(samples[split].columns[name]) or 0 for split in (pair.a, pair.b))
        indices = f"{pair.psi[name]:.2f}, {pair.expected_psi[name]:.2f} by chance"
        differences.append(
            f"{_TITLES.get(name, name)} is {a:.3g} in {pair.a} and {b:.3g} in {pair.b} on average "
            f"(stability index {indices})"
        )
    if pair.tells_apart:
        differences.insert(
            0,
            f"a classifier tells their images apart (ROC-AUC {pair.domain_auc:.3f}; "
            f"0.5 if they are alike, and a warning needs {MEDIUM_AUC} or more)",
        )
    if not differences:
        return ""
    return (
        f"{pair.a} can't stand for {pair.b}: {', '.join(differences)}; the epoch and the operating "
        f"point, chosen on {pair.a}, may be wrong for {pair.b}, where sensitivity and specificity "
        "differ from those promised: choose both on images like those that the model will see."
    )


def _notes(samples: Mapping[str, Sample]) -> Iterator[str]:
    few = [
        f"{sample.num_patients} in {name}"
        for name, sample in samples.items()
        if sample.num_patients < MIN_PATIENTS
    ]
    if few:
        yield (
            f"Too few patients to tell whether splits differ: {' and '.join(few)}, and "
            f"{MIN_PATIENTS} are needed."
        )
    for name, sample in samples.items():
        rows = np.isfinite(sample.features).all(axis=1)
        for values in sample.columns.values():
            rows &= np.isfinite(values)
        broken = int((~rows).sum())
        if broken:
            yield (
                f"{broken:,} of {len(sample):,} examples of {name} have values that are not "
                "finite, which are left out of the comparison."
            )
