"""Compares models on the same test examples: which is better, and by more than chance?

`pair` compares two models, each trained once or with several seeds; `Summary` describes
one:

    a, b = (compared_models.ComparedModel(name, {0: table}) for name, table in tables.items())
    comparison.require_same_examples([a, b])
    drawn = resampling.PatientBootstrap(a.patient_id)
    found = comparison.pair(a, b, drawn)
    found.area.p_value, found.differences["accuracy"].interval

ROC-AUC (two classes): the test for clustered data decides, as images of one patient resemble each
other; DeLong's, which takes images for independent, stands beside it (`delong`). Accuracy:
McNemar's exact test, which also takes images for independent; the interval by the bootstrap over
patients stands beside it. All other figures: that bootstrap alone, with the same resamples for
both. Of several seeds, means are compared; a seed of one is paired with the same seed of the other.
"""

from __future__ import annotations

import collections
import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.stats

from trainer.errors import ConfigError
from trainer.evaluation import resampling
from trainer.evaluation.pairs import delong
from trainer.system import text

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import numpy.typing as npt

    from trainer.evaluation.pairs.compared_models import ComparedModel
    from trainer.evaluation.pairs.delong import AreaTest
    from trainer.evaluation.predictions import Predictions
    from trainer.evaluation.resampling import PatientBootstrap


@dataclasses.dataclass(frozen=True)
class Summary:
    """One figure of a model.

    Attributes:
      values: of each seed, in order; None where it is undefined.
      interval: the 95 % interval of the mean over the seeds, by the bootstrap over test patients:
        in each resample, the figure of every seed is computed, and averaged. It tells how far the
        mean depends on which patients were tested; how far it depends on seeds, `spread` tells.
    """

    values: tuple[float | None, ...]
    interval: tuple[float, float] | None

    @property
    def mean(self) -> float | None:
        """The mean over the seeds; None where a value is."""
        known = self._known
        return float(np.mean(known)) if len(known) == len(self.values) else None

    @property
    def spread(self) -> float | None:
        """The standard deviation over the seeds (n - 1); None of fewer than two."""
        return float(np.std(self._known, ddof=1)) if len(self._known) > 1 else None

    @property
    def span(self) -> tuple[float, float] | None:
        """The lowest and the highest value."""
        return (min(self._known), max(self._known)) if self._known else None

    @property
    def _known(self) -> list[float]:
        return [value for value in self.values if value is not None]

    def to_json(self) -> dict[str, Any]:
        """Returns mean, spread, span, interval and values."""
        return {
            "mean": self.mean,
            "standard_deviation": self.spread,
            "span": _listed(self.span),
            "interval": _listed(self.interval),
            "values": list(self.values),
        }


def _listed(pair_of: tuple[float, float] | None) -> list[float] | None:
    return None if pair_of is None else list(pair_of)


def summarise(of: ComparedModel, drawn: PatientBootstrap) -> dict[str, Summary]:
    """Returns every figure of a model: a value by seed, and the interval of their mean."""
    found = of.mean_intervals(drawn)
    return {
        name: Summary(tuple(map(_defined, values[:, 0].tolist())), found[name])
        for name, values in of.figures().items()
    }


def _defined(value: float) -> float | None:
    return value if np.isfinite(value) else None


@dataclasses.dataclass(frozen=True)
class McNemar:
    """McNemar's exact test of whether one model is right more often than another.

    Attributes:
      only_a: examples that a alone has right.
      only_b: those that b alone has right.
    """

    only_a: int
    only_b: int

    @property
    def p_value(self) -> float:
        """Two-sided: of the examples that one alone has right, half would be either's by chance."""
        discordant = self.only_a + self.only_b
        if not discordant:
            return 1.0
        return float(scipy.stats.binomtest(self.only_a, discordant, 0.5).pvalue)

    def to_json(self) -> dict[str, Any]:
        """Returns the counts and the p-value."""
        return {"only_a": self.only_a, "only_b": self.only_b, "p_value": self.p_value}


def mcnemar(label: npt.NDArray[Any], a: npt.NDArray[Any], b: npt.NDArray[Any]) -> McNemar:
    """Counts the examples that one side alone decides rightly.

    Args:
      label: [N], the true class.
      a: [N], the class that a predicts.
      b: [N], the class that b predicts.
    """
    right_a, right_b = a == label, b == label
    return McNemar(int((right_a & ~right_b).sum()), int((right_b & ~right_a).sum()))


@dataclasses.dataclass(frozen=True)
class Difference:
    """A figure of a less that of b, as means over their seeds.

    Attributes:
      value: None where it is undefined.
      interval: its 95 % interval, by the bootstrap over patients with the same resamples for both.
    """

    value: float | None
    interval: tuple[float, float] | None

    def to_json(self) -> dict[str, Any]:
        """Returns the value and its interval."""
        return {"value": self.value, "interval": _listed(self.interval)}


@dataclasses.dataclass(frozen=True)
class Pair:
    """Two models, compared.

    Attributes:
      a: the name of the first; differences are its figures less those of the other.
      b: the name of the other.
      seeds: those that both have.
      area: the test of ROC-AUC with patients as clusters, which decides; None of more than two
        classes, or where an area is undefined.
      delong: the same test with images taken for independent.
      mcnemar: by seed: the test of accuracy.
      mcnemar_at_point: by seed: the same at each model's operating point; empty without one.
      differences: by figure.
    """

    a: str
    b: str
    seeds: tuple[int, ...]
    area: AreaTest | None
    delong: AreaTest | None
    mcnemar: Mapping[int, McNemar]
    mcnemar_at_point: Mapping[int, McNemar]
    differences: Mapping[str, Difference]

    def to_json(self) -> dict[str, Any]:
        """Returns everything as dictionaries, lists and numbers."""
        return {
            "a": self.a,
            "b": self.b,
            "seeds": list(self.seeds),
            "roc_auc": self.area and self.area.to_json(),
            "roc_auc_images_independent": self.delong and self.delong.to_json(),
            "mcnemar": {str(seed): test.to_json() for seed, test in self.mcnemar.items()},
            "mcnemar_at_operating_point": {
                str(seed): test.to_json() for seed, test in self.mcnemar_at_point.items()
            },
            "differences": {name: found.to_json() for name, found in self.differences.items()},
        }


def pair(a: ComparedModel, b: ComparedModel, drawn: PatientBootstrap) -> Pair:
    """Compares two models by the seeds that both have.

    Args:
      a: the first.
      b: the other, on the same examples.
      drawn: resamples of these examples, in the order of file names.

    Raises:
      ValueError: when they have no seed in common.
    """
    seeds = [seed for seed in a.tables if seed in b.tables]
    if not seeds:
        raise ValueError(f"{a.name} and {b.name} have no seed in common.")
    a, b = a.limited_to(seeds), b.limited_to(seeds)
    return Pair(
        a.name,
        b.name,
        tuple(seeds),
        _test_areas(a, b, a.patient_id),
        _test_areas(a, b, None),
        _test_accuracies(a, b, at_point=False),
        _test_accuracies(a, b, at_point=True) if a.has_points and b.has_points else {},
        dict(_differences(a, b, drawn)),
    )


def _test_areas(
    a: ComparedModel, b: ComparedModel, clusters: npt.NDArray[np.str_] | None
) -> AreaTest | None:
    if not a.is_binary:
        return None
    scores = [[t.probabilities[:, 1] for t in side.tables.values()] for side in (a, b)]
    return delong.compare(a.first.label, scores[0], scores[1], clusters)


def _test_accuracies(a: ComparedModel, b: ComparedModel, *, at_point: bool) -> dict[int, McNemar]:
    decided = [{s: side.decisions(s, at_point=at_point) for s in side.tables} for side in (a, b)]
    return {seed: mcnemar(a.first.label, *(of[seed] for of in decided)) for seed in a.tables}


def _differences(
    a: ComparedModel, b: ComparedModel, drawn: PatientBootstrap
) -> Iterator[tuple[str, Difference]]:
    own, spread = [side.figures() for side in (a, b)], [side.figures(drawn) for side in (a, b)]
    patients = [side.patients_behind() for side in (a, b)]
    for name in own[0]:
        if name in own[1]:
            value = float((own[0][name] - own[1][name]).mean())
            means = spread[0][name].mean(axis=0) - spread[1][name].mean(axis=0)
            fewest = min(behind[name] for behind in patients)
            yield name, Difference(_defined(value), resampling.interval(means, fewest))


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Returns p-values that hold for all of several comparisons together (Holm, 1979).

    Args:
      p_values: one for each comparison; those that are None stay so, and don't count.
    """
    known = sorted((p, place) for place, p in enumerate(p_values) if p is not None)
    adjusted: list[float | None] = [None] * len(p_values)
    highest = 0.0
    for rank, (p, place) in enumerate(known):
        highest = max(highest, min(1.0, p * (len(known) - rank)))
        adjusted[place] = highest
    return adjusted


def require_same_examples(models: Sequence[ComparedModel]) -> None:
    """Checks that all tables have the same classes and the same examples, in any order.

    Raises:
      ConfigError: when they don't: how many examples differ, and one by name.
    """
    tables = [(of.name, table) for of in models for table in of.tables.values()]
    name, reference = tables[0]
    expected = _examples(reference)
    for other, table in tables[1:]:
        if table.class_names != reference.class_names:
            of_each = (", ".join(map(text.visible, t.class_names)) for t in (table, reference))
            raise ConfigError(
                f"{other} has the classes {next(of_each)}, and {name} {next(of_each)}: only models "
                "of the same classes, in the same order, can be compared."
            )
        found = _examples(table)
        differing = (found - expected) + (expected - found)
        if differing:
            names = sorted({file_name for file_name, _, _ in differing})
            raise ConfigError(
                f"{other} and {name} were not evaluated on the same test examples: "
                f"{len(names):,} differ in name, label or patient, such as "
                f"{text.one_line(names[0]):.80}; evaluate both on one data set."
            )


def _examples(table: Predictions) -> collections.Counter[tuple[str, str, str]]:
    """Returns how often each example occurs, by file name, label and patient."""
    labels = [table.class_names[index] for index in table.label]
    rows = zip(table.file_name.tolist(), labels, table.patient_id.tolist(), strict=True)
    return collections.Counter(rows)
